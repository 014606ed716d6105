# Table II, Swin-Base, adapters alone: the unexpanded model with adapters of rank 16.
_base_ = '../../scalenet_swin-b_100e_imagenet.py'
model = dict(backbone=dict(growth=None, adjustment=dict(rank=16)))
