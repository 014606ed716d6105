# Swin as classifier, from the official ImageNet-1k weights (load_from).
_base_ = './imagenet_100e.py'

model = dict(
    backbone=dict(type='ScaleNetSwin', img_size=224),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead'))
