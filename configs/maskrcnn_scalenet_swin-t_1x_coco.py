# The paper's detection experiment (section IV-E1, Table VIII): MMDetection's trained Mask R-CNN
# with Swin-T (ms-crop, 3x, 46.0 box AP), all stages of its backbone doubled, 1x schedule.
_base_ = [
    'mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py',
    './_base_/scalenet.py',
    './_base_/scalenet_mask-rcnn.py',
]

model = dict(
    backbone=dict(
        type='ScaleNetSwin',
        growth=dict(order='stack', times=2, stages=(0, 1, 2, 3), share='weights', start='paper'),
        adjustment=dict(
            type='ParallelAdapter', rank=16, act_cfg=dict(type='ReLU'), scope='all'),
        # the detector brings the backbone's weights; no ImageNet file is downloaded
        init_cfg=None))
optim_wrapper = dict(paramwise_cfg=dict(custom_keys=dict(gain=dict(decay_mult=0.))))

load_from = 'https://download.openmmlab.com/mmdetection/v2.0/swin/mask_rcnn_swin-t-p4-w7_fpn_ms-crop-3x_coco/mask_rcnn_swin-t-p4-w7_fpn_ms-crop-3x_coco_20210906_131725-bacf6f7b.pth'  # noqa: E501
