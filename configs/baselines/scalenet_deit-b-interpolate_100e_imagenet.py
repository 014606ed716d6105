# Table I, DeiT-Base, Interpolate: a copy of block 6 right behind it.
_base_ = './_base_/imagenet_deit-b.py'
model = dict(backbone=dict(growth=dict(order='interpolate', blocks=(5, ))))
