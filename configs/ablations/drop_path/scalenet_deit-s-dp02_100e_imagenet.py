# Figure 6, DeiT-Small, drop path 0.2, as in Table I.
_base_ = '../../scalenet_deit-s_100e_imagenet.py'
model = dict(backbone=dict(drop_path_rate=0.2))
