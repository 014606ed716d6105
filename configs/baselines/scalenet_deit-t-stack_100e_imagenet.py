# Table I, DeiT-Tiny, Stack: StackBERT's rule (eq. 3), copies of blocks 1 and 2 at the tail.
_base_ = './_base_/imagenet_deit-t.py'
model = dict(backbone=dict(growth=dict(order='cyclic', blocks=(0, 1))))
