"""Deltas are saved in every way that CheckpointHook saves, and behave as the whole files do."""
import glob
import os.path as osp
import re
import shutil

import pytest
import torch
from hook_toys import classifier
from mmengine.config import Config
from mmengine.hooks import CheckpointHook
from mmengine.registry import HOOKS
from mmengine.runner.checkpoint import CheckpointLoader

from scalenet_mm import CheckpointError, ConfigError, ScaleNetViT
from scalenet_mm.checkpoints import base_files, load_file, read_checkpoint
from scalenet_mm.engine import run
from scalenet_mm.engine import test as run_test
from scalenet_mm.engine import train as run_train

ARCH = dict(embed_dims=16, num_layers=3, num_heads=2, feedforward_channels=64)
BACKBONE = dict(type='ScaleNetViT', img_size=16, patch_size=4, arch=ARCH)


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch):
    """Bases that other tests found are not known here."""
    monkeypatch.setattr(base_files, '_found', {})
    monkeypatch.setattr(base_files, '_places', [])
    monkeypatch.delenv(base_files.ENVIRONMENT, raising=False)


def official(state):
    """DeiT's own names."""
    named = {}
    for key, value in state.items():
        key = key.replace('patch_embed.projection.', 'patch_embed.proj.')
        key = re.sub(r'^ln1\.', 'norm.', re.sub(r'^layers\.(\d+)\.ln', r'blocks.\1.norm', key))
        key = re.sub(r'^layers\.', 'blocks.', key)
        named[key.replace('.ffn.layers.0.0.', '.mlp.fc1.').replace('.ffn.layers.1.',
                                                                  '.mlp.fc2.')] = value
    return named


@pytest.fixture
def base(tmp_path):
    """A pretrained file, with the head of three classes."""
    torch.manual_seed(1)
    state = official(ScaleNetViT(img_size=16, patch_size=4, arch=ARCH, growth=None,
                                 adjustment=None).state_dict())
    state = {key: torch.randn_like(value) * 0.1 for key, value in state.items()}
    state['head.weight'], state['head.bias'] = torch.randn(3, 16), torch.randn(3)
    path = tmp_path / 'pretrained.pth'
    torch.save({'model': state}, path)
    return str(path)


def config(base, delta=True, epochs=2, ema=False, checkpoint=None, **top):
    cfg = classifier(backbone=dict(BACKBONE), hook=dict(require_loaded=True), load_from=base)
    loader = {**cfg['train_dataloader'], 'sampler': dict(type='DefaultSampler', shuffle=False)}
    cfg.update(
        train_cfg=dict(by_epoch=True, max_epochs=epochs, val_interval=1),
        val_dataloader=loader, val_cfg=dict(),
        val_evaluator=dict(type='Accuracy', topk=(1, )), **top)
    cfg['default_hooks']['checkpoint'] = dict(
        {'type': 'CheckpointHook', 'interval': 1, **(checkpoint or {})})
    if ema:
        cfg['custom_hooks'].append(dict(type='EMAHook', momentum=0.5))
    if delta:
        hook = dict(type='DeltaCheckpointHook')
        cfg['custom_hooks'].append({**hook, **(delta if isinstance(delta, dict) else {})})
    return cfg


def assert_equal(one, other, where=''):
    """Nested data is equal to the bit, whatever holds it."""
    if isinstance(one, torch.Tensor):
        assert one.dtype == other.dtype and torch.equal(one, other), where
    elif isinstance(one, dict):
        assert list(one) == list(other), where
        for key in one:
            assert_equal(one[key], other[key], f'{where}.{key}')
    elif isinstance(one, (list, tuple)):
        assert len(one) == len(other), where
        for i, (a, b) in enumerate(zip(one, other)):
            assert_equal(a, b, f'{where}.{i}')
    else:
        assert one == other, where


SAME = ('state_dict', 'ema_state_dict', 'optimizer', 'param_schedulers', 'random_states')


