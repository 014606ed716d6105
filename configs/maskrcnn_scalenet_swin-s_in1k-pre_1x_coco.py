# As the Swin-T config, with Swin-S.
_base_ = './maskrcnn_scalenet_swin-t_in1k-pre_1x_coco.py'

model = dict(
    backbone=dict(
        depths=[2, 2, 18, 2],
        init_cfg=dict(
            checkpoint='https://github.com/SwinTransformer/storage/releases/download/v1.0.0/swin_small_patch4_window7_224.pth')))  # noqa: E501
