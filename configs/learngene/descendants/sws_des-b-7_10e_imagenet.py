# Des-B with 7 blocks from Aux-B's gene, 10 epochs.
_base_ = '../_base_/des-b.py'
model = dict(backbone=dict(num_layers=7))
