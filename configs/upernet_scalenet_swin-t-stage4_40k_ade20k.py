# Stage 4 alone doubled, as in the paper's ImageNet models.
_base_ = './upernet_scalenet_swin-t_40k_ade20k.py'
model = dict(backbone=dict(growth=dict(stages=(3, ))))
