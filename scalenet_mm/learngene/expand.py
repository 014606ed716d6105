"""Descendants: models of any depth that start from a learngene.

Every block is a copy of its own; descendants share nothing.
"""
import os.path
from collections import OrderedDict
from typing import Optional

import torch
import torch.nn as nn
from mmengine.logging import print_log

from ..checkpoints.delta import versions
from ..checkpoints.keys import name_head, split_backbone
from ..checkpoints.pretrained import convert_backbone
from ..checkpoints.report import LoadReport, compare, list_prefixes
from ..errors import CheckpointError, ConfigError, GrowthError
from ..growth import LayerMap
from ..growth.new_block import INIT_STD
from .gene import Gene, check_fits, classes_of_head, layer_map_of
from .linear_expansion import expand_blocks
from .stage_map import ORDERS, check_order, descendant_map, last_blocks_map, stage_lengths

#: Under this key the 'meta' of a descendant's file says what it was made of.
DESCENDANT = 'descendant'
#: What to do if the head cannot be that of the learngene.
_NO_HEAD = ('set head=False in init_cfg (or --no-head) to leave it out; the head of the model then '
            'starts as its own init_cfg says')


def expand_map(gene: Gene,
               depth: int,
               order: str = ORDERS[0],
               seed: Optional[int] = None) -> Optional[LayerMap]:
    """Tell which of a learngene's blocks each block of a descendant starts from.

    Args:
        gene (Gene): The learngene.
        depth (int): Number of the descendant's blocks.
        order (str): See :func:`descendant_map`; of learngenes trained by stages or as a plain
            model. Defaults to 'front-mid-last'.
        seed (int, optional): Seed of what is drawn: an order, or Vanilla-LG's other blocks.
            Defaults to None.

    Returns:
        LayerMap | None: The map; None if every block is a blend of the learngene's two.

    Raises:
        GrowthError: If the depth, order or seed is not one that can be.
    """
    check_order(order, seed)
    if gene.method in ('sws', 'simple'):
        return descendant_map(gene.blocks, depth, order, seed)
    if order != ORDERS[0]:
        how = 'expanded linearly' if gene.method == 'tleg' else 'placed last'
        raise GrowthError(f'order={order!r} has no meaning for {gene.name}, whose blocks are '
                          f'{how} (method {gene.method!r}): leave it out')
    layer_map = last_blocks_map(gene.blocks, depth)
    if gene.method == 'tleg':
        return None
    if any(layer_map.new) and seed is None:
        raise GrowthError(f'{sum(layer_map.new)} of {depth} blocks are not in {gene.name} and '
                          'start from random values: give a seed (seed=0, say), so that the same '
                          'descendant can be made again')
    return layer_map


def expand_state(gene: Gene,
                 depth: int,
                 order: str = ORDERS[0],
                 seed: Optional[int] = None) -> OrderedDict:
    """Make the tensors of a descendant's backbone.

    Args:
        gene (Gene): The learngene.
        depth (int): Number of the descendant's blocks.
        order (str): As for :func:`expand_map`. Defaults to 'front-mid-last'.
        seed (int, optional): As for :func:`expand_map`. Defaults to None.

    Returns:
        OrderedDict: Copies by the names that mmpretrain's plain ViT has, without prefix.

    Raises:
        GrowthError: As :func:`expand_map`.
    """
    layer_map = expand_map(gene, depth, order, seed)
    blocks = [gene.block(index) for index in range(gene.blocks)]
    if layer_map is None:
        expanded = expand_blocks(blocks[0], blocks[1], depth)
    else:
        drawn = iter(_draw_blocks(blocks[0], sum(layer_map.new), seed))
        expanded = [next(drawn) if new else blocks[source]
                    for source, new in zip(layer_map.sources, layer_map.new)]
    state = OrderedDict()
    for key, value in gene.backbone.items():
        if not key.startswith('layers.'):
            state[key] = value.clone()
        elif 'layers.0.ln1.weight' not in state:  # all blocks in the place of the first one
            for index, block in enumerate(expanded):
                state.update((f'layers.{index}.{k}', v.clone()) for k, v in block.items())
    return state


def _draw_blocks(like, count, seed):
    """Random blocks, the same ones for a seed whatever was drawn before."""
    blocks = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0 if seed is None else seed)
        for _ in range(count):
            block = {}
            for key, value in like.items():
                block[key] = torch.zeros_like(value)
                if value.ndim > 1:
                    nn.init.trunc_normal_(block[key], std=INIT_STD)
                elif key.endswith('weight'):  # of a norm
                    nn.init.ones_(block[key])
            blocks.append(block)
    return blocks


