"""Distillation in mmengine's Runner: freezing, averaging, resuming, testing, processes."""
import copy
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from distill_toys import batch, build, draw, runner_cfg, vit, with_batchnorm, write_photos
from mmengine.config import Config
from mmengine.hooks import EMAHook
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

from scalenet_mm.checkpoints.safe import load_file
from scalenet_mm.engine.run import build_runner
from scalenet_mm.errors import CheckpointError
from scalenet_mm.growth import fast_paths
from scalenet_mm.learngene.cache_logits import cache_logits
from scalenet_mm.utils.model_cfg import plain_cfg


@pytest.fixture(autouse=True)
def plain():
    with fast_paths(False):
        yield
    DefaultScope._instance_dict.clear()


@pytest.fixture
def model_cfg(tmp_path):
    """A student with all that draws random numbers, and a teacher in a file."""
    teacher = vit(24, grown=False, drop_rate=0.5)
    path = tmp_path / 'teacher.pth'
    torch.save(dict(state_dict=build(teacher, seed=1).state_dict()), path)
    student = dict(
        vit(drop_path_rate=0.3, drop_rate=0.1), train_cfg=dict(augments=[
            dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.)]))
    student['head']['loss'] = dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original')
    return dict(type='DistilledClassifier', student=student, teacher=teacher,
                teacher_checkpoint=str(path), tau=2.)


@pytest.fixture
def make(tmp_path, model_cfg):
    """Make a Runner of a distillation on photos."""
    root = write_photos(tmp_path / 'photos')
    count = [0]

    def make(work='work', model=None, **top):
        count[0] += 1
        cfg = Config(runner_cfg(root, copy.deepcopy(model or model_cfg), tmp_path / work, **top))
        cfg.experiment_name = f'{tmp_path.name}_{count[0]}'
        return build_runner(cfg)

    return make


def test_checkpoints_are_the_plain_classifiers(make, model_cfg, tmp_path):
    runner = make()
    runner.train()
    state = load_file(str(tmp_path / 'work' / 'epoch_2.pth'))['state_dict']
    assert not any('teacher' in key or 'student' in key for key in state)
    plain = build(plain_cfg(dict(model_cfg, data_preprocessor=dict(num_classes=3))))
    plain.load_state_dict(state, strict=True)
    images = batch()[0]
    assert torch.equal(plain.eval()(images), runner.model.eval()(images))
    logged = runner.message_hub.get_scalar
    total = logged('train/loss_cls').data[0] + logged('train/loss_distill').data[0]
    torch.testing.assert_close(torch.as_tensor(logged('train/loss').data[0]),
                               torch.as_tensor(total), rtol=1e-6, atol=0)
    # the teacher's logits are those of the file
    teacher = draw(build(model_cfg['teacher']), 1).eval()
    assert torch.equal(runner.model.teach(images), teacher(images).detach())


def test_a_test_needs_no_teachers_weights(make, model_cfg, tmp_path):
    make(epochs=1).train()
    os.remove(model_cfg['teacher_checkpoint'])
    path = str(tmp_path / 'work' / 'epoch_1.pth')
    own = make('tested', load_from=path).test()
    plain = make('plain', model=plain_cfg(model_cfg), load_from=path).test()
    assert own == plain and 'accuracy/top1' in own
    with pytest.raises(CheckpointError, match='teacher.pth'):
        make('again').train()


def test_what_trains_is_what_trains_without(make, model_cfg):
    """By the paper's freezing, in a ScaleNet; and the teacher never moves."""
    trained = []
    hooks = [dict(type='AdapterInjectionHook', freeze='paper', require_loaded=False)]
    for name, model in (('distilled', model_cfg), ('plain', plain_cfg(model_cfg))):
        runner = make(name, model=model, custom_hooks=hooks)
        runner.train()
        trained.append([n for n, p in runner.model.named_parameters() if p.requires_grad])
    assert trained[0] == trained[1]
    assert all(n.startswith('head.') or '.ln' in n or 'adapter' in n or n.endswith('gain')
               for n in trained[0])


def test_a_frozen_parameter_from_no_file(make, model_cfg):
    with pytest.raises(CheckpointError, match='backbone.layers'):
        make(custom_hooks=[dict(type='AdapterInjectionHook', freeze='paper')]).train()


def test_the_hook_grows_a_stock_student(make, model_cfg):
    """And writes it into the student's config, which builds the same model again."""
    student = {**vit(grown=False), 'train_cfg': model_cfg['student']['train_cfg']}
    runner = make(model=dict(model_cfg, student=student), custom_hooks=[
        dict(type='AdapterInjectionHook', freeze='all')])
    runner.train()
    written = runner.cfg.model.student.backbone
    assert written.type == 'GrownBackbone' and 'backbone' not in runner.cfg.model
    again = build(runner.cfg.model)
    again.load_state_dict(runner.model.state_dict(), strict=False)
    assert list(again.state_dict()) == list(runner.model.state_dict())
    assert torch.equal(again.eval()(batch()[0]), runner.model.eval()(batch()[0]))


def averaged(runner):
    return next(h for h in runner.hooks if isinstance(h, EMAHook)).ema_model


