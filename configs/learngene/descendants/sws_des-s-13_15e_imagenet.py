# Des-S with 13 blocks from Aux-S's gene, 15 epochs.
_base_ = '../_base_/des-s.py'
model = dict(backbone=dict(num_layers=13))
train_cfg = dict(max_epochs=15)
