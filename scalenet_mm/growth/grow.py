"""The one entry: growing lists of blocks in place."""
import copy
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Optional, Union

import torch
import torch.nn as nn

from ..errors import GrowthError
from .adjustment import (
    ADAPTER_NAMES,
    GAIN_NAME,
    AdjustmentSpec,
    adjust_linears,
    adjusted_linears,
    own_parameter_names,
    set_gains,
    spec_from_cfg,
)
from .derived import Derived, change_class
from .layer_map import LayerMap, check_times, make_layer_map, resolve_indices
from .new_block import average_tensors, make_new_block
from .sharing import Repeat, check_repeatable, is_norm, tie
from .speed_up import speed_up

SHARES = ('weights', 'all', 'none')


@dataclass(frozen=True)
class GrowthSpec:
    """Which blocks are repeated, what their repeats share and how they start.

    Args:
        order (str | Sequence): ``'interpolate'``, ``'stack'`` or ``'cyclic'``, see
            :func:`make_layer_map`; or the map itself: a list of block indices, in which a list
            of indices stands for a new block that starts as their average, and ``[]`` for one
            that starts from random values (see :class:`LayerMap`); one such map for each grown
            stage, in the order of ``stages``, if there are several. Defaults to 'interpolate'.
        times (int | Sequence[int]): How often each selected block is used in all; a sequence
            holds a number for each of them, see :func:`make_layer_map`. Defaults to 2.
        stages (Sequence[int], optional): Lists of blocks to grow, for a backbone that has
            several; negative indices count from the end. All if None. Defaults to None.
        blocks (Sequence[int], optional): Blocks to repeat in each of those lists. All if None.
            Defaults to None.
        share (str): ``'weights'``: a repeat uses its source's tensors and owns its norms (the
            paper); ``'all'``: the norms are the source's too; ``'none'``: a repeat starts as a
            copy and shares nothing. Defaults to 'weights'.
        start (str | dict): What the grown model computes at first.

            - ``'paper'``: every instance counts fully; no gains. The pretrained function is lost.
            - ``'identity'``: a gain of 1 on each residual branch of an original and 0 on those of
              its repeats and new blocks: the grown model equals the pretrained one.
            - ``dict(type='split', share=a)``: ``1 - a`` on an original, ``a`` on its repeats
              together; ``a = 0.5`` with two instances makes two half steps. There are no new
              blocks then: they have no instance to share with.

            Gains are learned, one for each channel. Defaults to 'paper'.
        depth (int, optional): What the grown lists must hold in all; it is only checked. Defaults
            to None.

    Raises:
        GrowthError: If a value is not one of those.
    """
    order: Union[str, Sequence] = 'interpolate'
    times: Union[int, Sequence] = 2
    stages: Optional[Sequence] = None
    blocks: Optional[Sequence] = None
    share: str = 'weights'
    start: Union[str, Mapping] = 'paper'
    depth: Optional[int] = None

    def __post_init__(self):
        if self.share not in SHARES:
            raise GrowthError(f'growth.share must be one of {SHARES}, got {self.share!r}')
        self._split()
        # whatever the model will be
        if isinstance(self.order, str) or not isinstance(self.order, Sequence):
            make_layer_map(1, self.order)
            check_times(self.times)
        if self.depth is not None and (isinstance(self.depth, bool)
                                       or not isinstance(self.depth, int) or self.depth < 1):
            raise GrowthError('growth.depth must be an integer >= 1 or None, got '
                              f'{self.depth!r}')

    @classmethod
    def from_cfg(cls, cfg: Union['GrowthSpec', dict, None]) -> Optional['GrowthSpec']:
        """Make a spec from a config's dict; None stays None."""
        if cfg is None or isinstance(cfg, cls):
            return cfg
        return spec_from_cfg(cls, cfg, 'growth')

    def _split(self):
        """float | None: The repeats' part of the gains; None if there are no gains."""
        if self.start == 'paper':
            return None
        if self.start == 'identity':
            return 0.
        if isinstance(self.start, Mapping) and set(self.start) == {'type', 'share'} \
                and self.start['type'] == 'split':
            share = self.start['share']
            if isinstance(share, (int, float)) and 0 <= share <= 1:
                return float(share)
            raise GrowthError(f'growth.start: the share of a split must be in [0, 1], got '
                              f'{share!r}')
        raise GrowthError("growth.start must be 'paper', 'identity' or dict(type='split', "
                          f'share=a) with a in [0, 1], got {self.start!r}')

    def gain(self, repeat: int, instances: int) -> Optional[float]:
        """The gain that an instance of a group starts with.

        Args:
            repeat (int): 0 for the original, k for its k-th repeat.
            instances (int): Number of instances of the group; 0 for a new block, which is in none.

        Returns:
            float | None: The gain; None if there are no gains.

        Raises:
            GrowthError: If a new block is to have a part of a split.
        """
        split = self._split()
        if split is None:
            return None
        if instances == 0:
            if split:
                raise GrowthError('growth.start: a split divides the step of a block among its '
                                  'instances, and the new blocks that growth.order asks for '
                                  "(lists in it) have none: use 'paper' or 'identity'")
            return 0.
        return 1. - split if repeat == 0 else split / (instances - 1)

    def layer_maps(self, depths: Sequence) -> list:
        """Make the map of each list of blocks of a backbone.

        Args:
            depths (Sequence[int]): Pretrained depth of each list.

        Returns:
            list[LayerMap]: One a list; identities for those that are not grown.

        Raises:
            GrowthError: If an index is out of range.
        """
        stages = sorted(resolve_indices(self.stages, len(depths), 'growth.stages', 'stage'))
        if self.stages is not None:  # lists of order go with the stages as the user names them
            stages = list(dict.fromkeys(stage % len(depths) for stage in self.stages))
        orders = [self.order] * len(stages)
        # within a map, a list stands for a new block; but there are plain indices beside it
        if not isinstance(self.order, str) and all(isinstance(o, Sequence) for o in self.order):
            if len(self.order) != len(stages):
                raise GrowthError(f'growth.order holds {len(self.order)} lists of blocks for '
                                  f'{len(stages)} grown stage(s)')
            orders = list(self.order)
        elif not isinstance(self.order, str) and len(stages) > 1:
            raise GrowthError('growth.order must hold one list of block indices for each of the '
                              f'{len(stages)} grown stages, or growth.stages must name one stage')
        maps = [LayerMap(tuple(range(depth)), depth) for depth in depths]
        for stage, order in zip(stages, orders):
            maps[stage] = make_layer_map(depths[stage], order, self.times, self.blocks)
        self._check_depth([maps[stage] for stage in stages])
        return maps

    def _check_depth(self, maps):
        depth = sum(map(len, maps))
        if self.depth is None or depth == self.depth:
            return
        if not isinstance(self.order, str):
            given, fix = 'growth.order makes', 'the map'
        elif isinstance(self.times, int):
            base = sum(layer_map.base_depth for layer_map in maps)
            given, fix = f'{base} blocks and growth.times={self.times} make', 'times'
        else:
            given = f'growth.times={list(self.times)} sums to {sum(self.times)}, which makes'
            fix = 'the list'
        raise GrowthError(f'{given} {depth} blocks, but growth.depth={self.depth}: change {fix}, '
                          f'or give depth={depth}, or leave depth out')


