"""Growing the backbones of others: found by structure, grown in place."""
import functools
import re
from collections.abc import Sequence
from typing import Any, Union

import torch
import torch.nn as nn
from mmengine.registry import MODELS
from mmengine.utils import to_2tuple

from ..errors import GrowthError
from ..growth import (
    check_targets_called,
    fast_paths,
    get_drop_path_rate,
    grow_stages,
    is_grown,
    is_norm,
    set_drop_path_rates,
    ungrown_name,
)
from .base import UNSET
from .scalenet_swin import ScaleNetSwin
from .scalenet_vit import ScaleNetViT

#: Height and width of the probe's image where the backbone does not tell its own.
PROBE_SIZE = 224


def find_block_lists(backbone: nn.Module, targets: Union[str, Sequence, None] = None) -> list:
    """Find the lists of blocks of a backbone by their structure.

    A list of blocks is a ModuleList or Sequential whose members are of one class and each hold a
    norm and a linear layer; of nested ones the innermost counts (the blocks of a stage, not the
    stages).

    Args:
        backbone (nn.Module): Any backbone.
        targets (str | Sequence[str], optional): Regular expressions for the whole names of the
            lists to take, within the backbone. All that are found if None. Defaults to None.

    Returns:
        list[tuple[str, nn.Module]]: Names and lists, in order.

    Raises:
        GrowthError: If none is found or a pattern matches none.
    """
    found = [(name, m) for name, m in backbone.named_modules() if name and _is_block_list(m)]
    found = [(name, m) for name, m in found
             if not any(other.startswith(name + '.') for other, _ in found)]
    if not found:
        raise GrowthError(f'no list of transformer blocks was found in {type(backbone).__name__}: '
                          'blocks are members of one class of a ModuleList or Sequential, each '
                          f'with a layer norm and linear layers{_mixed_lists(backbone)}')
    if targets is None:
        return found
    patterns = [targets] if isinstance(targets, str) else list(targets)
    for pattern in patterns:
        if not any(re.fullmatch(pattern, name) for name, _ in found):
            raise GrowthError(f'targets: {pattern!r} matches none of the lists of blocks of '
                              f'{type(backbone).__name__}: {", ".join(n for n, _ in found)}')
    return [(n, m) for n, m in found if any(re.fullmatch(p, n) for p in patterns)]


def _is_block_list(module):
    if not isinstance(module, (nn.ModuleList, nn.Sequential)) or len(module) == 0:
        return False
    members = list(module.children())
    classes = {getattr(type(m), '_recipe', (type(m), ))[0] for m in members}
    return len(classes) == 1 and all(map(_is_block, members))


def _is_block(module):
    return (not isinstance(module, (nn.ModuleList, nn.Sequential))
            and any(map(is_norm, module.modules()))
            and any(isinstance(m, nn.Linear) for m in module.modules()))


def _mixed_lists(backbone):
    """str: For the message, a list that holds blocks beside something else."""
    for name, module in backbone.named_modules():
        if name and isinstance(module, (nn.ModuleList, nn.Sequential)) \
                and any(map(_is_block, module)):
            kinds = dict.fromkeys(type(m).__name__ for m in module)
            return f'; {name} holds members of several classes, {" and ".join(kinds)}'
    return ''


def grow_backbone(backbone: nn.Module,
                  growth: Union[str, dict, None] = 'paper',
                  adjustment: Union[str, dict, None] = 'paper',
                  targets: Union[str, Sequence, None] = None,
                  probe: bool = True) -> nn.Module:
    """Grow any backbone in place.

    Args:
        backbone (nn.Module): The ungrown backbone, of mmpretrain, mmdet, mmseg or another.
        growth (str | dict | None): As for :class:`ScaleNetSwin` if the backbone has several lists
            of blocks (stages are then those that ``targets`` take), for :class:`ScaleNetViT` if it
            has one. Defaults to 'paper'.
        adjustment (str | dict | None): See :class:`AdjustmentSpec`. Defaults to 'paper'.
        targets (str | Sequence[str], optional): See :func:`find_block_lists`. Defaults to None.
        probe (bool): Whether to run the backbone on a random image, of the size it was made for
            or 224 x 224, before and after, to see that every adjusted layer is called, that
            blocks keep their shape, and that the identity start is one. Defaults to True.

    Returns:
        nn.Module: ``backbone`` itself.

    Raises:
        GrowthError: If it cannot be grown as asked. What only the second run shows (a layer that
            is not called, a start that is no identity) is found on the grown backbone: build
            it anew then.
    """
    found = find_block_lists(backbone, targets)
    if any(is_grown(blocks) for _, blocks in found):
        raise GrowthError(f'{type(backbone).__name__} is grown already: build it ungrown '
                          '(growth=None, adjustment=None), or give the whole growth in one '
                          'specification')
    lists = [blocks for _, blocks in found]
    grown_by = dict(growth=growth, adjustment=adjustment, targets=targets)
    owner: Any = backbone  # whatever attributes it has
    spec: Any = {} if growth == 'paper' else growth
    # the drop path rises over the whole backbone, whichever part of it is grown
    every = [blocks for _, blocks in find_block_lists(backbone)]
    if isinstance(spec, dict):
        of_paper = (ScaleNetViT if len(every) == 1 else ScaleNetSwin).default_growth
        spec = {**of_paper, **spec}
    adjusting: Any = {} if adjustment == 'paper' else adjustment
    rate = max(get_drop_path_rate(block) or 0. for blocks in every for block in blocks)

    before = _run_probe(backbone) if probe else None
    maps = grow_stages(lists, spec, adjusting)
    set_drop_path_rates(every, rate)
    if len(every) == 1 and '.' not in found[0][0] and hasattr(backbone, 'out_indices'):
        # of a plain ViT they name blocks, and its code compares them with execution positions; of
        # all others they name stages
        owner.out_indices = type(owner.out_indices)(
            maps[0].output_position(i % maps[0].base_depth) for i in owner.out_indices)
    if hasattr(type(backbone), 'get_layer_depth'):
        # an attribute and no class of its own: mmpretrain's Swin reads the names of old checkpoints
        # only if its class is exactly that
        owner.get_layer_depth = functools.partial(_get_layer_depth, backbone)
    owner.growth, owner.adjustment, owner.layer_maps = spec, adjusting, maps
    owner.grown_by = grown_by  # as it was asked for
    if probe and before is not None:
        after: list = []
        check_targets_called(backbone, lambda: after.extend(_run_probe(backbone)))
        if [a.shape for a in after] != [b.shape for b in before]:
            raise GrowthError(f'{type(backbone).__name__}: outputs of the shapes '
                              f'{[tuple(b.shape) for b in before]} became '
                              f'{[tuple(a.shape) for a in after]}: its code counts blocks in a way '
                              'that growth does not know')
        starts_as_identity = spec is None or spec.get('start') == 'identity'
        if starts_as_identity and not all(map(torch.equal, before, after)):
            raise GrowthError(
                f'{type(backbone).__name__} does not start as an identity: its blocks do not add '
                "the result of their last linear layers to their input. Use start='paper'")
    return backbone


