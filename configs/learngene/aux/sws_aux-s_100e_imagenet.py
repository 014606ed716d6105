# Aux-S for 100 epochs only (Table 6).
_base_ = './sws_aux-s_150e_imagenet.py'
train_cfg = dict(max_epochs=100)
