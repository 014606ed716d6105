# Swin-Tiny for Table I's baselines: one block in stage 3 more, unshared, no adapters (30.06 M).
_base_ = ['../../_base_/imagenet_swin-t.py', './imagenet_train-new-blocks.py']
model = dict(backbone=dict(growth=dict(stages=(2, ), share='none', start='paper'), adjustment=None))
