# Table II, Swin-Small, LoRA alone: the unexpanded model with LoRA of rank 8.
_base_ = '../../scalenet_swin-s_100e_imagenet.py'
model = dict(
    backbone=dict(growth=None, adjustment=dict(_delete_=True, type='LoRA', rank=8)))
