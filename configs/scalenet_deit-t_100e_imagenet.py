# Table I, DeiT-Tiny, ScaleNet: every block used twice, the repeat right behind its original;
# everything trains.
_base_ = ['./_base_/imagenet_deit-t.py', './_base_/imagenet_train-all.py']

model = dict(
    backbone=dict(
        growth=dict(order='interpolate', times=2, share='weights', start='paper'),
        adjustment=dict(
            type='ParallelAdapter', rank=16, act_cfg=dict(type='ReLU'), scope='all')))
