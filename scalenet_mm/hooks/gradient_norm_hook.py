"""Gradient norms of the small parts that train, beside the losses in every log."""
from typing import Any, Dict, List, Sequence

import torch
import torch.nn as nn
from mmengine.hooks import Hook
from mmengine.optim import OptimWrapper
from mmengine.registry import HOOKS

from ..errors import ConfigError
from ..growth import is_norm
from ..growth.adjustment import kinds_of
from .adapter_injection_hook import unwrap

#: What a group is called, by the kind of a parameter of the backbone.
OF_KIND = dict(adapter='adapters', gain='gains', norm='norms', weight='weights')
HEAD, ALL = 'head', 'all'
GROUPS = (*OF_KIND.values(), HEAD, ALL)


@HOOKS.register_module()
class GradientNormHook(Hook):
    """Log the norm of the gradient of each group of parameters.

    The norms stand beside the losses as ``grad_norm/adapters`` and so on: in the text log, in
    ``scalars.json``, and in TensorBoard or whatever other backend the visualizer writes to. They
    are those of the gradient that the optimizer is about to use: summed over accumulated batches,
    averaged over processes, without the loss scale of mixed precision, and *before* clipping. An
    update that the loss scaler skips, as its gradient is not finite, is not measured.

    The logs average them as they do losses, over the latest ``log_processor.window_size``
    measurements. A group none of whose parameters train is left out.

    Args:
        interval (int): Measure every so many updates of the weights, and the first one. Defaults
            to 1.
        groups (Sequence[str]): Any of 'adapters' (LoRA too), 'gains', 'norms' and 'weights' (all
            else) of the backbone, 'head' (everything outside of the backbone) and 'all'.
            Defaults to ('adapters', 'gains', 'norms', 'head').

    Raises:
        ConfigError: If an option can't be meant, or the optimizer is none that can be measured.
    """

    priority = 'NORMAL'

    def __init__(self,
                 interval: int = 1,
                 groups: Sequence[str] = ('adapters', 'gains', 'norms', 'head')):
        if not isinstance(interval, int) or isinstance(interval, bool) or interval < 1:
            raise ConfigError(f'GradientNormHook: interval must be an integer >= 1, got '
                              f'{interval!r}')
        groups = (groups, ) if isinstance(groups, str) else tuple(groups)
        wrong = [group for group in groups if group not in GROUPS]
        if wrong or not groups:
            raise ConfigError(f'GradientNormHook: groups are {", ".join(GROUPS)}, got '
                              f'{wrong[0] if wrong else "none"}')
        self.interval = interval
        self.groups = groups
        self._updates = 0
        self._members: Dict[str, List[nn.Parameter]] = {}
        self._all: List[nn.Parameter] = []

    def before_train(self, runner) -> None:
        """Measure in front of every step of the optimizer from now on."""
        wrapper = runner.optim_wrapper
        if not isinstance(wrapper, OptimWrapper):
            raise ConfigError(f'GradientNormHook: it measures an OptimWrapper, the config has '
                              f'{type(wrapper).__name__}; remove the hook')
        self._updates = 0
        self._members = group_parameters(unwrap(runner.model), self.groups)
        self._all = [p for p in unwrap(runner.model).parameters() if p.requires_grad]
        if not self._members:
            runner.logger.info('GradientNormHook: nothing of ' + ', '.join(self.groups)
                               + ' trains; no gradient norms are logged')
            return
        self.after_train(runner)
        step = wrapper.step

        # Hooks see a gradient only when it is spent: the wrapper's one call computes it, clips it,
        # uses it and sets it to zero.
        def measure_and_step(*args, **kwargs):
            self._measure(runner, wrapper)
            return step(*args, **kwargs)

        wrapper.step = measure_and_step

    def after_train(self, runner) -> None:
        """Leave the optimizer's wrapper as it was."""
        vars(runner.optim_wrapper).pop('step', None)

    def _measure(self, runner, wrapper) -> None:
        self._updates += 1
        if self._updates != 1 and self._updates % self.interval:
            return
        scaler: Any = getattr(wrapper, 'loss_scaler', None)
        scale = 1.
        if not is_unscaled(scaler):
            # one gradient anywhere is enough for the scaler to skip the update of all weights
            if not gradient_norm(self._all) < float('inf'):  # true of what is no number, too
                return
            scale = float(scaler.get_scale())
        for name, parameters in self._members.items():
            runner.message_hub.update_scalar(
                f'train/grad_norm/{name}', gradient_norm(parameters) / scale)


def is_unscaled(scaler) -> bool:
    """bool: Whether gradients are what they are, without the scale of mixed precision."""
    return scaler is None or not scaler.is_enabled()


def group_parameters(model: nn.Module, groups: Sequence[str]) -> Dict[str, List[nn.Parameter]]:
    """Sort the parameters that train.

    Args:
        model (nn.Module): The model.
        groups (Sequence[str]): The groups, of :data:`GROUPS`.

    Returns:
        dict[str, list[nn.Parameter]]: The members of each group that has any.
    """
    members: Dict[str, List[nn.Parameter]] = {group: [] for group in groups}
    kinds = kinds_of(model, is_norm)
    for name, parameter in model.named_parameters():
        if not parameter.requires_grad:
            continue
        inside = name.startswith('backbone.')
        for group in (OF_KIND[kinds[name]] if inside else HEAD, ALL):
            if group in members:
                members[group].append(parameter)
    return {group: found for group, found in members.items() if found}


def gradient_norm(parameters: Sequence[nn.Parameter]) -> float:
    """Get the norm of the gradient of several parameters together.

    Args:
        parameters (Sequence[nn.Parameter]): The parameters; those without a gradient count as 0.

    Returns:
        float: The Euclidean norm, summed up in float32 at least.
    """
    norms = []
    for parameter in parameters:
        if parameter.grad is not None:
            dtype = torch.promote_types(parameter.grad.dtype, torch.float32)
            norms.append(torch.linalg.vector_norm(parameter.grad, dtype=dtype))
    return float(torch.linalg.vector_norm(torch.stack(norms))) if norms else 0.
