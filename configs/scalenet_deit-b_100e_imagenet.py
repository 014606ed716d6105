# Table I, DeiT-Base, ScaleNet: every block used twice, the repeat right behind its original;
# adapters, norms and classifier train.
_base_ = ['./_base_/imagenet_deit-b.py', './_base_/imagenet_train-paper.py']

model = dict(
    backbone=dict(
        growth=dict(order='interpolate', times=2, share='weights', start='paper'),
        adjustment=dict(
            type='ParallelAdapter', rank=16, act_cfg=dict(type='ReLU'), scope='all')))
