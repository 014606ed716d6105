"""Weights of every format, read safely; deltas; files that are whole or absent."""
from .adapt import adapt_checkpoint
from .base_files import add_base, is_delta
from .delta import (
    apply_delta,
    extract_delta,
    make_delta,
    merge_delta,
    read_checkpoint,
    write_checkpoint,
)
from .pretrained import load_pretrained
from .report import LoadReport
from .safe import allow_types, load_file
from .shared_base import Base, load_delta
from .tracker import LoadTracker

__all__ = [
    'Base', 'LoadReport', 'LoadTracker', 'adapt_checkpoint', 'add_base', 'allow_types',
    'apply_delta', 'extract_delta', 'is_delta', 'load_delta', 'load_file', 'load_pretrained',
    'make_delta', 'merge_delta', 'read_checkpoint', 'write_checkpoint'
]
