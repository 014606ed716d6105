"""Layer adjustment: the small parameters that each instance of a block has for itself (eq. 7).

They sit as raw parameters on the block's linear layers, ``y = gain * (W x + b + up act(down x))``,
and not as child ``nn.Linear`` modules: initialisation code of the toolboxes re-draws, or stumbles
over, every ``nn.Linear`` it finds.
"""
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, fields
from typing import Any, Optional, Union

import torch
import torch.nn as nn
import torch.nn.functional as F

from ..errors import GrowthError
from .derived import Derived, change_class
from .fused import (
    IDENTITY,
    Affine,
    can_fuse,
    can_take,
    find_activation,
    fused_affine,
    is_plain_linear,
    is_watched,
)

ADJUSTMENT_TYPES = ('ParallelAdapter', 'LoRA')
ADJUSTMENT_SCOPES = ('all', 'shared')
#: Names that an instance's own parameters have on a linear layer.
ADAPTER_NAMES = ('adapter_down', 'adapter_up', 'lora_down', 'lora_up')
GAIN_NAME = 'gain'


@dataclass(frozen=True)
class AdjustmentSpec:
    """What each instance of a block gets beside its norms.

    Args:
        type (str): ``'ParallelAdapter'`` (eq. 9: ``up act(down x)``, on both linear layers of
            every MLP) or ``'LoRA'`` (eq. 8: ``up down x``, on every linear layer of a block).
            Defaults to 'ParallelAdapter'.
        rank (int): Width of the bottleneck. Defaults to 16.
        act_cfg (dict): The adapter's non-linearity: ``type`` names an activation of ``torch.nn``,
            the rest are its arguments. LoRA has none. Defaults to ``dict(type='ReLU')``.
        scope (str): ``'all'`` blocks of the model or only the ``'shared'`` groups. Defaults to
            'all'.
        layers (str | Sequence[str]): Which linear layers of a block: ``'mlp'``, ``'all'``, or
            names within the block. ``'auto'`` is ``'mlp'`` for the adapter and ``'all'`` for
            LoRA. Defaults to 'auto'.

    Raises:
        GrowthError: If a value is not one of those.
    """
    type: str = 'ParallelAdapter'
    rank: int = 16
    act_cfg: dict = field(default_factory=lambda: dict(type='ReLU'))
    scope: str = 'all'
    layers: Union[str, Sequence] = 'auto'

    def __post_init__(self):
        if self.type not in ADJUSTMENT_TYPES:
            raise GrowthError(f'adjustment.type must be one of {ADJUSTMENT_TYPES}, or '
                              f'adjustment=None for none, got {self.type!r}')
        if isinstance(self.rank, bool) or not isinstance(self.rank, int) or self.rank < 1:
            raise GrowthError(f'adjustment.rank must be an integer >= 1, got {self.rank!r}')
        if self.scope not in ADJUSTMENT_SCOPES:
            raise GrowthError(f'adjustment.scope must be one of {ADJUSTMENT_SCOPES}, got '
                              f'{self.scope!r}')
        if isinstance(self.layers, str) and self.layers not in ('auto', 'mlp', 'all'):
            raise GrowthError("adjustment.layers must be 'auto', 'mlp', 'all' or a list of names "
                              f'of linear layers within a block, got {self.layers!r}')
        if not isinstance(self.layers, str) and not (
                isinstance(self.layers, Sequence)
                and all(isinstance(name, str) for name in self.layers)):
            raise GrowthError('adjustment.layers must be a list of names of linear layers within '
                              f'a block, got {self.layers!r}')
        build_activation(self.act_cfg)

    @classmethod
    def from_cfg(cls, cfg: Union['AdjustmentSpec', dict, None]) -> Optional['AdjustmentSpec']:
        """Make a spec from a config's dict; None stays None."""
        if cfg is None or isinstance(cfg, cls):
            return cfg
        return spec_from_cfg(cls, cfg, 'adjustment')

    @property
    def what(self):
        """str | Sequence[str]: The linear layers to adjust, 'auto' resolved."""
        if self.layers != 'auto':
            return self.layers
        return 'all' if self.type == 'LoRA' else 'mlp'


