# Table IV, DeiT-Base, every block used three times (91.07 M; the paper prints 92.53).
_base_ = '../../scalenet_deit-b_100e_imagenet.py'
model = dict(backbone=dict(growth=dict(times=3)))
