# DeiT-Small, grown as in Table I, from another start than the paper's: half steps, an original and
# its repeat have gains of 0.5 each.
_base_ = './scalenet_deit-s_100e_imagenet.py'
model = dict(backbone=dict(growth=dict(start=dict(_delete_=True, type='split', share=0.5))))
