# Aux-B with 12 blocks in 6 stages (MS-WS2 in Table 5).
_base_ = '../_base_/aux-b_distilled.py'
model = dict(
    student=dict(
        backbone=dict(
            num_layers=6, growth=dict(times=(1, 4, 1, 1, 4, 1), depth=12))))
