"""Reading pretrained weights of every format, safely."""
from .adapt import adapt_checkpoint
from .pretrained import load_pretrained
from .report import LoadReport
from .safe import allow_types, load_file
from .tracker import LoadTracker

__all__ = [
    'LoadReport', 'LoadTracker', 'adapt_checkpoint', 'allow_types', 'load_file', 'load_pretrained'
]
