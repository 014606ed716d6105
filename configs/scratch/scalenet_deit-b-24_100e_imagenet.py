# Table VII, DeiT-Base with 24 layers from scratch, 100 epochs.
_base_ = './scalenet_deit-b-24_300e_imagenet.py'
train_cfg = dict(max_epochs=100)
