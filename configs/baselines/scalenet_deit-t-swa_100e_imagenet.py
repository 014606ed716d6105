# Table I, DeiT-Tiny, SWA: averages of two random blocks each at the tail.
# Drawn with rng = random.Random(0): rng.sample(range(12), 2), called twice.
_base_ = './_base_/imagenet_deit-t.py'
model = dict(backbone=dict(growth=dict(order=[*range(12), [6, 11], [0, 4]])))
randomness = dict(seed=0)