def spec_from_cfg(cls, cfg, option):
    """Build a spec dataclass from a dict; an unknown key is an error that lists the known ones."""
    if not isinstance(cfg, dict):
        raise GrowthError(f'{option} must be a dict or None, got {cfg!r}')
    known = [f.name for f in fields(cls)]
    unknown = [key for key in cfg if key not in known]
    if unknown:
        raise GrowthError(f'{option} has no option {", ".join(map(repr, unknown))}; the options '
                          f'are {", ".join(known)}')
    return cls(**cfg)


def build_activation(act_cfg: dict) -> nn.Module:
    """Build the non-linearity of an adapter.

    Raises:
        GrowthError: If ``act_cfg`` names no activation of ``torch.nn``.
    """
    cfg = dict(act_cfg) if isinstance(act_cfg, dict) else {}
    name = cfg.pop('type', None)
    cls: Any = getattr(nn, name, None) if isinstance(name, str) else None
    if cls is not nn.Identity and getattr(cls, '__module__', '') != 'torch.nn.modules.activation':
        raise GrowthError('adjustment.act_cfg must name an activation of torch.nn such as '
                          f"dict(type='ReLU') or dict(type='GELU'), got {act_cfg!r}")
    try:
        activation = cls(**cfg)
    except TypeError as error:
        raise GrowthError(f'adjustment.act_cfg: {error}') from None
    if any(True for _ in activation.parameters()):
        raise GrowthError(f'adjustment.act_cfg: {name} has parameters of its own; an adapter '
                          'holds none beside its two matrices (eq. 9)')
    try:
        shape = activation(torch.zeros(1, 2, 4, device='cpu')).shape
    except (RuntimeError, TypeError, ValueError) as error:
        raise GrowthError(f'adjustment.act_cfg: {act_cfg!r} does not run: {error}') from None
    if shape != (1, 2, 4):
        raise GrowthError(f'adjustment.act_cfg: {name} changes the shape of its input')
    return activation


class Adjusted(Derived):
    """A linear layer with an adapter, a low-rank update or a gain.

    Its own parameters, each present only if asked for:

    - ``adapter_down`` (rank, in_features), ``adapter_up`` (out_features, rank),
    - ``lora_down`` (rank, in_features), ``lora_up`` (out_features, rank),
    - ``gain`` (out_features, ).
    """
    prefix = 'Adjusted'

    def forward(self, x):
        """Compute ``gain * (W x + b + up act(down x))``, fused where that is possible."""
        if can_fuse(x):
            parts = affine_of(self)
            if parts is not None and can_take(x, parts[0]):
                return fused_affine(x, *parts)
        out = super().forward(x)
        own = self._parameters
        if 'adapter_down' in own:
            hidden = self.adapter_act(F.linear(x, self.adapter_down))
            out = out + F.linear(hidden, self.adapter_up)
        if 'lora_down' in own:
            out = out + F.linear(F.linear(x, self.lora_down), self.lora_up)
        if GAIN_NAME in own:
            out = out * self.gain.to(out.dtype)
        return out

    def extra_repr(self):
        """Name the layer's own parameters as well."""
        own = [f'{name}={tuple(p.shape)}' for name, p in self._parameters.items()
               if name in ADAPTER_NAMES or name == GAIN_NAME]
        return ', '.join([super().extra_repr(), *own])


def affine_of(linear: Any) -> Optional[tuple]:
    """Put together what a linear layer computes, for the fused operations.

    Args:
        linear (nn.Linear): The layer, adjusted or not.

    Returns:
        tuple[Affine, Activation] | None: Its tensors and its adapter's non-linearity; None if it
        is more than the fused operations know.
    """
    if not is_plain_linear(linear):
        return None
    own, act = linear._parameters, IDENTITY
    has_adapter, has_lora = 'adapter_down' in own, 'lora_down' in own
    down = up = None
    if has_adapter and has_lora:
        return None
    if has_adapter:
        act = find_activation(linear.adapter_act)
        down, up = linear.adapter_down, linear.adapter_up
        if act is None or is_watched(linear.adapter_act):
            return None
    elif has_lora:
        down, up = linear.lora_down, linear.lora_up
    gain = linear.gain if GAIN_NAME in own else None
    return Affine(linear.weight, linear.bias, down, up, gain), act


