# Des-B with 15 blocks from TLEG's two learngenes, 40 epochs.
_base_ = '../_base_/tleg_des-b.py'
model = dict(backbone=dict(num_layers=15))
