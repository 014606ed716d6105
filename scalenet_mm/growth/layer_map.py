"""Layer maps: which pretrained block each block of a grown model uses.

The notation is the paper's (ScaleNet, arXiv 2510.18431, section III-A): block ``l'`` of the grown
model uses the weights of pretrained block ``g(l')``. Indices are 0-based here.
"""
import math
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, Optional, Union

from ..errors import GrowthError

ORDERS = ('interpolate', 'stack', 'cyclic')


@dataclass(frozen=True)
class LayerMap:
    """The source of every block of a grown list, in execution order.

    The first block that uses a source is that source's *original*; the later ones are its
    *repeats*. A block that starts as the average of several, or from random values, is *new*: it
    shares nothing with any other, whatever ``share`` says.

    Args:
        sources (Sequence): For each block of the grown list

            - the index of the pretrained block whose weights it uses,
            - or a list of indices, or of (index, weight) pairs whose weights sum to 1: it starts
              as the average of those pretrained blocks,
            - or an empty list: it starts from random values.

            Kept as a tuple of indices and of tuples of pairs.
        base_depth (int): Number of pretrained blocks. Each of them must occur by itself in
            ``sources``, unless ``partial``.
        partial (bool): Whether blocks may be left out. Such a map tells where the blocks of
            another model come from; a list of blocks cannot be grown by it. Defaults to False.

    Raises:
        GrowthError: If a source is out of range or a pretrained block is never used.
    """
    sources: tuple
    base_depth: int
    partial: bool = False

    def __post_init__(self):
        sources = tuple(
            self._check_average(source, position) if isinstance(source, (list, tuple)) else
            self._check_index(source, position) for position, source in enumerate(self.sources))
        object.__setattr__(self, 'sources', sources)
        if self.unused and not self.partial:
            raise GrowthError('the layer map never uses the pretrained block(s) '
                              f'{list(self.unused)}: every block must occur by itself at least '
                              'once, growth removes none')

    def _check_index(self, source, position):
        if isinstance(source, bool) or not isinstance(source, int):
            raise GrowthError(f'a layer map holds block indices, lists of them for averages, and '
                              f'empty lists for random blocks; got {source!r} at position '
                              f'{position}')
        if not 0 <= source < self.base_depth:
            raise GrowthError(f'the layer map names block {source}, but there are '
                              f'{self.base_depth} blocks: 0 to {self.base_depth - 1}')
        return source

    def _check_average(self, sources, position):
        """tuple[tuple[int, float]]: Blocks and their weights, from what the user wrote."""
        if not any(isinstance(source, (list, tuple)) for source in sources):
            sources = [(source, 1 / len(sources)) for source in sources]
        pairs = []
        for pair in sources:
            if not isinstance(pair, (list, tuple)) or len(pair) != 2 \
                    or isinstance(pair[1], bool) or not isinstance(pair[1], (int, float)):
                raise GrowthError('an average in a layer map is a list of block indices or of '
                                  f'(index, weight) pairs, got {list(sources)!r} at position '
                                  f'{position}')
            pairs.append((self._check_index(pair[0], position), float(pair[1])))
        total = sum(weight for _, weight in pairs)
        if pairs and not math.isclose(total, 1., abs_tol=1e-6):
            raise GrowthError(f'the weights of an average must sum to 1, those at position '
                              f'{position} of the layer map sum to {total:g}')
        if len({source for source, _ in pairs}) < len(pairs):
            raise GrowthError(f'the average at position {position} of the layer map names a block '
                              'more than once')
        return tuple(pairs)

    def __len__(self):
        return len(self.sources)

    @property
    def unused(self) -> tuple:
        """tuple[int]: The pretrained blocks that do not occur by themselves."""
        return tuple(sorted(set(range(self.base_depth)) - set(self.sources)))

    @property
    def is_identity(self) -> bool:
        """Whether the map leaves the list as it is."""
        return self.sources == tuple(range(self.base_depth))

    @cached_property
    def new(self) -> tuple:
        """tuple[bool]: For each block, whether it is an average or starts from random values."""
        return tuple(isinstance(source, tuple) for source in self.sources)

    @cached_property
    def repeats(self) -> tuple:
        """tuple[int]: 0 for an original, k for the k-th repeat of its source or k-th new block."""
        seen = Counter({'new': 1})
        counts = []
        for source in self.sources:
            group = 'new' if isinstance(source, tuple) else source
            counts.append(seen[group])
            seen[group] += 1
        return tuple(counts)

    @cached_property
    def names(self) -> tuple:
        """tuple[str]: Module names: ``'3'`` for an original, ``'3_r1'`` for its first repeat.

        New blocks are ``'new1'``, ``'new2'``, ...
        """
        return tuple(f'new{repeat}' if new else str(source) if repeat == 0 else
                     f'{source}_r{repeat}'
                     for source, repeat, new in zip(self.sources, self.repeats, self.new))

    @cached_property
    def counts_as(self) -> tuple:
        """tuple[int]: For each block, the pretrained block whose layer it counts as.

        A repeat counts as its source, an average as the last of its sources, and a random block
        as the block before it.
        """
        blocks: list = []
        for source in self.sources:
            if isinstance(source, tuple):
                source = max((index for index, _ in source), default=blocks[-1] if blocks else 0)
            blocks.append(source)
        return tuple(blocks)

    def template(self, position: int) -> int:
        """int: The pretrained block whose structure the new block at a position has.

        The last one as far from the position as an even number: shifted and unshifted windows
        take turns in Swin, and so they do with the new block.
        """
        last = self.base_depth - 1
        return max(last - (last - position) % 2, 0)

    def positions(self, source: int) -> tuple:
        """tuple[int]: Execution positions of all the instances of a pretrained block."""
        return tuple(i for i, s in enumerate(self.sources) if s == source)

    def last(self, source: int) -> int:
        """int: Execution position of the last instance of a pretrained block.

        An ``out_indices`` entry of the ungrown model refers to this position.
        """
        positions = self.positions(source)
        if not positions:
            raise GrowthError(f'the layer map leaves out block {source}')
        return positions[-1]

    def output_position(self, source: int) -> int:
        """int: Execution position whose output stands for a pretrained block's output.

        It is that of the block's last instance, but the last pretrained block stands for the end
        of the list, wherever its own last instance is.
        """
        return len(self) - 1 if source == self.base_depth - 1 else self.last(source)

    @cached_property
    def shared(self) -> tuple:
        """tuple[bool]: For each block, whether its source is used more than once."""
        return tuple(not new and self.sources.count(source) > 1
                     for source, new in zip(self.sources, self.new))


