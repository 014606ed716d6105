# Table II, DeiT-Base, sharing alone: grown without adjustment.
_base_ = '../../scalenet_deit-b_100e_imagenet.py'
model = dict(backbone=dict(adjustment=None))
