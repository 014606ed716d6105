# Mask2Former on ADE20K with Swin-T from ImageNet-1k weights, all stages of the backbone doubled:
# the head is new and trains fully, of the backbone its adapters and norms do. mmdet must be
# installed: the head's parts are its own.
_base_ = [
    'mmseg::mask2former/mask2former_swin-t_8xb2-160k_ade20k-512x512.py',
    './_base_/adapter_lr.py',
]
# the stock config has imports of its own, so _base_/scalenet_from-imagenet.py cannot be a base
custom_imports = dict(imports=['mmdet.models', 'scalenet_mm'])
custom_hooks = [dict(type='AdapterInjectionHook', freeze='backbone-paper')]

model = dict(backbone=dict(type='ScaleNetSwin', growth=dict(stages=(0, 1, 2, 3))))
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=_base_.adapter_lr))
