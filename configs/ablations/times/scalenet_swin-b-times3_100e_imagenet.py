# Table IV, Swin-Base, the last stage used three times (90.37 M; the paper prints 91.39).
_base_ = '../../scalenet_swin-b_100e_imagenet.py'
model = dict(backbone=dict(growth=dict(times=3)))
