"""Parameter counts of a grown model."""
from dataclasses import dataclass

import torch.nn as nn

from ..growth import growth_of, is_norm, shared_parameters
from ..growth.adjustment import kinds_of
from ..growth.freezing import final_module_names
from ..growth.layer_map import LayerMap


@dataclass
class ParameterCount:
    """Numbers of parameters, each shared tensor counted once.

    Args:
        total (int): All.
        shared (int): Those that more than one block uses.
        added (int): Those that growth added: adapters, gains, and all that repeats own.
        adapters (int): Adapters and LoRA, a part of the added.
        gains (int): Gains, a part of the added.
        repeats (int): What repeats own beside those: norms, or all of a repeat that shares
            nothing. A part of the added.
        trainable (int): Those that train.
    """
    total: int = 0
    shared: int = 0
    added: int = 0
    adapters: int = 0
    gains: int = 0
    repeats: int = 0
    trainable: int = 0


def count_parameters(model: nn.Module) -> ParameterCount:
    """Count the parameters of a model.

    Args:
        model (nn.Module): Any model; if nothing in it is grown, nothing is added.

    Returns:
        ParameterCount: The numbers.
    """
    count = ParameterCount()
    count.shared = sum(parameter.numel() for parameter in shared_parameters(model))
    kinds = kinds_of(model, is_norm)
    of_repeats = tuple(
        f'{prefix}.{name}.' if prefix else f'{name}.' for prefix, _, layer_map in growth_of(model)
        for name, repeat in zip(layer_map.names, layer_map.repeats) if repeat)
    for name, parameter in model.named_parameters():
        number = parameter.numel()
        count.total += number
        count.trainable += number * parameter.requires_grad
        if kinds[name] == 'adapter':
            count.adapters += number
        elif kinds[name] == 'gain':
            count.gains += number
        elif name.startswith(of_repeats) and of_repeats:
            count.repeats += number
    count.added = count.adapters + count.gains + count.repeats
    return count


def describe_map(layer_map: LayerMap) -> str:
    """str: A layer map's names, shortened if it is long."""
    names = layer_map.names
    if len(names) > 12:
        names = (*names[:6], '...', *names[-3:])
    return ' '.join(names)


def parameter_table(model: nn.Module) -> str:
    """Describe a grown model in one look.

    Args:
        model (nn.Module): The whole model.

    Returns:
        str: Blocks of each list; parameters in all, shared, added and trainable, of the backbone
        and of the model; the modules outside of the backbone that train.
    """
    lines = ['', 'grown lists of blocks:']
    for name, _, layer_map in growth_of(model):
        depth = f'{layer_map.base_depth} -> {len(layer_map)}'
        lines.append(f'  {name:<26}{depth:>9}   {describe_map(layer_map)}')
    if len(lines) == 2:
        lines.append('  none')

    parts = {'model': model}
    backbone = getattr(model, 'backbone', None)
    if backbone is not None:
        parts = {'backbone': backbone, 'model': model}
    header = ('total', 'shared', 'added', 'adapters', 'gains', 'repeats', 'trainable')
    lines.append(f'{"parameters":<12}' + ''.join(f'{h:>13}' for h in header))
    for name, part in parts.items():
        count = count_parameters(part)
        lines.append(f'  {name:<10}' + ''.join(f'{getattr(count, h):>13,}' for h in header))
    if backbone is not None:
        trained = final_module_names(model)
        lines.append('training outside of the backbone: ' + (', '.join(trained) or 'nothing'))
    return '\n'.join(lines)
