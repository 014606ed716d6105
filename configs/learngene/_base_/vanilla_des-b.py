# Vanilla-LG: the last 3 blocks of the ordinary DeiT-Base, behind blocks of random values. That they
# are 3, the seed, and the recipe of the descendants are this project's choice.
_base_ = './des-b.py'
model = dict(init_cfg=dict(checkpoint='work_dirs/vanilla_deit-b/gene.pth', seed=0))
