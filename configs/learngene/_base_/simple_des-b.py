# Simple-LG: the blocks of a plain 5-block model, expanded as SWS expands its stages.
_base_ = './des-b.py'
model = dict(init_cfg=dict(checkpoint='work_dirs/simple_aux-b_100e_imagenet/gene.pth'))
