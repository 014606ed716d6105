# The control: the same parts train (adapters, norms, neck and heads), no block is repeated.
_base_ = './upernet_scalenet_deit-t_2k_camvid.py'

model = dict(backbone=dict(growth=None))