def _as_adjusted(linear: nn.Linear, name: str) -> None:
    if not isinstance(linear, nn.Linear):
        raise GrowthError(f'{name} is a {type(linear).__name__}; only nn.Linear can be adjusted')
    if isinstance(linear, nn.modules.linear.NonDynamicallyQuantizableLinear):
        raise GrowthError(
            f'{name} is the output projection of torch.nn.MultiheadAttention, which uses its '
            'weight without ever calling it, so an adjustment there would do nothing. Use a '
            'backbone with attention of its own (ScaleNetViT reads the same weights), or name '
            'other layers in adjustment.layers')
    if not isinstance(linear, Adjusted):
        change_class(linear, Adjusted)


def _keep_calling_linears(block: nn.Module) -> None:
    """Switch off the fused inference path of torch's encoder layers.

    In eval mode without gradients they hand their linear layers' weights to one kernel and call
    none of them, so what is adjusted would count in training only.
    """
    for module in block.modules():
        if isinstance(module, nn.TransformerEncoderLayer):
            module.activation_relu_or_gelu = 0


def _on(linear: nn.Linear, *shape) -> nn.Parameter:
    """A new parameter where the linear's weight lives; the weight may be another block's."""
    weight = linear.weight
    return nn.Parameter(torch.empty(*shape, device=weight.device, dtype=weight.dtype))


def adjust_linears(block: nn.Module, spec: AdjustmentSpec, name: str = 'block') -> list:
    """Give the linear layers of one block an adapter or LoRA, in place.

    The down-projection is drawn (kaiming uniform for the adapter, as in He et al. 2022; normal
    with standard deviation 1 / rank for LoRA), the up-projection starts at zero, so the block's
    function does not change.

    Args:
        block (nn.Module): An original or a repeat.
        spec (AdjustmentSpec): What to add.
        name (str): The block's name, for error messages. Defaults to 'block'.

    Returns:
        list[str]: Names, within the block, of the linear layers that were adjusted.

    Raises:
        GrowthError: If no linear layer fits, or one cannot be adjusted.
    """
    names = find_linears(block, spec.what, name)
    kind = 'lora' if spec.type == 'LoRA' else 'adapter'
    for linear_name in names:
        linear: Any = block.get_submodule(linear_name)
        _as_adjusted(linear, f'{name}.{linear_name}')
        if f'{kind}_down' in linear._parameters:
            raise GrowthError(f'{name}.{linear_name} has a {spec.type} already')
        down = _on(linear, spec.rank, linear.in_features)
        up = _on(linear, linear.out_features, spec.rank)
        if down.device.type != 'meta':
            if kind == 'lora':
                nn.init.normal_(down, std=1 / spec.rank)
            else:
                nn.init.kaiming_uniform_(down, a=math.sqrt(5))
            nn.init.zeros_(up)
        linear.register_parameter(f'{kind}_down', down)
        linear.register_parameter(f'{kind}_up', up)
        if kind == 'adapter':
            linear.adapter_act = build_activation(spec.act_cfg)
    _keep_calling_linears(block)
    return names


def set_gains(block: nn.Module, value: float, name: str = 'block') -> list:
    """Put a gain on each residual branch of one block, in place.

    Args:
        block (nn.Module): An original or a repeat.
        value (float): What every channel's gain starts at.
        name (str): The block's name, for error messages. Defaults to 'block'.

    Returns:
        list[str]: Names, within the block, of the linear layers that end a branch.

    Raises:
        GrowthError: If the ends of the residual branches are not found.
    """
    names = find_branch_ends(block, name)
    for linear_name in names:
        linear: Any = block.get_submodule(linear_name)
        _as_adjusted(linear, f'{name}.{linear_name}')
        gain = _on(linear, linear.out_features)
        with torch.no_grad():
            gain.fill_(value)
        linear.register_parameter(GAIN_NAME, gain)
    _keep_calling_linears(block)
    return names


def adjusted_linears(module: nn.Module):
    """Yield ``(name, linear)`` of every adjusted linear layer in a module."""
    for name, child in module.named_modules():
        if isinstance(child, Adjusted):
            yield name, child


def own_parameter_names(linear: nn.Module) -> list:
    """list[str]: The increments (adapter, LoRA, gain) that a linear layer holds."""
    return [n for n in linear._parameters if n in ADAPTER_NAMES or n == GAIN_NAME]


# --- finding the layers by structure -------------------------------------------------------------


def _linears(block):
    return [(n, m) for n, m in block.named_modules() if isinstance(m, nn.Linear)]


