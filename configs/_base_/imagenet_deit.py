# DeiT as classifier. The weights (load_from) are the official ones: mmpretrain's own DeiT-Tiny and
# DeiT-Small are retrained models with other accuracies, so they are not what the paper starts from.
_base_ = './imagenet_100e.py'

model = dict(
    backbone=dict(type='ScaleNetViT', img_size=224, patch_size=16),
    neck=None,
    head=dict(type='VisionTransformerClsHead'))
