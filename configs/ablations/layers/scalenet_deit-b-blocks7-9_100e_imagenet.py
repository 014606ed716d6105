# Table III, DeiT-Base, blocks 7 to 9 used twice. By the paper's counts only they have adapters.
_base_ = '../../scalenet_deit-b_100e_imagenet.py'
model = dict(
    backbone=dict(
        growth=dict(blocks=(6, 7, 8)), adjustment=dict(scope='shared')))
