# DeiT-Base for Table I's baselines: one block more, unshared, no adapters (93.66 M).
_base_ = ['../../_base_/imagenet_deit-b.py', './imagenet_train-new-blocks.py']
model = dict(backbone=dict(growth=dict(share='none', start='paper'), adjustment=None))
