# Stage 4 alone doubled, as the paper does for ImageNet.
_base_ = './maskrcnn_scalenet_swin-t_1x_coco.py'
model = dict(backbone=dict(growth=dict(stages=(3, ))))
