"""Stage maps: which block of a learngene each block of a descendant starts from.

SWS (stage-wise weight sharing, arXiv 2404.16897, section 3.3) divides the blocks of a descendant
among the stages of its learngene as evenly as can be. Which stages get one more is the order. The
maps are :class:`LayerMap` like those of growth, but partial: a shallow descendant leaves blocks of
the learngene out.
"""
import random
from typing import Optional

from ..errors import GrowthError
from ..growth import LayerMap

CYCLIC_ORDERS = ('front-mid-last', 'front-last-mid')
RANDOM_ORDERS = ('random-assigned', 'random-sorted')
ORDERS = (*CYCLIC_ORDERS, *RANDOM_ORDERS)


def stage_lengths(stages: int, depth: int, order: str = 'front-mid-last') -> tuple:
    """Divide the blocks of a descendant among stages.

    Each stage gets ``depth // stages`` blocks, and one more the first ``depth % stages`` stages of
    the order. So with fewer blocks than stages, the first ones of the order get a block each.

    Args:
        stages (int): Number of stages, which is that of a learngene's blocks.
        depth (int): Number of the descendant's blocks.
        order (str): 'front-mid-last': stages 1, 2, ..., M in turn; 'front-last-mid': stages 1, M,
            2, M - 1, ... Defaults to 'front-mid-last'.

    Returns:
        tuple[int]: The number of blocks of each stage, in the order of the stages.

    Raises:
        GrowthError: If a number is no integer >= 1, or the order is not one of those two.
    """
    _check_count(stages, 'the number of stages')
    _check_count(depth, 'the depth of a descendant')
    if order not in CYCLIC_ORDERS:
        raise GrowthError(f'order must be one of {CYCLIC_ORDERS} to divide blocks among stages, '
                          f'got {order!r}')
    turns = list(range(stages))
    if order == 'front-last-mid':
        turns = [i // 2 if i % 2 == 0 else stages - 1 - i // 2 for i in range(stages)]
    first = set(turns[:depth % stages])
    return tuple(depth // stages + (stage in first) for stage in range(stages))


def descendant_map(stages: int,
                   depth: int,
                   order: str = 'front-mid-last',
                   seed: Optional[int] = None) -> LayerMap:
    """Make the map of a descendant's blocks to the blocks of a learngene.

    Args:
        stages (int): Number of the learngene's blocks, one a stage.
        depth (int): Number of the descendant's blocks.
        order (str): One of :data:`ORDERS`: the two of :func:`stage_lengths`; 'random-assigned':
            each block draws one of the learngene's, independently and uniformly;
            'random-sorted': the same draws, sorted by stage. Defaults to 'front-mid-last'.
        seed (int, optional): Seed of the draws; needed by the random orders, the others draw
            nothing. Defaults to None.

    Returns:
        LayerMap: The map.

    Raises:
        GrowthError: If a number or the order is not one of those, or a random order has no seed.
    """
    check_order(order, seed)
    if order in CYCLIC_ORDERS:
        lengths = stage_lengths(stages, depth, order)
        sources = [stage for stage, length in enumerate(lengths) for _ in range(length)]
        return LayerMap(tuple(sources), stages, partial=True)
    _check_count(stages, 'the number of stages')
    _check_count(depth, 'the depth of a descendant')
    # of Python's generator, random() alone is the same in every version
    generator = random.Random(seed)
    sources = [int(generator.random() * stages) for _ in range(depth)]
    if order == 'random-sorted':
        sources.sort()
    return LayerMap(tuple(sources), stages, partial=True)


def last_blocks_map(gene_blocks: int, depth: int) -> LayerMap:
    """Make the map of Vanilla-LG: the learngene's blocks come last, the others are random.

    Args:
        gene_blocks (int): Number of the learngene's blocks.
        depth (int): Number of the descendant's blocks. If there are fewer than in the learngene,
            its last ones are taken.

    Returns:
        LayerMap: The map, with an empty list for each random block.

    Raises:
        GrowthError: If a number is no integer >= 1.
    """
    _check_count(gene_blocks, "the number of the learngene's blocks")
    _check_count(depth, 'the depth of a descendant')
    kept = range(max(gene_blocks - depth, 0), gene_blocks)
    return LayerMap(((), ) * (depth - len(kept)) + tuple(kept), gene_blocks, partial=True)


def check_order(order: str, seed: Optional[int]) -> None:
    """Check an order of initialisation and its seed.

    Args:
        order (str): What should be one of :data:`ORDERS`.
        seed (int, optional): What should be a seed, where the order needs one.

    Raises:
        GrowthError: If the order is unknown, or the seed is lacking or no integer.
    """
    if order not in ORDERS:
        raise GrowthError(f'order must be one of {ORDERS}, got {order!r}')
    if seed is not None and (isinstance(seed, bool) or not isinstance(seed, int)):
        raise GrowthError(f'seed must be an integer, got {seed!r}')
    if order in RANDOM_ORDERS and seed is None:
        raise GrowthError(f'order {order!r} draws at random: give a seed (seed=0, say), so that '
                          'the same descendant can be made again')


def _check_count(value, what):
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise GrowthError(f'{what} must be an integer >= 1, got {value!r}')