class Grown(Derived):
    """A list of blocks in execution order.

    Names keep the pretrained indices (``'3'``, and its repeats ``'3_r1'``, ...), so the keys of a
    pretrained checkpoint are a subset of the grown model's. ``len``, iteration and integer
    indices go by execution order.
    """
    prefix = 'Grown'

    def __getitem__(self, index):
        return list(self._modules.values())[index]

    def _refuse(self, *args, **kwargs):
        raise GrowthError('the blocks of a grown list cannot be replaced, added or removed: the '
                          'indices of execution are not those of the names. Change the list '
                          'first and grow it afterwards')

    __setitem__ = __delitem__ = __iadd__ = append = extend = insert = pop = _refuse

    def _load_from_state_dict(self, state_dict, prefix, *args, **kwargs):
        fill_increments(self, state_dict, prefix)
        super()._load_from_state_dict(state_dict, prefix, *args, **kwargs)


def is_grown(blocks: nn.Module) -> bool:
    """Whether a list of blocks went through :func:`grow`."""
    return isinstance(blocks, Grown)


def growth_of(model: nn.Module) -> Iterator:
    """Yield ``(name, blocks, layer_map)`` of every grown list in a model.

    A list of which nothing is repeated, but whose blocks have adapters, is among them.
    """
    for name, module in model.named_modules():
        if is_grown(module):
            yield name, module, module.layer_map