def assert_same_checkpoints(one, other):
    for key in SAME:
        assert (key in one) == (key in other)
        if key in one:
            assert_equal(one[key], other[key], key)
    assert one['meta']['epoch'] == other['meta']['epoch']
    assert one['meta']['iter'] == other['meta']['iter']


WAYS = dict(
    all=dict(save_best='accuracy/top1', rule='greater', published_keys=['meta', 'state_dict']),
    last=dict(interval=-1, save_optimizer=False, save_param_scheduler=False),
)


@pytest.mark.parametrize('ema', (False, True), ids=('plain', 'ema'))
@pytest.mark.parametrize('way', WAYS)
def test_every_way_of_saving(way, ema, base, make_runner, tmp_path):
    found = {}
    for delta in (False, True):
        folder = tmp_path / f'delta_{delta}'
        make_runner(config(base, delta, ema=ema, checkpoint=dict(WAYS[way])),
                    work_dir=str(folder)).train()
        found[delta] = {re.sub(r'-[0-9a-f]{8}', '-hash', osp.basename(path)): path
                        for path in glob.glob(f'{folder}/*.pth')}
    assert found[True].keys() == found[False].keys()
    names = ' '.join(sorted(found[True]))
    assert re.fullmatch({'all': 'best_.*-hash.pth best_.*_1.pth epoch_1.pth epoch_2-hash.pth '
                         'epoch_2.pth', 'last': 'epoch_2.pth'}[way], names)
    for name, path in found[True].items():
        raw, whole = load_file(path), load_file(found[False][name])
        assert raw['delta']['base']['source'] == base
        assert raw['delta']['growth']['blocks'] == {
            'backbone.layers': ['0', '0_r1', '1', '1_r1', '2', '2_r1']}
        assert not any('qkv' in key or '.0.0.weight' in key for key in raw['state_dict'])
        assert 'backbone.layers.0.ln1.weight' in raw['state_dict']
        assert 'backbone.layers.0_r1.ffn.layers.1.adapter_up' in raw['state_dict']
        if 'message_hub' in raw:
            logged = raw['message_hub']['log_scalars']
            assert bool(logged) == ('optimizer' in raw)
            assert raw['message_hub']['runtime_info']['cfg']
        assert_same_checkpoints(read_checkpoint(path), whole)
        # as mmengine loads it, in tools and inferencers
        assert_same_checkpoints(CheckpointLoader.load_checkpoint(path, 'cpu'), whole)
        saved = osp.getsize(path)
        assert saved < osp.getsize(found[False][name]), name


@pytest.mark.parametrize('auto, ema', ((False, False), (True, True)), ids=('named', 'auto, ema'))
def test_resume(auto, ema, base, make_runner, tmp_path):
    for delta in (False, True):
        make_runner(config(base, delta, epochs=3, ema=ema),
                    work_dir=str(tmp_path / f'delta_{delta}')).train()
    once = load_file(str(tmp_path / 'delta_False/epoch_3.pth'))
    work = tmp_path / 'resumed'
    work.mkdir()
    shutil.copy(tmp_path / 'delta_True/epoch_1.pth', work)
    (work / 'last_checkpoint').write_text(str(work / 'epoch_1.pth'))
    name = None if auto else str(work / 'epoch_1.pth')
    runner = make_runner(config(name, epochs=3, ema=ema), work_dir=str(work), resume=True)
    runner.train()
    assert runner.epoch == 3
    end = str(work / 'epoch_3.pth')
    assert load_file(end)['delta']['base']['source'] == base
    # as if it had neither stopped nor saved deltas
    assert_same_checkpoints(read_checkpoint(end), once)


