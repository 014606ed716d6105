# Table I, Swin-Small, Interpolate: a copy of block 9 right behind it, in stage 3.
_base_ = './_base_/imagenet_swin-s.py'
model = dict(backbone=dict(growth=dict(order='interpolate', blocks=(8, ))))
