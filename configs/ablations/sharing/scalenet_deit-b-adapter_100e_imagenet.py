# Table II, DeiT-Base, adapters alone: the unexpanded model with adapters of rank 32
# (89.52 M; the paper prints 89.55).
_base_ = '../../scalenet_deit-b_100e_imagenet.py'
model = dict(backbone=dict(growth=None, adjustment=dict(rank=32)))
