# Table III, Swin-Base, the blocks of all stages used twice.
_base_ = '../../scalenet_swin-b_100e_imagenet.py'
model = dict(backbone=dict(growth=dict(stages=(0, 1, 2, 3))))
