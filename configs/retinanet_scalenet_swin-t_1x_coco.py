# The backbone in another detector, in ten lines: RetinaNet from ImageNet weights. Neck and head
# are new, so they train; of the backbone its adapters and norms do.
_base_ = ['mmdet::swin/retinanet_swin-t-p4-w7_fpn_1x_coco.py', './_base_/scalenet.py']

custom_hooks = [dict(type='AdapterInjectionHook', freeze='backbone-paper')]
model = dict(backbone=dict(type='ScaleNetSwin', growth=dict(stages=(3, ))))
