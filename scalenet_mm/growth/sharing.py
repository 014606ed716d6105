"""Weight sharing: a repeat uses another block's tensors and owns its norms (eq. 4 and 5).

A repeat keeps its source *module*, unregistered, and reads the source's tensors when it needs
them. So each shared tensor is registered once, under the source's name, and ``state_dict``,
optimizers, DDP, EMA and FLOPs counters see it once. Holding the ``Parameter`` itself would break
silently whenever the source's parameter is replaced (``load_state_dict(assign=True)``, meta
tensors, ``functional_call``, parametrisations).
"""
import copy
from collections.abc import Callable, Iterator

import torch
import torch.nn as nn
from torch.nn.modules.batchnorm import _BatchNorm

from ..errors import GrowthError
from .derived import Derived, change_class, derive_class

# what a repeat gets afresh: torch's own fields, and code compiled for the source
_MODULE_FIELDS = frozenset(nn.Module().__dict__) | {'_compiled_call_impl'}
_OWN_NORMS = tuple(
    getattr(nn, name) for name in ('LayerNorm', 'GroupNorm', 'RMSNorm') if hasattr(nn, name))


def is_norm(module: nn.Module) -> bool:
    """Whether a module is a normalisation layer that every instance of a block owns."""
    return isinstance(module, _OWN_NORMS)


def is_batch_norm(module: nn.Module) -> bool:
    """Whether a module keeps running statistics: BatchNorm, and mmcv's own SyncBN too."""
    return isinstance(module, _BatchNorm) or module._buffers.get('running_mean') is not None


def has_tensors(module: nn.Module) -> bool:
    """Whether a module or anything in it registers a parameter or a buffer."""
    return any(True for _ in module.parameters()) or any(True for _ in module.buffers())


class Tied(Derived):
    """A module whose tensors are its source's."""
    prefix = 'Tied'
    _source: tuple

    @property
    def sources(self) -> tuple:
        """tuple[nn.Module]: The modules whose tensors it reads."""
        return self._source

    def __deepcopy__(self, memo):
        # The copy of a tied module must be tied to the copies of its sources. They come first in
        # the model, so when all are copied together they are in the memo already.
        if any(id(source) not in memo for source in self.sources):
            raise GrowthError(
                f'a repeated {self._recipe[0].__name__} uses the tensors of another and cannot be '
                'deep-copied without it: copy the whole grown list, or the model')
        reduced = self.__reduce_ex__(4)
        new = reduced[0](*reduced[1])
        memo[id(self)] = new
        new.__setstate__(copy.deepcopy(reduced[2], memo))
        return new


class Repeat(Derived):
    """The outermost module of a repeat: a block that must keep the shape of its input."""
    prefix = 'Repeated'

    def forward(self, *args, **kwargs):
        """Run the block, and see that the output has the input's shape."""
        out = super().forward(*args, **kwargs)
        before, after = _first_tensor((*args, *kwargs.values())), _first_tensor(out)
        if before is not None and after is not None and before.shape != after.shape:
            raise GrowthError(
                f'a {self._recipe[0].__name__} turns an input of shape {tuple(before.shape)} into '
                f'{tuple(after.shape)}: a block whose output differs in shape cannot be repeated; '
                'leave it out by growth.blocks or growth.stages')
        return out


def _first_tensor(value):
    # blocks may take and give tuples, the features first
    while isinstance(value, (tuple, list)) and value:
        value = value[0]
    return value if isinstance(value, torch.Tensor) else None


def tie(source: nn.Module, owned: Callable = is_norm) -> nn.Module:
    """Make a repeat of a block.

    Args:
        source (nn.Module): The block whose tensors the repeat uses.
        owned (Callable): Tells for a submodule whether the repeat gets a copy of its own of it.
            Defaults to :func:`is_norm`.

    Returns:
        nn.Module: A module of the same class and structure. It owns copies of the ``owned``
        submodules and of those without tensors (drop path, activations), and reads everything
        else from ``source``.

    Raises:
        GrowthError: If the block keeps a module or tensor in a plain attribute, where a tie
            would be missed.
    """
    twin = _tie(source, owned, {})
    change_class(twin, Repeat)
    return twin


