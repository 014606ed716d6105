# Table III, DeiT-Base, blocks 1 to 3 used twice. By the paper's counts only they have adapters.
_base_ = '../../scalenet_deit-b_100e_imagenet.py'
model = dict(
    backbone=dict(
        growth=dict(blocks=(0, 1, 2)), adjustment=dict(scope='shared')))
