"""A training that was stopped and resumed ends as one that never was, to the last bit."""
import copy
import functools

import pytest
import torch
from mmengine.optim.optimizer import amp_optimizer_wrapper
from mmengine.registry import DefaultScope
from mmengine.runner import loops
from resume_toys import (
    STOP,
    Stop,
    Stopped,
    differences,
    ends,
    pretrained_classifier,
    random_classifier,
    random_detector,
    random_segmentor,
    state_of,
    write_config,
)

from scalenet_mm.checkpoints import base_files
from scalenet_mm.checkpoints.safe import load_file
from scalenet_mm.engine import train

LOOPS = pytest.mark.parametrize('loop', ['epochs', 'iterations'])
SAVED = pytest.mark.parametrize('saved', ['whole', 'delta'])


@pytest.fixture
def run(make_runner, tmp_path):
    """Run a config in a folder, from what is there if it is to resume; return how it ends."""

    def train(cfg, folder, stop=None, **top):
        runner = make_runner({**copy.deepcopy(cfg), **top}, work_dir=str(tmp_path / folder))
        if stop:
            runner.register_hook(stop)
            with pytest.raises(Stopped):
                runner.train()
            return None
        runner.train()
        return state_of(runner)

    return train


@pytest.fixture
def log(tmp_path):
    """What the runs in a folder have logged."""
    return lambda folder: ''.join(path.read_text() for path in (tmp_path / folder).rglob('*.log'))


def check(run, cfg, *stops):
    """Compare a training in one go with one that is stopped again and again."""
    whole = run(cfg, 'whole')
    for i, stop in enumerate(stops):
        run(cfg, 'stopped', stop, **(dict(resume=True, load_from=None) if i else {}))
    assert differences(whole, run(cfg, 'stopped', resume=True, load_from=None)) == []
    return whole


@LOOPS
def test_classifier(loop, run):
    whole = check(run, random_classifier(loop), Stop(6))
    # or the test would tell nothing
    assert differences(whole, run(random_classifier(loop), 'again')) == []
    other = run(random_classifier(loop, randomness=dict(seed=1)), 'other')
    assert len(differences(whole, other)) > 100


@pytest.fixture
def no_known_bases(monkeypatch):
    """Bases that other tests found are not known here."""
    monkeypatch.setattr(base_files, '_found', {})
    monkeypatch.setattr(base_files, '_places', [])


@LOOPS
@SAVED
@pytest.mark.usefixtures('no_known_bases')
def test_from_a_pretrained_file(loop, saved, run, tmp_path):
    cfg = pretrained_classifier(tmp_path / 'pretrained.pth', loop, saved == 'delta')
    check(run, cfg, Stop(3, 'val'), Stop(6))
    name = 'epoch_4.pth' if loop == 'epochs' else 'iter_12.pth'
    assert ('delta' in load_file(str(tmp_path / 'stopped' / name))) == (saved == 'delta')


@LOOPS
def test_stopped_around_validations(loop, run):
    """A validation that came to no end is done again; it may save the best file."""
    cfg = random_classifier(loop)
    cfg['default_hooks']['checkpoint']['published_keys'] = ['meta', 'state_dict']
    check(run, cfg, Stop(3, 'val'), Stop(6, 'val_end'), Stop(9, 'val'), Stop(12, 'val'))


class TestWhatValidationsDecide:

    def test_nothing_by_their_random_numbers(self, run):
        cfg = random_classifier()
        often = run(cfg, 'often')
        cfg['train_cfg']['val_interval'] = 3
        seldom = run(cfg, 'seldom')
        for end in (often, seldom):
            del end['scalars'], end['files']
        assert differences(often, seldom) == []

    def test_plateau(self, run):
        cfg = random_classifier(param_scheduler=[dict(
            type='ReduceOnPlateauLR', monitor='score', rule='greater', threshold=9., patience=1)])
        check(run, cfg, Stop(3), Stop(6, 'val'), Stop(9, 'val_end'))

    def test_early_stopping(self, run):
        cfg = random_classifier()
        cfg['custom_hooks'].append(dict(
            type='EarlyStoppingHook', monitor='score', rule='greater', min_delta=9., patience=2))
        end = check(run, cfg, Stop(6), Stop(9, 'val'))
        assert end['iter'] == 9


