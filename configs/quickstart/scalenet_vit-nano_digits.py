# A small grown ViT that classifies digits, trained from scratch: nothing is frozen. Make the data
# first: python tools/dataset_converters/digit_scenes.py
_base_ = [
    'mmpretrain::_base_/default_runtime.py',
    './_base_/digits_classification.py',
    '../_base_/scalenet.py',
]

model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='ScaleNetViT',
        arch=dict(embed_dims=64, num_layers=4, num_heads=2, feedforward_channels=256),
        img_size=64,
        patch_size=16,
        growth=dict(order='interpolate', times=2, start='identity'),
        # the usual first weights of large models are too small for 64 channels
        init_cfg=[dict(type='Xavier', layer='Linear', distribution='uniform')]),
    head=dict(
        type='VisionTransformerClsHead',
        num_classes=10,
        in_channels=64,
        loss=dict(type='CrossEntropyLoss', loss_weight=1.0)))
custom_hooks = [dict(type='AdapterInjectionHook', freeze='all')]

max_epochs = 40
train_cfg = dict(by_epoch=True, max_epochs=max_epochs, val_interval=5)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=2e-3, weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.),
    clip_grad=dict(max_norm=1.))
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=150),
    dict(
        type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, T_max=max_epochs,
        convert_to_iter_based=True),
]
default_hooks = dict(checkpoint=dict(interval=5, max_keep_ckpts=1))
