# Aux-B with 12 blocks in 6 stages (MS-WS1 in Table 5).
_base_ = '../_base_/aux-b_distilled.py'
model = dict(
    student=dict(
        backbone=dict(
            num_layers=6, growth=dict(times=(2, 2, 2, 2, 2, 2), depth=12))))
