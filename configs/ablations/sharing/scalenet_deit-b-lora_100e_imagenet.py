# Table II, DeiT-Base, LoRA alone: the unexpanded model with LoRA of rank 16.
_base_ = '../../scalenet_deit-b_100e_imagenet.py'
model = dict(
    backbone=dict(growth=None, adjustment=dict(_delete_=True, type='LoRA', rank=16)))
