# Aux-S, 150 epochs: 16 blocks in 5 stages, one learngene each.
_base_ = '../_base_/aux-s_distilled.py'
model = dict(
    student=dict(
        backbone=dict(
            num_layers=5, growth=dict(times=(3, 3, 4, 3, 3), depth=16))))
