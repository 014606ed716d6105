"""Learning rates that decay from layer to layer, for models of all toolboxes, grown or not."""
from collections import Counter
from typing import Any, Optional

import torch.nn as nn
from mmengine.logging import print_log
from mmengine.optim import DefaultOptimWrapperConstructor
from mmengine.registry import OPTIM_WRAPPER_CONSTRUCTORS

from ..backbones.grown_backbone import find_block_lists
from ..errors import ConfigError, GrowthError
from ..growth import is_norm, ungrown_name

BACKBONE = 'backbone.'
#: mmdet's and mmseg's constructors for the same, which read block indices from a few models' names
STOCK = ('LearningRateDecayOptimizerConstructor', 'LayerDecayOptimizerConstructor')


@OPTIM_WRAPPER_CONSTRUCTORS.register_module()
class LayerDecayOptimWrapperConstructor(DefaultOptimWrapperConstructor):
    """Give deeper layers of the backbone larger learning rates.

    A parameter of the backbone learns at ``layer_decay_rate ** (number of layers - 1 - depth)``
    times the rate that it would have otherwise, see :func:`layer_depths`; a repeat as fast as its
    source. Whatever lies outside of the backbone keeps its rate. In the config::

        optim_wrapper = dict(
            constructor='LayerDecayOptimWrapperConstructor',
            paramwise_cfg=dict(layer_decay_rate=0.75))

    Args:
        optim_wrapper_cfg (dict): Config of the optimizer wrapper. Its optimizer must name ``lr``.
        paramwise_cfg (dict): ``layer_decay_rate`` (float in (0, 1]), and all that mmengine's
            ``DefaultOptimWrapperConstructor`` takes: multipliers of the learning rate
            (``custom_keys`` with ``lr_mult``, ``bias_lr_mult``), which the decay multiplies
            further, and of the weight decay.

    Raises:
        ConfigError: If the rate is missing or impossible, or the model has no backbone whose
            layers can be told.
    """

    def _validate_cfg(self):
        super()._validate_cfg()
        check_rate(self.paramwise_cfg)
        if self.base_lr is None:
            raise ConfigError('optim_wrapper.optimizer names no lr, which layer_decay_rate is to '
                              'multiply: set optim_wrapper.optimizer.lr')

    def add_params(self, params, module, prefix='', **kwargs):
        """Add a group for each parameter that trains; see the base class."""
        super().add_params(params, module, prefix, **kwargs)
        if not prefix:  # the call for the whole model: all groups are there
            self._scale(params, module)

    def _scale(self, groups, model):
        backbone = getattr(model, BACKBONE.rstrip('.'), None)
        if not isinstance(backbone, nn.Module):
            raise ConfigError(f'optim_wrapper.paramwise_cfg.layer_decay_rate: a '
                              f'{type(model).__name__} has no backbone whose layers it could speak '
                              'of; remove optim_wrapper.constructor')
        try:
            depths, number = layer_depths(backbone)
        except GrowthError as error:
            raise ConfigError('optim_wrapper.paramwise_cfg.layer_decay_rate: the layers of '
                              f'{type(backbone).__name__} cannot be told, it has no '
                              f'get_layer_depth, and {error}') from None
        depth_of = {id(p): depths[name] for name, p in backbone.named_parameters()}
        rate = self.paramwise_cfg['layer_decay_rate']
        counts = Counter()
        for group in groups:
            depth = depth_of.get(id(group['params'][0]), number - 1)
            group['lr_scale'] = rate**(number - 1 - depth)
            group['lr'] = group.get('lr', self.base_lr) * group['lr_scale']
            counts[depth] += 1
        shown = ', '.join(f'{depth}: {rate**(number - 1 - depth):.3g} ({count})'
                          for depth, count in sorted(counts.items()))
        print_log('LayerDecayOptimWrapperConstructor: factor of the learning rate by depth '
                  f'(parameters that train): {shown}', logger='current')


