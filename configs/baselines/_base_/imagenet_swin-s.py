# Swin-Small for Table I's baselines: one block in stage 3 more, unshared, no adapters (51.38 M).
_base_ = ['../../_base_/imagenet_swin-s.py', './imagenet_train-new-blocks.py']
model = dict(backbone=dict(growth=dict(stages=(2, ), share='none', start='paper'), adjustment=None))
