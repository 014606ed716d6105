"""Backbones: the blocks of Swin and ViT with the names of the toolboxes, then growth."""
from mmcv.cnn import Linear

from ..growth.fused import PLAIN_LINEARS
from .grown_backbone import build_grown_backbone, find_block_lists, grow_backbone
from .scalenet_swin import ScaleNetSwin
from .scalenet_vit import ScaleNetViT

PLAIN_LINEARS.add(Linear)  # mmcv's differs from torch's for empty inputs of old versions only

__all__ = [
    'ScaleNetSwin', 'ScaleNetViT', 'build_grown_backbone', 'find_block_lists', 'grow_backbone'
]
