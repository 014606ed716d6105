# Des-S with 12 blocks on Cars-196, from Aux-S's gene; the classifier starts anew.
_base_ = '../_base_/cars196.py'
model = dict(
    backbone=dict(arch='deit-small', num_layers=12),
    head=dict(in_channels=384),
    init_cfg=dict(
        type='Learngene', checkpoint='work_dirs/sws_aux-s_150e_imagenet/gene.pth', head=False))
