# Pre-train and fine-tune: the whole of Des-S with 12 blocks from ImageNet, on CIFAR-10.
_base_ = '../_base_/cifar10.py'
model = dict(
    backbone=dict(arch='deit-small', num_layers=12),
    head=dict(in_channels=384))
load_from = 'work_dirs/scratch_des-s-12_100e_imagenet/epoch_100.pth'
