"""Small students, teachers and images for the tests of distillation."""
import copy

import cv2
import numpy as np
import torch
from mmengine.registry import MODELS, DefaultScope
from mmpretrain.structures import DataSample

CLASSES = 3


def vit(width=16, classes=CLASSES, grown=True, **options):
    """A classifier's config: a grown ScaleNetViT, or a stock ViT, on images of 16 x 16."""
    backbone = dict(
        type='ScaleNetViT' if grown else 'VisionTransformer', img_size=16, patch_size=4,
        arch=dict(embed_dims=width, num_layers=2, num_heads=2, feedforward_channels=2 * width))
    return dict(type='ImageClassifier', backbone={**backbone, **options},
                head=dict(type='VisionTransformerClsHead', num_classes=classes, in_channels=width))


def with_batchnorm(classes=CLASSES):
    """A classifier with BatchNorm."""
    return dict(
        type='ImageClassifier',
        backbone=dict(type='ResNet', depth=18, base_channels=4, stem_channels=4),
        neck=dict(type='GlobalAveragePooling'),
        head=dict(type='LinearClsHead', num_classes=classes, in_channels=32))


def build(cfg, seed=None):
    """nn.Module: A config's model; with a seed, every parameter is drawn."""
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(_copy(cfg))
    return model if seed is None else draw(model, seed)


def _copy(cfg):
    """A copy of the dicts alone: a module in them is the one that is meant."""
    if isinstance(cfg, dict):
        return {k: _copy(v) for k, v in cfg.items()}
    return cfg if isinstance(cfg, torch.nn.Module) else copy.deepcopy(cfg)


def draw(model, seed=0):
    """nn.Module: The model, every parameter and statistic of which is drawn."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, value in model.state_dict().items():
            if value.is_floating_point():
                value.copy_(0.2 * torch.randn(value.shape, generator=generator))
                if name.endswith('running_var'):
                    value.copy_(1 + value.abs())
    return model


def distilled(student=None, teacher=None, **options):
    """DistilledClassifier: Of a drawn teacher and a drawn student."""
    teacher = build(vit(24, grown=False), seed=1) if teacher is None else teacher
    model = build(dict(type='DistilledClassifier', student=student or vit(), teacher=teacher,
                       **options))
    return draw(model, seed=2)


def batch(count=4, classes=CLASSES, size=16, seed=0):
    """tuple: Images, and samples with labels."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(count, 3, size, size, generator=generator)
    return images, [DataSample().set_gt_label(i % classes) for i in range(count)]


def raw_batch(count=4, classes=CLASSES, size=16, seed=0, offset=0):
    """dict: A batch as a data loader gives it: pixels, and samples that know their place."""
    generator = torch.Generator().manual_seed(seed)
    images = torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8)
    samples = []
    for i in range(offset, offset + count):
        sample = DataSample().set_gt_label(i % classes)
        sample.set_metainfo(dict(sample_idx=i, img_path=f'/data/train/{i % classes}/{i}.png'))
        samples.append(sample)
    return dict(inputs=images, data_samples=samples)


def write_photos(root, count=12, classes=CLASSES, size=16, seed=0):
    """Write folders of classes with photos of noise: train/ and val/."""
    rng = np.random.default_rng(seed)
    for split in ('train', 'val'):
        for i in range(count):
            folder = root / split / f'c{i % classes}'
            folder.mkdir(parents=True, exist_ok=True)
            pixels = rng.integers(0, 256, (size, size, 3), dtype=np.uint8)
            cv2.imwrite(str(folder / f'{i:02}.png'), pixels)
    return root


def runner_cfg(root, model, work_dir, epochs=2, **top):
    """dict: A Runner's config for a distilled model on :func:`write_photos`."""
    flip = [dict(type='RandomFlip', prob=0.5)]
    load, pack = dict(type='LoadImageFromFile'), dict(type='PackInputs')

    def loader(split, steps, shuffle):
        return dict(
            batch_size=4, num_workers=0, collate_fn=dict(type='default_collate'),
            sampler=dict(type='DefaultSampler', shuffle=shuffle),
            dataset=dict(type='CustomDataset', data_root=str(root), data_prefix=split,
                         with_label=True, pipeline=[load, *steps, pack]))

    cfg = dict(
        default_scope='mmpretrain',
        custom_imports=dict(imports=['scalenet_mm']),
        model=model,
        data_preprocessor=dict(num_classes=CLASSES, mean=[120.] * 3, std=[60.] * 3, to_rgb=True),
        train_dataloader=loader('train', flip, True),
        val_dataloader=loader('val', [], False), val_cfg=dict(),
        val_evaluator=dict(type='Accuracy'),
        test_dataloader=loader('val', [], False), test_cfg=dict(),
        test_evaluator=dict(type='Accuracy'),
        train_cfg=dict(by_epoch=True, max_epochs=epochs, val_interval=1),
        optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-2)),
        default_hooks=dict(logger=dict(type='LoggerHook', interval=1)),
        custom_hooks=[dict(type='AdapterInjectionHook', freeze='all')],
        randomness=dict(seed=0),
        work_dir=str(work_dir))
    cfg.update(top)
    return cfg
