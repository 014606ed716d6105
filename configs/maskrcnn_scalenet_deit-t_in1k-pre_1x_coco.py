# Mask R-CNN with the grown DeiT-Tiny, from its official ImageNet weights.
_base_ = './_base_/mask-rcnn_deit.py'

model = dict(
    backbone=dict(
        arch='deit-tiny',
        drop_path_rate=0.,
        init_cfg=dict(
            checkpoint='https://dl.fbaipublicfiles.com/deit/deit_tiny_patch16_224-a1311bcf.pth')),
    neck=dict(in_channels=192))
