# A small data set in place of ADE20K: the UPerNet recipe of DeiT-Tiny with other data, classes,
# crop and length, and neck and heads as narrow as suits 367 images.
_base_ = ['./upernet_scalenet_deit-t_in1k-pre_160k_ade20k.py', './_base_/camvid.py']

model = dict(
    data_preprocessor=_base_.camvid_preprocessor,
    # the pretrained function to begin with: 367 images do not win back what the paper's start loses
    backbone=dict(growth=dict(start='identity'), drop_path_rate=0.),
    neck=dict(out_channels=96),
    decode_head=dict(in_channels=[96, 96, 96, 96], channels=64, **_base_.camvid_head),
    auxiliary_head=dict(in_channels=96, channels=64, **_base_.camvid_head))

train_dataloader = dict(batch_size=8, dataset=_base_.camvid_train)
val_dataloader = dict(dataset=_base_.camvid_val)
test_dataloader = val_dataloader
val_evaluator = _base_.camvid_evaluator
test_evaluator = val_evaluator

train_cfg = _base_.camvid_loop
param_scheduler = _base_.camvid_schedule
optim_wrapper = dict(optimizer=dict(lr=1e-3))
default_hooks = _base_.camvid_hooks
