# DINO (5 scales, 12 epochs) with Swin-L from ImageNet-22k weights, the last stage of the backbone
# doubled: it is the largest recipe here, and each doubled stage adds its time again.
_base_ = [
    'mmdet::dino/dino-5scale_swin-l_8xb2-12e_coco.py',
    './_base_/scalenet_from-imagenet.py',
    './_base_/adapter_lr.py',
]
model = dict(backbone=dict(type='ScaleNetSwin', growth=dict(stages=(3, ))))
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=_base_.adapter_lr))
