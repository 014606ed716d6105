# Figure 6, DeiT-Base, drop path 0.4.
_base_ = '../../scalenet_deit-b_100e_imagenet.py'
model = dict(backbone=dict(drop_path_rate=0.4))
