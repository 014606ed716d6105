# Table I, Swin-Tiny, Random: a block of random values at the tail of stage 3.
_base_ = './_base_/imagenet_swin-t.py'
model = dict(backbone=dict(growth=dict(order=[*range(6), []])))
randomness = dict(seed=0)
