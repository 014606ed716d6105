"""Learngene: one trained gene, models of every depth (SWS, stage-wise weight sharing).

An auxiliary net of a few stages, whose blocks share all of their tensors within a stage, is trained
by distillation. Its blocks are the learngene, from which descendants of any depth are initialised.
"""
from .distillation_loss import soft_cross_entropy
from .distilled_classifier import DistilledClassifier
from .expand import expand_checkpoint, expand_gene, expand_map, expand_state
from .gene import Gene, extract_gene, is_gene, read_gene, save_gene
from .learngene_init import Learngene
from .linear_expansion import TLEGViT, expand_blocks
from .stage_map import ORDERS, descendant_map, last_blocks_map, stage_lengths
from .teacher_cache import TeacherCache
from .weight_selection import WeightSelection, select_weights

__all__ = [
    'DistilledClassifier', 'Gene', 'Learngene', 'ORDERS', 'TLEGViT', 'TeacherCache',
    'WeightSelection', 'descendant_map', 'expand_blocks', 'expand_checkpoint', 'expand_gene',
    'expand_map', 'expand_state', 'extract_gene', 'is_gene', 'last_blocks_map', 'read_gene',
    'save_gene', 'select_weights', 'soft_cross_entropy', 'stage_lengths'
]