def test_starts_from_a_delta(base, make_runner, tmp_path):
    """The base of what follows is the first base, and the delta itself is not needed."""
    make_runner(config(base, epochs=1)).train()
    first = str(tmp_path / 'work/epoch_1.pth')
    make_runner(config(first, epochs=1), work_dir=str(tmp_path / 'next')).train()
    second = str(tmp_path / 'next/epoch_1.pth')
    assert load_file(second)['delta']['base']['source'] == base
    first_state, second_state = (load_file(path)['state_dict'] for path in (first, second))
    assert first_state.keys() == second_state.keys()
    make_runner(config(first, False, epochs=1), work_dir=str(tmp_path / 'whole')).train()
    assert_same_checkpoints(read_checkpoint(second), load_file(str(tmp_path / 'whole/epoch_1.pth')))


class TestWhereTheBaseComesFrom:

    def test_argument(self, base, make_runner, tmp_path):
        other = str(tmp_path / 'whole.pth')
        make_runner(config(base, False, epochs=1), work_dir=str(tmp_path / 'a')).train()
        whole = load_file(str(tmp_path / 'a/epoch_1.pth'))
        torch.save({'state_dict': whole['state_dict']}, other)
        make_runner(config(other, dict(base=base), epochs=1)).train()
        assert load_file(str(tmp_path / 'work/epoch_1.pth'))['delta']['base']['source'] == base

    def test_init_cfg(self, base, make_runner, tmp_path):
        cfg = config(None, epochs=1)
        cfg['model']['backbone']['init_cfg'] = dict(type='Pretrained', checkpoint=base)
        runner = make_runner(cfg)
        runner.train()
        raw = load_file(str(tmp_path / 'work/epoch_1.pth'))
        assert raw['delta']['base']['source'] == base
        assert 'head.layers.head.weight' in raw['state_dict']

    def test_init_cfg_of_a_stock_backbone(self, base, make_runner, tmp_path):
        cfg = config(None, epochs=1)
        stock = {**BACKBONE, 'type': 'VisionTransformer'}
        state = torch.load(base)['model']
        model = ScaleNetViT(img_size=16, patch_size=4, arch=ARCH, growth=None, adjustment=None)
        model.load_state_dict(state, strict=False)
        own = str(tmp_path / 'own.pth')
        torch.save({'state_dict': {f'backbone.{k}': v for k, v in model.state_dict().items()}}, own)
        stock['init_cfg'] = dict(type='Pretrained', checkpoint=own, prefix='backbone.')
        cfg['model']['backbone'] = stock
        make_runner(cfg).train()
        raw = load_file(str(tmp_path / 'work/epoch_1.pth'))
        assert raw['delta']['base']['source'] == own
        assert 'backbone.layers.0.attn.qkv.weight' not in raw['state_dict']
        assert 'backbone.layers.0_r1.ln1.weight' in raw['state_dict']

    def test_resumed_whole_file_is_no_base(self, base, make_runner, tmp_path):
        make_runner(config(base, False, epochs=1)).train()
        resumed = config(None, epochs=2)
        with pytest.raises(ConfigError, match='resume a training that saved whole checkpoints'):
            make_runner(resumed, resume=True).train()
        make_runner(config(None, dict(base=base), epochs=2), resume=True).train()
        assert load_file(str(tmp_path / 'work/epoch_2.pth'))['delta']['base']['source'] == base

    def test_from_scratch(self, make_runner):
        cfg = config(None, epochs=1)
        cfg['custom_hooks'][0].update(freeze=None, require_loaded=False)
        with pytest.raises(ConfigError, match='starts from no file that deltas could refer to'):
            make_runner(cfg).train()

    def test_nothing_is_frozen(self, base, make_runner, tmp_path):
        cfg = config(base, epochs=1)
        cfg['custom_hooks'][0].update(freeze=None)
        with pytest.raises(ConfigError, match='would be no smaller: 0 of the'):
            make_runner(cfg).train()
        assert not (tmp_path / 'work/epoch_1.pth').exists()

    def test_wrong_base(self, base, make_runner, tmp_path):
        other = str(tmp_path / 'other.pth')
        state = {k: v + 1 for k, v in torch.load(base)['model'].items()}
        torch.save({'model': state}, other)
        with pytest.raises(ConfigError, match=r'a delta to .*other.pth would be no smaller'):
            make_runner(config(base, dict(base=other), epochs=1)).train()

    def test_missing(self, base, make_runner):
        with pytest.raises(CheckpointError, match='base: there is no file .*nope.pth'):
            make_runner(config(base, dict(base='nope.pth'), epochs=1)).train()

    def test_a_delta_is_no_base(self, base, make_runner, tmp_path):
        make_runner(config(base, epochs=1)).train()
        first = str(tmp_path / 'work/epoch_1.pth')
        with pytest.raises(CheckpointError, match='is a delta itself .of the base pretrained'):
            make_runner(config(base, dict(base=first), epochs=1)).train()

    def test_resumes_only_with_the_base(self, base, make_runner, tmp_path):
        make_runner(config(base, epochs=1)).train()
        base_files._found.clear()
        (tmp_path / 'pretrained.pth').rename(tmp_path / 'elsewhere.pth')
        with pytest.raises(CheckpointError, match='Wanted is pretrained.pth') as caught:
            make_runner(config(None, epochs=2), resume=True).train()
        assert f'{base}: not there' in str(caught.value)
        base_files.add_base(str(tmp_path / 'elsewhere.pth'))
        make_runner(config(None, epochs=2), resume=True).train()


