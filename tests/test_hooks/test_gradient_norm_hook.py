"""Gradient norms in the logs, beside norms that are computed without the hook."""
import copy
import json
import shutil
from pathlib import Path

import pytest
import torch
from hook_toys import classifier
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.optim import AmpOptimWrapper
from mmengine.registry import HOOKS, OPTIM_WRAPPERS
from test_two_processes import start

from scalenet_mm import ConfigError, GradientNormHook, fast_paths
from scalenet_mm.engine.arguments import parse_train_args
from scalenet_mm.engine.options import build_train_cfg
from scalenet_mm.hooks.gradient_norm_hook import gradient_norm, group_parameters

ROOT = Path(__file__).resolve().parents[2]
GROWTH = dict(times=2, start='identity')
ALL_GROUPS = ('adapters', 'gains', 'norms', 'weights', 'head', 'all')


def config(groups=ALL_GROUPS, interval=1, **top):
    """Config: A grown ViT in float32 that stays as it is, since its learning rate is 0."""
    cfg = classifier(
        hook=dict(growth=GROWTH, freeze='all'),
        optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.)),
        param_scheduler=[],
        log_processor=dict(type='LogProcessor', window_size=1),
        default_hooks=dict(logger=dict(type='LoggerHook', interval=1)))
    cfg['custom_hooks'].append(dict(type='GradientNormHook', interval=interval, groups=groups))
    cfg.update(top)
    return cfg


def logged(work_dir):
    """list[dict]: What the json log has of each iteration, norms alone."""
    path, = Path(work_dir).glob('*/vis_data/scalars.json')
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return [{key.removeprefix('grad_norm/'): value for key, value in record.items()
             if key.startswith('grad_norm/')} for record in records]


def group_by_name(name):
    """str: The group of a parameter by its name alone, which the hook does not look at."""
    if not name.startswith('backbone.'):
        return 'head'
    last = name.split('.')[-1]
    if last in ('adapter_down', 'adapter_up'):
        return 'adapters'
    if last == 'gain':
        return 'gains'
    return 'norms' if name.split('.')[-2].startswith('ln') else 'weights'


def expected(model, batches):
    """dict: Norms of the mean gradient over batches, in float64."""
    model = copy.deepcopy(model).double().train()
    model.zero_grad()
    for images, labels in batches:
        feats = model.extract_feat(images.double())
        loss = torch.nn.functional.cross_entropy(model.head(feats), labels)
        (loss / len(batches)).backward()
    squares = dict.fromkeys(ALL_GROUPS, 0.)
    for name, parameter in model.named_parameters():
        square = 0. if parameter.grad is None else parameter.grad.pow(2).sum().item()
        squares[group_by_name(name)] += square
        squares['all'] += square
    return {group: square**0.5 for group, square in squares.items()}


def batches_of(runner):
    """list[tuple]: Images and labels of the training set, in its order, batches of 4."""
    dataset = runner.train_dataloader.dataset
    items = [dataset[i] for i in range(len(dataset))]
    images = torch.stack([item['inputs'] for item in items])
    labels = torch.cat([item['data_samples'].gt_label for item in items])
    return list(zip(images.split(4), labels.split(4)))


def disturb(model):
    """Give everything a gradient: behind zeros, and the head starts as such, there is none."""
    generator = torch.Generator().manual_seed(1)
    for name, parameter in model.named_parameters():
        if name.endswith(('adapter_up', 'gain', 'head.layers.head.weight')):
            parameter.data = torch.randn(parameter.shape, generator=generator) / 10


@HOOKS.register_module(name='DisturbAdapters')
class DisturbAdapters(Hook):
    """Before training, after growing."""
    priority = 'VERY_HIGH'

    def before_train(self, runner):
        disturb(getattr(runner.model, 'module', runner.model))


def train(make_runner, cfg):
    cfg['custom_hooks'].append(dict(type='DisturbAdapters'))
    runner = make_runner(cfg)
    with fast_paths(False):
        runner.train()
    return runner


def test_norms_are_those_of_each_batch(make_runner):
    cfg = config()
    cfg['optim_wrapper']['clip_grad'] = dict(max_norm=1e-6)  # what is logged is not clipped
    runner = train(make_runner, cfg)
    records = logged(runner.work_dir)
    batches = batches_of(runner)
    assert len(records) == 4  # two epochs of two batches; the weights do not move
    for record, batch in zip(records, batches * 2):
        assert record == pytest.approx(expected(runner.model, [batch]), rel=1e-4)
    assert min(records[0].values()) > 1e-4
    assert records[0] != pytest.approx(records[1], rel=1e-2)
    # everything is as it was for whoever uses the wrapper next
    assert 'step' not in vars(runner.optim_wrapper)


