# Table I, Swin-Small, Stack: StackBERT's rule (eq. 3), a copy of block 1 at the tail of stage 3.
_base_ = './_base_/imagenet_swin-s.py'
model = dict(backbone=dict(growth=dict(order='cyclic', blocks=(0, ))))
