"""Multiply-accumulates of a forward pass: what papers print as FLOPs."""
from collections.abc import Sequence
from math import prod

import torch
import torch.nn as nn
from mmengine.analysis import complexity_analysis
from mmengine.analysis.jit_handles import get_shape
from mmengine.model import BaseModel
from torch.utils.flop_counter import FlopCounterMode

from ..errors import ConfigError
from ..growth.grow import without_data

SDPA = 'aten::scaled_dot_product_attention'


def _attention_sizes(inputs):
    """Batch (heads and windows included), queries, keys, and widths of keys and values."""
    query, key, value = (get_shape(v) for v in inputs[:3])
    return prod(query[:-2]), query[-2], key[-2], query[-1], value[-1]


def attention_flop_jit(inputs: list, outputs: list) -> int:
    """Count the two products of an attention; mmengine's handlers have this signature.

    Args:
        inputs (list[torch._C.Value]): Query, key, value, and more that does not count.
        outputs (list[torch._C.Value]): The result.

    Returns:
        int: Multiply-accumulates.
    """
    batch, queries, keys, width, value_width = _attention_sizes(inputs)
    return batch * queries * keys * (width + value_width)


def attention_activation_jit(inputs: list, outputs: list) -> int:
    """Count the elements of an attention's two products, as if they were written out.

    Args:
        inputs (list[torch._C.Value]): Query, key, value, and more that does not count.
        outputs (list[torch._C.Value]): The result.

    Returns:
        int: Elements.
    """
    batch, queries, keys, _, value_width = _attention_sizes(inputs)
    return batch * queries * (keys + value_width)


def register_flop_handlers() -> None:
    """Make the FLOPs tools of all toolboxes count attention.

    They use mmengine's table, which has no entry for ``scaled_dot_product_attention`` and leaves
    an operator that it does not know out of the sum. An entry that is there is kept.
    """
    for table, handler in (('_DEFAULT_SUPPORTED_FLOP_OPS', attention_flop_jit),
                           ('_DEFAULT_SUPPORTED_ACT_OPS', attention_activation_jit)):
        # private names: a version of mmengine that renames them must not break the import
        getattr(complexity_analysis, table, {}).setdefault(SDPA, handler)


def count_flops(model: nn.Module, input_shape: Sequence = (3, 224, 224)) -> int:
    """Count the multiply-accumulates of one image's forward pass in eval mode.

    Matrix products and convolutions count, those inside of attention and of adapters too; norms,
    activations and sums do not. Nothing is computed: a model of any size takes less than a
    second, and its weights may be on 'meta'.

    Args:
        model (nn.Module): A backbone, or a model of mmpretrain or mmseg, with its head. Of a
            detector, whose heads depend on what is in the image, only its backbone can be counted.
        input_shape (Sequence[int]): Channels, height and width. Defaults to (3, 224, 224).

    Returns:
        int: Multiply-accumulates.

    Raises:
        ConfigError: If the model does not run without data.
    """
    shell = without_data(model).eval()
    image = torch.empty(1, *input_shape, device='meta')
    options = dict(mode='tensor') if isinstance(shell, BaseModel) else {}
    try:
        with torch.no_grad(), FlopCounterMode(display=False) as counter:
            shell(image, **options)
    except (NotImplementedError, RuntimeError, TypeError) as error:
        raise ConfigError(f'{type(model).__name__} cannot be counted on an image of shape '
                          f'{tuple(input_shape)} without data; count its backbone instead '
                          f'(model.backbone): {str(error).splitlines()[0]}') from error
    # torch counts a multiplication and an addition as two
    return counter.get_total_flops() // 2
