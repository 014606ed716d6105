# Pre-train and fine-tune: the whole of Des-B with 14 blocks from ImageNet, on CIFAR-100.
_base_ = './pf_des-b-12_100e_cifar100.py'
model = dict(backbone=dict(num_layers=14))
load_from = 'work_dirs/scratch_des-b-14_100e_imagenet/epoch_100.pth'
