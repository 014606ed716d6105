# Des-S with 15 blocks from TLEG's two learngenes, 35 epochs.
_base_ = '../_base_/tleg_des-s.py'
model = dict(backbone=dict(num_layers=15))
