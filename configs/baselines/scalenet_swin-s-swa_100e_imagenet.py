# Table I, Swin-Small, SWA: the average of two random blocks at the tail of stage 3.
# Drawn with random.Random(0).sample(range(18), 2).
_base_ = './_base_/imagenet_swin-s.py'
model = dict(backbone=dict(growth=dict(order=[*range(18), [12, 13]])))
randomness = dict(seed=0)
