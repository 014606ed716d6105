# Table I, DeiT-Base, Random: a block of random values at the tail.
_base_ = './_base_/imagenet_deit-b.py'
model = dict(backbone=dict(growth=dict(order=[*range(12), []])))
randomness = dict(seed=0)
