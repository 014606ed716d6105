# Table II, DeiT-Small, adapters alone: the unexpanded model with adapters of rank 32.
_base_ = '../../scalenet_deit-s_100e_imagenet.py'
model = dict(backbone=dict(growth=None, adjustment=dict(rank=32)))
