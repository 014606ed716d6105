# Swin-Tiny, last stage used twice, on a folder of images of your own: adapters, gains,
# norms and a new classifier train. A config that inherits from this one names the folder and the
# number of classes; docs/your_own_task.md has it in five lines.
_base_ = './_base_/folder_swin.py'

# Official weights. Their classifier is of ImageNet's classes, so the head starts anew.
load_from = 'https://github.com/SwinTransformer/storage/releases/download/v1.0.0/swin_tiny_patch4_window7_224.pth'  # noqa: E501
model = dict(backbone=dict(arch='tiny'), head=dict(in_channels=768))
