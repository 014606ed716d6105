# Table I, DeiT-Tiny, Random: two blocks of random values at the tail.
_base_ = './_base_/imagenet_deit-t.py'
model = dict(backbone=dict(growth=dict(order=[*range(12), [], []])))
randomness = dict(seed=0)
