"""Images in folders of one's own: five lines, from a file with another head to a trained model."""
import json
import os
import subprocess
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import Runner

from scalenet_mm import ConfigError
from scalenet_mm.growth import apply_freezing, growth_of

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / 'configs'
BASE = 'scalenet_deit-t_20e_folder.py'
#: The paper's grown model with 1000 classes (its parameters, exactly), the width of the grown
#: blocks, which is the classifier's, and how many blocks they are after growing.
ARCHS = {
    'deit-t': (6_463_912, 192, 24), 'deit-s': (23_543_656, 384, 24),
    'deit-b': (89_553_640, 768, 24), 'swin-t': (29_246_818, 768, 4),
    'swin-s': (51_302_002, 768, 4), 'swin-b': (90_029_216, 1024, 4),
}

FIVE_LINES = """\
_base_ = './configs/scalenet_deit-t_20e_folder.py'
data_root = 'data/cats_dogs'
train_dataloader = dict(dataset=dict(data_root=data_root))
val_dataloader = test_dataloader = dict(dataset=dict(data_root=data_root))
model = dict(head=dict(num_classes=2))
"""

# The same in small, between the base and the five lines.
REDUCED_SWIN = """\
_base_ = '{base}'
load_from = 'pretrained.pth'
model = dict(
    backbone=dict(
        arch=dict(_delete_=True, embed_dims=4, depths=(2, 1, 1, 2), num_heads=(1, 1, 2, 2)),
        window_size=2),
    head=dict(in_channels=32))
"""
REDUCED = """\
_base_ = '{base}'
load_from = 'pretrained.pth'
model = dict(
    backbone=dict(
        arch=dict(
            _delete_=True, embed_dims=16, num_layers=3, num_heads=2, feedforward_channels=64),
        img_size=32),
    head=dict(in_channels=16))
"""


def build(cfg):
    with DefaultScope.overwrite_default_scope('mmpretrain'), torch.device('meta'):
        return MODELS.build(cfg.model)


def write(folder, base, reduced):
    """A user's folder: images of two colours, weights of a model of 1000 classes, the configs."""
    rng = np.random.default_rng(0)
    for split, count in (('train', 8), ('val', 4)):
        for channel, name in enumerate(('blue', 'green')):
            path = folder / 'data/cats_dogs' / split / name
            path.mkdir(parents=True)
            for index in range(count):
                image = rng.integers(0, 60, (40, 48, 3), np.uint8)
                image[..., channel] += 150
                cv2.imwrite(str(path / f'{index}.png'), image)
    (folder / 'reduced.py').write_text(reduced.format(base=CONFIGS / base))
    (folder / 'mine.py').write_text(FIVE_LINES.replace(f'./configs/{BASE}', './reduced.py'))

    cfg = Config.fromfile(folder / 'reduced.py')
    cfg.model.backbone.update(growth=None, adjustment=None)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(cfg.model)
    model.init_weights()
    torch.save(dict(state_dict=model.state_dict()), folder / 'pretrained.pth')
    return folder


@pytest.fixture
def folder(tmp_path):
    return write(tmp_path, BASE, REDUCED)


def tool(name, *arguments, cwd):
    done = subprocess.run(
        [sys.executable, ROOT / 'tools' / name, *arguments], cwd=cwd, capture_output=True,
        text=True, timeout=300, env={**os.environ, 'OMP_NUM_THREADS': '1'})
    return done.returncode, done.stdout + done.stderr


SMALL = ('train_cfg.max_epochs=2', 'train_dataloader.batch_size=4',
         'train_dataloader.num_workers=0', 'val_dataloader.num_workers=0',
         'test_dataloader.num_workers=0', 'default_hooks.logger.interval=1',
         'train_dataloader.dataset.pipeline.1.scale=32',
         'val_dataloader.dataset.pipeline.1.scale=36',
         'val_dataloader.dataset.pipeline.2.crop_size=32',
         'test_dataloader.dataset.pipeline.1.scale=36',
         'test_dataloader.dataset.pipeline.2.crop_size=32')


