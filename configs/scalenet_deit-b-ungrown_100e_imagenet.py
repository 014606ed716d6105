# Tables I and II, DeiT-Base, first row: the pretrained model as it is.
_base_ = './scalenet_deit-b_100e_imagenet.py'
model = dict(backbone=dict(growth=None, adjustment=None))
