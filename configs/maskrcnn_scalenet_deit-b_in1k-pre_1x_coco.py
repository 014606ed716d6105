# Mask R-CNN with the grown DeiT-Base, from its official ImageNet weights. The drop path is our
# choice (the paper has no detector on DeiT): ViTDet's for this size.
_base_ = './_base_/mask-rcnn_deit.py'

model = dict(
    backbone=dict(
        arch='deit-base',
        drop_path_rate=0.1,
        init_cfg=dict(
            checkpoint='https://dl.fbaipublicfiles.com/deit/deit_base_patch16_224-b5f2ef4d.pth')),
    neck=dict(in_channels=768))
