# Table II, DeiT-Tiny, sharing alone: grown without adjustment.
_base_ = '../../scalenet_deit-t_100e_imagenet.py'
model = dict(backbone=dict(adjustment=None))
