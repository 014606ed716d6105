# Table V, DeiT-Base, the repeats behind the last block.
_base_ = '../../scalenet_deit-b_100e_imagenet.py'
model = dict(backbone=dict(growth=dict(order='stack')))