def find_mlps(block: nn.Module) -> list:
    """Find the MLPs of a block: neighbouring linear layers D -> H and H -> D.

    Attention comes in the same shapes when H = D or H = 3 D, so neighbours with the deepest
    common parent are taken first and no layer belongs to two MLPs. Square layers are an MLP only
    where no others are, and then the block's last two: separate query, key and value projections
    are square too.

    Returns:
        list[tuple[str, str]]: Names of the first and the second layer of each MLP.
    """
    linears = _linears(block)
    pairs = []
    for (first, a), (second, b) in zip(linears, linears[1:]):
        if (a.in_features, a.out_features) == (b.out_features, b.in_features):
            parents = (x.split('.')[:-1] for x in (first, second))
            common = 0
            for x, y in zip(*parents):
                if x != y:
                    break
                common += 1
            pairs.append((common, first, second, a.in_features == a.out_features))
    if all(square for *_, square in pairs):
        pairs = [pair for pair in pairs if pair[2] == linears[-1][0]]
    else:
        pairs = [pair for pair in pairs if not pair[3]]
    taken, mlps = set(), []
    # of equally deep candidates the later one: the MLP follows the attention in a block
    for _, first, second, _ in sorted(reversed(pairs), key=lambda p: -p[0]):
        if first not in taken and second not in taken:
            mlps.append((first, second))
            taken |= {first, second}
    order = {name: i for i, (name, _) in enumerate(linears)}
    return sorted(mlps, key=lambda pair: order[pair[0]])


def find_linears(block: nn.Module, what, name: str = 'block') -> list:
    """Find the linear layers of a block that an adjustment goes to.

    Args:
        block (nn.Module): The block.
        what (str | Sequence[str]): ``'mlp'``, ``'all'`` or names within the block.
        name (str): The block's name, for error messages. Defaults to 'block'.

    Returns:
        list[str]: Names within the block.

    Raises:
        GrowthError: If there is none, or a name is not there.
    """
    there = [n for n, _ in _linears(block)]
    if what == 'all':
        names = there
    elif what == 'mlp':
        names = [n for pair in find_mlps(block) for n in pair]
    else:
        names = list(what)
        missing = [n for n in names if n not in there]
        if missing:
            raise GrowthError(f'adjustment.layers names {missing}, which {name} '
                              f'({type(block).__name__}) does not have; its linear layers are '
                              f'{there}')
    if not names:
        raise GrowthError(
            f'no linear layer for an adjustment was found in {name} ({type(block).__name__}); its '
            f'linear layers are {there}: name some in adjustment.layers, or set adjustment=None to '
            'grow without (an MLP of convolutions can have none)')
    return names


def find_branch_ends(block: nn.Module, name: str = 'block') -> list:
    """Find the last linear layer of each residual branch of a block.

    A branch ends with the second layer of an MLP, or with the last linear layer of an attention:
    one that gives the block's width and has an MLP, or the block's end, behind it.

    Raises:
        GrowthError: If there is no MLP: nothing then tells one branch from the next.
    """
    mlps = find_mlps(block)
    ends = {second for _, second in mlps}
    in_mlp = {n for pair in mlps for n in pair}
    run: list = []
    for linear_name, linear in (_linears(block) + [(None, None)]) if mlps else []:
        if linear_name is None or linear_name in in_mlp:
            if run and run[-1][1].out_features == block.get_submodule(mlps[0][0]).in_features:
                ends.add(run[-1][0])
            run = []
        else:
            run.append((linear_name, linear))
    if not ends:
        raise GrowthError(f'the residual branches of {name} ({type(block).__name__}) were not '
                          "found, so it can only be grown with start='paper'")
    return [n for n, _ in _linears(block) if n in ends]


def kinds_of(module: nn.Module, is_norm: Callable) -> dict:
    """Tell what each parameter of a model is.

    Args:
        module (nn.Module): The model.
        is_norm (Callable): Tells whether a submodule is a normalisation layer.

    Returns:
        dict[str, str]: For each parameter name ``'adapter'`` (LoRA too), ``'gain'``, ``'norm'``
        or ``'weight'``.
    """
    kinds = {}
    for prefix, child in module.named_modules():
        for name in child._parameters:
            full = f'{prefix}.{name}' if prefix else name
            if isinstance(child, Adjusted) and name in ADAPTER_NAMES:
                kinds[full] = 'adapter'
            elif isinstance(child, Adjusted) and name == GAIN_NAME:
                kinds[full] = 'gain'
            else:
                kinds[full] = 'norm' if is_norm(child) else 'weight'
    return kinds
