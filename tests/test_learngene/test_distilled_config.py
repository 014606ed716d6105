"""The project's checks, measurements and tools take a distilled config as they take any other."""
import copy
import importlib.util
import os
import re
from pathlib import Path

import pytest
import torch
from distill_toys import batch, build, runner_cfg, vit, write_photos
from mmengine.config import Config
from mmengine.logging import MMLogger
from mmengine.registry import DefaultScope
from mmengine.runner import Runner
from mmengine.visualization import Visualizer

from scalenet_mm.analysis import count_parameters
from scalenet_mm.analysis.curves import Run
from scalenet_mm.analysis.inputs import RANDOM, ModelSource, load_model, without
from scalenet_mm.analysis.meta_model import build_on_meta
from scalenet_mm.deploy import export_program
from scalenet_mm.engine import check_train, load_config, run_cli
from scalenet_mm.engine import test as run_test
from scalenet_mm.engine import train as run_train
from scalenet_mm.engine.estimate import estimate
from scalenet_mm.engine.preflight import check_test
from scalenet_mm.errors import CheckpointError, ConfigError, GrowthError
from scalenet_mm.learngene.cache_logits import cache_logits
from scalenet_mm.learngene.teacher import read_teacher_cfg
from scalenet_mm.utils.model_cfg import plain_cfg, student_cfg

ROOT = Path(__file__).resolve().parents[2]
LEVIT = 'levit-384_3rdparty_in1k_20230117-f3539cce.pth'


@pytest.fixture(autouse=True)
def nothing_stays(monkeypatch):
    """No scope, and no logger of a Runner for the tests that follow."""
    monkeypatch.setattr(MMLogger, '_instance_dict', MMLogger._instance_dict.copy())
    yield
    DefaultScope._instance_dict.clear()


@pytest.fixture
def cfg(tmp_path, monkeypatch):
    """A distillation on photos, in a folder of its own."""
    monkeypatch.chdir(tmp_path)
    root = write_photos(tmp_path / 'photos')
    torch.save(dict(state_dict=build(vit(24, grown=False), seed=1).state_dict()), 'teacher.pth')
    model = dict(type='DistilledClassifier', student=vit(), teacher=vit(24, grown=False),
                 teacher_checkpoint='teacher.pth')
    return Config(runner_cfg(root, model, 'work', epochs=1))


@pytest.fixture
def use(cfg, capsys):
    """Run a command in this process on the config, written to a file: status and words."""

    def use(command, *words):
        cfg.dump('config.py')
        if isinstance(command, str):
            spec = importlib.util.spec_from_file_location('tool', ROOT / 'tools' / command)
            module = importlib.util.module_from_spec(spec)
            spec.loader.exec_module(module)
            command = module.main
        status = run_cli(lambda: command([str(word) for word in words]))
        said = capsys.readouterr()
        return status, said.out + said.err

    return use


def undistilled(cfg):
    """Config: The same without teacher."""
    plain = copy.deepcopy(cfg)
    plain.pop('model')
    plain.model = plain_cfg(cfg.model)
    return plain


@pytest.mark.parametrize('name, wrapped', [
    ('deit-b', 'deit-b'), ('swin-t', 'swin-t')])
def test_the_shipped_ones(name, wrapped):
    """What they distil is the plain config; the teacher is LeViT-384, by mmpretrain's config."""
    cfg = load_config(str(ROOT / f'configs/scalenet_{name}-distill_100e_imagenet.py'))
    plain = load_config(str(ROOT / f'configs/scalenet_{wrapped}_100e_imagenet.py'))
    assert cfg.model.student == plain.model
    rest = {k: v for k, v in cfg.items()
            if k not in ('model', 'teacher', 'teacher_checkpoint')}
    assert rest == {k: v for k, v in plain.items() if k != 'model'}
    assert os.path.basename(cfg.model.teacher_checkpoint) == LEVIT
    stock = read_teacher_cfg('mmpretrain::levit/levit-384_8xb256_in1k.py')
    stock.pop('train_cfg')
    # with the data_preprocessor, which is no part of mmpretrain's model
    assert cfg.model.teacher == stock and stock['data_preprocessor']['to_rgb'] is True
    assert (cfg.model.alpha, cfg.model.tau) == (0.5, 1.0)
    cfg.merge_from_dict({'model.student.backbone.drop_path_rate': 0.125, 'model.tau': 2.})
    assert cfg.model.student.backbone.drop_path_rate == 0.125 and cfg.model.tau == 2.
    again = Config.fromstring(cfg.pretty_text, '.py')
    assert again.model == cfg.model


