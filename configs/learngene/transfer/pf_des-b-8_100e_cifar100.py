# Pre-train and fine-tune: the whole of Des-B with 8 blocks from ImageNet, on CIFAR-100.
_base_ = './pf_des-b-12_100e_cifar100.py'
model = dict(backbone=dict(num_layers=8))
load_from = 'work_dirs/scratch_des-b-8_100e_imagenet/epoch_100.pth'
