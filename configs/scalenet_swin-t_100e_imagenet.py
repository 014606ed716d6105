# Table I, Swin-Tiny, ScaleNet: the blocks of the last stage used twice, the repeats at its tail;
# adapters, norms and classifier train. The paper prints 29.37 M, which is stage 3 doubled
# (stages=(2, )), and 5.2 GFLOPs, which is stage 4 doubled, as its text says.
_base_ = ['./_base_/imagenet_swin-t.py', './_base_/imagenet_train-paper.py']

model = dict(
    backbone=dict(
        growth=dict(order='stack', times=2, stages=(3, ), share='weights', start='paper'),
        adjustment=dict(
            type='ParallelAdapter', rank=16, act_cfg=dict(type='ReLU'), scope='all')))
