# Simple-LG: a plain model of 5 blocks, distilled like Aux-S. The paper says "a normally
# well-trained 5-layer Des-B", which may mean without a teacher: --cfg-options model.alpha=0
_base_ = '../_base_/aux-s_distilled.py'
model = dict(student=dict(backbone=dict(num_layers=5, growth=None)))
