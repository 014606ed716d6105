# Mask R-CNN with Swin-T from ImageNet-1k weights, all stages of the backbone doubled, 1x schedule.
_base_ = [
    'mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py',
    './_base_/scalenet_from-imagenet.py',
]
model = dict(backbone=dict(type='ScaleNetSwin', growth=dict(stages=(0, 1, 2, 3))))
