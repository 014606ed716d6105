# Fine-tuning on a folder of images of your own (image_folder.py): adapters, gains, norms and a new
# classifier train for 20 epochs.
_base_ = [
    'mmpretrain::_base_/default_runtime.py',
    './scalenet.py',
    './image_folder.py',
]

model = dict(
    type='ImageClassifier',
    # The backbone is frozen but for its small parts: nothing here needs the regularisation of the
    # ImageNet recipe.
    backbone=dict(drop_path_rate=0.),
    head=dict(num_classes=1000, loss=dict(type='CrossEntropyLoss', loss_weight=1.0)))
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
