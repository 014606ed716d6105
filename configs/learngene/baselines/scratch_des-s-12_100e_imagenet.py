# Des-S with 12 blocks from random values, 100 epochs.
_base_ = '../_base_/deit-s.py'
model = dict(backbone=dict(num_layers=12))
