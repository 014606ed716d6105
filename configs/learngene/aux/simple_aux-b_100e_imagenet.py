# Simple-LG: a plain model of 5 blocks, distilled like Aux-B (the paper only says well-trained).
_base_ = '../_base_/aux-b_distilled.py'
model = dict(student=dict(backbone=dict(num_layers=5, growth=None)))
