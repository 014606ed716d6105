# Aux-B with 12 blocks in 5 stages (MS-WS3 in Table 5).
_base_ = '../_base_/aux-b_distilled.py'
model = dict(
    student=dict(
        backbone=dict(
            num_layers=5, growth=dict(times=(1, 5, 1, 4, 1), depth=12))))
