# As the DeiT-Tiny config, with DeiT-Base.
_base_ = './upernet_scalenet_deit-t_in1k-pre_160k_ade20k.py'

model = dict(
    backbone=dict(
        arch='deit-base',
        init_cfg=dict(checkpoint='https://dl.fbaipublicfiles.com/deit/deit_base_patch16_224-b5f2ef4d.pth')),
    neck=dict(in_channels=[768, 768, 768, 768], out_channels=768),
    decode_head=dict(in_channels=[768, 768, 768, 768]),
    auxiliary_head=dict(in_channels=768))