class TestPreflight:

    def test_all_well(self, cfg):
        check_train(cfg)
        os.remove('teacher.pth')
        check_test(cfg)

    @pytest.mark.parametrize('options, error, what', [
        (dict(alpha=2), ConfigError, 'alpha=2'),
        (dict(tau=0), ConfigError, 'tau=0'),
        (dict(teacher_checkpoint='gone.pth'), CheckpointError,
         'model.teacher_checkpoint: no such file'),
        (dict(teacher_cache='gone'), ConfigError, 'teacher_cache: gone is no cache'),
        (dict(backbone=dict(type='ResNet')), ConfigError,
         "no argument 'backbone'; it is one of its student: model.student.backbone"),
        (dict(alhpa=0.1), ConfigError, "no argument 'alhpa'; did you mean 'alpha'"),
        (dict(student=dict(type='ImageClassifer')), ConfigError,
         'model.student.type=.*did you mean'),
        (dict(student=dict(backbone=dict(growth=dict(times=0)))), GrowthError, 'times'),
        (dict(student=dict(backbone=dict(img_sise=16))), ConfigError,
         "model.student.backbone: ScaleNetViT has no argument 'img_sise'"),
        (dict(student=dict(backbone=dict(drop_path_rate=1.5))), ConfigError,
         'model.student.backbone.drop_path_rate'),
        (dict(student=dict(head=dict(num_classes=5))), ConfigError,
         'model.student.head.num_classes=5'),
        (dict(student=dict(backbone=dict(init_cfg=dict(type='Pretrained', checkpoint='no.pth')))),
         CheckpointError, 'model.student.backbone.init_cfg.checkpoint: no such file'),
        (dict(teacher=dict(init_cfg=dict(type='Pretrained', checkpoint='no.pth'))),
         CheckpointError, 'model.teacher.init_cfg.checkpoint: no such file'),
        (dict(teacher=None), ConfigError, 'there is no teacher'),
        (dict(teacher='no/such.py'), ConfigError, "teacher='no/such.py' cannot be read"),
        (dict(teacher='mmpretrain::no/such.py'), ConfigError, "'mmpretrain::no/such.py' cannot be"),
        (dict(teacher=dict(type=None)), ConfigError, 'must be the config of a classifier'),
        (dict(teacher='mmpretrain::resnet/resnet18_8xb16_cifar10.py'), ConfigError,
         'resnet18_8xb16_cifar10.py.: its model.head has 10 classes, but '
         'model.student.head.num_classes=3'),
        (dict(teacher=dict(head=dict(num_classes=10))), ConfigError,
         'model.teacher.head has 10 classes, but model.student.head.num_classes=3'),
        (dict(teacher_checkpoint=None), ConfigError, 'the teacher has no weights'),
        (dict(teacher_size='abc'), ConfigError, "teacher_size must be.*'abc'"),
        (dict(teacher_size=[128]), ConfigError, 'teacher_size must be'),
        (dict(alpha=0, teacher_size=8.5), ConfigError, 'teacher_size must be'),
    ], ids=str)
    def test_what_is_wrong(self, options, error, what, cfg):
        cfg.merge_from_dict(dict(model=options))
        with pytest.raises(error, match=what):
            check_train(cfg)
        assert not os.path.exists('work')

    def test_teachers_whose_weights_are_named_elsewhere(self, cfg):
        named = dict(cfg.model.teacher, init_cfg=dict(type='Pretrained', checkpoint='teacher.pth'))
        Config(dict(model=named)).dump('named.py')
        Config(dict(model=dict(named, init_cfg=None))).dump('nameless.py')
        of_backbone = copy.deepcopy(named)
        of_backbone['backbone']['init_cfg'] = of_backbone.pop('init_cfg')
        for teacher, checkpoint in (
                (named, None), ('named.py', None), ('nameless.py', 'teacher.pth'),
                (of_backbone, None)):
            cfg.model.update(teacher=teacher, teacher_checkpoint=checkpoint)
            check_train(cfg)
        os.remove('teacher.pth')
        cfg.model.update(teacher='named.py', teacher_checkpoint=None)
        with pytest.raises(CheckpointError, match="'named.py': its model.init_cfg.checkpoint: no"):
            check_train(cfg)

    def test_of_what_is_not_used(self, cfg):
        cfg.model.update(alpha=0, teacher_checkpoint='gone.pth')
        check_train(cfg)

    def test_mixup_needs_classes(self, cfg):
        cfg.model.student.train_cfg = dict(augments=[dict(type='Mixup', alpha=0.8)])
        cfg.data_preprocessor.pop('num_classes')
        with pytest.raises(ConfigError, match='data_preprocessor.num_classes=None'):
            check_train(cfg)
        cfg.model.data_preprocessor = dict(num_classes=3)
        check_train(cfg)

    def test_layer_decay(self, cfg):
        cfg.optim_wrapper.constructor = 'LayerDecayOptimWrapperConstructor'
        with pytest.raises(ConfigError, match='layer_decay_rate'):
            check_train(cfg)
        cfg.optim_wrapper.paramwise_cfg = dict(layer_decay_rate=0.7)
        check_train(cfg)

    def test_a_cache(self, cfg):
        cache_logits(cfg, 'cache', say=lambda line: None)
        cfg.model.teacher_cache = 'cache'
        os.remove('teacher.pth')  # it is not needed
        check_train(cfg)
        cfg.model.teacher.backbone.arch.num_layers = 3
        with pytest.raises(ConfigError, match='another teacher: its config'):
            check_train(cfg)

    def test_a_cache_of_other_images(self, cfg):
        """The teacher normalises nothing, so that it saw what the student's preprocessor made."""
        cache_logits(cfg, 'cache', say=lambda line: None)
        cfg.model.teacher_cache = 'cache'
        check_train(cfg)
        cfg.data_preprocessor.mean = [127.5] * 3
        with pytest.raises(ConfigError, match=r'of its images, \(\[120.0\], \[60.0\], True\) and '):
            check_train(cfg)
        cfg.model.student.data_preprocessor = dict(mean=[120.] * 3, std=[60.] * 3, to_rgb=True)
        check_train(cfg)  # the student's own

    def test_a_cache_of_other_classes(self, cfg):
        cache_logits(cfg, 'cache', say=lambda line: None)
        cfg.model.teacher_cache = 'cache'
        cfg.model.student.head.num_classes = 4
        with pytest.raises(ConfigError, match='model.student.head.num_classes'):
            check_train(cfg)


