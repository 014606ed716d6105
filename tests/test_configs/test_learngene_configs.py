"""Every learngene config at full size: what its name says, its exact count, what it trains with.

The arithmetic here is independent of the package.
"""
import re
import subprocess
from itertools import product

import mmpretrain.datasets
import pytest
import torch
from imagenet_toys import build, read_file
from learngene_toys import DATA, FILES, FOLDER, tell

from scalenet_mm.growth import get_drop_path_rate, growth_of

DEPTHS = range(6, 16)
WIDTH = {'s': 384, 'b': 768}
ARCH = {'s': 'deit-small', 'b': 'deit-base'}
#: Epochs of the auxiliary nets.
EPOCHS = {'s': 150, 'b': 100}
ASSIGNMENTS = ('222222', '141141', '15141', '41614', '41523')
LEVIT = ('https://download.openmmlab.com/mmclassification/v0/levit/'
         'levit-384_3rdparty_in1k_20230117-f3539cce.pth')


def block(width):
    """Two norms, qkv, projection, fc1, fc2."""
    return (3 + 1 + 4 + 4) * width**2 + (3 + 1 + 4 + 1) * width + 2 * 2 * width


def deit(width, depth, classes=1000):
    patch, tokens, norm = (16 * 16 * 3 + 1) * width, (1 + 197) * width, 2 * width
    return patch + tokens + depth * block(width) + norm + (width + 1) * classes


def expected_names():
    names = {'sws_aux-s_100e_imagenet', 'sws_aux-b-222222-nodistill_100e_imagenet'}
    names |= {f'sws_aux-b-{times}_100e_imagenet' for times in ASSIGNMENTS}
    for size, method in product('sb', ('sws', 'simple', 'tleg')):
        names.add(f'{method}_aux-{size}_{EPOCHS[size]}e_imagenet')
    for size, depth in product('sb', DEPTHS):
        long = size == 's' and depth in (13, 14, 15)
        names |= {f'sws_des-{size}-{depth}_{15 if long else 10}e_imagenet',
                  f'scratch_des-{size}-{depth}_100e_imagenet',
                  f'tleg_des-{size}-{depth}_{dict(s=35, b=40)[size]}e_imagenet'}
    for depth, method in product(DEPTHS, ('simple', 'vanilla', 'selection')):
        names.add(f'{method}_des-b-{depth}_10e_imagenet')
    for method, data in product(('sws', 'pf'), ('cifar10', 'cifar100', 'food101', 'cars196')):
        names |= {f'{method}_des-{size}-12_100e_{data}' for size in 'sb'}
        names.add(f'sws_des-s-12-aux100e_100e_{data}')
    for method, depth in product(('sws', 'pf'), DEPTHS):
        names.add(f'{method}_des-b-{depth}_100e_cifar100')
    return names


def test_the_configs_are_those_of_the_paper():
    assert set(FILES) == expected_names()
    assert len(FILES) == 2 + 5 + 6 + 60 + 30 + 20 + 18


def test_they_lie_where_they_belong():
    for name, path in FILES.items():
        told = tell(name)
        folder = 'aux' if told.net == 'aux' else 'transfer' if told.data != 'imagenet' else \
            'descendants' if told.method == 'sws' else 'baselines'
        assert path == FOLDER / folder / f'{name}.py', name


def student_of(cfg):
    return cfg.model.student if cfg.model.type == 'DistilledClassifier' else cfg.model


def times_of(told):
    if told.net == 'des' or told.method != 'sws':
        return None
    return tuple(map(int, told.number or '33433'))


def depth_of(told):
    """How many blocks have weights of their own."""
    if told.net == 'des':
        return int(told.number)
    return dict(simple=5, tleg=2).get(told.method) or len(times_of(told))


def gene_of(told):
    """The gene's file that a descendant's config names."""
    if told.method == 'vanilla':
        return 'work_dirs/vanilla_deit-b/gene.pth'
    epochs = 100 if told.variant == 'aux100e' else EPOCHS[told.size]
    return f'work_dirs/{told.method}_aux-{told.size}_{epochs}e_imagenet/gene.pth'