class TestOptimizers:

    def test_accumulation(self, run):
        cfg = random_classifier('iterations')
        cfg['optim_wrapper']['accumulative_counts'] = 2
        check(run, cfg, Stop(4), Stop(10))

    def test_layer_decay(self, run):
        cfg = random_classifier(param_scheduler=[
            dict(type='LinearLR', start_factor=0.1, by_epoch=True, begin=0, end=2,
                 convert_to_iter_based=True),
            dict(type='MultiStepLR', milestones=[1, 3], gamma=0.5, by_epoch=True)])
        cfg['optim_wrapper'] = dict(
            type='OptimWrapper', constructor='LayerDecayOptimWrapperConstructor',
            optimizer=dict(type='AdamW', lr=1e-2, weight_decay=0.1),
            clip_grad=dict(max_norm=1.),
            paramwise_cfg=dict(layer_decay_rate=0.75, norm_decay_mult=0.))
        check(run, cfg, Stop(3), Stop(9))

    def test_amp(self, run, monkeypatch):
        # mmengine's refuses the CPU
        monkeypatch.setattr(amp_optimizer_wrapper, 'is_cuda_available', lambda: True)
        monkeypatch.setattr(amp_optimizer_wrapper, 'GradScaler',
                            functools.partial(torch.amp.GradScaler, 'cpu'))
        cfg = random_classifier('iterations')
        cfg['optim_wrapper'].update(type='AmpOptimWrapper', dtype='bfloat16',
                                    loss_scale=dict(init_scale=4., growth_interval=3))
        whole = check(run, cfg, Stop(5))
        assert whole['optimizer']['loss_scaler']['scale'] == 4 * 2**4

    def test_groups_that_the_hook_splits(self, run):
        cfg = random_classifier(
            'iterations', growth=dict(times=2, start=dict(type='split', share=0.5)),
            optim_wrapper=dict(type='OptimWrapper', optimizer=dict(
                type='SGD', lr=0.01, momentum=0.9, weight_decay=0.1)))
        cfg['param_scheduler'].append(dict(
            type='CosineAnnealingMomentum', T_max=12, eta_min=0.5, by_epoch=False))
        whole = check(run, cfg, Stop(5))
        decays = [group['weight_decay'] for group in whole['optimizer']['param_groups']]
        assert decays == [0.1, 0.]


class TestData:

    @LOOPS
    def test_workers(self, loop, run):
        """Those of a loop over epochs end with the epoch, unless they are told to persist."""
        cfg = random_classifier(loop)
        cfg['train_dataloader'].update(num_workers=2, persistent_workers=loop == 'iterations')
        check(run, cfg, Stop(6))

    @pytest.mark.parametrize('stop', [6, 7])
    def test_iterations_over_a_sampler_of_epochs(self, stop, run, monkeypatch):
        monkeypatch.setattr(loops.time, 'sleep', lambda seconds: None)
        cfg = random_classifier('iterations')
        cfg['train_dataloader']['sampler']['type'] = 'DefaultSampler'
        check(run, cfg, Stop(stop))

    @pytest.mark.parametrize('loop, by_rank', [('epochs', True), ('iterations', False)])
    def test_without_a_seed(self, loop, by_rank, run):
        """The order of the data is that of the seed that was drawn first."""
        cfg = random_classifier(loop)
        if loop == 'epochs':
            cfg['train_dataloader']['batch_sampler'] = dict(
                type='ResumeToyBatches', drop_last=False)
        loader = copy.deepcopy(cfg['train_dataloader'])
        loader['sampler']['seed'] = 3
        seeded = dict(cfg, randomness=dict(seed=3), train_dataloader=loader)
        whole = run(seeded, 'whole')
        run(seeded, 'stopped', Stop(6))
        resumed = run(cfg, 'stopped', resume=True,
                      randomness=dict(seed=None, diff_rank_seed=by_rank))
        assert differences(whole, resumed) == []


