# Table I, Swin-Small, ScaleNet: the blocks of the last stage used twice, the repeats at its tail;
# adapters, norms and classifier train.
_base_ = ['./_base_/imagenet_swin-s.py', './_base_/imagenet_train-paper.py']

model = dict(
    backbone=dict(
        growth=dict(order='stack', times=2, stages=(3, ), share='weights', start='paper'),
        adjustment=dict(
            type='ParallelAdapter', rank=16, act_cfg=dict(type='ReLU'), scope='all')))
