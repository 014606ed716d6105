"""The ImageNet configs by name, and how the tests make them small."""
import copy
import functools
import re
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from PIL import Image

from scalenet_mm.utils.model_cfg import plain_cfg, student_cfg

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
ARCHS = ('deit-t', 'deit-s', 'deit-b', 'swin-t', 'swin-s', 'swin-b')
#: 'deit-b-blocks1-3' -> its file; a schedule other than 100e stays in the name. Learngenes have
#: tests of their own.
FILES = {
    path.stem.removeprefix('scalenet_').removesuffix('_imagenet').removesuffix('_100e'): path
    for path in sorted(CONFIGS.rglob('*_imagenet.py'))
    if path.parent.name != '_base_' and 'learngene' not in path.parts
}
SWIN_DEPTHS = {'t': (2, 2, 6, 2), 's': (2, 2, 18, 2), 'b': (2, 2, 18, 2)}


@functools.lru_cache(maxsize=None)
def _read(path):
    return Config.fromfile(path)


def read_file(path):
    """Config: A copy of the config in a file, which is parsed but once."""
    return copy.deepcopy(_read(path))


def read(name):
    """Config: A copy of the config of a name in FILES."""
    return read_file(FILES[name])


def build(cfg):
    """nn.Module: The config's classifier, undistilled, with the Runner's preprocessor."""
    model = plain_cfg(cfg.model)
    model.setdefault('data_preprocessor', cfg.data_preprocessor)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        return MODELS.build(model)


def narrow(cfg, name):
    """Make a config's model narrow, in place; depth, growth, adjustment and head stay."""
    if name.startswith('deit'):
        width, depth = 8, 24 if '-24' in name else 12
        arch = dict(embed_dims=8, num_layers=depth, num_heads=2, feedforward_channels=32)
    else:
        width = 32
        arch = dict(embed_dims=4, depths=SWIN_DEPTHS[name[5]], num_heads=(1, 1, 2, 2))
    model = student_cfg(cfg.model)
    model.backbone.arch = arch
    model.head.in_channels = width
    return cfg


def shrink(cfg, name, classes=5):
    """Make a config's model narrow, for small images and few classes, in place.

    Returns:
        int: Height and width of the images.
    """
    narrow(cfg, name)
    model = student_cfg(cfg.model)
    model.head.num_classes = cfg.data_preprocessor.num_classes = classes
    if name.startswith('deit'):
        model.backbone.img_size = 32
        return 32
    model.backbone.window_size = 2
    return 64


def official(name, classes=1000, seed=0):
    """dict: A file in the official releases' layout with drawn weights for the narrow model."""
    cfg = narrow(read(name), name)
    cfg.model.backbone.update(growth=None, adjustment=None)
    cfg.model.head.num_classes = classes
    generator = torch.Generator().manual_seed(seed)
    swin, out = name.startswith('swin'), {}
    for key, value in build(cfg).state_dict().items():
        if value.is_floating_point():
            value = 0.1 * torch.randn(value.shape, generator=generator)
        if not key.startswith(('backbone.', 'head.')):
            continue  # the preprocessor's mean and std
        key = key.removeprefix('backbone.').replace('patch_embed.projection.', 'patch_embed.proj.')
        key = key.replace('.ffn.layers.0.0.', '.mlp.fc1.').replace('.ffn.layers.1.', '.mlp.fc2.')
        if swin:
            key = re.sub(r'^stages\.', 'layers.', key).replace('.attn.w_msa.', '.attn.')
            key = re.sub(r'^norm3\.', 'norm.', key).replace('head.fc.', 'head.')
        else:
            key = re.sub(r'^layers\.(\d+)\.ln(\d)', r'blocks.\1.norm\2', key)
            key = re.sub(r'^layers\.', 'blocks.', key)
            key = re.sub(r'^ln1\.', 'norm.', key).replace('head.layers.head.', 'head.')
        out[key] = value
    return dict(model=out)


def make_photos(root):
    """Path: The folder, with four photos of noise a split in the layout of ImageNet."""
    rng = np.random.default_rng(0)
    (root / 'meta').mkdir()
    for split in ('train', 'val'):
        (root / split).mkdir()
        lines = []
        for i in range(4):
            pixels = rng.integers(0, 256, (40, 60, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(root / split / f'{i}.png')
            lines.append(f'{i}.png {i * 300}')
        (root / 'meta' / f'{split}.txt').write_text('\n'.join(lines))
    return root


def on_photos(cfg, root, work_dir, epochs):
    """Let a config read what :func:`make_photos` made, in place; its pipelines stay."""
    for split in ('train', 'val', 'test'):
        cfg[f'{split}_dataloader'].update(num_workers=0, batch_size=2)
        cfg[f'{split}_dataloader'].dataset.data_root = str(root)
    cfg.train_cfg.update(max_epochs=epochs, val_interval=epochs)
    cfg.default_hooks.checkpoint.interval = epochs
    cfg.work_dir = str(work_dir)
    return cfg
