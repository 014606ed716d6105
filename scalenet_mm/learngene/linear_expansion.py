"""TLEG: a transformer as the linear expansion of two learngenes (arXiv 2312.05614)."""
import torch
import torch.nn as nn
from mmengine.model import BaseModule, ModuleList
from mmengine.registry import MODELS

from ..backbones import ScaleNetViT
from ..backbones.base import lookup_arch
from ..errors import CheckpointError, ConfigError, GrowthError
from ..growth import LayerMap, set_drop_path_rates
from ..growth.derived import change_class, take_behaviour
from ..growth.sharing import Tied, tie

#: What the layers of a block may call their tensors.
_TENSORS = ('weight', 'bias')


def positions(depth: int) -> tuple:
    """Tell how much of the slope each block gets.

    Args:
        depth (int): Number of blocks.

    Returns:
        tuple[float]: ``l / depth`` for block ``l``, counted from 0, as in the official code.

    Raises:
        GrowthError: If the depth is no integer >= 1.
    """
    if isinstance(depth, bool) or not isinstance(depth, int) or depth < 1:
        raise GrowthError(f'the depth of a linear expansion must be an integer >= 1, got {depth!r}')
    return tuple(block / depth for block in range(depth))


def expand_blocks(a: dict, b: dict, depth: int) -> list:
    """Expand two learngenes to the blocks of a descendant: ``A + l / depth * B``, ``l`` from 0.

    Args:
        a (dict): The tensors of learngene A, by their names within a block.
        b (dict): Those of learngene B, the slope.
        depth (int): Number of blocks to make.

    Returns:
        list[dict]: The tensors of each block; none is shared with another or with the learngenes.

    Raises:
        GrowthError: If the depth is no integer >= 1.
        CheckpointError: If the learngenes differ in names or shapes.
    """
    shares = positions(depth)
    shapes = [{name: tuple(t.shape) for name, t in tensors.items()} for tensors in (a, b)]
    odd = sorted(name for name in shapes[0].keys() | shapes[1].keys()
                 if shapes[0].get(name) != shapes[1].get(name))
    if odd:
        raise CheckpointError('learngenes A and B of a linear expansion must have the same '
                              f'tensors; they differ in {", ".join(odd[:3])}: '
                              f'{shapes[0].get(odd[0])} and {shapes[1].get(odd[0])}')
    return [{name: torch.add(a[name], b[name], alpha=share) for name in a} for share in shares]


class Expanded(Tied):
    """A layer whose tensors lie on the line through those of two others."""
    prefix = 'Expanded'

    @property
    def sources(self):
        """tuple[nn.Module]: The modules whose tensors it reads."""
        return (*super().sources, *self._slope)

    @property
    def weight(self):
        """torch.Tensor: The weight on the line."""
        return self._on_line('weight')

    @property
    def bias(self):
        """torch.Tensor | None: The bias on the line."""
        return self._on_line('bias')

    def _on_line(self, name):
        start, slope = getattr(self._source[0], name), getattr(self._slope[0], name)
        return None if start is None else torch.add(start, slope, alpha=self._share)


def expanded_block(a: nn.Module, b: nn.Module, share: float) -> nn.Module:
    """Make a block that owns no tensor and computes with ``A + share * B``.

    It reads the two learngenes whenever it runs, so gradients reach both of them, and whatever
    replaces their tensors is seen.

    Args:
        a (nn.Module): The block that holds learngene A.
        b (nn.Module): The block that holds learngene B, of the same structure.
        share (float): How much of B is added.

    Returns:
        nn.Module: A block of their class.
    """
    block = tie(a, owned=lambda module: False)
    slopes = dict(b.named_modules())
    for name, module in block.named_modules():
        # what holds no tensor itself only leads to what does
        names = [n for n, tensor in slopes[name]._parameters.items() if tensor is not None]
        if not names:
            continue
        if not isinstance(module, (nn.Linear, nn.LayerNorm)) or not set(names) <= set(_TENSORS):
            raise GrowthError(f'a {type(slopes[name]).__name__} cannot be expanded linearly: only '
                              'linear layers and layer norms can')
        take_behaviour(module, Tied)
        change_class(module, Expanded)
        module.__dict__.update(_slope=(slopes[name], ), _share=share)
    return block


class LinearExpansion(BaseModule):
    """Two learngenes, named '0' and '1', and the blocks that are made of them.

    It is run through like a list of blocks: length, iteration and indices are those of the
    expanded ones, which own no parameter.

    Args:
        a (nn.Module): The block that holds learngene A.
        b (nn.Module): The block that holds learngene B, the slope.
        depth (int): Number of blocks.
    """

    def __init__(self, a: nn.Module, b: nn.Module, depth: int):
        super().__init__()
        self.add_module('0', a)
        self.add_module('1', b)
        self.expanded = ModuleList(expanded_block(a, b, share) for share in positions(depth))

    def __len__(self):
        return len(self.expanded)

    def __iter__(self):
        return iter(self.expanded)

    def __getitem__(self, index):
        return self.expanded[index]