def test_five_lines_say_where_the_images_are(folder):
    assert len(FIVE_LINES.splitlines()) == 5
    cfg = Config.fromfile(folder / 'mine.py')
    places = [(cfg[f'{split}_dataloader'].dataset.data_root,
               cfg[f'{split}_dataloader'].dataset.data_prefix)
              for split in ('train', 'val', 'test')]
    assert places == [('data/cats_dogs', split) for split in ('train', 'val', 'val')]
    # the rest is the base's, augmentation too
    assert [t.type for t in cfg.train_dataloader.dataset.pipeline] == [
        'LoadImageFromFile', 'RandomResizedCrop', 'RandomFlip', 'PackInputs']


def test_five_lines_train_and_test(folder):
    code, log = tool('train.py', 'mine.py', '--work-dir', 'w', '--cfg-options', *SMALL, cwd=folder)
    assert code == 0, log[-3000:]
    line = next(x for x in log.splitlines() if 'Loaded pretrained.pth' in x)
    assert 'of another size, initialised anew: head.layers.head.weight (1000, 16) -> (2, 16)' \
        in line
    assert 'ignored: none' in line

    before = torch.load(folder / 'pretrained.pth')['state_dict']
    after = torch.load(folder / 'w/epoch_2.pth', weights_only=False)['state_dict']
    assert after['head.layers.head.weight'].shape == (2, 16)
    assert after['head.layers.head.weight'].abs().sum() > 0
    # what the repeats share is as it was; norms, gains and adapters have trained
    for name in ('patch_embed.projection.weight', 'layers.1.attn.qkv.weight', 'pos_embed'):
        assert torch.equal(after[f'backbone.{name}'], before[f'backbone.{name}']), name
    assert not torch.equal(after['backbone.ln1.weight'], before['backbone.ln1.weight'])
    assert any(k.endswith('1_r1.ffn.layers.1.gain') and v.abs().sum() > 0
               for k, v in after.items())

    # warm-up over the first epoch, then down to zero at the end of the epochs asked for
    scalars, = folder.glob('w/*/vis_data/scalars.json')
    records = [json.loads(x) for x in scalars.read_text().splitlines()]
    rates = [r['lr'] for r in records if 'lr' in r]
    assert len(rates) == 8 and rates[0] < 1e-4 < max(rates) and rates[-1] < 0.1 * max(rates)
    trained = [r['accuracy/top1'] for r in records if 'accuracy/top1' in r]

    code, log = tool('test.py', 'mine.py', 'w/epoch_2.pth', '--out', 'metrics.json', '--out-item',
                     'metrics', '--cfg-options', *SMALL, cwd=folder)
    assert code == 0, log[-3000:]
    assert json.loads((folder / 'metrics.json').read_text())['accuracy/top1'] == trained[-1]


@pytest.mark.parametrize('count', (3, 1000))
def test_a_wrong_number_of_classes(folder, count, monkeypatch):
    monkeypatch.chdir(folder)
    text = (folder / 'mine.py').read_text().replace('num_classes=2', f'num_classes={count}')
    (folder / 'wrong.py').write_text(text)
    cfg = Config.fromfile('wrong.py')
    cfg.work_dir = 'w'
    for split in ('train', 'val'):
        cfg[f'{split}_dataloader'].update(num_workers=0, persistent_workers=False)
    with pytest.raises(ConfigError, match=r'2 classes \(blue, green\), but '
                       f'model.head.num_classes={count}: set num_classes=2'):
        Runner.from_cfg(cfg).train()