def test_other_hooks_that_publish_are_refused(base, make_runner, monkeypatch):

    class Publishes(CheckpointHook):
        pass

    monkeypatch.setitem(HOOKS._module_dict, 'DeltaToyPublishes', Publishes)
    cfg = config(base, epochs=1)
    cfg['default_hooks']['checkpoint'].update(
        type='DeltaToyPublishes', published_keys=['state_dict'])
    with pytest.raises(ConfigError, match='Publishes publishes whole files'):
        make_runner(cfg).train()


def test_twice_is_refused(base, make_runner, tmp_path):
    cfg = config(base, epochs=1)
    cfg['custom_hooks'].append(dict(type='DeltaCheckpointHook', base=base))
    with pytest.raises(ConfigError, match='DeltaCheckpointHook: there are two of them'):
        make_runner(cfg).train()
    assert not (tmp_path / 'work/epoch_1.pth').exists()


def test_one_line_at_the_start(base, make_runner, tmp_path):
    runner = make_runner(config(base, epochs=1))
    runner.train()
    log = open(glob.glob(f'{tmp_path}/work/*/*.log')[0]).read()
    line, = re.findall(r'DeltaCheckpointHook: .*', log)
    sha = load_file(f'{tmp_path}/work/epoch_1.pth')['delta']['base']['sha256']
    assert base in line and sha in line and 'tensors are left out' in line


def test_saves_nothing_before_training(base, make_runner, tmp_path):
    runner = make_runner(config(base, epochs=1))
    with pytest.raises(CheckpointError, match='no base before training begins'):
        runner.save_checkpoint(str(tmp_path), 'early.pth', save_optimizer=False,
                               save_param_scheduler=False)
    assert not (tmp_path / 'early.pth').exists()


ARCHS = {'deeper': dict(arch={**ARCH, 'num_layers': 4}), 'ungrown': dict(growth=None),
         'no adapters': dict(adjustment=None), 'LoRA': dict(adjustment=dict(type='LoRA')),
         'swin': dict(type='ScaleNetSwin', arch=dict(embed_dims=16, depths=(2, 2),
                                                     num_heads=(2, 4)), pad_small_map=True)}


@pytest.fixture
def delta(base, make_runner, tmp_path):
    make_runner(config(base, epochs=1), work_dir=str(tmp_path / 'saved')).train()
    return str(tmp_path / 'saved/epoch_1.pth')