@pytest.mark.usefixtures('no_known_bases')
class TestDetectionAndSegmentation:

    @SAVED
    def test_mask_rcnn(self, saved, digits, tmp_path, run):
        check(run, random_detector(digits, tmp_path, 'epochs', saved == 'delta'), Stop(2))
        raw = load_file(str(tmp_path / 'stopped/epoch_2.pth'))
        assert ('delta' in raw) == (saved == 'delta')
        assert ('neck.fpn_convs.0.conv.weight' in raw['state_dict']) == (saved == 'whole')

    @SAVED
    def test_upernet(self, saved, digits, tmp_path, run):
        cfg = random_segmentor(digits, tmp_path, 'iterations', saved == 'delta')
        # beside frozen BatchNorms one whose statistics move
        cfg.custom_hooks[0]['freeze'] = ['paper', dict(train=r'decode_head\.fpn_bottleneck\.')]
        check(run, cfg, Stop(1))
        raw = load_file(str(tmp_path / 'stopped/iter_3.pth'))
        assert ('delta' in raw) == (saved == 'delta')
        assert 'decode_head.fpn_bottleneck.bn.running_mean' in raw['state_dict']
        assert ('decode_head.bottleneck.bn.running_mean' in raw['state_dict']) == (saved == 'whole')


@pytest.mark.parametrize('loop, name', [('epochs', None), ('iterations', 'iter_5.pth')])
def test_by_the_tool(loop, name, tmp_path, monkeypatch):
    path = write_config(random_classifier(loop), tmp_path)

    def run(folder, *options):
        # mmengine names runs by the second in which they start
        experiment = f'{tmp_path.name}_{folder}_{len(options)}'
        train([path, '--work-dir', str(tmp_path / folder), *options,
               '--cfg-options', f'experiment_name={experiment}'])

    run('whole')
    with monkeypatch.context() as patch, pytest.raises(Stopped):
        patch.setenv(STOP, '6')
        run('stopped')
    run('stopped', '--resume', *([str(tmp_path / 'stopped' / name)] if name else []))
    DefaultScope._instance_dict.clear()
    assert differences(ends(tmp_path, 'whole', 1), ends(tmp_path, 'stopped', 1)) == []


class TestSaid:

    def test_no_random_states(self, run, log, tmp_path):
        cfg = random_classifier()
        run(cfg, 'stopped', Stop(6))
        path = tmp_path / 'stopped' / 'epoch_2.pth'
        checkpoint = load_file(str(path))
        del checkpoint['random_states'], checkpoint['training_state']
        torch.save(checkpoint, path)
        end = run(cfg, 'stopped', resume=True)
        assert end['epoch'] == 4
        assert 'The checkpoint holds no random states: the training goes on' in log('stopped')

    def test_other_number_of_processes(self, run, log, tmp_path):
        cfg = random_classifier('iterations')
        run(cfg, 'stopped', Stop(6))
        path = tmp_path / 'stopped' / 'iter_6.pth'
        checkpoint = load_file(str(path))
        checkpoint['random_states'] *= 2
        torch.save(checkpoint, path)
        end = run(cfg, 'stopped', resume=True)
        assert end['iter'] == 12
        assert 'holds the random states of 2 processes, and now there are 1' in log('stopped')

    def test_epochs_saved_by_iterations(self, run, log, tmp_path):
        cfg = random_classifier()
        cfg['default_hooks']['checkpoint']['by_epoch'] = False
        run(cfg, 'stopped', Stop(5))
        end = run(cfg, 'stopped', resume=True)
        # the second epoch has three iterations again
        assert (end['epoch'], end['iter']) == (4, 14)
        assert 'saved within epoch 2, which starts anew' in log('stopped')
