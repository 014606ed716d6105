# DeiT-Tiny, grown as in Table I, from another start than the paper's: the repeats' gains are 0, so
# the grown model is the pretrained one at first.
_base_ = './scalenet_deit-t_100e_imagenet.py'
model = dict(backbone=dict(growth=dict(start='identity')))
