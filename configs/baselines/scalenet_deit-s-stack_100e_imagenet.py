# Table I, DeiT-Small, Stack: StackBERT's rule (eq. 3), a copy of block 1 at the tail.
_base_ = './_base_/imagenet_deit-s.py'
model = dict(backbone=dict(growth=dict(order='cyclic', blocks=(0, ))))
