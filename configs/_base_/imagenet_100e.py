# The recipe of all ImageNet configs (section IV-A): AdamW 2e-4, cosine to 2e-6 over 100 epochs, 8
# GPUs x 64 images, the augmentation of Swin's official script. The paper names no warm-up, so
# there is none; what it does not name at all (weight decay, gradient clipping, label smoothing,
# no EMA) is as in that script.
_base_ = [
    'mmpretrain::_base_/datasets/imagenet_bs64_swin_224.py',
    'mmpretrain::_base_/default_runtime.py',
    './scalenet.py',
]

model = dict(
    type='ImageClassifier',
    head=dict(
        num_classes=1000,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original')),
    train_cfg=dict(augments=[
        dict(type='Mixup', alpha=0.8),
        dict(type='CutMix', alpha=1.0),
    ]))

train_cfg = dict(by_epoch=True, max_epochs=100, val_interval=1)
val_cfg = dict()
test_cfg = dict()
optim_wrapper = dict(
    type='OptimWrapper',
    optimizer=dict(type='AdamW', lr=2e-4, weight_decay=0.05, eps=1e-8, betas=(0.9, 0.999)),
    # no decay on norms, biases, embeddings, position tables, gains
    paramwise_cfg=dict(
        norm_decay_mult=0.,
        bias_decay_mult=0.,
        custom_keys={
            '.cls_token': dict(decay_mult=0.),
            '.pos_embed': dict(decay_mult=0.),
            '.relative_position_bias_table': dict(decay_mult=0.),
            '.gain': dict(decay_mult=0.),
        }),
    clip_grad=dict(max_norm=5.0))
# over all the epochs of train_cfg, updated every iteration
param_scheduler = [
    dict(type='CosineAnnealingLR', eta_min=2e-6, by_epoch=True, convert_to_iter_based=True)
]
# used with --auto-scale-lr: 8 GPUs x 64 images
auto_scale_lr = dict(base_batch_size=512)

# mmpretrain computes no validation loss; Figure 6 shows one
val_evaluator = [dict(type='Accuracy', topk=(1, 5)), dict(type='ValidationLoss')]
test_evaluator = val_evaluator

default_hooks = dict(
    checkpoint=dict(interval=1, max_keep_ckpts=2, save_best='accuracy/top1', rule='greater'))
