# Table II, Swin-Small, adapters alone: the unexpanded model with adapters of rank 16.
_base_ = '../../scalenet_swin-s_100e_imagenet.py'
model = dict(backbone=dict(growth=None, adjustment=dict(rank=16)))