class TestKeys:
    """What is to be changed is named where a distilled config has it."""

    def test_of_a_list_of_images(self, cfg):
        for name, model in (('model.student', cfg.model), ('model', plain_cfg(cfg.model))):
            cfg.model = model
            for split in ('train', 'val'):
                cfg[f'{split}_dataloader'].dataset.ann_file = 'list.txt'
            Path('photos/list.txt').write_text('c0/00.png 3\n')
            with pytest.raises(ConfigError, match=f'; {name}.head.num_classes = 3 classes, 0 to 2'):
                check_train(cfg)

    @pytest.mark.parametrize('options, hook, what', [
        (dict(frozen_stages=1), {}, 'set frozen_stages=-1 in {}, and'),
        ({}, dict(growth=dict(times=2)), 'set them in {}'),
    ])
    def test_of_the_hook(self, options, hook, what, cfg, tmp_path):
        cfg.model.student.backbone.update(options)
        cfg.custom_hooks[0].update(hook)
        for i, (name, model) in enumerate((
                ('model.student.backbone', cfg.model), ('model.backbone', plain_cfg(cfg.model)))):
            cfg.model, cfg.experiment_name = model, f'{tmp_path.name}-{i}'
            with pytest.raises(ConfigError, match=what.format(name).replace('.', r'\.')):
                Runner.from_cfg(cfg).train()

    def test_of_the_analysis(self, cfg):
        for name, model in (('model.student', cfg.model), ('model', plain_cfg(cfg.model))):
            cfg.model = model
            place = student_cfg(cfg.model)
            place['backbone'].update(growth=None, adjustment=None)
            with pytest.raises(ConfigError, match=f'adjustment of {name}.backbone are None'):
                without(cfg, 'growth')
            del place['backbone']
            with pytest.raises(ConfigError, match=f'config.py has no {name}.backbone'):
                ModelSource('a', cfg, 'config.py', RANDOM).check()


