"""Backbones: the blocks of Swin and ViT with the names of the toolboxes, then growth."""
from .grown_backbone import build_grown_backbone, find_block_lists, grow_backbone
from .scalenet_swin import ScaleNetSwin
from .scalenet_vit import ScaleNetViT

__all__ = [
    'ScaleNetSwin', 'ScaleNetViT', 'build_grown_backbone', 'find_block_lists', 'grow_backbone'
]
