# Des-B with 7 blocks from weights selected from a larger model, 10 epochs.
_base_ = '../_base_/selection_des-b.py'
model = dict(backbone=dict(num_layers=7))