class TestMeasuring:

    def test_counts(self, cfg):
        plain = undistilled(cfg)
        for freeze in ('all', 'paper'):
            cfg.custom_hooks[0]['freeze'] = plain.custom_hooks[0]['freeze'] = freeze
            counts = [count_parameters(build_on_meta(c)) for c in (cfg, plain)]
            assert counts[0] == counts[1] and counts[0].total > 0
        assert type(build_on_meta(cfg)).__name__ == 'ImageClassifier'  # without a teacher

    def test_estimate(self, cfg):
        cfg.model.teacher_checkpoint = 'https://example.com/nowhere.pth'

        def estimate_it(cfg):
            Visualizer._instance_dict.clear()  # named by the second, it would be that of the last
            return estimate(cfg, 1, 2, 1, size=(16, 16))

        plain = estimate_it(undistilled(cfg))
        own = estimate_it(copy.deepcopy(cfg))
        assert (own.params, own.trainable, own.checkpoint_bytes) == (
            plain.params, plain.trainable, plain.checkpoint_bytes)
        assert own.left_out == plain.left_out
        cfg.model.teacher_cache = 'nowhere'
        cached = estimate_it(cfg)
        assert cached.left_out == ['reading data', "reading the teacher's logits",
                                   *plain.left_out[1:]]

    def test_models_of_the_analysis(self, cfg):
        source = ModelSource('a', cfg, 'config.py', RANDOM)
        source.check()
        model = load_model(source)
        assert type(model).__name__ == 'ImageClassifier'
        assert float(model.data_preprocessor.mean[0]) == 120
        assert source.describe()['growth'] == 'paper'
        reduced = without(cfg, 'growth')
        assert reduced.model.student.backbone.growth is None
        assert ModelSource('b', reduced, 'config.py', RANDOM).describe()['growth'] is None

    def test_curves_know_the_architecture(self, cfg):
        cfg.model.student.backbone.update(arch='deit-tiny', drop_path_rate=0.3)
        run = Run('work', cfg=cfg)
        assert (run.arch, run.drop_path) == ('deit-tiny', 0.3)

    def test_export(self, cfg):
        model = build(cfg.model, seed=2).eval()
        program = export_program(model).program
        images = batch()[0]
        torch.testing.assert_close(program.module()(images)[0], model(images), atol=1e-5, rtol=0)


class TestCommands:

    def test_train_and_test(self, use, cfg):
        status, said = use(run_train, 'config.py', '--cfg-options',
                           'model.student.backbone.drop_path_rate=0.1', 'model.tau=3')
        assert status == 0, said
        assert re.search(r'loss_cls: \d.*loss_distill: \d', said)
        os.remove('teacher.pth')
        for words in ((), ('--tta', )):
            status, said = use(run_test, 'config.py', 'work/epoch_1.pth', *words)
            assert status == 0, said
        status, said = use(run_train, 'config.py', '--work-dir', 'other')
        assert status == 2 and 'model.teacher_checkpoint: no such file' in said

    def test_other_classes(self, use, cfg):
        cfg.model.teacher.head.num_classes = 4
        status, said = use(run_train, 'config.py')
        assert status == 2 and 'model.teacher.head has 4 classes' in said

    def test_unshare(self, use, cfg):
        torch.save(dict(state_dict=build(cfg.model, seed=2).state_dict()), 'own.pth')
        status, said = use('model_converters/unshare.py', 'config.py', 'own.pth', 'deep.pth')
        assert status == 0, said
        deep = load_config('deep.py')
        assert deep.model.type == 'ImageClassifier' and 'teacher' not in deep.model
        assert deep.model.backbone.arch.num_layers == 4
        assert deep.model.head.num_classes == 3

    def test_cache_teacher(self, use, cfg):
        words = ('cache_teacher.py', 'config.py', 'cache', '--batch-size', 5, '--workers', 0,
                 '--device', 'cpu')
        status, said = use(*words)
        assert status == 0, said
        assert '12 images, 3 classes, float16; teacher teacher.pth (SHA-256 ' in said
        status, said = use(*words)
        assert status == 2 and 'cache exists; use --force' in said
        status, said = use(*words, '--force', '--dtype', 'float32', '--cfg-options',
                           'model.alpha=0')
        assert status == 0 and 'float32' in said
        status, said = use(run_train, 'config.py', '--cfg-options', 'model.teacher_cache=cache')
        assert status == 0, said
        status, said = use(run_train, 'config.py', '--work-dir', 'other', '--cfg-options',
                           'model.teacher_cache=cache', 'model.teacher_size=32')
        assert status == 2 and 'another teacher: teacher_size' in said
        status, said = use(*words[:2], 'x', '--batch-size', 0)
        assert status == 2 and '--batch-size must be' in said
