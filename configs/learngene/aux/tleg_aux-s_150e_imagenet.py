# TLEG: 12 blocks A + (l / 12) B, of which A and B train; drop path 0 as in its authors' command.
_base_ = '../_base_/aux-s_distilled.py'
model = dict(student=dict(backbone=dict(type='TLEGViT', growth=None, drop_path_rate=0.)))
