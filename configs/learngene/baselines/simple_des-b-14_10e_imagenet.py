# Des-B with 14 blocks from the 5 blocks of Simple-LG, 10 epochs.
_base_ = '../_base_/simple_des-b.py'
model = dict(backbone=dict(num_layers=14))
