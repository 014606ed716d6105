# Table V, Swin-Base, each repeat right behind its original.
_base_ = '../../scalenet_swin-b_100e_imagenet.py'
model = dict(backbone=dict(growth=dict(order='interpolate')))
