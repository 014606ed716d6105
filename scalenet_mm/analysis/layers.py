"""The blocks of a model, and their outputs as the model runs."""
import copy
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn as nn

from ..backbones.grown_backbone import find_block_lists
from ..errors import ConfigError
from ..growth import is_norm

POOLS = ('flat', 'mean', 'cls')


@dataclass(frozen=True)
class Block:
    """A transformer block of a backbone, in the order in which blocks run.

    Args:
        name (str): Its name within the backbone, like ``'stages.3.blocks.1_r1'``.
        label (str): The same in short, for figures: ``'1_r1'``, or ``'3.1_r1'`` if the backbone
            has several lists of blocks.
        module (nn.Module): The block.
    """
    name: str
    label: str
    module: nn.Module


def find_blocks(backbone: nn.Module) -> list:
    """Find the blocks of a backbone, grown or not.

    Args:
        backbone (nn.Module): Any backbone that :func:`find_block_lists` knows.

    Returns:
        list[Block]: All of them, in execution order.

    Raises:
        GrowthError: If there are none.
    """
    lists = find_block_lists(backbone)
    return [
        Block(f'{list_name}.{name}', name if len(lists) == 1 else f'{i}.{name}', module)
        for i, (list_name, blocks) in enumerate(lists)
        for name, module in blocks._modules.items()
    ]


@contextmanager
def outputs_to(blocks: Sequence, consume: Callable) -> Iterator:
    """Hand each block's output on as soon as it is there, so that none has to be kept.

    Args:
        blocks (Sequence[Block]): The blocks.
        consume (Callable): Called with the block's position in ``blocks`` and its output.
    """

    def hook_of(position):

        def hook(module, args, output):
            while isinstance(output, (tuple, list)) and output:
                output = output[0]  # the features come first
            consume(position, output.detach())

        return hook

    handles = [
        block.module.register_forward_hook(hook_of(i)) for i, block in enumerate(blocks)
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()


def run_backbone(model: nn.Module, batch: dict) -> None:
    """Run a model's backbone on a batch of its data loader, without gradients.

    Args:
        model (nn.Module): A classifier, detector or segmentor in eval mode.
        batch (dict): What the data loader gave.
    """
    # preprocessors write into the samples, which another model may be given as well
    batch = {**batch, 'data_samples': copy.deepcopy(batch.get('data_samples'))}
    toolbox_model: Any = model  # with attributes that torch does not know
    with torch.no_grad():
        toolbox_model.backbone(
            toolbox_model.data_preprocessor(batch, training=False)['inputs'])


def pool_features(features: torch.Tensor, block: Block, pool: str) -> torch.Tensor:
    """Make one vector of each image's features.

    Args:
        features (torch.Tensor): A block's output: tokens of shape (images, tokens, channels), or
            a map.
        block (Block): The block.
        pool (str): ``'flat'``: all tokens, one behind the other; ``'mean'``: their mean;
            ``'cls'``: the first token.

    Returns:
        torch.Tensor: Of shape (images, values).

    Raises:
        ConfigError: If a map has no axis that is known to be the channels'.
    """
    if pool == 'cls':
        return features[:, 0]
    if pool == 'mean' and features.ndim > 2:
        axes = list(range(1, features.ndim))
        channels = features.ndim - 1
        if features.ndim > 3:
            norms: Any = [m for m in block.module.modules() if is_norm(m) and hasattr(m, 'weight')]
            fits = [a for a in (axes[-1], axes[0]) if features.shape[a] == len(norms[0].weight)]
            if not fits:
                raise ConfigError(f"--pool mean: block {block.name} gives a map of shape "
                                  f'{tuple(features.shape)}, in which the channels are not to be '
                                  "told from the rest; use --pool flat")
            channels = fits[0]
        features = features.mean([a for a in axes if a != channels])
    return features.flatten(1)


def check_pool(model: nn.Module, pool: str, label: str) -> None:
    """Raise if a model's features can't be pooled so.

    Raises:
        ConfigError: If the class token is asked for and the blocks see none.
    """
    if pool not in POOLS:
        raise ConfigError(f'--pool: {pool!r} is none of {", ".join(POOLS)}')
    backbone = model.backbone
    has_token = getattr(backbone, 'cls_token', None) is not None and getattr(
        backbone, 'with_cls_token', True)
    if pool == 'cls' and not has_token:
        raise ConfigError(f'--pool cls: the blocks of {label} ({type(backbone).__name__}) see no '
                          'class token; use --pool flat or --pool mean')