def grow(blocks: nn.Module,
         layer_map: LayerMap,
         growth: Union[GrowthSpec, dict, None] = None,
         adjustment: Union[AdjustmentSpec, dict, None] = None) -> nn.Module:
    """Grow one list of blocks in place.

    Args:
        blocks (nn.ModuleList | nn.Sequential): The pretrained blocks, named '0', '1', ...
        layer_map (LayerMap): The source of each block of the result.
        growth (GrowthSpec | dict, optional): Gives ``share`` and ``start``; the rest of it is in
            ``layer_map`` already. Defaults to None, the defaults of :class:`GrowthSpec`.
        adjustment (AdjustmentSpec | dict, optional): What each instance gets for itself; None for
            nothing. Defaults to None.

    Returns:
        nn.Module: ``blocks`` itself, now :class:`Grown`; nothing is changed if an error is
        raised.

    Raises:
        GrowthError: If the list is not one of blocks, is grown already, or holds blocks that
            cannot be repeated or adjusted.
    """
    growth = GrowthSpec.from_cfg(growth) or GrowthSpec()
    adjustment = AdjustmentSpec.from_cfg(adjustment)
    return _grow_all([blocks], [layer_map], growth, adjustment)[0]


def grow_stages(stages: Sequence,
                growth: Union[GrowthSpec, dict, None],
                adjustment: Union[AdjustmentSpec, dict, None] = None) -> list:
    """Grow all the lists of blocks of a backbone in place, by one specification.

    Args:
        stages (Sequence[nn.Module]): The lists in order; a plain ViT has one.
        growth (GrowthSpec | dict, optional): What is repeated; None for nothing.
        adjustment (AdjustmentSpec | dict, optional): What each instance gets for itself; with
            scope 'all' in every list, grown or not. Defaults to None.

    Returns:
        list[LayerMap]: The map of each list.

    Raises:
        GrowthError: As :func:`grow` does; then nothing is changed.
    """
    growth = GrowthSpec.from_cfg(growth)
    adjustment = AdjustmentSpec.from_cfg(adjustment)
    depths = [len(blocks) for blocks in stages]
    if growth is None:
        maps = [LayerMap(tuple(range(depth)), depth) for depth in depths]
        growth = GrowthSpec()
    else:
        maps = growth.layer_maps(depths)
    _grow_all(stages, maps, growth, adjustment)
    return maps


def _grow_all(stages, maps, growth, adjustment):
    for blocks, layer_map in zip(stages, maps):
        _check_list(blocks, layer_map)
    # a rehearsal on copies without data finds whatever is wrong before anything is changed
    for rehearsal in (True, False):
        for blocks, layer_map in zip(stages, maps):
            target = without_data(blocks) if rehearsal else blocks
            _grow_one(target, layer_map, growth, adjustment)
    return stages


def without_data(module: nn.Module) -> nn.Module:
    """Copy a module without its data.

    Args:
        module (nn.Module): Any module, which is left as it is.

    Returns:
        nn.Module: The copy, all of whose tensors are on the device 'meta'; made without copying
        any data.

    Raises:
        GrowthError: If the module holds something that cannot be copied.
    """
    memo: dict = {}
    for parameter in module.parameters():
        memo[id(parameter)] = nn.Parameter(
            torch.empty_like(parameter, device='meta'), requires_grad=parameter.requires_grad)
    for buffer in module.buffers():
        memo[id(buffer)] = torch.empty_like(buffer, device='meta')
    try:
        return copy.deepcopy(module, memo)
    except (RuntimeError, TypeError) as error:
        raise GrowthError('the model holds something that cannot be copied, so it can neither be '
                          f'grown nor counted: {error}') from error


