# DeiT-Tiny for Table I's baselines: two blocks more, unshared, no adapters (6.61 M).
_base_ = ['../../_base_/imagenet_deit-t.py', '../../_base_/imagenet_train-all.py']
model = dict(backbone=dict(growth=dict(share='none', start='paper'), adjustment=None))
