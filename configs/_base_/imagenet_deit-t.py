# DeiT-Tiny: the official weights and the paper's drop path (section IV-C4).
_base_ = './imagenet_deit.py'

model = dict(
    backbone=dict(arch='deit-tiny', drop_path_rate=0.0), head=dict(in_channels=192))

load_from = 'https://dl.fbaipublicfiles.com/deit/deit_tiny_patch16_224-a1311bcf.pth'