def _check_list(blocks, layer_map):
    if not isinstance(blocks, (nn.ModuleList, nn.Sequential)):
        raise GrowthError('only a ModuleList or Sequential of blocks can be grown, got a '
                          f'{type(blocks).__name__}')
    if is_grown(blocks):
        raise GrowthError('this list of blocks is grown already: build the model ungrown, or '
                          'give the whole growth in one specification')
    if list(blocks._modules) != [str(i) for i in range(len(blocks))]:
        raise GrowthError(f'blocks must be named 0, 1, ..., got {list(blocks._modules)}')
    if len(blocks) != layer_map.base_depth:
        raise GrowthError(f'the layer map is for {layer_map.base_depth} blocks, the list holds '
                          f'{len(blocks)}')
    if layer_map.unused:
        raise GrowthError('a list of blocks cannot be grown by a map that leaves out its block(s) '
                          f'{list(layer_map.unused)}: growth removes none')
    templates = {layer_map.template(i) for i, new in enumerate(layer_map.new) if new}
    for name, block in blocks._modules.items():
        if layer_map.shared[layer_map.sources.index(int(name))] or int(name) in templates:
            check_repeatable(block, name)


def _grow_one(blocks, layer_map, growth, adjustment):
    originals = list(blocks._modules.values())
    instances = {}
    for position, (name, source, repeat) in enumerate(
            zip(layer_map.names, layer_map.sources, layer_map.repeats)):
        if layer_map.new[position]:
            instances[name] = make_new_block(originals, source, layer_map.template(position))
            continue
        original = originals[source]
        if repeat == 0:
            instances[name] = original
        elif growth.share == 'none':
            instances[name] = copy.deepcopy(original)
            change_class(instances[name], Repeat)
        elif growth.share == 'all':
            instances[name] = tie(original, owned=lambda module: False)
        else:
            instances[name] = tie(original, owned=is_norm)

    for position, (name, block) in enumerate(instances.items()):
        shared, new = layer_map.shared[position], layer_map.new[position]
        if adjustment is not None and (shared or adjustment.scope == 'all'):
            adjust_linears(block, adjustment, name)
        source = layer_map.sources[position]
        instances_of_source = 0 if new else layer_map.sources.count(source)
        gain = None
        if shared or new:
            gain = growth.gain(layer_map.repeats[position], instances_of_source)
        if gain is not None:
            set_gains(block, gain, name)
        speed_up(block)

    change_class(blocks, Grown)
    blocks._modules.clear()
    blocks._modules.update(instances)
    blocks.layer_map = layer_map


def ungrown_name(model: nn.Module, name: str) -> str:
    """Translate a name within a grown model to that of the layer it counts as.

    What is set by layer for a pretrained model (a learning rate, say) holds so for repeats and
    new blocks as well, see :attr:`LayerMap.counts_as`.

    Args:
        model (nn.Module): A model, grown or not.
        name (str): Name of a module or parameter, such as ``'layers.3_r1.ln1.weight'``; names
            that the model does not have are returned as they are.

    Returns:
        str: The name with the pretrained block's index in place of the block's name
        (``'layers.3.ln1.weight'``). What a repeat has for itself need not be there.
    """
    parts = name.split('.')
    module: Any = model
    for i, part in enumerate(parts):
        child = module._modules.get(part)
        if child is None:
            break
        if is_grown(module):
            layer_map = module.layer_map
            parts[i] = str(layer_map.counts_as[layer_map.names.index(part)])
        module = child
    return '.'.join(parts)


# --- loading a less grown checkpoint -------------------------------------------------------------


def increments(block: nn.Module) -> list:
    """list[str]: Names, within a block, of the adapters, LoRA and gains it holds."""
    return [f'{name}.{own}' for name, linear in adjusted_linears(block)
            for own in own_parameter_names(linear)]


