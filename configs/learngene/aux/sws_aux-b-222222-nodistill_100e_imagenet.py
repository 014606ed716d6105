# Aux-B with 12 blocks in 6 stages, without distillation (MS-WS1, wo dis, in Table 5).
_base_ = '../_base_/aux-b.py'
model = dict(
    backbone=dict(
        num_layers=6, growth=dict(times=(2, 2, 2, 2, 2, 2), depth=12)))
