# Mask R-CNN with DeiT from ImageNet-1k weights, all blocks used twice: a simple feature pyramid
# from the last map of the plain backbone. Data, heads and schedule (AdamW 1e-4, 12 epochs) are
# those of MMDetection's Mask R-CNN with Swin-T.
# Every block attends to the whole image. The windows of ViTDet are not used: they would have to
# be trained in, and here the blocks' weights are frozen. freeze='all' in the hook trains them, as
# the paper does with DeiT-Tiny and -Small on ImageNet.
_base_ = [
    'mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py',
    './scalenet_from-imagenet.py',
]

model = dict(
    backbone=dict(
        _delete_=True,
        type='ScaleNetViT',
        arch='deit-tiny',
        img_size=224,  # of pretraining; position embeddings are resized to any input
        patch_size=16,
        out_type='featmap',
        drop_path_rate=0.,
        growth=dict(order='interpolate', times=2, share='weights', start='paper'),
        init_cfg=dict(type='Pretrained', checkpoint=None)),
    neck=dict(_delete_=True, type='SimpleFeaturePyramid', in_channels=192, stride=16))

# the stock recipe's rule for norms says 'norm', and here they are called ln1 and ln2
optim_wrapper = dict(
    paramwise_cfg=dict(
        norm_decay_mult=0.,
        custom_keys=dict(cls_token=dict(decay_mult=0.), pos_embed=dict(decay_mult=0.))))
