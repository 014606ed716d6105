# Des-S with 15 blocks from Aux-S's gene, 15 epochs.
_base_ = '../_base_/des-s.py'
model = dict(backbone=dict(num_layers=15))
train_cfg = dict(max_epochs=15)
