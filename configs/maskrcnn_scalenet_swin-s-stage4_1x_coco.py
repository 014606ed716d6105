# Stage 4 alone doubled: what the paper's parameter count says for Swin-S (70.8 M in Table VIII).
_base_ = './maskrcnn_scalenet_swin-s_1x_coco.py'
model = dict(backbone=dict(growth=dict(stages=(3, ))))
