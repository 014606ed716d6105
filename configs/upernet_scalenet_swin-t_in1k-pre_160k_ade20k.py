# UPerNet on ADE20K with Swin-T from ImageNet-1k weights, all stages of the backbone doubled: the
# heads are new and train fully, of the backbone its adapters and norms do.
_base_ = [
    'mmseg::swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py',
    './_base_/scalenet_from-imagenet.py',
]

model = dict(
    backbone=dict(
        type='ScaleNetSwin',
        growth=dict(order='stack', times=2, stages=(0, 1, 2, 3), share='weights', start='paper'),
        adjustment=dict(
            type='ParallelAdapter', rank=16, act_cfg=dict(type='ReLU'), scope='all')))
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(gain=dict(decay_mult=0.))))
