# DeiT-Small for Table I's baselines: one block more, unshared, no adapters (23.83 M).
_base_ = ['../../_base_/imagenet_deit-s.py', '../../_base_/imagenet_train-all.py']
model = dict(backbone=dict(growth=dict(share='none', start='paper'), adjustment=None))