def to_be_tested(path, hook=True, classes=3, **backbone):
    cfg = config(path, False, epochs=1)
    cfg.update(test_dataloader=cfg['val_dataloader'], test_evaluator=cfg['val_evaluator'],
               test_cfg=dict())
    if 'type' in backbone:
        del cfg['model']['backbone']['patch_size']
        cfg['model']['neck'] = dict(type='GlobalAveragePooling')
        cfg['model']['head'] = dict(type='LinearClsHead', in_channels=32)
    cfg['model']['backbone'].update(backbone)
    cfg['model']['head']['num_classes'] = classes
    if classes != 3:
        for split in ('train', 'val', 'test'):
            cfg[f'{split}_dataloader']['dataset'] = dict(type='HookToyImages', classes=classes)
    if not hook:
        cfg['custom_hooks'] = []
    return cfg


class TestAnotherModel:

    @pytest.mark.parametrize('hook', (True, False), ids=('hook', 'no hook'))
    def test_is_refused(self, hook, delta, make_runner):
        for other in ARCHS:
            for mode in ('test', 'train', 'resume'):
                cfg = to_be_tested(delta, hook, **ARCHS[other])
                runner = make_runner(cfg, resume=mode == 'resume')
                before, call = {}, runner.call_hook

                def call_hook(name, **kwargs):
                    if name == 'after_load_checkpoint':
                        state = runner.model.state_dict()
                        before.update({key: value.clone() for key, value in state.items()})
                    return call(name, **kwargs)

                runner.call_hook = call_hook
                with pytest.raises(CheckpointError, match='epoch_1.pth'):
                    runner.test() if mode == 'test' else runner.train()
                assert before, (other, mode)
                for key, value in runner.model.state_dict().items():
                    assert torch.equal(value, before[key]), (other, mode, key)

    def test_head_of_other_classes(self, delta, make_runner):
        with pytest.raises(CheckpointError, match='does not hold the head that is to be tested'):
            make_runner(to_be_tested(delta, classes=5)).test()
        with pytest.raises(CheckpointError, match='cannot be resumed from: it lacks 2 tensors'):
            make_runner(to_be_tested(delta, classes=5), resume=True).train()
        make_runner(to_be_tested(delta, classes=5)).train()  # to be trained anew


def test_tools(base, delta, tmp_path, monkeypatch):
    """As on the command line: a test of a delta gives what that of the whole file gives."""
    whole = str(tmp_path / 'whole.pth')
    torch.save(read_checkpoint(delta), whole)
    cfg = Config(to_be_tested(None))
    cfg.experiment_name = tmp_path.name
    file = str(tmp_path / 'config.py')
    cfg.dump(file)
    results = {path: run_test([file, path, '--work-dir', str(tmp_path / 'test')])
               for path in (delta, whole)}
    assert results[delta] == results[whole] and results[whole]

    (tmp_path / 'far').mkdir()
    moved = shutil.move(base, tmp_path / 'far/moved.pth')
    base_files._found.clear()
    words = [file, delta, '--work-dir', str(tmp_path / 'test')]
    monkeypatch.setattr(run, 'build_runner', None)  # it is known before
    with pytest.raises(CheckpointError, match='Wanted is pretrained.pth'):
        run_test(words)
    with pytest.raises(CheckpointError, match='Wanted is pretrained.pth'):
        run_train([file, '--work-dir', str(tmp_path / 'more'), '--resume', delta])
    cfg.custom_hooks.append(dict(type='DeltaCheckpointHook', base='nope.pth'))
    cfg.dump(str(tmp_path / 'other.py'))
    with pytest.raises(CheckpointError, match='custom_hooks.1.base: no such file'):
        run_train([str(tmp_path / 'other.py'), '--work-dir', str(tmp_path / 'more')])
    monkeypatch.undo()
    with pytest.raises(CheckpointError, match='base: there is no file or folder .*nope'):
        run_test([*words, '--base', str(tmp_path / 'nope')])
    assert run_test([*words, '--base', str(moved)]) == results[whole]
    base_files._places.clear()
    base_files._found.clear()
    run_train([file, '--work-dir', str(tmp_path / 'more'), '--base', str(moved),
                   '--cfg-options', f'load_from={delta}'])
    assert (tmp_path / 'more/epoch_1.pth').is_file()
