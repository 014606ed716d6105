# DeiT-Small: the official weights and the paper's drop path (section IV-C4).
_base_ = './imagenet_deit.py'

model = dict(
    backbone=dict(arch='deit-small', drop_path_rate=0.2), head=dict(in_channels=384))

load_from = 'https://dl.fbaipublicfiles.com/deit/deit_small_patch16_224-cd65a155.pth'
