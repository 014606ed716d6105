"""Stochastic depth of a grown model."""
from collections.abc import Sequence

import torch
import torch.nn as nn

#: Names under which implementations keep a drop path's rate.
_RATE_NAMES = ('drop_prob', 'p')


def drop_path_modules(block: nn.Module) -> list:
    """list[nn.Module]: The drop-path modules of a block, found by their class name."""
    return [m for m in block.modules() if type(m).__name__ in ('DropPath', 'StochasticDepth')]


def get_drop_path_rate(block: nn.Module):
    """float | None: The highest drop-path rate in a block; None if it has no drop path."""
    rates = [float(getattr(m, n)) for m in drop_path_modules(block)
             for n in _RATE_NAMES if hasattr(m, n)]
    return max(rates, default=None)


def set_drop_path_rates(stages: Sequence, rate: float) -> None:
    """Let the drop-path rate rise linearly from 0 over all blocks of a model, in place.

    Args:
        stages (Sequence[Iterable[nn.Module]]): The model's lists of blocks, in order.
        rate (float): Rate of the last block.
    """
    blocks = [block for stage in stages for block in stage]
    for block, block_rate in zip(blocks, torch.linspace(0, rate, len(blocks)).tolist()):
        for module in drop_path_modules(block):
            for name in _RATE_NAMES:
                if hasattr(module, name):
                    setattr(module, name, block_rate)
