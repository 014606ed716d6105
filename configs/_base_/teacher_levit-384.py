# The ancestry model of stage-wise weight sharing: LeViT-384 (82.59 % top-1), as in mmpretrain's
# levit/levit-384_8xb256_in1k.py, with its weights from there. A config lays it over a classifier:
#
#     _base_ = ['the_classifier.py', 'teacher_levit-384.py']
#     model = dict(
#         _delete_=True,
#         type='DistilledClassifier',
#         student={{_base_.model}},
#         teacher={{_base_.teacher}},
#         teacher_checkpoint={{_base_.teacher_checkpoint}})
#
# Its images are brought to its own mean and deviation, whatever the student's are.
teacher = dict(
    type='ImageClassifier',
    data_preprocessor=dict(
        num_classes=1000,
        mean=[123.675, 116.28, 103.53],
        std=[58.395, 57.12, 57.375],
        to_rgb=True),
    backbone=dict(
        type='LeViT',
        arch='384',
        img_size=224,
        patch_size=16,
        drop_path_rate=0.1,
        attn_ratio=2,
        mlp_ratio=2,
        out_indices=(2, )),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(
        type='LeViTClsHead',
        num_classes=1000,
        in_channels=768,
        distillation=True,
        loss=dict(type='LabelSmoothLoss', label_smooth_val=0.1, loss_weight=1.0),
        topk=(1, 5)))
teacher_checkpoint = 'https://download.openmmlab.com/mmclassification/v0/levit/levit-384_3rdparty_in1k_20230117-f3539cce.pth'  # noqa: E501
