# Table I, DeiT-Small, SWA: the average of two random blocks at the tail.
# Drawn with random.Random(0).sample(range(12), 2).
_base_ = './_base_/imagenet_deit-s.py'
model = dict(backbone=dict(growth=dict(order=[*range(12), [6, 11]])))
randomness = dict(seed=0)
