# DeiT-Small of any depth (num_layers) from random values, 100 epochs.
_base_ = './imagenet_deit.py'
model = dict(backbone=dict(arch='deit-small'), head=dict(in_channels=384))
