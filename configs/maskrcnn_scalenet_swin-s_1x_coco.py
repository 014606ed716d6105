# As the Swin-T config, from MMDetection's Mask R-CNN with Swin-S (ms-crop, 3x, 48.2 box AP).
_base_ = './maskrcnn_scalenet_swin-t_1x_coco.py'

model = dict(backbone=dict(depths=[2, 2, 18, 2]))

load_from = 'https://download.openmmlab.com/mmdetection/v2.0/swin/mask_rcnn_swin-s-p4-w7_fpn_fp16_ms-crop-3x_coco/mask_rcnn_swin-s-p4-w7_fpn_fp16_ms-crop-3x_coco_20210903_104808-b92c91f1.pth'  # noqa: E501
