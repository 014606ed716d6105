# Swin-Base: the official weights and the paper's drop path (section IV-C4).
_base_ = './imagenet_swin.py'

model = dict(
    backbone=dict(arch='base', drop_path_rate=0.5), head=dict(in_channels=1024))

load_from = 'https://github.com/SwinTransformer/storage/releases/download/v1.0.0/swin_base_patch4_window7_224.pth'  # noqa: E501
