# Des-B with 6 blocks on CIFAR-100, from Aux-B's gene.
_base_ = './sws_des-b-12_100e_cifar100.py'
model = dict(backbone=dict(num_layers=6))
