# Table I, DeiT-Tiny, Interpolate: copies of blocks 4 and 8 right behind them.
_base_ = './_base_/imagenet_deit-t.py'
model = dict(backbone=dict(growth=dict(order='interpolate', blocks=(3, 7))))
