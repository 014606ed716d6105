# Table II, Swin-Base, sharing alone: grown without adjustment.
_base_ = '../../scalenet_swin-b_100e_imagenet.py'
model = dict(backbone=dict(adjustment=None))
