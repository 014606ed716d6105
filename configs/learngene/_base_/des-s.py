# Descendants of DeiT-Small: plain models of any depth (num_layers) that start from a gene and share
# nothing. 10 epochs (15 at 13 to 15 blocks) are the paper's; rate, its end and no warm-up are its
# authors' commands'.
_base_ = './deit-s.py'
model = dict(
    init_cfg=dict(
        type='Learngene',
        checkpoint='work_dirs/sws_aux-s_150e_imagenet/gene.pth',
        order='front-mid-last'))
train_cfg = dict(max_epochs=10)
optim_wrapper = dict(optimizer=dict(lr=5e-5))
param_scheduler = [
    dict(type='CosineAnnealingLR', eta_min=1e-6, by_epoch=True, convert_to_iter_based=True)
]
