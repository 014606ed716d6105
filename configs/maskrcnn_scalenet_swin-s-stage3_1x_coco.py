# Stage 3 alone doubled.
_base_ = './maskrcnn_scalenet_swin-s_1x_coco.py'
model = dict(backbone=dict(growth=dict(stages=(2, ))))
