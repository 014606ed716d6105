# The paper's segmentation experiment (section IV-E): MMSegmentation's trained UPerNet with Swin-T
# (160k iterations, 44.41 mIoU), all stages of its backbone doubled, 40k iterations on ADE20K. In
# both heads only the last layer, conv_seg, trains.
_base_ = './upernet_scalenet_swin-t_in1k-pre_160k_ade20k.py'

# the segmentor brings the backbone's weights; no ImageNet file is downloaded
model = dict(backbone=dict(init_cfg=None))
# statistics of frozen BatchNorms stay, too
custom_hooks = [dict(type='AdapterInjectionHook', freeze='upernet')]

param_scheduler = [
    dict(type='LinearLR', start_factor=1e-6, by_epoch=False, begin=0, end=1500),
    dict(type='PolyLR', eta_min=0.0, power=1.0, begin=1500, end=40000, by_epoch=False),
]
train_cfg = dict(max_iters=40000, val_interval=4000)
default_hooks = dict(checkpoint=dict(interval=4000))
# used with --auto-scale-lr: 8 GPUs x 2 images
auto_scale_lr = dict(base_batch_size=16)

load_from = 'https://download.openmmlab.com/mmsegmentation/v0.5/swin/upernet_swin_tiny_patch4_window7_512x512_160k_ade20k_pretrain_224x224_1K/upernet_swin_tiny_patch4_window7_512x512_160k_ade20k_pretrain_224x224_1K_20210531_112542-e380ad3e.pth'  # noqa: E501
