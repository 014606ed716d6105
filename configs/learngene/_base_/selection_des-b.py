# IMwLM, weight selection (arXiv 2311.18823): evenly spaced channels of a larger model's first
# blocks are the rule of that paper. The SWS paper does not name the larger model; ViT-L/16 (24
# blocks, 1024 channels, ImageNet-21k, then -1k at 384 x 384) and the descendants' recipe are this
# project's choice.
_base_ = './des-b.py'
# the larger model's images, in training and in tests; all others are normalised by ImageNet's
data_preprocessor = dict(mean=[127.5, 127.5, 127.5], std=[127.5, 127.5, 127.5])
model = dict(
    init_cfg=dict(
        _delete_=True,
        type='WeightSelection',
        checkpoint='https://download.openmmlab.com/mmclassification/v0/vit/finetune/vit-large-p16_in21k-pre-3rdparty_ft-64xb64_in1k-384_20210928-b20ba619.pth',  # noqa: E501
        layers='first'))
