# Swin on a folder of images: the blocks of the last stage used twice, the repeats at its tail. The
# grown model starts as the pretrained one: a small data set does not win back what the paper's
# start loses.
_base_ = './folder_20e.py'

model = dict(
    backbone=dict(
        type='ScaleNetSwin',
        growth=dict(order='stack', times=2, stages=(3, ), start='identity')),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead'))
