# Aux-B with 15 blocks in 5 stages (MS-WS5 in Table 5; it did not converge).
_base_ = '../_base_/aux-b_distilled.py'
model = dict(
    student=dict(
        backbone=dict(
            num_layers=5, growth=dict(times=(4, 1, 5, 2, 3), depth=15))))
