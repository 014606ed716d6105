# UPerNet on ADE20K with DeiT-Tiny from the official ImageNet-1k weights, every block used twice:
# neck and heads are new and train fully, of the backbone its adapters and norms do. (On ImageNet
# the paper trains all of DeiT-Tiny and -Small: custom_hooks.0.freeze=all does that here.)
_base_ = [
    'mmseg::vit/vit_deit-s16_mln_upernet_8xb2-160k_ade20k-512x512.py',
    './_base_/scalenet_from-imagenet.py',
]

model = dict(
    pretrained=None,  # the backbone's init_cfg instead
    backbone=dict(
        _delete_=True,
        type='ScaleNetViT',
        arch='deit-tiny',
        # size of the images in pretraining; position embeddings are resized to any other
        img_size=224,
        # pretrained blocks: each stands for the output of its last instance in the grown model
        out_indices=(2, 5, 8, 11),
        out_type='featmap',
        drop_path_rate=0.1,
        growth=dict(order='interpolate', times=2, share='weights', start='paper'),
        adjustment=dict(
            type='ParallelAdapter', rank=16, act_cfg=dict(type='ReLU'), scope='all'),
        init_cfg=dict(
            type='Pretrained',
            checkpoint='https://dl.fbaipublicfiles.com/deit/deit_tiny_patch16_224-a1311bcf.pth')),
    neck=dict(in_channels=[192, 192, 192, 192], out_channels=192),
    decode_head=dict(in_channels=[192, 192, 192, 192]),
    auxiliary_head=dict(in_channels=192))
# the stock recipe's rule for norms says 'norm', and here they are called ln1 and ln2
optim_wrapper = dict(
    paramwise_cfg=dict(custom_keys={
        '.ln': dict(decay_mult=0.),
        '.gain': dict(decay_mult=0.)
    }))
