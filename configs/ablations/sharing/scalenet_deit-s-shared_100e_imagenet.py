# Table II, DeiT-Small, sharing alone: grown without adjustment.
_base_ = '../../scalenet_deit-s_100e_imagenet.py'
model = dict(backbone=dict(adjustment=None))
