"""Let the linear layers and MLPs of a model take the fast paths."""
import torch.nn as nn
from torch.nn.modules.module import _has_any_global_hook

from . import fused, products
from .adjustment import Adjusted, affine_of
from .derived import Derived, change_class


class FastLinear(Derived):
    """A linear layer whose matrix products are computed as :mod:`.products` says.

    The weight's gradient is computed, and the input kept for it, only if the weight trains.
    """
    prefix = 'Fast'

    def forward(self, x):
        if fused.can_fuse(x) and products.chooses_onednn(x, self.weight):
            affine = fused.Affine(self.weight, self.bias)
            if fused.can_take(x, affine):
                return fused.fused_affine(x, affine, fused.IDENTITY)
        return super().forward(x)


class FusedMLP(Derived):
    """A Sequential of a linear layer, an activation and a linear layer, run as one operation.

    Its parts are run one by one where one of them has a hook, is of another class by now, drops
    out, or where the fast paths cannot go.
    """
    prefix = 'Fused'

    def forward(self, x):
        if fused.can_fuse(x):
            found = _find_mlp(self)
            if found is not None and fused.can_take(x, *found[:2]):
                return fused.fused_mlp(x, *found)
        return super().forward(x)


def _find_mlp(sequence):
    """What :func:`fused.fused_mlp` takes, if the parts are as they were, and silent."""
    parts = _mlp_parts(sequence)
    if parts is None or any(_is_watched(m) or _drops(m) for m in parts):
        return None
    first, act, second = (m for m in parts if not isinstance(m, nn.Dropout))
    first, second = affine_of(first), affine_of(second)
    if first is None or second is None or first[0].gain is not None:
        return None
    return first[0], second[0], (first[1], fused.find_activation(act), second[1])


def _mlp_parts(sequence):
    """The modules that a Sequential calls, if they are those of an MLP; else None."""
    parts = []
    for child in sequence._modules.values():
        if not isinstance(child, nn.Sequential):
            parts.append(child)
        elif _is_watched(child):
            return None
        else:
            parts += child._modules.values()
    kinds = [m for m in parts if not isinstance(m, (nn.Dropout, nn.Identity))]
    if len(kinds) != 3 or not isinstance(kinds[0], nn.Linear) or not isinstance(
            kinds[2], nn.Linear) or fused.find_activation(kinds[1]) is None:
        return None
    return [m for m in parts if not isinstance(m, nn.Identity)]


def _drops(module):
    return isinstance(module, nn.Dropout) and module.training and module.p > 0


def _is_watched(module):
    """Whether calling a module does more than its class's forward."""
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
                or module._backward_pre_hooks or 'forward' in module.__dict__
                or _has_any_global_hook())


def speed_up(module: nn.Module) -> nn.Module:
    """Let the linear layers and MLPs in a module take the fast paths, in place.

    It changes classes and no tensor: what there was keeps its name and value, and is an instance
    of its own class still. Growing does it to the blocks of a list.

    Args:
        module (nn.Module): A block, a head, or a whole model.

    Returns:
        nn.Module: ``module``.
    """
    for child in module.modules():
        if isinstance(child, (Adjusted, FastLinear, FusedMLP)):
            continue
        if fused.is_plain_linear(child):
            change_class(child, FastLinear)
        elif isinstance(child, nn.Sequential) and _mlp_parts(child) is not None:
            change_class(child, FusedMLP)
    return module
