# Des-B with 12 blocks on Food-101, from Aux-B's gene; the classifier starts anew.
_base_ = '../_base_/food101.py'
model = dict(
    backbone=dict(arch='deit-base', num_layers=12),
    head=dict(in_channels=768),
    init_cfg=dict(
        type='Learngene', checkpoint='work_dirs/sws_aux-b_100e_imagenet/gene.pth', head=False))
