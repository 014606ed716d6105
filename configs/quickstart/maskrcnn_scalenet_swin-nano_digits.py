# The small detector grown: every block of every stage used twice, starting as an identity.
# load_from is the checkpoint that maskrcnn_swin-nano_digits.py trained.
_base_ = ['./maskrcnn_swin-nano_digits.py', '../_base_/scalenet_mask-rcnn.py']

model = dict(
    backbone=dict(
        growth=dict(
            _delete_=True,  # over the base's None
            order='stack',
            times=2,
            stages=(0, 1, 2, 3),
            share='weights',
            start='identity'),
        adjustment=dict(
            _delete_=True,
            type='ParallelAdapter',
            rank=16,
            act_cfg=dict(type='ReLU'),
            scope='all')))

max_epochs = 8
train_cfg = dict(max_epochs=max_epochs)
optim_wrapper = dict(optimizer=dict(lr=2e-4))  # the paper's; it disturbs a trained detector less
param_scheduler = [
    dict(type='LinearLR', start_factor=0.01, by_epoch=False, begin=0, end=20),
    dict(
        type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, T_max=max_epochs,
        convert_to_iter_based=True),
]
default_hooks = dict(checkpoint=dict(interval=max_epochs))
load_from = 'work_dirs/quickstart/seed0/base/epoch_24.pth'