def make_layer_map(depth: int,
                   order: Union[str, Sequence] = 'interpolate',
                   times: Union[int, Sequence] = 2,
                   blocks: Optional[Sequence] = None) -> LayerMap:
    """Make the map of one list of blocks.

    Args:
        depth (int): Number of pretrained blocks.
        order (str | Sequence[int]): Where repeats stand.

            - ``'interpolate'``: right behind their original (0, 0, 1, 1, ...).
            - ``'stack'``: each run of neighbouring selected blocks is repeated as a whole
              (0, 1, 2, 0, 1, 2, 3, ... when blocks 0 to 2 are selected).
            - ``'cyclic'``: at the end of the list, in the order of the blocks (eq. 6). The same
              as ``'stack'`` when every block is selected.
            - a sequence of block indices, with lists for averages and for random blocks: the map
              itself, see :class:`LayerMap`. ``times`` and ``blocks`` are then not used.

            Defaults to 'interpolate'.
        times (int | Sequence[int]): How often each selected block is used in all; 1 leaves it as
            it is. A sequence holds a number for each selected block, in the order of ``blocks``:
            (3, 3, 4, 3, 3) makes stages of so many blocks of five. A run, or the end of the list,
            then goes round over the blocks whose number is not reached yet. Defaults to 2.
        blocks (Sequence[int], optional): The blocks to repeat; negative indices count from the
            end. All of them if None. Defaults to None.

    Returns:
        LayerMap: The map.

    Raises:
        GrowthError: If an argument is out of range or of the wrong kind.
    """
    if not isinstance(order, str):
        if not isinstance(order, Sequence):
            raise GrowthError(f'growth.order must be one of {ORDERS} or a list of block indices, '
                              f'got {order!r}')
        return LayerMap(tuple(order), depth)
    if order not in ORDERS:
        raise GrowthError(f'growth.order must be one of {ORDERS} or a list of block indices, got '
                          f'{order!r}')
    check_times(times)
    selected = resolve_indices(blocks, depth, 'growth.blocks', 'block')
    counts = _count_uses(times, blocks, depth, selected)
    sources = []
    if order == 'interpolate':
        for block in range(depth):
            sources += [block] * counts.get(block, 1)
    elif order == 'cyclic':
        sources = list(range(depth)) + _rounds(sorted(selected), counts)[len(selected):]
    else:
        run = []
        for block in range(depth + 1):
            if block in selected:
                run.append(block)
                continue
            sources += _rounds(run, counts)
            run = []
            if block < depth:
                sources.append(block)
    return LayerMap(tuple(sources), depth)


