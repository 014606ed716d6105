# Table I, Swin-Tiny, SWA: the average of two random blocks at the tail of stage 3.
# Drawn with random.Random(0).sample(range(6), 2).
_base_ = './_base_/imagenet_swin-t.py'
model = dict(backbone=dict(growth=dict(order=[*range(6), [3, 5]])))
randomness = dict(seed=0)