@pytest.mark.parametrize('name', sorted(FILES))
def test_the_model(name):
    told, cfg = tell(name), read_file(FILES[name])
    with torch.device('meta'):
        model = build(cfg)
    classes = DATA[told.data][2]
    assert sum(p.numel() for p in model.parameters()) == deit(
        WIDTH[told.size], depth_of(told), classes)
    assert model.head.num_classes == cfg.data_preprocessor.num_classes == classes

    student = student_of(cfg)
    assert student.type == 'ImageClassifier' and student.backbone.arch == ARCH[told.size]
    assert student.backbone.drop_path_rate == (
        0. if (told.net, told.method) == ('aux', 'tleg') else 0.1)
    times = times_of(told)
    if times is None:
        assert student.backbone.growth is None
        assert len(model.backbone.layers) == (
            12 if student.backbone.type == 'TLEGViT' else depth_of(told))
    else:
        assert student.backbone.growth == dict(times=times, share='all', depth=sum(times))
        (_, blocks, layer_map), = growth_of(model.backbone)
        assert layer_map.sources == tuple(s for s, n in enumerate(times) for _ in range(n))
        assert get_drop_path_rate(blocks[-1]) == pytest.approx(0.1)
    assert (student.backbone.type == 'TLEGViT') == ((told.net, told.method) == ('aux', 'tleg'))
    assert student.backbone.adjustment is None


@pytest.mark.parametrize('name', sorted(FILES))
def test_the_start(name):
    told, cfg = tell(name), read_file(FILES[name])
    init_cfg = cfg.model.get('init_cfg')
    if told.method == 'pf':
        assert cfg.load_from == (
            f'work_dirs/scratch_des-{told.size}-{told.number}_100e_imagenet/epoch_100.pth')
        assert cfg.load_from.split('/')[1] in FILES
        assert init_cfg is None
        return
    assert cfg.load_from is None
    if told.net == 'aux' or told.method == 'scratch':
        assert init_cfg is None
    elif told.method == 'selection':
        assert init_cfg == dict(
            type='WeightSelection', layers='first',
            checkpoint='https://download.openmmlab.com/mmclassification/v0/vit/finetune/'
            'vit-large-p16_in21k-pre-3rdparty_ft-64xb64_in1k-384_20210928-b20ba619.pth')
    else:
        expected = dict(type='Learngene', checkpoint=gene_of(told))
        expected |= dict(order='front-mid-last') if told.data == 'imagenet' else dict(head=False)
        if told.method == 'vanilla':  # of the blocks in front
            expected['seed'] = 0
        assert init_cfg == expected
        # the gene comes out of a run of these configs
        assert told.method == 'vanilla' or init_cfg.checkpoint.split('/')[1] in FILES


@pytest.mark.parametrize('name', [n for n in sorted(FILES) if tell(n).net == 'aux'])
def test_the_teacher(name):
    cfg = read_file(FILES[name])
    if name.startswith('sws_aux-b-222222-nodistill'):
        assert cfg.model.type == 'ImageClassifier' and 'teacher' not in cfg.model
        distilled = read_file(FILES['sws_aux-b-222222_100e_imagenet'])
        # nothing else differs
        assert cfg.model == distilled.model.student
        for key in ('optim_wrapper', 'param_scheduler', 'train_cfg', 'train_dataloader'):
            assert cfg[key] == distilled[key]
        return
    model = cfg.model
    assert model.type == 'DistilledClassifier'
    assert (model.alpha, model.tau, model.get('scale_by_tau', False)) == (1.0, 1.0, False)
    assert model.teacher.backbone.type == 'LeViT' and model.teacher.backbone.arch == '384'
    assert model.teacher.head.num_classes == 1000
    assert model.teacher_checkpoint == LEVIT
    # ImageNet's, as mmpretrain's config of it has
    own = model.teacher.data_preprocessor
    assert (own.mean, own.std, own.to_rgb, own.num_classes) == (
        [123.675, 116.28, 103.53], [58.395, 57.12, 57.375], True, 1000)


def expected_schedule(told):
    """Rate, where it ends, epochs of warm-up."""
    if told.data != 'imagenet':
        return 1e-4, 1e-6, 5
    if told.net == 'aux' or told.method == 'scratch':
        return 5e-4, 1e-5, 5
    if told.method == 'tleg':
        return 5e-4, 1e-5, 0
    return dict(s=5e-5, b=1e-5)[told.size], 1e-6, 0


@pytest.mark.parametrize('name', sorted(FILES))
def test_the_recipe(name):
    told, cfg = tell(name), read_file(FILES[name])
    assert cfg.train_cfg == dict(by_epoch=True, max_epochs=told.epochs, val_interval=1)
    lr, end, warmup = expected_schedule(told)
    assert cfg.optim_wrapper.optimizer == dict(type='AdamW', lr=lr, weight_decay=0.05, eps=1e-8,
                                               betas=(0.9, 0.999))
    assert cfg.optim_wrapper.clip_grad is None
    *linear, cosine = cfg.param_scheduler
    assert cosine.type == 'CosineAnnealingLR' and cosine.eta_min == end
    assert cosine.get('begin', 0) == warmup and 'end' not in cosine  # over all that is left
    assert [(s.type, s.end) for s in linear] == ([('LinearLR', 5)] if warmup else [])
    assert all(s.by_epoch and s.convert_to_iter_based for s in cfg.param_scheduler)
    assert cfg.train_dataloader.batch_size * 8 == cfg.auto_scale_lr.base_batch_size == 512
    assert cfg.custom_hooks == [dict(type='AdapterInjectionHook', freeze='all')]
    student = student_of(cfg)
    assert student.train_cfg.augments == [dict(type='Mixup', alpha=0.8),
                                          dict(type='CutMix', alpha=1.0)]
    assert student.head.loss == dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original')
    assert cfg.default_hooks.checkpoint.interval == 1  # epoch_100.pth is there for what follows


