"""Let the linear layers and MLPs of a model take the fast paths."""
import torch.nn as nn
import torch.nn.functional as F

from . import fused, products
from .adjustment import Adjusted, affine_of
from .derived import Derived, change_class, take_behaviour


class FastLinear(Derived):
    """A linear layer whose matrix products are computed as :mod:`.products` says.

    The weight's gradient is computed, and the input kept for it, only if the weight trains.
    """
    prefix = 'Fast'

    def forward(self, x):
        """Compute ``W x + b``."""
        weight = self.weight  # once: a parametrisation computes it at every access
        if fused.can_fuse(x) and products.chooses_onednn(x, weight):
            affine = fused.Affine(weight, self.bias)
            if fused.can_take(x, affine):
                return fused.fused_affine(x, affine, fused.IDENTITY)
        return F.linear(x, weight, self.bias)


class FusedMLP(Derived):
    """A Sequential of a linear layer, an activation and a linear layer, run as one operation.

    Its parts are run one by one where one of them has a hook, is of another class by now, drops
    out, or where the fast paths cannot go.
    """
    prefix = 'Fused'

    def forward(self, x):
        """Compute the MLP in one operation where that is possible."""
        if fused.can_fuse(x):
            found = _find_mlp(self)
            if found is not None and fused.can_take(x, *found[:2]):
                return fused.fused_mlp(x, *found)
        return super().forward(x)


def _find_mlp(sequence):
    """What :func:`fused.fused_mlp` takes, if the parts are as they were, and silent."""
    parts = _parts(sequence)
    if parts is None or any(fused.is_watched(m) or _drops(m) for m in parts):
        return None
    first, act, second = (m for m in parts if type(m) not in _SILENT)
    first, second = affine_of(first), affine_of(second)
    if first is None or second is None or first[0].gain is not None:
        return None
    return first[0], second[0], (first[1], fused.find_activation(act), second[1])


#: Modules in an MLP that compute nothing, dropout while it drops nothing.
_SILENT = (nn.Dropout, nn.Identity)


def _parts(sequence):
    """The modules that a Sequential calls, if they are those of an MLP; else None."""
    parts = []
    for child in sequence._modules.values():
        if not isinstance(child, nn.Sequential):
            parts.append(child)
        elif fused.is_watched(child) or not _runs_in_turn(child):
            return None
        else:
            parts += child._modules.values()
    kinds = [m for m in parts if type(m) not in _SILENT]
    if len(kinds) != 3 or fused.find_activation(kinds[1]) is None or not all(
            fused.is_plain_linear(m) for m in (kinds[0], kinds[2])):
        return None
    return parts


def _runs_in_turn(sequence):
    """Whether a Sequential does what its name says; a subclass may do more."""
    return fused.class_of(sequence).forward is nn.Sequential.forward


def _drops(module):
    return isinstance(module, nn.Dropout) and module.training and module.p > 0


def speed_up(module: nn.Module, enabled: bool = True) -> nn.Module:
    """Let the linear layers and MLPs in a module take the fast paths, in place.

    It changes classes and no tensor: what there was keeps its name and value, and is an instance
    of its own class still. Growing does it to the blocks of a list, the backbones and
    :class:`AdapterInjectionHook` to a whole model.

    Args:
        module (nn.Module): A block, a head, or a whole model.
        enabled (bool): If False, the classes are what they were before, for tools that go by the
            exact class (dynamic quantisation, ``torch.jit.script``, mmcv's FLOPs counter).
            Defaults to True.

    Returns:
        nn.Module: ``module``.
    """
    for child in module.modules():
        if not enabled:
            for behaviour in (FastLinear, FusedMLP):
                if isinstance(child, behaviour):
                    take_behaviour(child, behaviour)
        elif isinstance(child, (Adjusted, FastLinear, FusedMLP)):
            continue
        elif fused.is_plain_linear(child):
            change_class(child, FastLinear)
        elif isinstance(child, nn.Sequential) and _runs_in_turn(child) and (
                _parts(child) is not None):
            change_class(child, FusedMLP)
    return module