def layer_depths(backbone: nn.Module) -> tuple:
    """Tell the depth of every parameter of a backbone, grown or not.

    A backbone that has the method ``get_layer_depth`` (mmpretrain's, and ours) says so itself. In
    any other its pretrained blocks count, the members of :func:`find_block_lists`: the k-th has
    depth k. By the order of registration, what stands between two lists has the depth of the last
    block before it, and what comes behind all lists is a layer of its own. Stems that are
    registered together, one for each list, stand in front of their lists.

    Args:
        backbone (nn.Module): Any backbone.

    Returns:
        tuple[dict[str, int], int]: Depths by parameter name, and the number of layers, which is
        one more than the largest depth there can be.

    Raises:
        GrowthError: If the backbone neither says so nor has blocks.
    """
    names = [name for name, _ in backbone.named_parameters()]
    if hasattr(backbone, 'get_layer_depth'):
        # of a name that the backbone does not have, it tells the depth of what comes behind
        depth_of: Any = backbone.get_layer_depth
        number = depth_of('', prefix=BACKBONE)[1]
        return {n: depth_of(BACKBONE + n, prefix=BACKBONE)[0]
                for n in names}, number

    lists = find_block_lists(backbone)
    paths = [path for path, _ in lists]
    before, total = [], 0
    for _, blocks in lists:
        before.append(total)
        total += blocks.layer_map.base_depth if hasattr(blocks, 'layer_map') else len(blocks)
    depths, passed = {}, 0
    for name in names:
        inside = next((i for i, path in enumerate(paths) if name.startswith(f'{path}.')), None)
        if inside is not None:
            block = ungrown_name(backbone, name)[len(paths[inside]) + 1:].split('.')[0]
            depths[name] = before[inside] + int(block) + 1
            passed = [*before, total][inside + 1]
        else:
            stem = _stem_index(backbone, name, paths)
            behind = total + 1 if passed == total else passed
            depths[name] = behind if stem is None else before[stem]
    return depths, total + 2


def _stem_index(backbone, name, paths):
    """int | None: Which list a parameter stands in front of, if there is a stem for each."""
    container, _, rest = name.partition('.')
    stems = backbone._modules.get(container)
    if isinstance(stems, (nn.ModuleList, nn.Sequential)) and len(stems) == len(paths) > 1 \
            and not any(path.startswith(f'{container}.') for path in paths) \
            and not all(map(is_norm, stems)):  # those are of the outputs
        return int(rest.split('.')[0])
    return None


def check_rate(paramwise_cfg: Optional[dict]) -> None:
    """Check what :class:`LayerDecayOptimWrapperConstructor` cannot do without.

    Raises:
        ConfigError: If ``layer_decay_rate`` is missing or impossible.
    """
    cfg = paramwise_cfg or {}
    key = 'optim_wrapper.paramwise_cfg.layer_decay_rate'
    if 'layer_decay_rate' not in cfg:
        stock = f" (decay_rate is the stock constructors' name for it: {cfg['decay_rate']!r})" \
            if 'decay_rate' in cfg else ''
        raise ConfigError(f'{key} is missing: LayerDecayOptimWrapperConstructor needs the factor '
                          f'from a layer to the one below it, 0.75 say{stock}')
    rate = cfg['layer_decay_rate']
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 < rate <= 1:
        raise ConfigError(f'{key} must be a number in (0, 1], got {rate!r}')


def check_layer_decay(optim_wrapper: Optional[dict], backbone: str, grown: bool) -> None:
    """Check the constructor of an optimizer wrapper against the backbone it is for.

    mmdet's and mmseg's own constructors for layer-wise decay know a few backbones by name, and
    end with a bare ``NotImplementedError``, or a ``ValueError`` for the name of a repeat.

    Args:
        optim_wrapper (dict, optional): The config of the optimizer wrapper.
        backbone (str): Class name of the backbone.
        grown (bool): Whether it has, or will have, repeats or new blocks.

    Raises:
        ConfigError: If a stock constructor would fail, or ours lacks its rate.
    """
    optim_wrapper = optim_wrapper or {}
    constructor = optim_wrapper.get('constructor') or ''
    name = constructor if isinstance(constructor, str) else constructor.__name__
    name = name.split('.')[-1]
    paramwise = optim_wrapper.get('paramwise_cfg') or {}
    if name == LayerDecayOptimWrapperConstructor.__name__:
        check_rate(paramwise)
    if name not in STOCK:
        return
    by_stage = paramwise.get('decay_type') == 'stage_wise'
    known = ('ConvNeXt', ) if by_stage else ('ConvNeXt', 'BEiT', 'MAE')
    known = any(part in backbone for part in known)
    # by stages, the index of the block is not read
    if known and (by_stage or not grown):
        return
    rate = paramwise.get('decay_rate', paramwise.get('layer_decay_rate', 0.75))
    why = f'knows ConvNeXt alone (in mmseg BEiT and MAE, too), and no {backbone}'
    if known:
        why = f'reads block indices from names, and cannot read those of the grown {backbone}'
    raise ConfigError(
        f'optim_wrapper.constructor: {name} {why}. Use '
        "optim_wrapper.constructor='LayerDecayOptimWrapperConstructor' with "
        f'optim_wrapper.paramwise_cfg=dict(_delete_=True, layer_decay_rate={rate}, '
        'flat_decay_mult=0.), which also leaves biases and norms without weight decay')
