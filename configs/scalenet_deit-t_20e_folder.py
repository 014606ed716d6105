# DeiT-Tiny, every block used twice, on a folder of images of your own: adapters, gains,
# norms and a new classifier train. A config that inherits from this one names the folder and the
# number of classes; docs/your_own_task.md has it in five lines.
_base_ = './_base_/folder_deit.py'

# Official weights. Their classifier is of ImageNet's classes, so the head starts anew.
load_from = 'https://dl.fbaipublicfiles.com/deit/deit_tiny_patch16_224-a1311bcf.pth'
model = dict(backbone=dict(arch='deit-tiny'), head=dict(in_channels=192))
