# RetinaNet with Swin-T from ImageNet-1k weights, the last stage of the backbone doubled.
_base_ = [
    'mmdet::swin/retinanet_swin-t-p4-w7_fpn_1x_coco.py',
    './_base_/scalenet_from-imagenet.py',
]
model = dict(backbone=dict(type='ScaleNetSwin', growth=dict(stages=(3, ))))
