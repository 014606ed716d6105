"""The method: growing a list of blocks by weight sharing and adjustment.

Everything here is plain torch: no toolbox, no config file, no checkpoint.
"""
from .adjustment import AdjustmentSpec, adjust_linears, adjusted_linears, set_gains
from .drop_path import get_drop_path_rate, set_drop_path_rates
from .fast_path import fast_paths, fast_paths_enabled
from .freezing import PRESETS, FreezeRule, apply_freezing, frozen_batchnorms, resolve_rules
from .grow import (
    GrowthSpec,
    check_targets_called,
    grow,
    grow_stages,
    growth_of,
    is_grown,
    ungrown_name,
)
from .layer_map import LayerMap, make_layer_map
from .sharing import check_ties, is_norm, shared_parameters, tied_modules
from .speed_up import speed_up

__all__ = [
    'AdjustmentSpec', 'FreezeRule', 'GrowthSpec', 'LayerMap', 'PRESETS', 'adjust_linears',
    'adjusted_linears', 'apply_freezing', 'check_targets_called', 'check_ties', 'fast_paths',
    'fast_paths_enabled', 'frozen_batchnorms', 'get_drop_path_rate', 'grow', 'grow_stages',
    'growth_of', 'is_grown', 'is_norm', 'make_layer_map', 'resolve_rules', 'set_drop_path_rates',
    'set_gains', 'shared_parameters', 'speed_up', 'tied_modules', 'ungrown_name'
]