def test_five_lines_train_a_swin(tmp_path, monkeypatch):
    monkeypatch.chdir(write(tmp_path, 'scalenet_swin-t_20e_folder.py', REDUCED_SWIN))
    cfg = Config.fromfile('mine.py')
    cfg.work_dir = 'w'
    cfg.train_cfg.max_epochs = 2
    for split, sizes in (('train', (64, )), ('val', (72, 64)), ('test', (72, 64))):
        loader = cfg[f'{split}_dataloader']
        loader.update(num_workers=0, persistent_workers=False, batch_size=4)
        for step, key, size in zip(loader.dataset.pipeline[1:], ('scale', 'crop_size'), sizes):
            step[key] = size
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert 'val/accuracy/top1' in runner.message_hub.log_scalars

    before = torch.load('pretrained.pth')['state_dict']
    after = runner.model.state_dict()
    assert after['head.fc.weight'].shape == (2, 32)
    for name in ('patch_embed.projection.weight', 'stages.3.blocks.1.attn.w_msa.qkv.weight',
                 'stages.0.downsample.reduction.weight'):
        assert torch.equal(after[f'backbone.{name}'], before[f'backbone.{name}']), name
    assert not torch.equal(after['backbone.norm3.weight'], before['backbone.norm3.weight'])
    gains = {k: v for k, v in after.items() if k.endswith('_r1.ffn.layers.1.gain')}
    assert [k.removeprefix('backbone.stages.3.blocks.')[:4] for k in gains] == ['0_r1', '1_r1']
    # they start at 0
    assert all(v.abs().sum() > 0 for v in gains.values())


@pytest.mark.parametrize('arch', ARCHS)
def test_the_full_model(arch, tmp_path):
    name = f'scalenet_{arch}_20e_folder.py'
    (tmp_path / 'mine.py').write_text(
        FIVE_LINES.replace(f'./configs/{BASE}', str(CONFIGS / name)))
    cfg = Config.fromfile(tmp_path / 'mine.py')
    model = build(cfg)
    count, width, blocks = ARCHS[arch]
    # the gains, two a block, and 2 classes instead of 1000
    count += 2 * width * blocks - 998 * (width + 1)
    assert sum(p.numel() for p in model.parameters()) == count

    backbone = cfg.model.backbone
    assert (backbone.growth.start, backbone.drop_path_rate) == ('identity', 0.)
    stages = [(tuple(m.sources), m.base_depth) for _, _, m in growth_of(model.backbone)]
    if arch.startswith('deit'):
        assert stages == [(tuple(b for b in range(12) for _ in range(2)), 12)]
    else:
        assert [s for s, _ in stages[:3]] == [tuple(range(depth)) for _, depth in stages[:3]]
        assert stages[3] == ((0, 1, 0, 1), 2)

    # the same official weights as ImageNet's configs start from, and from nowhere else
    imagenet = Config.fromfile(CONFIGS / f'scalenet_{arch}_100e_imagenet.py')
    assert cfg.load_from == imagenet.load_from and backbone.get('init_cfg') is None

    assert cfg.custom_hooks == [dict(type='AdapterInjectionHook', freeze='paper')]
    apply_freezing(model, cfg.custom_hooks[0]['freeze'])
    trains = ('adapter', 'gain', *(('.ln', 'head.layers.head') if arch.startswith('deit') else
                                   ('norm', 'head.fc')))
    for name, parameter in model.named_parameters():
        assert parameter.requires_grad == any(x in name for x in trains), name


def test_the_variants():
    ungrown = build(Config.fromfile(CONFIGS / 'scalenet_deit-t-ungrown_20e_folder.py'))
    # adapters of rank 16 on fc1 and fc2 of twelve blocks
    assert sum(p.numel() for p in ungrown.parameters()) == 5_717_416 + 12 * 10 * 192 * 16
    cfg = Config.fromfile(CONFIGS / 'scalenet_deit-t-split_20e_folder.py')
    assert cfg.model.backbone.growth.start == dict(type='split', share=0.5)
    (_, _, layer_map), = growth_of(build(cfg).backbone)
    assert layer_map.sources[:4] == (0, 0, 1, 1)


def test_every_folder_config_is_tested():
    names = {p.name for p in CONFIGS.glob('scalenet_*_folder.py')}
    assert names == {*(f'scalenet_{arch}_20e_folder.py' for arch in ARCHS),
                     *(f'scalenet_deit-t-{v}_20e_folder.py' for v in ('ungrown', 'split'))}
