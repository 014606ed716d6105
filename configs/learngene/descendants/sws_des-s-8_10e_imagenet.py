# Des-S with 8 blocks from Aux-S's gene, 10 epochs.
_base_ = '../_base_/des-s.py'
model = dict(backbone=dict(num_layers=8))