def fill_increments(blocks: Any, state_dict: dict, prefix: str) -> None:
    """Complete, in place, what a less grown checkpoint says of a grown list.

    - A repeat that the checkpoint does not hold at all gets, for its norms, adapters and LoRA,
      those of its source's last instance that it does hold; gains stay at their start.
    - If the checkpoint holds no adapters, LoRA or gains for the list, they stay as they are.
    - If it holds no repeats, gains that it lacks stay as they are: it is of an ungrown model.
    - A new block that it does not hold at all gets the average of the blocks it is to be one of;
      one of random values is left out, so that it counts as not loaded.

    A checkpoint that holds a part of them is left as it is, so that a strict load names what is
    missing.

    Args:
        blocks (nn.Module): A grown list.
        state_dict (dict): Tensors by name.
        prefix (str): Prefix of the list in ``state_dict``, with its final dot.
    """
    layer_map: Any = blocks.layer_map
    state = {k: v for k, v in state_dict.items() if k.startswith(prefix)}
    # computed buffers may stand there for blocks that the checkpoint does not hold
    computed = {f'{prefix}{name}' for name, _ in blocks.named_buffers()}
    present = {k[len(prefix):].split('.')[0] for k in state if k not in computed}
    if not present:
        return
    plain = not any(k.rsplit('.', 1)[-1] in (*ADAPTER_NAMES, GAIN_NAME) for k in state)

    ungrown = present <= {str(source) for source in layer_map.sources}

    last_present = {}
    for name, source, new, block in zip(layer_map.names, layer_map.sources, layer_map.new, blocks):
        if new:  # it is no instance of anything, also where two are averages of the same blocks
            if name not in present:
                _fill_new_block(block, source, state, state_dict, prefix, name)
        elif name in present:
            last_present[source] = name
        own = [n for n, _ in (*block.named_parameters(), *block.named_buffers())]
        if not new and name not in present and source in last_present:
            donor = f'{prefix}{last_present[source]}.'
            for key in own:
                if donor + key in state and not key.endswith(f'.{GAIN_NAME}'):
                    # a copy: load_state_dict(assign=True) would tie the two for good
                    state_dict[f'{prefix}{name}.{key}'] = state[donor + key].clone()
        parameters = dict(block.named_parameters())
        for key in increments(block):
            if plain or name not in present or (ungrown and key.endswith(f'.{GAIN_NAME}')):
                state_dict.setdefault(f'{prefix}{name}.{key}', parameters[key].detach().clone())


def _fill_new_block(block, source, state, state_dict, prefix, name):
    """Average for a new block what the file holds of others; its buffers are as they are."""
    of_sources = [{k.removeprefix(f'{prefix}{index}.'): v for k, v in state.items()
                   if k.startswith(f'{prefix}{index}.')} for index, _ in source]
    averages = average_tensors(of_sources, [weight for _, weight in source])
    skipped = increments(block)
    for key, _ in block.named_parameters():
        if key in averages and key not in skipped:
            state_dict[f'{prefix}{name}.{key}'] = averages[key]
    persistent = block.state_dict()
    for key, buffer in block.named_buffers():
        if key in persistent:
            state_dict[f'{prefix}{name}.{key}'] = buffer.clone()


def check_targets_called(model: nn.Module, run) -> None:
    """Run a model once and check that every adjusted linear layer is really called.

    Args:
        model (nn.Module): A grown model.
        run (Callable): Runs the model's forward pass once.

    Raises:
        GrowthError: Naming the layers whose forward was not called: their adjustment does
            nothing.
    """
    called = set()
    handles = [
        linear.register_forward_hook(lambda *_, key=name: called.add(key))
        for name, linear in adjusted_linears(model)
    ]
    try:
        run()
    finally:
        for handle in handles:
            handle.remove()
    idle = [name for name, _ in adjusted_linears(model) if name not in called]
    if idle:
        raise GrowthError(f'{len(idle)} adjusted layer(s) are never called by the model, so their '
                          f'adjustment does nothing: {", ".join(idle[:5])}'
                          f'{", ..." if len(idle) > 5 else ""}. Name other layers in '
                          'adjustment.layers')
