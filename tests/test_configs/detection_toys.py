"""The detection configs by name, and how the tests make them small."""
import copy

import torch
from imagenet_toys import CONFIGS, read_file
from mmengine.registry import MODELS, DefaultScope

#: 'maskrcnn_scalenet_swin-t_1x' -> its file
FILES = {p.stem.removesuffix('_coco'): p for p in sorted(CONFIGS.glob('*_coco.py'))}
WIDTH = 32
SIZE = 64
CLASSES = tuple('0123456789')


def read(name):
    """Config: A copy of the config of a name in FILES."""
    return read_file(FILES[name])


def build(cfg):
    """nn.Module: The config's detector."""
    with DefaultScope.overwrite_default_scope('mmdet'):
        return MODELS.build(copy.deepcopy(cfg.model))


def shrink(cfg, classes=len(CLASSES)):
    """Make a config's model narrow, in place; the backbone's depth and growth stay.

    Backbones are as wide as those of ``imagenet_toys``.

    Args:
        cfg (Config): A detection config.
        classes (int): Number of classes. Defaults to 10.

    Returns:
        Config: The same.
    """
    model, backbone = cfg.model, cfg.model.backbone
    backbone.init_cfg = cfg.load_from = None
    if backbone.type == 'ScaleNetViT':
        backbone.arch = dict(embed_dims=8, num_layers=12, num_heads=2, feedforward_channels=32)
        widths = 8
    else:
        backbone.update(embed_dims=4, num_heads=(1, 1, 2, 2))
        widths = [4 * 2**i for i in backbone.get('out_indices', range(4))]
    if 'neck' in model:
        model.neck.update(in_channels=widths, out_channels=WIDTH)
    {'MaskRCNN': _shrink_rcnn, 'CascadeRCNN': _shrink_rcnn, 'RetinaNet': _shrink_retinanet,
     'DINO': _shrink_dino, 'Mask2Former': _shrink_mask2former}[model.type](model, classes, widths)
    return cfg


def _shrink_rcnn(model, classes, _):
    model.rpn_head.update(in_channels=WIDTH, feat_channels=WIDTH)
    roi = model.roi_head
    for extractor in (roi.bbox_roi_extractor, roi.mask_roi_extractor):
        extractor.out_channels = WIDTH
    boxes = roi.bbox_head if isinstance(roi.bbox_head, list) else [roi.bbox_head]
    for head in boxes:
        head.update(in_channels=WIDTH, fc_out_channels=WIDTH, num_classes=classes)
    roi.mask_head.update(
        num_convs=1, in_channels=WIDTH, conv_out_channels=WIDTH, num_classes=classes)
    rcnn = model.train_cfg.rcnn
    for stage in rcnn if isinstance(rcnn, list) else [rcnn]:
        stage.sampler.num = 16
    for proposals in (model.train_cfg.rpn_proposal, model.test_cfg.rpn):
        proposals.update(nms_pre=50, max_per_img=20)
    model.test_cfg.rcnn.update(max_per_img=5, score_thr=0.)


def _shrink_retinanet(model, classes, _):
    model.bbox_head.update(
        in_channels=WIDTH, feat_channels=WIDTH, stacked_convs=1, num_classes=classes)
    model.test_cfg.update(nms_pre=20, max_per_img=5, score_thr=0.)


def _shrink_dino(model, classes, _):
    model.neck.out_channels = 256  # the decoder's position encoding takes no other width
    model.num_queries = 10
    for part in (model.encoder, model.decoder):
        part.num_layers = 2
        part.layer_cfg.ffn_cfg.feedforward_channels = WIDTH
    model.bbox_head.num_classes = classes
    model.dn_cfg.group_cfg.num_dn_queries = 10
    model.test_cfg.max_per_img = 5


def _shrink_mask2former(model, classes, widths):
    head = model.panoptic_head
    head.update(
        in_channels=widths, feat_channels=WIDTH, out_channels=WIDTH, num_queries=10,
        num_things_classes=classes)
    head.loss_cls.class_weight = [1.] * classes + [0.1]
    layer = head.pixel_decoder.encoder.layer_cfg
    layer.self_attn_cfg.embed_dims = layer.ffn_cfg.embed_dims = WIDTH
    head.pixel_decoder.encoder.num_layers = 1
    layer = head.transformer_decoder.layer_cfg
    for part in (layer.self_attn_cfg, layer.cross_attn_cfg, layer.ffn_cfg):
        part.embed_dims = WIDTH
    layer.ffn_cfg.feedforward_channels = WIDTH
    head.transformer_decoder.num_layers = 2
    for encoding in (head.positional_encoding, head.pixel_decoder.positional_encoding):
        encoding.num_feats = WIDTH // 2
    model.panoptic_fusion_head.num_things_classes = classes
    model.train_cfg.num_points = 64
    model.test_cfg.max_per_image = 5


def shrink_images(node, side=SIZE):
    """Set, in place, every size of a config's pipelines and batches to a small one."""
    if isinstance(node, (list, tuple)):
        for item in node:
            shrink_images(item, side)
    elif isinstance(node, dict):
        for key, value in node.items():
            if key in ('scale', 'size', 'image_size'):
                node[key] = (side, side)
            elif key == 'scales':
                node[key] = [(side, side)]
            elif key == 'crop_size':  # the intermediate crop of multi-scale training
                node[key] = (side // 2, side) if node.get('crop_type') == 'absolute_range' else (
                    side, side)
            else:
                shrink_images(value, side)


def on_digits(cfg, root, work_dir):
    """Let a config read digit scenes, a few iterations long, in place.

    Args:
        cfg (Config): A detection config.
        root (Path): Folder that ``make_digit_scenes`` made.
        work_dir (Path): Where the run writes to.

    Returns:
        Config: The same.
    """
    folders = {'train': 'train', 'val': 'val', 'test': 'val'}
    for split, folder in folders.items():
        loader = cfg[f'{split}_dataloader']
        loader.update(num_workers=0, persistent_workers=False, batch_size=2)
        loader.dataset.update(
            data_root=f'{root}/det/', ann_file=f'annotations/{folder}.json',
            data_prefix=dict(img=f'{folder}/'), metainfo=dict(classes=CLASSES))
        shrink_images(loader.dataset.pipeline)
        if split != 'train':
            cfg[f'{split}_evaluator'].ann_file = f'{root}/det/annotations/val.json'
    shrink_images(cfg.model.data_preprocessor)
    if cfg.train_cfg.type == 'EpochBasedTrainLoop':
        cfg.train_cfg.update(max_epochs=1, val_interval=1)
    else:
        cfg.train_cfg.update(max_iters=2, val_interval=2, dynamic_intervals=None)
    cfg.default_hooks.checkpoint.update(interval=1 if 'epoch' in str(cfg.train_cfg.type).lower()
                                        else 2)
    cfg.work_dir = str(work_dir)
    return cfg


def save_ungrown(cfg, path, seed=0):
    """Save the detector of a config before growth, with drawn weights.

    Args:
        cfg (Config): A detection config.
        path (Path): The file.
        seed (int): Seed of the weights. Defaults to 0.

    Returns:
        str: The file.
    """
    cfg = copy.deepcopy(cfg)
    cfg.model.backbone.update(growth=None, adjustment=None, init_cfg=None)
    torch.manual_seed(seed)
    model = build(cfg)
    model.init_weights()
    torch.save(dict(state_dict=model.state_dict(), meta={}), path)
    return str(path)
