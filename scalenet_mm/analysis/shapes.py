"""Running a model for the shapes of its tensors alone."""
from typing import Any, Callable, Optional

import torch
from torch.overrides import TorchFunctionMode
from torch.utils._pytree import tree_leaves, tree_map_only


def _is_meta(value):
    return isinstance(value, torch.Tensor) and value.device.type == 'meta'


def _may_follow(value):
    """A tensor that cannot stand beside one on 'meta'; a number can."""
    return isinstance(value, torch.Tensor) and value.device.type == 'cpu' and value.dim() > 0


class ShapesOnly(TorchFunctionMode):
    """Lets detectors and mask classifiers run on the device 'meta', where tensors have no values.

    - Sizes of feature maps that a model writes into a tensor and reads again (deformable attention)
      keep their values.
    - What is selected by its values (the regions of each level of a pyramid) is nothing: the
      results have their full size all the same, since they are allocated before.

    A model that needs values for anything else still fails.
    """

    def __torch_function__(self, func: Callable, types: Any, args: tuple = (),
                           kwargs: Optional[dict] = None) -> Any:
        """Call one function of torch, or what stands in for it."""
        kwargs = kwargs or {}
        first: Any = args[0] if args else None
        if func in (torch.nonzero, torch.Tensor.nonzero) and _is_meta(first):
            nothing = first.new_empty(0, first.dim(), dtype=torch.long)
            return nothing.unbind(1) if kwargs.get('as_tuple') else nothing
        if (func is torch.Tensor.to and first.device.type == 'cpu'
                and not first.is_floating_point()):
            return first  # sizes, on their way to the features
        values = tree_leaves((args, kwargs))
        if any(map(_is_meta, values)) and any(map(_may_follow, values)):
            args, kwargs = tree_map_only(
                torch.Tensor, lambda x: torch.empty_like(x, device='meta') if _may_follow(x) else x,
                (args, kwargs))
        return func(*args, **kwargs)