def _tie(source, owned, memo):
    if id(source) in memo:
        return memo[id(source)]
    if owned(source) or not has_tensors(source):
        twin = copy.deepcopy(source)
        memo[id(source)] = twin
        return twin

    tensors = {**source._parameters, **source._buffers}
    tied = tuple(sorted(name for name, tensor in tensors.items() if tensor is not None))
    cls = derive_class(type(source), Tied, tied)
    twin = cls.__new__(cls)
    nn.Module.__init__(twin)
    memo[id(source)] = twin
    for name, value in source.__dict__.items():
        if name in _MODULE_FIELDS or name == '_source':
            continue
        if name == 'forward':
            raise GrowthError(
                f'the forward of a {type(source).__name__} was replaced on the instance (by '
                'activation checkpointing, say), so a repeat would run its source: grow first, '
                'replace it afterwards')
        copied = {}
        twin.__dict__[name] = copy.deepcopy(value, copied)
        # the memo holds whatever was copied, however deep it was hidden
        if any(isinstance(v, (nn.Module, torch.Tensor)) for v in copied.values()):
            raise GrowthError(
                f'{type(source).__name__}.{name} holds a module or tensor outside of the '
                'registered ones, so it would be copied and not shared: register it, or leave '
                'this block out by growth.blocks')
    twin.__dict__['_source'] = (source, )
    twin.training = source.training
    for slots, own in ((source._parameters, twin._parameters), (source._buffers, twin._buffers)):
        own.update((name, None) for name, tensor in slots.items() if tensor is None)
    twin._non_persistent_buffers_set = set(twin._buffers) & source._non_persistent_buffers_set
    for name, child in source._modules.items():
        twin._modules[name] = None if child is None else _tie(child, owned, memo)
    return twin


def tied_modules(model: nn.Module) -> Iterator:
    """Yield ``(name, module, source)`` of every tied module in a model."""
    for name, module in model.named_modules():
        if isinstance(module, Tied):
            yield name, module, module._source[0]


def shared_parameters(model: nn.Module) -> list:
    """list[nn.Parameter]: The parameters that more than one block of a model uses, each once."""
    shared = {}
    for _, module, source in tied_modules(model):
        names = {n for behaviour, tied in module._recipe[1] if behaviour is Tied for n in tied}
        for name in names:
            tensor = getattr(source, name)
            if isinstance(tensor, nn.Parameter):
                shared[id(tensor)] = tensor
    return list(shared.values())


def check_ties(model: nn.Module) -> None:
    """Check that every tied module still reads from a module of the same model.

    Raises:
        GrowthError: Naming the ties that broke, for example because a submodule was replaced.
    """
    present = {id(module) for module in model.modules()}
    broken = [name for name, module, _ in tied_modules(model)
              if any(id(source) not in present for source in module.sources)]
    if broken:
        raise GrowthError(
            f'{len(broken)} repeat(s) no longer share with a block of this model: '
            f'{", ".join(broken[:5])}{", ..." if len(broken) > 5 else ""}. A module they share '
            'with was replaced after growing; replace it first and grow afterwards')


def check_repeatable(block: nn.Module, name: str) -> None:
    """Check what can be seen of a block without running it.

    Raises:
        GrowthError: If the block holds BatchNorm, or its first weighted layer takes another
            width than its last one gives.
    """
    widths, norms = [], []
    for sub_name, module in block.named_modules():
        if is_batch_norm(module):
            raise GrowthError(
                f'block {name!r} holds a BatchNorm ({sub_name}): its running statistics belong '
                'to one place in the network and cannot serve two; such blocks cannot be grown')
        if isinstance(module, nn.Linear):
            widths.append((module.in_features, module.out_features))
        elif isinstance(module, nn.modules.conv._ConvNd):
            widths.append((module.in_channels, module.out_channels))
        elif isinstance(module, nn.LayerNorm):
            norms.append(module.normalized_shape[-1])
    if not widths or widths[0][0] == widths[-1][1]:
        return
    # The layer that is registered first is not always the one that takes the block's input (a
    # position MLP, a mixing of tokens); the norm in front of it shows the block's width then.
    given = widths[-1][1]
    if given not in norms[:1] or given not in [taken for taken, _ in widths]:
        raise GrowthError(
            f'block {name!r} takes {widths[0][0]} features and gives {given}: a block '
            'whose output differs in shape from its input cannot be repeated; leave it out by '
            'growth.blocks or growth.stages')
