"""Gradient norms of every distinct weight of a model (the paper's Figure 3)."""
from collections import Counter
from collections.abc import Iterable
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn as nn

from ..errors import ConfigError
from ..growth import is_norm, tied_modules
from ..growth.adjustment import kinds_of
from .layers import find_blocks

#: What a sample must hold for the loss, by toolbox.
LABELS = dict(mmpretrain='gt_label', mmdet='gt_instances', mmseg='gt_sem_seg')


@dataclass
class BlockGradient:
    """The gradient of the weights that a block owns.

    Args:
        name (str): The block within the backbone, like ``'layers.3'``.
        label (str): The same in short.
        uses (int): How many blocks of the model use these weights.
        norm (float): Norm of the gradient over all of them together.
        matrices (dict[str, float]): Norm over each one with two or more axes, by its name within
            the block.
    """
    name: str
    label: str
    uses: int
    norm: float
    matrices: dict = field(default_factory=dict)


@dataclass
class GradientNorms:
    """What :func:`measure_gradients` found.

    Args:
        samples (int): Number of samples.
        loss (float): The mean loss.
        blocks (list[BlockGradient]): One item a block that owns weights, in the order in which
            they run: each weight once, however many blocks use it. Norms, adapters and gains,
            which each block has for itself, are not among them.
        parameters (dict[str, dict]): ``norm``, ``kind`` ('weight', 'norm', 'adapter', 'gain') and
            ``numel`` of each parameter of the model, by its name.
    """
    samples: int
    loss: float
    blocks: list
    parameters: dict


def measure_gradients(model: nn.Module, batches: Iterable) -> GradientNorms:
    """Measure the norm of the mean gradient of the loss, for every parameter, frozen ones too.

    The model stays in eval mode: no drop path or dropout, running statistics of BatchNorms; the
    batch augmentations of its data preprocessor (mixup, cutmix) are left out. For a loss that is
    a mean over samples the result does not depend on the batch size. Detectors divide by what is
    matched in a batch, so that theirs does a little.

    Args:
        model (nn.Module): A classifier, detector or segmentor.
        batches (Iterable[dict]): Batches of a data loader.

    Returns:
        GradientNorms: The norms.

    Raises:
        ConfigError: If there are no batches, their samples hold no labels, or the loss is not
            finite.
    """
    model.eval()
    toolbox_model: Any = model  # with methods that torch does not know
    samples, loss_sum = 0, 0.
    sums: dict = {}
    with _everything_trains(model), _no_batch_augments(model):
        for batch in batches:
            # as in training: images padded together with their labels
            data = toolbox_model.data_preprocessor(batch, training=True)
            _check_labels(data)
            size = len(data['inputs'])
            model.zero_grad(set_to_none=True)
            loss, _ = toolbox_model.parse_losses(model(**data, mode='loss'))
            if not torch.isfinite(loss):
                raise ConfigError(f'the loss is {loss.item()}: the weights or the inputs are not '
                                  'what the model was made for')
            loss.backward()
            samples += size
            loss_sum += size * loss.item()
            for name, parameter in model.named_parameters():
                if parameter.grad is not None:
                    gradient = parameter.grad * size
                    sums[name] = sums[name].add_(gradient) if name in sums else gradient
        model.zero_grad(set_to_none=True)
    if not samples:
        raise ConfigError('there are no samples to measure the gradient on')

    kinds = kinds_of(model, is_norm)
    parameters = {
        name: dict(
            norm=(sums[name].double().norm().item() / samples if name in sums else 0.),
            kind=kinds[name],
            numel=parameter.numel())
        for name, parameter in model.named_parameters()
    }
    return GradientNorms(samples, loss_sum / samples, _of_blocks(model, parameters), parameters)


def _of_blocks(model, parameters):
    found = find_blocks(model.backbone)
    source_of = {id(module): id(source) for _, module, source in tied_modules(model.backbone)}
    uses = Counter(source_of.get(id(block.module), id(block.module)) for block in found)
    blocks = []
    for block in found:
        prefix = f'backbone.{block.name}.'
        own = {name[len(prefix):]: p for name, p in parameters.items()
               if name.startswith(prefix) and p['kind'] == 'weight'}
        if not own:
            continue  # a repeat: its weights are its source's
        tensors = dict(block.module.named_parameters())
        blocks.append(
            BlockGradient(
                block.name, block.label, uses[id(block.module)],
                sum(p['norm']**2 for p in own.values())**0.5,
                {name: p['norm'] for name, p in own.items() if tensors[name].ndim > 1}))
    return blocks


@contextmanager
def _everything_trains(model):
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    model.requires_grad_(True)
    try:
        yield
    finally:
        for name, parameter in model.named_parameters():
            parameter.requires_grad_(flags[name])


@contextmanager
def _no_batch_augments(model):
    preprocessor = model.data_preprocessor
    kept = getattr(preprocessor, 'batch_augments', None)
    if kept is not None:
        preprocessor.batch_augments = None
    try:
        yield
    finally:
        if kept is not None:
            preprocessor.batch_augments = kept


def _check_labels(data):
    for sample in data.get('data_samples') or ():
        if not any(name in sample for name in LABELS.values()):
            raise ConfigError('the samples hold no labels, so there is no loss: their pipeline '
                              'loads none (LoadAnnotations), or the data set has none '
                              '(with_label=True, ann_file); choose another --split')