@MODELS.register_module()
class TLEGViT(ScaleNetViT):
    """The auxiliary net of TLEG: two learngenes train, and every block is a blend of them.

    Block ``l`` of ``L``, counted from 0, runs with ``A + l / L * B`` (Xia et al., Transformer as
    Linear Expansion of Learngene, arXiv 2312.05614): each linear layer and each norm does, weight
    and bias. Embeddings, final norm and head are a plain ViT's. The parameters are named as those
    of a plain ViT of two blocks, ``layers.0`` for A and ``layers.1`` for B, and what trains here
    expands to any depth, see :func:`expand_blocks`.

    That ``l`` counts from 0, so that the first block is A itself, and what the parameters start
    from are the official code's: matrices of A and B alike from a truncated normal with standard
    deviation 0.02, norms of A at one, those of B and all biases at zero. The official auxiliary
    net averages the patches' tokens and has no class token; this one has one, as its descendants
    do (``out_type='avg_featmap'``, ``with_cls_token=False`` make it the official one).

    The expanded blocks are ``layers.expanded.0`` and so on, for hooks and for activation
    checkpointing; they own no parameter. In training each keeps its blended matrices for the
    backward pass; with ``with_cp`` it blends them again.

    Args:
        arch (str | dict): As for :class:`ScaleNetViT`; a dict may leave ``num_layers`` out if
            ``depth`` is given. Defaults to 'deit-base'.
        depth (int, optional): Number of blocks that run. That of ``arch`` if None. Defaults to
            None.
        out_indices (int | Sequence[int]): Blocks whose results are returned, counted as they run.
            Defaults to -1.
        drop_path_rate (float): Stochastic depth of the last block; it rises linearly over
            ``depth``. Defaults to 0.
        growth (None): There for a clear error: the blocks are made of two learngenes, not
            repeated.
        adjustment (None): As ``growth``.
        kwargs: As for :class:`ScaleNetViT` with ``arch``.

    Raises:
        ConfigError: If an argument cannot be honoured.
        GrowthError: If growth or an adjustment is asked for, or the depth is no integer >= 1.
    """

    def __init__(self,
                 arch='deit-base',
                 depth=None,
                 out_indices=-1,
                 drop_path_rate=0.,
                 growth=None,
                 adjustment=None,
                 **kwargs):
        for name, value in (('growth', growth), ('adjustment', adjustment)):
            if value is not None:
                raise GrowthError(f'TLEGViT: {name}={value!r} cannot be honoured: its blocks are '
                                  f'blends of two learngenes. Leave {name} out, and give the '
                                  'number of blocks as depth')
        if 'num_layers' in kwargs:
            raise ConfigError('TLEGViT: num_layers cannot be honoured: two sets of block weights '
                              'train, however many blocks run. Give the number of blocks as depth')
        if kwargs.get('frozen_stages', -1) > 0:
            raise ConfigError('TLEGViT: frozen_stages cannot be honoured: every block uses both '
                              'learngenes. Leave it out')
        if depth is None:
            depth = _depth_of_arch(arch)
        self._depth = depth
        super().__init__(
            arch,
            num_layers=2,
            out_indices=out_indices,
            drop_path_rate=drop_path_rate,
            growth=None,
            adjustment=None,
            **kwargs)

    def _grow(self, growth, adjustment, drop_path_rate):
        super()._grow(growth, adjustment, 0.)
        self.num_layers = self._depth
        self.layers = LinearExpansion(*self.layers, self._depth)
        self.layer_maps = [LayerMap(tuple(range(self._depth)), self._depth)]
        with torch.device('cpu'):  # the rates are numbers, also for a model built on 'meta'
            set_drop_path_rates(self.block_lists, drop_path_rate)

    def _draw_weights(self):
        super()._draw_weights()
        slope = getattr(self.layers, '1')
        for module in slope.modules():
            if isinstance(module, nn.LayerNorm):
                nn.init.zeros_(module.weight)

    def _depth_of(self, name):
        # both learngenes are in every block, the last one too
        return self.num_layers if name.startswith('layers.') else super()._depth_of(name)


def _depth_of_arch(arch):
    if isinstance(arch, str):
        arch = lookup_arch(arch, TLEGViT.arch_zoo, set(TLEGViT.arch_zoo['deit-base']), 'TLEGViT')
    if 'num_layers' not in arch:
        raise ConfigError('TLEGViT: give the number of blocks, as depth or as num_layers of arch')
    return arch['num_layers']