def test_accumulated_gradients_are_measured_whole(make_runner):
    cfg = config(groups=('adapters', 'head'))
    cfg['optim_wrapper']['accumulative_counts'] = 2
    runner = train(make_runner, cfg)
    records = logged(runner.work_dir)
    want = expected(runner.model, batches_of(runner))
    assert records[0] == {}  # nothing is updated yet
    for record in records[1:]:  # the third shows the latest, that of the second
        assert record == pytest.approx({k: want[k] for k in ('adapters', 'head')}, rel=1e-4)


def test_groups_without_members_are_left_out(make_runner):
    cfg = config(groups=('adapters', 'gains', 'norms', 'head'))
    cfg['custom_hooks'][0].update(growth=dict(times=2, start='paper'), freeze='paper')
    assert set(logged(train(make_runner, cfg).work_dir)[0]) == {'adapters', 'norms', 'head'}


def test_interval(make_runner):
    records = logged(train(make_runner, config(groups='head', interval=2)).work_dir)
    values = [record['head'] for record in records]
    assert len(values) == 4
    # the first, the second and the fourth, which is of the second's images
    assert values[0] != values[1] == values[2] == pytest.approx(values[3], rel=1e-6)


def test_nothing_to_measure_is_said(make_runner):
    cfg = config(groups=('gains', ))
    cfg['custom_hooks'][0].update(growth=dict(times=2, start='paper'))
    runner = train(make_runner, cfg)
    assert logged(runner.work_dir)[0] == {}
    log, = Path(runner.log_dir).glob('*.log')
    assert 'GradientNormHook: nothing of gains trains' in log.read_text()


@OPTIM_WRAPPERS.register_module()
class ScaledOnCPU(AmpOptimWrapper):
    """AmpOptimWrapper as on a GPU: its scaler is switched on, and it computes in bfloat16."""

    def __init__(self, init_scale, **kwargs):
        super().__init__(loss_scale=dict(init_scale=init_scale), dtype='bfloat16', **kwargs)
        self.loss_scaler = torch.amp.GradScaler('cpu', init_scale=init_scale, growth_interval=1)


@pytest.mark.parametrize('clip', [None, dict(max_norm=1e-6)])
def test_mixed_precision(clip, monkeypatch, make_runner):
    monkeypatch.setattr('mmengine.optim.optimizer.amp_optimizer_wrapper.is_cuda_available',
                        lambda: True)
    monkeypatch.setattr('mmengine.runner.amp.is_cuda_available', lambda: False, raising=False)
    found = []
    for scale in (1., 2.**14):
        cfg = config()
        cfg['optim_wrapper'] = dict(
            type='ScaledOnCPU', init_scale=scale, clip_grad=clip, optimizer=dict(type='SGD', lr=0.))
        runner = train(make_runner, cfg)
        assert runner.optim_wrapper.loss_scaler.get_scale() > scale  # it did scale
        found.append(logged(runner.work_dir))
        shutil.rmtree(runner.work_dir)
    for one, other in zip(*found):  # powers of two change no digit
        assert one == pytest.approx(other, rel=1e-6)
    want = expected(runner.model, batches_of(runner)[:1])
    assert found[0][0] == pytest.approx(want, rel=0.1)  # eight bits


def test_an_update_that_the_scaler_skips_is_not_measured():
    hook = GradientNormHook(interval=1, groups='head')
    weight, other = (torch.nn.Parameter(torch.ones(2)) for _ in range(2))
    hook._members, hook._all = dict(head=[weight]), [weight, other]

    class Scaler:
        is_enabled, get_scale = staticmethod(lambda: True), staticmethod(lambda: 4.)

    class Stub:
        scalars = []
        loss_scaler = Scaler

        def update_scalar(self, key, value):
            self.scalars.append((key, value))

    runner = Stub()
    runner.message_hub = runner
    # of the group that is measured, and of what is not
    for first, second in ((3., 0.), (float('inf'), 0.), (5., float('nan')), (4., 1.)):
        weight.grad, other.grad = torch.tensor([first, 0.]), torch.tensor([second, 0.])
        hook._measure(runner, runner)
    assert runner.scalars == [('train/grad_norm/head', 0.75), ('train/grad_norm/head', 1.)]


