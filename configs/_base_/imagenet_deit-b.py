# DeiT-Base: the official weights and the paper's drop path (section IV-C4).
_base_ = './imagenet_deit.py'

model = dict(
    backbone=dict(arch='deit-base', drop_path_rate=0.5), head=dict(in_channels=768))

load_from = 'https://dl.fbaipublicfiles.com/deit/deit_base_patch16_224-b5f2ef4d.pth'
