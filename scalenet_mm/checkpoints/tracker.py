"""Which parameters of a model came from a file."""
import re

import torch.nn as nn

from ..errors import CheckpointError


class LoadTracker:
    """Watch a model and remember which of its parameters a checkpoint gave.

    It sees every way of loading: ``load_from``, ``init_cfg``, ``load_state_dict``.

    Args:
        model (nn.Module): The model, unwrapped.
    """

    def __init__(self, model: nn.Module):
        self.model = model
        # a parameter's place and not the parameter: load_state_dict(assign=True) replaces it
        self.loaded: set = set()
        self._handles = [
            module._register_load_state_dict_pre_hook(self._watch(module))
            for module in model.modules() if module._parameters
        ]

    def _watch(self, module):

        def note(state_dict, prefix, *args):
            for name, parameter in module._parameters.items():
                value = state_dict.get(prefix + name)
                if parameter is not None and value is not None \
                        and value.shape == parameter.shape:
                    self.loaded.add((id(module), name))

        return note

    def stop(self) -> None:
        """Stop watching."""
        for handle in self._handles:
            handle.remove()
        self._handles = []

    def check_frozen(self, model: nn.Module) -> None:
        """Check that every frozen parameter came from a file.

        Raises:
            CheckpointError: Naming those that are random and would stay so.
        """
        # a parameter that stands in two places is loaded if it was in one of them
        loaded = {
            id(p)
            for module in model.modules() for name, p in module._parameters.items()
            if (id(module), name) in self.loaded
        }
        random = [
            name for name, p in model.named_parameters()
            if not p.requires_grad and id(p) not in loaded
        ]
        if not random:
            return
        modules = sorted({name.rsplit('.', 1)[0] for name in random})
        shown = ', '.join(modules[:4]) + (', ...' if len(modules) > 4 else '')
        rules = ', '.join(f"dict(train=r'{re.escape(name)}')" for name in modules[:4])
        rules += ', ...' if len(modules) > 4 else ''
        raise CheckpointError(
            f'{len(random)} parameters are frozen but came from no checkpoint, so they would stay '
            f'random: {shown}. Either name a checkpoint that holds them (load_from=...), or let '
            f'them train by further rules: freeze=[..., {rules}]. If they are meant to be random, '
            'set require_loaded=False in the AdapterInjectionHook')