def test_half_precision_does_not_overflow():
    weight = torch.nn.Parameter(torch.zeros(4, dtype=torch.float16))
    weight.grad = torch.full((4, ), 6e4, dtype=torch.float16)
    assert gradient_norm([weight, torch.nn.Parameter(torch.zeros(3))]) == pytest.approx(
        12e4, rel=1e-2)
    assert gradient_norm([]) == 0.


@pytest.mark.parametrize('options,words', [
    (dict(interval=0), 'interval must be an integer >= 1, got 0'),
    (dict(interval=True), 'interval'),
    (dict(groups=('adapter', )), 'groups are adapters, gains, norms, weights, head, all, got '
     'adapter'),
    (dict(groups=()), 'got none'),
])
def test_wrong_options(options, words):
    with pytest.raises(ConfigError, match=words):
        GradientNormHook(**options)


def test_what_is_frozen_is_in_no_group():
    model = torch.nn.ModuleDict(dict(
        backbone=torch.nn.ModuleDict(dict(norm=torch.nn.LayerNorm(2), fc=torch.nn.Linear(2, 2))),
        head=torch.nn.Linear(2, 2)))
    model.backbone.fc.requires_grad_(False)
    model.head.bias.requires_grad_(False)
    found = group_parameters(model, ALL_GROUPS)
    assert {name: len(members) for name, members in found.items()} == dict(norms=2, head=1, all=3)


def test_two_processes_log_the_reduced_gradient(make_runner, tmp_path):
    cfg = config(groups=('adapters', 'head'))
    whole = logged(train(make_runner, copy.deepcopy(cfg)).work_dir)
    cfg = Config(cfg)
    cfg.custom_imports = dict(imports=['scalenet_mm', 'hook_toys', 'test_gradient_norm_hook'])
    cfg.custom_hooks.append(dict(type='DisturbAdapters'))
    cfg.work_dir = str(tmp_path / 'of2')
    cfg.train_dataloader.batch_size = 2  # of each process: together the same four images
    cfg.dump(tmp_path / 'config.py')
    done = start([str(ROOT / 'tools' / 'dist_train.sh'), str(tmp_path / 'config.py'), '2'],
                 tmp_path)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    found = logged(cfg.work_dir)
    assert len(found) == len(whole) == 4
    for one, two in zip(whole, found):
        assert two == pytest.approx(one, rel=1e-3)


def test_tensorboard_shows_losses_and_norms(make_runner, monkeypatch, tmp_path):
    event_accumulator = pytest.importorskip(
        'tensorboard.backend.event_processing.event_accumulator')
    path = tmp_path / 'config.py'
    cfg = Config(config())
    cfg.custom_hooks.pop()  # the option adds it
    args = parse_train_args([str(path), '--tensorboard', '--work-dir', str(tmp_path / 'work')])
    cfg = build_train_cfg(cfg, args)
    assert [backend['type'] for backend in cfg.visualizer.vis_backends] == [
        'LocalVisBackend', 'TensorboardVisBackend']
    assert cfg.custom_hooks[-1] == dict(type='GradientNormHook')
    again = build_train_cfg(copy.deepcopy(cfg), args)
    assert len(again.custom_hooks) == len(cfg.custom_hooks)
    assert len(again.visualizer.vis_backends) == 2

    runner = train(make_runner, cfg.to_dict())
    runner.visualizer.close()
    path, = Path(runner.work_dir).glob('*/vis_data/events.out.*')
    events = event_accumulator.EventAccumulator(str(path))
    events.Reload()
    assert 'loss' in events.Tags()['scalars']
    for group in ('adapters', 'gains', 'norms', 'head'):
        points = events.Scalars(f'grad_norm/{group}')
        assert [point.step for point in points] == [1, 2, 3, 4]
        for point, batch in zip(points, batches_of(runner) * 2):
            assert point.value == pytest.approx(
                expected(runner.model, [batch])[group], rel=1e-4)


def test_tensorboard_is_missing(monkeypatch, tmp_path):
    monkeypatch.setattr('scalenet_mm.engine.options.find_spec', lambda name: None)
    args = parse_train_args([str(tmp_path / 'config.py'), '--tensorboard'])
    with pytest.raises(ConfigError, match='pip install tensorboard'):
        build_train_cfg(Config(config()), args)
    args = parse_train_args([str(tmp_path / 'config.py')])
    build_train_cfg(Config(config()), args)
    named = Config(config(visualizer=dict(
        type='Visualizer', vis_backends=[dict(type='TensorboardVisBackend')])))
    with pytest.raises(ConfigError, match='vis_backends'):
        build_train_cfg(named, args)
