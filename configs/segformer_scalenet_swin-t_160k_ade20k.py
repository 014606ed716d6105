# SegFormer's head on the grown Swin-T, from ImageNet-1k weights: the head is new and trains fully,
# ten times as fast as the backbone's adapters and norms, as in SegFormer's own recipe.
_base_ = './upernet_scalenet_swin-t_in1k-pre_160k_ade20k.py'

model = dict(
    decode_head=dict(
        _delete_=True,
        type='SegformerHead',
        in_channels=[96, 192, 384, 768],
        in_index=[0, 1, 2, 3],
        channels=256,
        dropout_ratio=0.1,
        num_classes=150,
        norm_cfg=dict(type='SyncBN', requires_grad=True),
        align_corners=False,
        loss_decode=dict(type='CrossEntropyLoss', use_sigmoid=False, loss_weight=1.0)),
    auxiliary_head=None)
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(head=dict(lr_mult=10.))))
