# Table VII: DeiT with 24 layers from scratch, by DeiT's official script: 8 GPUs x 128 images, 5e-4
# for every 512 of them, 5 epochs of warm-up, cosine to 1e-5, drop path 0.1, repeated augmentation,
# no clipping; the rest is what Swin took over from it. That script keeps an EMA but reports the
# model itself, so there is none here. It sets the rate once an epoch, this recipe every iteration.
_base_ = ['../../_base_/imagenet_deit.py', '../../_base_/imagenet_train-all.py']

model = dict(backbone=dict(drop_path_rate=0.1, growth=None, adjustment=None))
train_dataloader = dict(batch_size=128, sampler=dict(type='RepeatAugSampler'))
auto_scale_lr = dict(base_batch_size=1024)
optim_wrapper = dict(optimizer=dict(lr=5e-4 * 1024 / 512), clip_grad=None)
train_cfg = dict(max_epochs=300)
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-3, by_epoch=True, end=5, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, begin=5,
        convert_to_iter_based=True),
]
