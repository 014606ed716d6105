# Table VI, DeiT-Base, adapters of rank 8 (88.08 M; the paper prints 88.06).
_base_ = '../../scalenet_deit-b_100e_imagenet.py'
model = dict(backbone=dict(adjustment=dict(rank=8)))
