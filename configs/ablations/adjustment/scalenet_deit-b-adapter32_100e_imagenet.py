# Table VI, DeiT-Base, adapters of rank 32 (92.50 M; the paper prints 92.53).
_base_ = '../../scalenet_deit-b_100e_imagenet.py'
model = dict(backbone=dict(adjustment=dict(rank=32)))
