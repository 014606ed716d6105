# As the DeiT-Tiny config, with DeiT-Small.
_base_ = './upernet_scalenet_deit-t_in1k-pre_160k_ade20k.py'

model = dict(
    backbone=dict(
        arch='deit-small',
        init_cfg=dict(checkpoint='https://dl.fbaipublicfiles.com/deit/deit_small_patch16_224-cd65a155.pth')),
    neck=dict(in_channels=[384, 384, 384, 384], out_channels=384),
    decode_head=dict(in_channels=[384, 384, 384, 384]),
    auxiliary_head=dict(in_channels=384))
