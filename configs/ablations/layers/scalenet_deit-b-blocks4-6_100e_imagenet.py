# Table III, DeiT-Base, blocks 4 to 6 used twice. By the paper's counts only they have adapters.
_base_ = '../../scalenet_deit-b_100e_imagenet.py'
model = dict(
    backbone=dict(
        growth=dict(blocks=(3, 4, 5)), adjustment=dict(scope='shared')))