def check_times(times: Union[int, Sequence]) -> None:
    """Check how often blocks are to be used, whatever the list of blocks will be.

    Args:
        times (int | Sequence[int]): As for :func:`make_layer_map`.

    Raises:
        GrowthError: If it is no number, or no sequence of numbers, from 1 on.
    """
    if isinstance(times, Sequence) and not isinstance(times, str) and len(times) == 0:
        raise GrowthError('growth.times is empty: give one number for each selected block')
    single = isinstance(times, str) or not isinstance(times, Sequence)
    numbers: Any = [times] if single else times
    for number in numbers:
        if isinstance(number, bool) or not isinstance(number, int) or number < 1:
            raise GrowthError('growth.times must be an integer >= 1 (1 leaves the model as it '
                              'is), or a list of them, one for each selected block; got '
                              f'{times!r}')


def _count_uses(times, blocks, depth, selected):
    """dict[int, int]: How often each selected block is used."""
    if isinstance(times, int):
        return dict.fromkeys(selected, times)
    order = range(depth) if blocks is None else dict.fromkeys(block % depth for block in blocks)
    if len(times) != len(selected):
        raise GrowthError(
            f'growth.times={list(times)} holds {len(times)} numbers for {len(selected)} selected '
            f'block(s) of {depth}: give one for each of them (num_layers of a ScaleNetViT, '
            'depths of a ScaleNetSwin and growth.blocks say how many there are)')
    return dict(zip(order, times))


def _rounds(run, counts):
    """list[int]: Blocks again and again, in each round those whose number is not reached yet."""
    most = max((counts[block] for block in run), default=0)
    return [block for turn in range(most) for block in run if turn < counts[block]]


def resolve_indices(indices: Optional[Sequence], size: int, option: str, what: str) -> set:
    """Turn a user's list of indices, negative ones included, into a set of 0-based ones.

    Args:
        indices (Sequence[int] | None): What the user gave; None means all.
        size (int): Number of items there are.
        option (str): Name of the option, for the error message.
        what (str): What is counted, for the error message.

    Returns:
        set[int]: Indices in ``range(size)``.

    Raises:
        GrowthError: If an index is out of range or not an integer, or the list is empty.
    """
    if indices is None:
        return set(range(size))
    if isinstance(indices, (str, int)) or not isinstance(indices, Sequence):
        raise GrowthError(f'{option} must be a list of {what} indices or None, got {indices!r}')
    if len(indices) == 0:
        raise GrowthError(f'{option} is empty: name at least one {what}, or use growth=None to '
                          'leave the model as it is')
    resolved = set()
    for index in indices:
        if isinstance(index, bool) or not isinstance(index, int):
            raise GrowthError(f'{option} must hold integers, got {index!r}')
        if not -size <= index < size:
            there = f'are {size} {what}s: 0 to {size - 1}' if size > 1 else f'is one {what}: 0'
            raise GrowthError(f'{option} names {what} {index}, but there {there}')
        resolved.add(index % size)
    return resolved
