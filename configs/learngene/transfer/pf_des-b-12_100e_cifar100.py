# Pre-train and fine-tune: the whole of Des-B with 12 blocks from ImageNet, on CIFAR-100.
_base_ = '../_base_/cifar100.py'
model = dict(
    backbone=dict(arch='deit-base', num_layers=12),
    head=dict(in_channels=768))
load_from = 'work_dirs/scratch_des-b-12_100e_imagenet/epoch_100.pth'
