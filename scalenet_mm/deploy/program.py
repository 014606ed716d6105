"""A model as a program of ``torch.export``, from which files for other runtimes are made."""
from collections.abc import Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Optional, Union

import torch
import torch.nn as nn

from ..backbones.grown_backbone import find_block_lists, made_for_size
from ..errors import ConfigError, ExportError, ScaleNetError
from ..growth import check_ties
from .parts import Part, backbone_of, make_part

#: In the place of a batch size or an image size that is left open.
DYNAMIC = 'dynamic'


@dataclass
class ExportedPart:
    """A part of a model as a program.

    Args:
        program (torch.export.ExportedProgram): The program.
        part (Part): What it was made from.
        output_names (list[str]): Names of its outputs.
        size (tuple[int] | str): Height and width of its images, or 'dynamic'.
        batch (int | str): Their number, or 'dynamic'.
        channels (int): Their channels.
    """
    program: torch.export.ExportedProgram
    part: Part
    output_names: list
    size: Union[tuple, str]
    batch: Union[int, str]
    channels: int

    def sample_shapes(self) -> list:
        """list[tuple]: Shapes of images to try it with, several where one is left open."""
        batches = (1, 2, 5) if self.batch == DYNAMIC else (self.batch, )
        if self.size != DYNAMIC:
            return [(batch, self.channels, *self.size) for batch in batches]
        height, width = made_for_size(backbone_of(self.part.model))
        unit = self.part.unit or 1  # what is left open has one
        sizes = ((height, width), (height + unit, width), (height // 2, width + 2 * unit))
        sizes = [[max(n // unit, 2) * unit for n in size] for size in sizes]
        return [(batches[i % len(batches)], self.channels, *size) for i, size in enumerate(sizes)]


def export_program(model: nn.Module,
                   part: Optional[str] = None,
                   size: Union[int, Sequence, str, None] = None,
                   batch: Union[int, str] = DYNAMIC) -> ExportedPart:
    """Export part of a model by ``torch.export``, as it is in eval mode.

    Its ``program`` holds each tensor once, under the model's name for it, however many blocks
    share it; ``torch.export.save`` writes it to a file.

    Args:
        model (nn.Module): A classifier, detector or segmentor, or a backbone.
        part (str, optional): 'classifier' (images to logits) or 'backbone' (images to features);
            the first where the model is a classifier if None. Defaults to None.
        size (int | Sequence[int] | str, optional): Height and width of the images. 'dynamic'
            leaves it open, which plain vision transformers allow, for multiples of their patches;
            the size that the backbone was made for if None. Defaults to None.
        batch (int | str): Number of images. Defaults to 'dynamic', which leaves it open.

    Returns:
        ExportedPart: The program.

    Raises:
        ConfigError: If an option does not fit.
        ExportError: If torch cannot export it.
    """
    part = make_part(model, part)
    check_ties(part)
    stem = _first_convolution(part)
    channels, unit = stem.in_channels, stem.stride[0]
    size, batch = _check_size(size, part), _check_batch(batch)
    dims = {}
    if batch == DYNAMIC:
        dims[0] = torch.export.Dim('batch')
    shape = [2 if batch == DYNAMIC else batch, channels]
    if size == DYNAMIC:
        part.unit = unit
        dims.update({axis: unit * torch.export.Dim(name, min=2, max=2**16)
                     for axis, name in ((2, 'rows'), (3, 'columns'))})
        # neither the size that it was made for nor a square, lest a comparison bind it
        shape += [n // unit * unit + i * unit
                  for i, n in enumerate(made_for_size(backbone_of(part.model)), start=1)]
    else:
        shape += size
    image = torch.zeros(shape).to(stem.weight)
    with in_eval_mode(part), torch.no_grad():
        try:
            outputs = part(image)
        except (RuntimeError, ValueError, AssertionError) as error:
            if isinstance(error, ScaleNetError):
                raise
            raise ConfigError(f'{type(part.model).__name__} takes no images of the shape '
                              f'{tuple(shape)}: {error}') from error
        names = part.output_names(len(outputs))
        try:
            with _open_windows(part):
                program = torch.export.export(part, (image, ), dynamic_shapes=(dims, ))
        except Exception as error:  # whatever the tracer stumbles over in somebody's code
            raise ExportError(_cannot_export(part, size, batch, error)) from error
    return ExportedPart(program, part, names, size, batch, channels)


def _first_convolution(part):
    found = next((m for m in part.modules() if isinstance(m, nn.Conv2d)), None)
    if found is None:
        raise ConfigError(f'{type(part.model).__name__} has no convolution that would show how '
                          'many channels an image has, so it cannot be exported')
    if found.weight.device.type == 'meta':
        raise ConfigError("the model is on the device 'meta' and has no weights to export")
    return found


def _check_size(size, part):
    if size is None:
        return made_for_size(backbone_of(part.model))
    if size == DYNAMIC:
        # the tracer would work on it for minutes before it gave up
        backbone = backbone_of(part.model)
        has_windows = any(hasattr(m, 'window_size') for m in backbone.modules())
        if has_windows or len(find_block_lists(backbone)) > 1:
            raise ConfigError(f'the image size of a {type(backbone).__name__} cannot be left open: '
                              'its windows and paddings depend on it; name height and width, one '
                              'export for each size')
        return size
    pair = (size, size) if isinstance(size, int) else tuple(size)
    if len(pair) != 2 or not all(
            isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in pair):
        raise ConfigError(f"size must be height and width, or 'dynamic', got {size!r}")
    return pair


def _check_batch(batch):
    if batch != DYNAMIC and (isinstance(batch, bool) or not isinstance(batch, int) or batch < 1):
        raise ConfigError(f"batch must be a number of images or 'dynamic', got {batch!r}")
    return batch


def _cannot_export(part, size, batch, error):
    reason = next((line for line in str(error).splitlines() if line.strip()), type(error).__name__)
    text = f'torch.export cannot do {type(part.model).__name__}: {reason.strip()}'
    if size == DYNAMIC:
        return f'{text}. Its code may fix the size of images: name height and width'
    if batch == DYNAMIC:
        return f'{text}. Its code may fix the number of images: name a batch size'
    return text


@contextmanager
def _open_windows(part):
    """A context in which the stock Swins put windows together for any number of images.

    Theirs divides by a float and rounds to learn that number, and so fixes it.
    """

    def reverse(module, windows, height, width, window_size=None):
        size = window_size or module.window_size
        x = windows.view(-1, height // size, width // size, size, size, windows.shape[-1])
        return x.transpose(2, 3).reshape(-1, height, width, windows.shape[-1])

    stock = [m for m in part.modules() if callable(getattr(m, 'window_reverse', None))]
    for module in stock:
        module.window_reverse = partial(reverse, module)
    try:
        yield
    finally:
        for module in stock:
            del module.window_reverse


@contextmanager
def in_eval_mode(module):
    """A context in which a model is in eval mode."""
    modes = [(m, m.training) for m in module.modules()]
    for child, _ in modes:
        child.training = False
    try:
        yield
    finally:
        for child, training in modes:
            child.training = training
