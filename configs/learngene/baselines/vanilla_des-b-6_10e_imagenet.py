# Des-B with 6 blocks from the last blocks of DeiT-Base (Vanilla-LG), 10 epochs.
_base_ = '../_base_/vanilla_des-b.py'
model = dict(backbone=dict(num_layers=6))
