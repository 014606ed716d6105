# Table II, Swin-Tiny, LoRA alone: the unexpanded model with LoRA of rank 8.
_base_ = '../../scalenet_swin-t_100e_imagenet.py'
model = dict(
    backbone=dict(growth=None, adjustment=dict(_delete_=True, type='LoRA', rank=8)))