def _get_layer_depth(backbone, param_name, prefix=''):
    """The stock ``get_layer_depth``, which reads indices of blocks from names, for a grown one."""
    if param_name.startswith(prefix):
        param_name = prefix + ungrown_name(backbone, param_name[len(prefix):])
    return type(backbone).get_layer_depth(backbone, param_name, prefix)


def _run_probe(backbone):
    """The backbone's outputs for a fixed random image; None if its weights have no data."""
    # position embeddings may have four dimensions, too
    convs = (m.weight for m in backbone.modules() if isinstance(m, nn.Conv2d))
    weight = next(convs, None)
    if weight is None or weight.device.type == 'meta':
        return None
    generator = torch.Generator().manual_seed(0)
    image = torch.randn(1, weight.shape[1], *made_for_size(backbone), generator=generator)
    modes = [(m, m.training) for m in backbone.modules()]
    # fresh norms have no bias; a norm behind a branch would hide there what it does later
    norms = [m for m in backbone.modules() if is_norm(m)]
    biases = [m.bias for m in norms if getattr(m, 'bias', None) is not None]
    kept = [bias.detach().clone() for bias in biases]
    for module, _ in modes:
        module.training = False
    try:
        # exact only in the plain form: the fast one sums in another order than a stock layer
        with torch.no_grad(), fast_paths(False):
            for bias in biases:
                bias += 0.1
            return list(tensors_in(backbone(image.to(weight))))
    finally:
        with torch.no_grad():
            for bias, value in zip(biases, kept):
                bias.copy_(value)
        for module, training in modes:
            module.training = training


def made_for_size(backbone):
    """tuple[int]: The size of image that a backbone was made for; some accept no other."""
    patch_embed = getattr(backbone, 'patch_embed', None)
    for owner, name in ((backbone, 'img_size'), (patch_embed, 'init_input_size')):
        size = getattr(owner, name, None)
        if size is not None:
            return to_2tuple(size)
    return to_2tuple(PROBE_SIZE)


def tensors_in(outputs):
    """Yield the tensors of a backbone's outputs, which may be nested."""
    if isinstance(outputs, torch.Tensor):
        yield outputs
    else:
        for output in outputs:
            yield from tensors_in(output)


@MODELS.register_module(name='GrownBackbone')
def build_grown_backbone(base: dict,
                         growth: Union[str, dict, None] = 'paper',
                         adjustment: Union[str, dict, None] = 'paper',
                         targets: Union[str, Sequence, None] = None,
                         init_cfg: Any = UNSET) -> nn.Module:
    """Build a stock backbone and grow it, from a config alone.

    What :class:`AdapterInjectionHook` does to a stock model is written into the config as this,
    so that tools that run no hooks build the same model. The result is the stock backbone itself,
    with its parameter names.

    Args:
        base (dict): Config of the backbone.
        growth (str | dict | None): See :func:`grow_backbone`. Defaults to 'paper'.
        adjustment (str | dict | None): See :func:`grow_backbone`. Defaults to 'paper'.
        targets (str | Sequence[str], optional): See :func:`grow_backbone`. Defaults to None.
        init_cfg (dict, optional): Takes the place of the base's if it is given, also as None.

    Returns:
        nn.Module: The grown backbone.
    """
    base = dict(base)
    if init_cfg is not UNSET:
        base['init_cfg'] = init_cfg
    return grow_backbone(MODELS.build(base), growth, adjustment, targets)
