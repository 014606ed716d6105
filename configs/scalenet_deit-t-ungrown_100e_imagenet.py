# Tables I and II, DeiT-Tiny, first row: the pretrained model as it is.
_base_ = './scalenet_deit-t_100e_imagenet.py'
model = dict(backbone=dict(growth=None, adjustment=None))
