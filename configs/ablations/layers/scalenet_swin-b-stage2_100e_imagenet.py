# Table III, Swin-Base, the blocks of stage 2 used twice; every block has adapters.
_base_ = '../../scalenet_swin-b_100e_imagenet.py'
model = dict(backbone=dict(growth=dict(stages=(1, ))))