def expand_checkpoint(gene: Gene,
                      depth: int,
                      order: str = ORDERS[0],
                      seed: Optional[int] = None,
                      head: bool = True,
                      num_classes: Optional[int] = None) -> dict:
    """Make the checkpoint that a descendant starts from.

    Args:
        gene (Gene): The learngene.
        depth (int): Number of the descendant's blocks.
        order (str): As for :func:`expand_map`. Defaults to 'front-mid-last'.
        seed (int, optional): As for :func:`expand_map`. Defaults to None.
        head (bool): Whether the learngene's head comes along. Defaults to True.
        num_classes (int, optional): Number of classes of a new head of zeros, which is how
            mmpretrain's heads of ViTs start. That of the learngene if None. Defaults to None.

    Returns:
        dict: A whole checkpoint of a classifier in mmpretrain's names, to be saved.

    Raises:
        ConfigError: If ``num_classes`` is no number of classes, or is not the learngene's.
        GrowthError: As :func:`expand_map`.
    """
    check_request(depth, order, seed, num_classes)
    if head and num_classes not in (None, gene.num_classes):
        what = 'no head' if gene.num_classes is None else f'a head of {gene.num_classes} classes'
        raise ConfigError(f'{gene.name} has {what}, and num_classes is {num_classes}: leave out '
                          'the head of the learngene (head=False, --no-head) to get a new one')
    own = expand_state(gene, depth, order, seed)
    state = OrderedDict((f'backbone.{key}', value) for key, value in own.items())
    meta = {DESCENDANT: dict(
        gene=os.path.basename(gene.name), method=gene.method, depth=depth, order=order, seed=seed,
        stages=list(gene.stages), source=dict(gene.manifest['source']), versions=versions())}
    if head:
        state.update((key, value.clone()) for key, value in gene.head.items())
        if gene.manifest.get('classes'):
            meta['dataset_meta'] = dict(classes=list(gene.manifest['classes']))
    elif num_classes is not None:
        width = gene.arch['embed_dims']
        dtype = own['layers.0.ln1.weight'].dtype
        state['head.layers.head.weight'] = torch.zeros(num_classes, width, dtype=dtype)
        state['head.layers.head.bias'] = torch.zeros(num_classes, dtype=dtype)
    return dict(meta=meta, state_dict=state)


def check_request(depth: int,
                  order: str = ORDERS[0],
                  seed: Optional[int] = None,
                  num_classes: Optional[int] = None) -> None:
    """Check what is asked of a descendant, whatever the learngene.

    Raises:
        ConfigError: If ``num_classes`` is no number of classes.
        GrowthError: If the depth, order or seed is not one that can be.
    """
    stage_lengths(1, depth)
    check_order(order, seed)
    if num_classes is not None and (isinstance(num_classes, bool)
                                    or not isinstance(num_classes, int) or num_classes < 1):
        raise ConfigError(f'num_classes must be an integer >= 1, got {num_classes!r}')


def expand_gene(gene: Gene,
                model: nn.Module,
                order: str = ORDERS[0],
                seed: Optional[int] = None,
                head: bool = True) -> LoadReport:
    """Initialise a model from a learngene, in place.

    The depth is that of the model. If its backbone is grown, the blocks that growth repeats are
    initialised, and repeats as after loading a checkpoint of these.

    Args:
        gene (Gene): The learngene.
        model (nn.Module): A plain ViT, or a classifier with one as its ``backbone``.
        order (str): As for :func:`expand_map`. Defaults to 'front-mid-last'.
        seed (int, optional): As for :func:`expand_map`. Defaults to None.
        head (bool): Whether a classifier's head is initialised, too. Defaults to True.

    Returns:
        LoadReport: What was initialised; logged as well.

    Raises:
        CheckpointError: If the learngene is of other sizes, or its head of other classes.
        GrowthError: As :func:`expand_map`.
    """
    backbone = getattr(model, 'backbone', model)
    check_fits(gene, backbone)
    depth = layer_map_of(backbone).base_depth
    heads = fit_head(gene, model) if head and backbone is not model else {}
    own = expand_state(gene, depth, order, seed)
    own, _ = convert_backbone(backbone, own, gene.name)
    fmt = f'learngene {gene.method!r}, {gene.blocks} blocks to {depth}'
    report = compare(gene.name, fmt, backbone.state_dict(), own, '', list_prefixes(backbone))
    drawn = _drawn_names(expand_map(gene, depth, order, seed), own)
    backbone.load_state_dict({k: v for k, v in own.items() if k not in drawn}, strict=False)
    with torch.no_grad():  # what watches loading is not to take them for a file's
        for key in drawn:
            backbone.get_parameter(key).copy_(own[key])
    if heads:
        model.load_state_dict(heads, strict=False)
        report.matched += heads
    print_log(str(report), logger='current')
    return report


def _drawn_names(layer_map, own):
    """list[str]: The tensors of the blocks that start from random values, with their repeats."""
    new = set() if layer_map is None else {i for i, n in enumerate(layer_map.new) if n}
    return [key for key in own
            if key.startswith('layers.') and int(key.split('.')[1].split('_')[0]) in new]


def fit_head(gene: Gene, model: nn.Module) -> dict:
    """Name a learngene's head as a classifier's, and check that it fits.

    Args:
        gene (Gene): The learngene.
        model (nn.Module): The classifier.

    Returns:
        dict: The head's tensors under the classifier's names.

    Raises:
        CheckpointError: If there is no head, or it is of other classes or another kind.
    """
    wanted = split_backbone(model.state_dict(), 'backbone.')[1]
    wanted = {key: value for key, value in wanted.items() if key.startswith('head.')}
    if not gene.head:
        raise CheckpointError(f'{gene.name} holds no head: {_NO_HEAD}')
    given = name_head(gene.head, wanted)
    shapes = [{key: tuple(value.shape) for key, value in tensors.items()}
              for tensors in (given, wanted)]
    if shapes[0] == shapes[1]:
        return given
    if set(shapes[0]) == set(shapes[1]):
        refuse_other_classes(gene, classes_of_head(wanted))
    raise CheckpointError(
        f'{gene.name} has another head than the model: it holds {", ".join(list(given)[:3])}, the '
        f'model {", ".join(list(wanted)[:3]) or "none"}: {_NO_HEAD}')


def refuse_other_classes(gene: Gene, num_classes: Optional[int]) -> None:
    """Refuse a learngene's head for a model of another number of classes.

    Raises:
        CheckpointError: Naming the option that leaves the head out.
    """
    if num_classes not in (None, gene.num_classes):
        what = 'no head' if gene.num_classes is None else f'a head of {gene.num_classes} classes'
        raise CheckpointError(f'{gene.name} has {what}, and the model one of {num_classes}: '
                              f'{_NO_HEAD}')
