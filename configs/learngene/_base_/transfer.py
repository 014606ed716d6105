# Descendants on smaller data sets. The paper names the data alone: recipe and epochs are this
# project's and have not been tuned. Images are enlarged to 224 x 224 and augmented as ImageNet's.
_base_ = './imagenet_deit.py'

train_dataloader = dict(sampler=dict(_delete_=True, type='DefaultSampler', shuffle=True))
train_cfg = dict(max_epochs=100)
optim_wrapper = dict(optimizer=dict(lr=1e-4))
param_scheduler = [
    dict(type='LinearLR', start_factor=1e-2, by_epoch=True, end=5, convert_to_iter_based=True),
    dict(
        type='CosineAnnealingLR', eta_min=1e-6, by_epoch=True, begin=5,
        convert_to_iter_based=True),
]
