# DeiT on a folder of images: every block used twice, the repeat right behind its original. The
# grown model starts as the pretrained one: a small data set does not win back what the paper's
# start loses.
_base_ = './folder_20e.py'

model = dict(
    backbone=dict(
        type='ScaleNetViT', growth=dict(order='interpolate', times=2, start='identity')),
    head=dict(type='VisionTransformerClsHead'))
