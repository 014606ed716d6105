# As the 1x config, with multi-scale training and crops over 36 epochs.
_base_ = [
    'mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_ms-crop-3x_coco.py',
    './_base_/scalenet_from-imagenet.py',
]
model = dict(backbone=dict(type='ScaleNetSwin', growth=dict(stages=(0, 1, 2, 3))))
