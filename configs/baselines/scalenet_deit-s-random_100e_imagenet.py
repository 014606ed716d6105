# Table I, DeiT-Small, Random: a block of random values at the tail.
_base_ = './_base_/imagenet_deit-s.py'
model = dict(backbone=dict(growth=dict(order=[*range(12), []])))
randomness = dict(seed=0)
