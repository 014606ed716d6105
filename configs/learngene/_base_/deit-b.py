# DeiT-Base of any depth (num_layers) from random values, 100 epochs.
_base_ = './imagenet_deit.py'
model = dict(backbone=dict(arch='deit-base'), head=dict(in_channels=768))
