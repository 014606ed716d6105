"""Blocks that use no other block's weights: averages of pretrained ones, and random ones.

The paper compares sharing with growth by such blocks (Table I: SWA and Random).
"""
import copy
from collections.abc import Sequence

import torch
import torch.nn as nn

from ..errors import GrowthError
from .derived import change_class
from .sharing import Repeat, is_norm

#: Standard deviation of fresh matrices, as in the official code of DeiT and Swin.
INIT_STD = 0.02


class New(Repeat):
    """The outermost module of a new block, which must keep the shape of its input as well."""
    prefix = 'New'


def make_new_block(blocks: Sequence, sources: Sequence, template: int) -> nn.Module:
    """Make a block that owns all of its tensors.

    Args:
        blocks (Sequence[nn.Module]): The pretrained blocks.
        sources (Sequence[tuple[int, float]]): Blocks to average and their weights; none for a
            block of random values.
        template (int): The block whose structure, and whose settings beside the tensors, it has.

    Returns:
        nn.Module: The block.

    Raises:
        GrowthError: If blocks that are to be averaged differ in their tensors.
    """
    block = copy.deepcopy(blocks[template])
    change_class(block, New)
    if not sources:
        draw_block(block)
        return block
    wanted = dict(block.named_parameters())
    states = []
    for index, _ in sources:
        parameters = dict(blocks[index].named_parameters())
        for name in wanted.keys() | parameters.keys():
            shapes = [tuple(p[name].shape) if name in p else None for p in (wanted, parameters)]
            if shapes[0] != shapes[1]:
                raise GrowthError(f'blocks {template} and {index} cannot be averaged: {name} has '
                                  f'shape {shapes[0]} in one and {shapes[1]} in the other')
        states.append(parameters)
    averages = average_tensors(states, [weight for _, weight in sources])
    with torch.no_grad():
        for name, parameter in wanted.items():
            parameter.copy_(averages[name])
    return block


def average_tensors(states: Sequence, weights: Sequence) -> dict:
    """Average tensors by name.

    Args:
        states (Sequence[dict]): Tensors by name.
        weights (Sequence[float]): The weight of each state; they sum to 1.

    Returns:
        dict: The weighted sums, computed in float32 at least, of the tensors that all states
        hold; empty if there is no state.
    """
    averages = {}
    for name in states[0] if states else ():
        tensors = [state[name] for state in states if name in state]
        if len(tensors) < len(states) or not tensors[0].is_floating_point():
            continue
        dtype = torch.promote_types(tensors[0].dtype, torch.float32)
        total = sum(weight * t.detach().to(dtype) for weight, t in zip(weights, tensors))
        averages[name] = total.to(tensors[0].dtype)
    return averages


def draw_block(block: nn.Module) -> None:
    """Give a block random values in place.

    Matrices get a truncated normal with standard deviation 0.02, biases zero, norms one and zero;
    other vectors (a layer scale, say) keep their values.

    Args:
        block (nn.Module): The block.
    """
    for module in block.modules():
        for name, parameter in module.named_parameters(recurse=False):
            if is_norm(module):
                nn.init.constant_(parameter, 1. if name == 'weight' else 0.)
            elif parameter.ndim > 1:
                nn.init.trunc_normal_(parameter, std=INIT_STD)
            elif name.endswith('bias'):
                nn.init.zeros_(parameter)
