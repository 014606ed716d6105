# As the Swin-T config, from MMSegmentation's UPerNet with Swin-S (47.72 mIoU).
_base_ = './upernet_scalenet_swin-t_40k_ade20k.py'

model = dict(backbone=dict(depths=[2, 2, 18, 2]))

load_from = 'https://download.openmmlab.com/mmsegmentation/v0.5/swin/upernet_swin_small_patch4_window7_512x512_160k_ade20k_pretrain_224x224_1K/upernet_swin_small_patch4_window7_512x512_160k_ade20k_pretrain_224x224_1K_20210526_192015-ee2fff1c.pth'  # noqa: E501
