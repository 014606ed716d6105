# DeiT-Base, every block used twice, on a folder of images of your own: adapters, gains,
# norms and a new classifier train. A config that inherits from this one names the folder and the
# number of classes; docs/your_own_task.md has it in five lines.
_base_ = './_base_/folder_deit.py'

# Official weights. Their classifier is of ImageNet's classes, so the head starts anew.
load_from = 'https://dl.fbaipublicfiles.com/deit/deit_base_patch16_224-b5f2ef4d.pth'
model = dict(backbone=dict(arch='deit-base'), head=dict(in_channels=768))
