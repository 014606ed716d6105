# Stage 3 alone doubled: what the paper's parameter count says for Swin-T (48.9 M in Table VIII).
_base_ = './maskrcnn_scalenet_swin-t_1x_coco.py'
model = dict(backbone=dict(growth=dict(stages=(2, ))))
