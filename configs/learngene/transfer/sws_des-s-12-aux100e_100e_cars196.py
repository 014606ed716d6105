# Table 6: Des-S with 12 blocks on Cars-196, from the gene of Aux-S's 100 epochs.
_base_ = './sws_des-s-12_100e_cars196.py'
model = dict(init_cfg=dict(checkpoint='work_dirs/sws_aux-s_100e_imagenet/gene.pth'))
