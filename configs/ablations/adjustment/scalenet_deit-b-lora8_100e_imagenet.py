# Table VI, DeiT-Base, LoRA of rank 8. The printed 88.93 M leave out the repeats' norms (36,864).
_base_ = '../../scalenet_deit-b_100e_imagenet.py'
model = dict(backbone=dict(adjustment=dict(_delete_=True, type='LoRA', rank=8)))
