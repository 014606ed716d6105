# Aux-B with 16 blocks in 5 stages (MS-WS4 in Table 5).
_base_ = '../_base_/aux-b_distilled.py'
model = dict(
    student=dict(
        backbone=dict(
            num_layers=5, growth=dict(times=(4, 1, 6, 1, 4), depth=16))))
