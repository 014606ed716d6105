# What trains in the baselines of the larger models: what trains with ScaleNet, and the new blocks
# as a whole. They are repeats with tensors of their own ('5_r1'), averages and random blocks
# ('new1').
custom_hooks = [
    dict(
        type='AdapterInjectionHook',
        freeze=['paper', dict(train=r'backbone\.(layers|stages\.2\.blocks)\.(\d+_r|new)\d+\.')])
]
