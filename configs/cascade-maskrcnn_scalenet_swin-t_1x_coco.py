# Cascade Mask R-CNN with Swin-T from ImageNet-1k weights, all stages of the backbone doubled:
# MMDetection's recipe for ResNet-50, with the backbone and the optimizer of its Swin recipes.
_base_ = [
    'mmdet::cascade_rcnn/cascade-mask-rcnn_r50_fpn_1x_coco.py',
    './_base_/scalenet_from-imagenet.py',
]

model = dict(
    backbone=dict(
        _delete_=True,
        type='ScaleNetSwin',
        embed_dims=96,
        depths=[2, 2, 6, 2],
        num_heads=[3, 6, 12, 24],
        drop_path_rate=0.2,
        growth=dict(stages=(0, 1, 2, 3)),
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://github.com/SwinTransformer/storage/releases/download/v1.0.0/swin_tiny_patch4_window7_224.pth')),  # noqa: E501
    neck=dict(in_channels=[96, 192, 384, 768]))
optim_wrapper = dict(
    optimizer=dict(_delete_=True, type='AdamW', lr=1e-4, betas=(0.9, 0.999), weight_decay=0.05),
    paramwise_cfg=dict(norm_decay_mult=0.))
