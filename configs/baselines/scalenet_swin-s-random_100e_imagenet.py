# Table I, Swin-Small, Random: a block of random values at the tail of stage 3.
_base_ = './_base_/imagenet_swin-s.py'
model = dict(backbone=dict(growth=dict(order=[*range(18), []])))
randomness = dict(seed=0)