def test_ema(make):
    hooks = [dict(type='AdapterInjectionHook', freeze='all'),
             dict(type='EMAHook', momentum=0.3)]
    runner = make(custom_hooks=hooks)
    runner.train()
    ema = averaged(runner)
    assert ema.module.teacher is runner.model.teacher
    assert ema.module.student._modules is ema.module._modules
    assert not any('teacher' in key or 'student' in key for key in ema.state_dict())
    own, other = runner.model.state_dict(), ema.module.state_dict()
    assert list(own) == list(other)
    assert any(not torch.equal(own[k], other[k]) for k in own)


@pytest.mark.parametrize('cached', [False, True])
def test_resumed_is_as_never_stopped(cached, make, model_cfg, tmp_path):
    """To the last bit, with averaged weights; the teacher is loaded again."""
    hooks = [dict(type='AdapterInjectionHook', freeze='all'),
             dict(type='EMAHook', momentum=0.3)]
    if cached:
        runner = make('for the cache')
        cache_logits(runner.cfg, str(tmp_path / 'cache'), say=lambda line: None)
        model_cfg = dict(model_cfg, teacher_cache=str(tmp_path / 'cache'))
    whole = make('whole', model=model_cfg, epochs=4, custom_hooks=hooks)
    whole.train()
    make('parts', model=model_cfg, epochs=2, custom_hooks=hooks).train()
    resumed = make('parts', model=model_cfg, epochs=4, custom_hooks=hooks, resume=True)
    resumed.train()
    assert resumed.epoch == 4
    for one, other in ((whole.model, resumed.model), (averaged(whole), averaged(resumed))):
        for (key, a), b in zip(one.state_dict().items(), other.state_dict().values()):
            assert torch.equal(a, b), key
    # or this would tell nothing
    different = make('other', model=model_cfg, epochs=4, custom_hooks=hooks,
                     randomness=dict(seed=1))
    different.train()
    assert not torch.equal(whole.model.head.layers.head.weight,
                           different.model.head.layers.head.weight)


def test_a_cache_starts_the_student_alike(make, model_cfg, tmp_path):
    """Whether the teacher is built or not, the student's random numbers are the same."""
    runner = make('for the cache')
    cache_logits(runner.cfg, str(tmp_path / 'cache'), dtype='float32', say=lambda line: None)
    states = []
    for model in (model_cfg, dict(model_cfg, teacher_cache=str(tmp_path / 'cache')),
                  dict(model_cfg, alpha=0), plain_cfg(model_cfg)):
        torch.manual_seed(0)
        model = build(dict(model, data_preprocessor=runner.cfg.data_preprocessor))
        model.init_weights()
        states.append(model.state_dict())
    for state in states[1:]:
        assert all(map(torch.equal, states[0].values(), state.values()))


def test_plain_runner_with_delta(make, model_cfg, tmp_path):
    """Deltas of a distilled training are those of the plain model."""
    base = tmp_path / 'base.pth'
    ungrown = build(vit(growth=None, adjustment=None), seed=3)
    torch.save(dict(state_dict=ungrown.state_dict()), base)
    runner = make(load_from=str(base), custom_hooks=[
        dict(type='AdapterInjectionHook', freeze='paper'), dict(type='DeltaCheckpointHook')])
    runner.train()
    path = tmp_path / 'work' / 'epoch_2.pth'
    assert 'delta' in load_file(str(path))
    images = batch()[0]
    expected = runner.model.eval()(images)
    from scalenet_mm.checkpoints import read_checkpoint
    plain = build(plain_cfg(model_cfg))
    plain.load_state_dict(read_checkpoint(str(path))['state_dict'], strict=True)
    assert torch.equal(plain.eval()(images), expected)


def test_two_processes(tmp_path):
    """The ranks end with the same student; each has a teacher, which has not moved."""
    write_photos(tmp_path / 'photos', count=16)
    teacher = build(with_batchnorm(), seed=1)
    torch.save(dict(state_dict=teacher.state_dict()), tmp_path / 'teacher.pth')
    here = Path(__file__).parent
    environment = {k: v for k, v in os.environ.items() if k not in (
        'MASTER_ADDR', 'MASTER_PORT', 'LOCAL_RANK', 'RANK', 'WORLD_SIZE')}
    done = subprocess.run(
        [sys.executable, '-m', 'torch.distributed.run', '--nproc_per_node=2', '--master_port=0',
         '--standalone', str(here / 'distill_in_processes.py'), str(tmp_path)],
        capture_output=True, text=True, timeout=300, env={**environment, 'PYTHONPATH': str(here)})
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    first, second = (torch.load(tmp_path / f'rank{rank}.pth', weights_only=True)
                     for rank in (0, 1))
    assert first['wrapper'] == 'CPUDistributedDataParallel'
    assert first['trains'] == second['trains']
    for key, value in first['student'].items():
        assert torch.equal(value, second['student'][key]), key
    for key, value in teacher.state_dict().items():
        assert torch.equal(value, first['teacher'][key]), key
        assert torch.equal(value, second['teacher'][key]), key
    # each saw a batch of its own
    assert not torch.equal(first['losses'], second['losses'])


def test_a_plain_runner_builds_it(tmp_path, model_cfg):
    """Without this project's tools: mmengine's Runner hands its data_preprocessor over."""
    root = write_photos(tmp_path / 'photos')
    runner = Runner.from_cfg(Config(runner_cfg(
        root, model_cfg, tmp_path / 'work', epochs=1, custom_hooks=[],
        experiment_name=tmp_path.name)))
    assert float(runner.model.data_preprocessor.mean[0]) == 120
    runner.train()
