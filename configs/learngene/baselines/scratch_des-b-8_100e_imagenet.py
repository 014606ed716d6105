# Des-B with 8 blocks from random values, 100 epochs.
_base_ = '../_base_/deit-b.py'
model = dict(backbone=dict(num_layers=8))
