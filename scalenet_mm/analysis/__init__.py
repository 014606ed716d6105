"""Looking at grown models."""
from .cka import MinibatchCKA, compare_models, gram_matrix, linear_cka
from .features import (
    FeatureStatistics,
    choose_uniformly,
    measure_features,
    measure_histograms,
)
from .flops import count_flops, register_flop_handlers
from .gradients import BlockGradient, GradientNorms, measure_gradients
from .latency import describe_device, measure_latency, median_ratio, synchronize
from .layers import Block, find_blocks
from .meta_model import build_on_meta
from .paper_tables import (
    NOTES,
    PAPER_ROWS,
    SCALENET,
    TABLES,
    Measured,
    Paper,
    PaperRow,
    differs,
    render,
)
from .parameters import ParameterCount, count_parameters, parameter_table
from .sws_tables import SWS, SWS_NOTES, SWS_ROWS, SWS_TABLES
from .validation_loss import ValidationLoss

__all__ = [
    'Block', 'BlockGradient', 'FeatureStatistics', 'GradientNorms', 'Measured', 'MinibatchCKA',
    'NOTES', 'PAPER_ROWS', 'Paper', 'PaperRow', 'ParameterCount', 'SCALENET', 'SWS', 'SWS_NOTES',
    'SWS_ROWS', 'SWS_TABLES', 'TABLES', 'ValidationLoss', 'build_on_meta', 'choose_uniformly',
    'compare_models', 'count_flops', 'count_parameters', 'describe_device', 'differs',
    'find_blocks', 'gram_matrix', 'linear_cka', 'measure_features', 'measure_gradients',
    'measure_histograms', 'measure_latency', 'median_ratio', 'parameter_table',
    'register_flop_handlers', 'render', 'synchronize'
]
