# Mask R-CNN with the grown DeiT-Small, from its official ImageNet weights. The drop path is our
# choice (the paper has no detector on DeiT): ViTDet's for its base size.
_base_ = './_base_/mask-rcnn_deit.py'

model = dict(
    backbone=dict(
        arch='deit-small',
        drop_path_rate=0.1,
        init_cfg=dict(
            checkpoint='https://dl.fbaipublicfiles.com/deit/deit_small_patch16_224-cd65a155.pth')),
    neck=dict(in_channels=384))
