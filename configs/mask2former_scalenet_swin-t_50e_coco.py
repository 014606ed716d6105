# Mask2Former (instance segmentation, 50 epochs) with Swin-T from ImageNet-1k weights, all stages of
# the backbone doubled.
_base_ = [
    'mmdet::mask2former/mask2former_swin-t-p4-w7-224_8xb2-lsj-50e_coco.py',
    './_base_/scalenet_from-imagenet.py',
    './_base_/adapter_lr.py',
]
model = dict(backbone=dict(type='ScaleNetSwin', growth=dict(stages=(0, 1, 2, 3))))
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=_base_.adapter_lr))
