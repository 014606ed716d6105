# Table III, DeiT-Base, blocks 10 to 12 used twice. By the paper's counts only they have adapters.
_base_ = '../../scalenet_deit-b_100e_imagenet.py'
model = dict(
    backbone=dict(
        growth=dict(blocks=(9, 10, 11)), adjustment=dict(scope='shared')))
