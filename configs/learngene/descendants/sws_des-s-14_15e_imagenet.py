# Des-S with 14 blocks from Aux-S's gene, 15 epochs.
_base_ = '../_base_/des-s.py'
model = dict(backbone=dict(num_layers=14))
train_cfg = dict(max_epochs=15)
