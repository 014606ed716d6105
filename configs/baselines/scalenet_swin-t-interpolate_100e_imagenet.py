# Table I, Swin-Tiny, Interpolate: a copy of block 3 right behind it, in stage 3.
_base_ = './_base_/imagenet_swin-t.py'
model = dict(backbone=dict(growth=dict(order='interpolate', blocks=(2, ))))
