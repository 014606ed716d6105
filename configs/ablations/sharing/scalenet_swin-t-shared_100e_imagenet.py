# Table II, Swin-Tiny, sharing alone: grown without adjustment.
_base_ = '../../scalenet_swin-t_100e_imagenet.py'
model = dict(backbone=dict(adjustment=None))