@pytest.mark.parametrize('name', sorted(FILES))
def test_the_data(name):
    told, cfg = tell(name), read_file(FILES[name])
    kind, root, classes = DATA[told.data]
    held_out = 'val' if told.data == 'imagenet' else 'test'
    for part, split in (('train', 'train'), ('val', held_out), ('test', held_out)):
        dataset = cfg[f'{part}_dataloader'].dataset
        assert (dataset.type, dataset.data_root, dataset.split) == (kind, root, split)
    assert len(getattr(mmpretrain.datasets, kind).METAINFO['classes']) == classes
    imagenet = read_file(FILES['sws_aux-b_100e_imagenet'])
    for part in ('train', 'val', 'test'):
        types = [step.type for step in cfg[f'{part}_dataloader'].dataset.pipeline]
        first, *rest = [s.type for s in imagenet[f'{part}_dataloader'].dataset.pipeline]
        if told.data.startswith('cifar'):
            assert types == ['NumpyToPIL', 'PILToNumpy', *rest]
        else:
            assert types == [first, *rest]
    # selected weights expect the images of the model that they come from: ViT-L/16's of mmpretrain
    mean, std = ([127.5] * 3, [127.5] * 3) if told.method == 'selection' else (
        [123.675, 116.28, 103.53], [58.395, 57.12, 57.375])
    preprocessor = cfg.data_preprocessor
    assert (preprocessor.mean, preprocessor.std, preprocessor.to_rgb) == (mean, std, True)
    assert 'data_preprocessor' not in cfg.model and 'data_preprocessor' not in student_of(cfg)
    sampler = cfg.train_dataloader.sampler.type
    assert sampler == ('RepeatAugSampler' if told.data == 'imagenet' else 'DefaultSampler')
    assert cfg.val_evaluator == imagenet.val_evaluator == cfg.test_evaluator


@pytest.mark.parametrize('kind', ['cifar10', 'cifar100'])
def test_cifar_goes_through_the_pipeline_as_bgr(kind):
    """... like a photo that is read from a file, which the preprocessor turns into RGB."""
    import numpy as np
    from mmengine.dataset import Compose
    from mmengine.registry import DefaultScope
    cfg = read_file(FILES[f'sws_des-s-12_100e_{kind}'])
    assert cfg.data_preprocessor.to_rgb is True
    red = np.zeros((32, 32, 3), np.uint8)
    red[..., 0] = 255  # CIFAR's arrays are RGB
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        out = Compose(cfg.val_dataloader.dataset.pipeline)(dict(img=red, gt_label=0))
    assert out['inputs'].shape == (3, 224, 224)
    assert out['inputs'].amax((1, 2)).tolist() == [0, 0, 255]


@pytest.mark.parametrize('size, printed', [
    ('s', (11.4, 13.2, 15.0, 16.7, 18.5, 20.3, 22.1, 23.8, 25.6, 27.4)),
    ('b', (44.0, 51.1, 58.2, 65.3, 72.4, 79.5, 86.6, 93.7, 100.7, 107.8))])
def test_the_rule_gives_what_the_paper_prints(size, printed):
    assert tuple(round(deit(WIDTH[size], d) / 1e6, 1) for d in DEPTHS) == printed


def test_the_rule_gives_what_is_known():
    assert (deit(768, 5), deit(768, 6), deit(768, 12)) == (36_952_552, 44_040_424, 86_567_656)


def test_every_config_is_in_the_readme():
    """Its table has patterns for a shell's braces; together they name each file."""
    text = (FOLDER / 'README.md').read_text()
    patterns = re.findall(r'`((?:aux|descendants|baselines|transfer)/[^` ]+)`', text)
    assert len(patterns) > 8 and not set("$;&|<>()'") & set(''.join(patterns))
    done = subprocess.run(['bash', '-c', f'printf "%s\\n" {" ".join(patterns)}'],
                          capture_output=True, text=True, check=True)
    named = set(done.stdout.split())
    assert named == {f'{path.parent.name}/{name}' for name, path in FILES.items()}


def test_a_config_is_short():
    for path in FILES.values():
        lines = path.read_text().splitlines()
        assert lines[0].startswith('# ')
        assert len([line for line in lines if not line.startswith('#')]) <= 8, path
