# Table I, DeiT-Base, Stack: StackBERT's rule (eq. 3), a copy of block 1 at the tail.
_base_ = './_base_/imagenet_deit-b.py'
model = dict(backbone=dict(growth=dict(order='cyclic', blocks=(0, ))))
