# The control: the same parts train (adapters, norms, classifier), no block is repeated.
_base_ = './scalenet_deit-t_20e_folder.py'

model = dict(backbone=dict(growth=None))
