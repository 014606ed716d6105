"""Several models in one process, whose pretrained weights stand in memory once."""
from typing import Union

import torch
import torch.nn as nn

from ..errors import CheckpointError
from .base_files import find_base, open_base
from .delta import check_base, check_manifest, is_delta, outline, whole_state
from .report import explain_names, refuse_other_blocks
from .safe import load_file


class Base:
    """A base in memory, from which any number of models take their tensors.

    Only what a model has taken is in memory.

    Args:
        source (str): A path, a URL or a name of a model zoo.
        device (str | torch.device): Where the models are to run. Defaults to 'cpu'.

    Raises:
        CheckpointError: If there is no such file.
    """

    def __init__(self, source: str, device: Union[str, torch.device] = 'cpu'):
        self.device = torch.device(device)
        self._file = open_base(source)
        self._held: dict = {}

    @property
    def path(self) -> str:
        """str: The local file."""
        return self._file.path

    @property
    def identity(self) -> dict:
        """dict: What a manifest says of it."""
        return self._file.identity

    @property
    def tensors(self) -> dict:
        """dict: The tensors of the file by name, on the disk."""
        return self._file.tensors

    def get(self, origin) -> torch.Tensor:
        """Give what a manifest's map names: always the same tensor for the same thing."""
        key = origin if isinstance(origin, str) else tuple(origin)
        if key not in self._held:
            self._held[key] = self._file.get(origin).to(self.device, copy=True)
        return self._held[key]


def load_delta(model: nn.Module, delta: str, base: Union[Base, str, None] = None) -> nn.Module:
    """Load a delta into a model, whose other tensors then are the base's own, not copies.

    Models that were given the same :class:`Base` share them. So a model can also be switched from
    one delta to another, of the same growth, at the cost of reading the small file. What is shared
    does not train any more, and must not be initialised again: that would change all the models.
    Buffers such as a BatchNorm's statistics are not shared.

    Args:
        model (nn.Module): The model that the delta was saved from, built from its config; its own
            weights may be on the device 'meta'.
        delta (str): The delta's file.
        base (Base | str, optional): The base, or its file; looked for if None, see
            :func:`find_base`. Defaults to None.

    Returns:
        nn.Module: ``model``.

    Raises:
        CheckpointError: If the delta is of another base or another model, damaged, or none;
            nothing was loaded then.
    """
    device = base.device if isinstance(base, Base) else 'cpu'
    checkpoint = load_file(delta, device)
    if not is_delta(checkpoint):
        raise CheckpointError(f'{delta} is no delta: load it as any checkpoint, or make one of it '
                              'by tools/delta.py extract')
    manifest = check_manifest(checkpoint, delta)
    if base is None:
        base = find_base(manifest['base'], delta).path
    base = base if isinstance(base, Base) else Base(base)
    check_base(manifest, base, delta)
    _check_model(model, manifest, delta)
    state = whole_state(checkpoint, base)
    for name, _ in model.named_buffers():
        # a forward pass may write into them; the index of a Swin's table never changes
        if name in manifest['map'] and not name.endswith('relative_position_index'):
            state[name] = state[name].clone()
    model.load_state_dict(state, strict=True, assign=True)
    for name, parameter in model.named_parameters():
        if name in manifest['map']:
            parameter.requires_grad_(False)
    return model


def _check_model(model, manifest, name):
    """Refuse a delta of another model, in the words of the first differences."""
    theirs = manifest['tensors']
    ours = {key: outline(value) for key, value in model.state_dict().items()}
    problems = [f'{key} has shape {tuple(theirs[key][1])}, the model wants {tuple(ours[key][1])}'
                for key in ours if key in theirs and theirs[key][1] != ours[key][1]]
    problems += [f'{key} is missing' for key in ours if key not in theirs]
    problems += [f'{key} has no place in the model' for key in theirs if key not in ours]
    if not problems:
        refuse_other_blocks(model, manifest['growth'], name)
        return
    prefix = 'backbone.' if hasattr(model, 'backbone') else ''
    more = f' and {len(problems) - 4} more' if len(problems) > 4 else ''
    raise CheckpointError(
        f'{name} is a delta of another model: {explain_names(ours, theirs, prefix)}'
        f'{"; ".join(problems[:4])}{more}. Build the model from the config that the delta was '
        'trained with; tools/delta.py inspect tells how it was grown')
