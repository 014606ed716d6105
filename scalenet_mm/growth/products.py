"""Matrix products of the fast paths.

On CPU, torch hands float32 products to MKL, whose AVX-512 kernels run on Intel's processors only:
elsewhere it takes AVX2, and reaches half of what the processor can do. oneDNN, which torch ships
too and uses for convolutions, generates its kernels for what the processor has. So on a processor
with AVX-512 that is not Intel's, products that are large enough go to oneDNN: the same arithmetic
in the same precision, summed in another order. Everywhere else torch's own choice stands.
"""
from functools import lru_cache
from pathlib import Path
from typing import Optional

import torch
import torch.nn.functional as F

from ..errors import ConfigError

#: Products of fewer multiply-adds stay with torch, whose call takes less time than oneDNN's.
SMALLEST = 2**19
CPU_INFO = Path('/proc/cpuinfo')

_choice = 'auto'


class products:
    """Choose who computes the float32 products of the fast paths on CPU.

    As a function it stays, as a context what was before comes back at the end. For measurements
    and tests; ``'auto'`` is meant to be right.

    Args:
        library (str): ``'onednn'``, ``'native'`` (torch's own choice, which is MKL), or ``'auto'``
            for oneDNN on a processor with AVX-512 that is not Intel's.

    Raises:
        ConfigError: If it is none of these, or this torch has no oneDNN.
    """

    def __init__(self, library: str):
        global _choice
        if library not in ('auto', 'onednn', 'native'):
            raise ConfigError("products are computed by 'auto', 'onednn' or 'native', got "
                              f'{library!r}')
        if library == 'onednn' and not has_onednn():
            raise ConfigError("this torch has no oneDNN: use 'native' or 'auto'")
        self._before, _choice = _choice, library

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        global _choice
        _choice = self._before


@lru_cache(maxsize=None)
def has_onednn() -> bool:
    """bool: Whether this torch has oneDNN's product of plain tensors."""
    return torch.backends.mkldnn.is_available() and hasattr(torch.ops.mkldnn, '_linear_pointwise')


@lru_cache(maxsize=None)
def onednn_is_faster() -> bool:
    """bool: Whether oneDNN's float32 products are taken to be faster than torch's own here."""
    if not has_onednn() or not torch.backends.cpu.get_cpu_capability().startswith('AVX512'):
        return False
    try:
        return 'GenuineIntel' not in CPU_INFO.read_text(errors='replace')
    except OSError:  # not Linux: unknown
        return False


def chooses_onednn(x: torch.Tensor, weight: torch.Tensor) -> bool:
    """Whether ``x weight^T`` is to be computed by oneDNN.

    Args:
        x (torch.Tensor): Of shape (..., inputs).
        weight (torch.Tensor): Of shape (outputs, inputs).

    Returns:
        bool: The answer. oneDNN's operator has no derivative: where one is wanted, an operation
        with a backward pass of its own must stand around it.
    """
    if _choice == 'native' or (_choice == 'auto' and not onednn_is_faster()):
        return False
    return (x.dtype == torch.float32 and weight.dtype == torch.float32
            and x.device.type == 'cpu' and weight.device.type == 'cpu'
            and x.numel() * weight.shape[0] >= SMALLEST and torch.backends.mkldnn.enabled
            and not torch.is_autocast_enabled('cpu'))  # type: ignore[return-value]


def _uses_onednn(x, weight):
    wants_gradient = torch.is_grad_enabled() and (x.requires_grad or weight.requires_grad)
    return not wants_gradient and chooses_onednn(x, weight)


def linear(x: torch.Tensor,
           weight: torch.Tensor,
           bias: Optional[torch.Tensor] = None) -> torch.Tensor:
    """Compute ``x weight^T + bias``.

    Args:
        x (torch.Tensor): Of shape (..., inputs), with any strides.
        weight (torch.Tensor): Of shape (outputs, inputs), with any strides.
        bias (torch.Tensor, optional): Of shape (outputs, ). Defaults to None.

    Returns:
        torch.Tensor: Of shape (..., outputs).
    """
    if _uses_onednn(x, weight):
        return torch.ops.mkldnn._linear_pointwise(x, weight, bias, 'none', [], '')
    return F.linear(x, weight, bias)


def add_product(out: torch.Tensor, x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    """Compute ``out + x weight^T`` in place.

    Args:
        out (torch.Tensor): Of shape (rows, outputs), contiguous; changed.
        x (torch.Tensor): Of shape (rows, inputs).
        weight (torch.Tensor): Of shape (outputs, inputs).

    Returns:
        torch.Tensor: ``out``.
    """
    if _uses_onednn(x, weight):
        return out.add_(linear(x, weight))
    return out.addmm_(x, weight.t())


def outer(x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
    """Sum the outer products of two matrices' rows: ``x^T y``, a weight's gradient.

    Args:
        x (torch.Tensor): Of shape (rows, a).
        y (torch.Tensor): Of shape (rows, b).

    Returns:
        torch.Tensor: Of shape (a, b).
    """
    # both libraries are several times faster when the narrow matrix comes first
    if x.shape[1] > y.shape[1]:
        return linear(y.t(), x.t()).t()
    return linear(x.t(), y.t())
