# Table VII, DeiT-Base with 24 layers from scratch, 300 epochs.
_base_ = './_base_/imagenet_deit-24_300e.py'
model = dict(
    backbone=dict(arch=dict(
        embed_dims=768, num_layers=24, num_heads=12, feedforward_channels=3072)),
    head=dict(in_channels=768))
