"""The ADE20K configs by name, and how the tests make them small."""
import copy
import functools
from pathlib import Path

from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
#: 'upernet_swin-t-stage4' -> its file; 'upernet_swin-t_in1k-pre' starts from ImageNet weights
FILES = {
    path.stem.replace('scalenet_', '').rpartition('_')[0].rpartition('_')[0]: path
    for path in sorted(CONFIGS.glob('*_ade20k.py'))
}
CROP = (70, 90)  # divisible neither by a patch nor by a window


@functools.lru_cache(maxsize=None)
def _read(name):
    return Config.fromfile(FILES[name])


def read(name):
    """Config: A copy of the config of a name in FILES."""
    return copy.deepcopy(_read(name))


def build(cfg):
    """nn.Module: The config's segmentor."""
    with DefaultScope.overwrite_default_scope('mmseg'):
        return MODELS.build(copy.deepcopy(cfg.model))


def narrow(cfg, crop=CROP):
    """Make a config's segmentor narrow, in place; depth, growth, neck and kinds of heads stay.

    Backbones are as wide as those of ``imagenet_toys``, whose files fit.
    """
    model, head = cfg.model, cfg.model.decode_head
    model.data_preprocessor.size = crop
    if model.backbone.type == 'ScaleNetViT':
        widths = [8] * 4
        model.backbone.arch = dict(
            embed_dims=8, num_layers=12, num_heads=2, feedforward_channels=32)
        model.neck.update(in_channels=widths, out_channels=8)
    else:
        widths = [4, 8, 16, 32]
        model.backbone.update(embed_dims=4, num_heads=(1, 1, 2, 2))
    head.in_channels = widths
    if head.type == 'Mask2FormerHead':
        _narrow_mask2former(head)
    else:
        head.channels = 8
    if model.get('auxiliary_head'):
        model.auxiliary_head.update(
            in_channels=widths[model.auxiliary_head.in_index], channels=8)
    return cfg


def _narrow_mask2former(head):
    width = 16
    head.update(feat_channels=width, out_channels=width, num_queries=12)
    head.positional_encoding.num_feats = width // 2
    encoder, decoder = head.pixel_decoder.encoder, head.transformer_decoder
    head.pixel_decoder.positional_encoding.num_feats = width // 2
    head.pixel_decoder.norm_cfg.num_groups = 4
    encoder.num_layers, decoder.num_layers = 1, 3
    for layer in (encoder.layer_cfg, decoder.layer_cfg):
        for name, part in layer.items():
            part.embed_dims = width
            part.update(dict(feedforward_channels=32) if name == 'ffn_cfg' else dict(num_heads=2))
    head.train_cfg.num_points = 64
