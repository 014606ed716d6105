# Table II, Swin-Small, sharing alone: grown without adjustment.
_base_ = '../../scalenet_swin-s_100e_imagenet.py'
model = dict(backbone=dict(adjustment=None))
