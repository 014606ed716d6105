# TLEG's descendants of DeiT-Small: block l of L starts as A + (l / L) B. 35 epochs without warm-up
# are its authors' commands, which name no rate: it is that of DeiT's script.
_base_ = './des-s.py'
model = dict(init_cfg=dict(checkpoint='work_dirs/tleg_aux-s_150e_imagenet/gene.pth'))
train_cfg = dict(max_epochs=35)
optim_wrapper = dict(optimizer=dict(lr=5e-4))
param_scheduler = [
    dict(type='CosineAnnealingLR', eta_min=1e-5, by_epoch=True, convert_to_iter_based=True)
]
