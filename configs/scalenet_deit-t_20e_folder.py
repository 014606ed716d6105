# DeiT-Tiny, every block used twice, on a folder of images of your own: adapters, gains, norms and
# a new classifier train. A config that inherits from this one names the folder and the number of
# classes; docs/your_own_task.md has it in five lines.
_base_ = [
    'mmpretrain::_base_/default_runtime.py',
    './_base_/scalenet.py',
    './_base_/image_folder.py',
]

# Official DeiT weights. Their classifier is of ImageNet's classes, so the head starts anew.
load_from = 'https://dl.fbaipublicfiles.com/deit/deit_tiny_patch16_224-a1311bcf.pth'
model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='ScaleNetViT',
        arch='deit-tiny',
        # A small data set does not win back what the paper's start loses.
        growth=dict(order='interpolate', times=2, start='identity')),
    head=dict(
        type='VisionTransformerClsHead',
        num_classes=1000,
        in_channels=192,
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0)))
custom_hooks = [dict(type='AdapterInjectionHook', freeze='paper')]

# The schedule follows max_epochs.
train_cfg = dict(by_epoch=True, max_epochs=20, val_interval=1)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.),
    clip_grad=dict(max_norm=5.0))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=True, end=1, convert_to_iter_based=True),
    dict(type='CosineAnnealingLR', eta_min=0., by_epoch=True, convert_to_iter_based=True),
]
default_hooks = dict(
    logger=dict(interval=10), checkpoint=dict(save_best='accuracy/top1', max_keep_ckpts=1))
