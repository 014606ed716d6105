# Table I, DeiT-Small, Interpolate: a copy of block 6 right behind it.
_base_ = './_base_/imagenet_deit-s.py'
model = dict(backbone=dict(growth=dict(order='interpolate', blocks=(5, ))))
