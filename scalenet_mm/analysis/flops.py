"""Multiply-accumulates of a forward pass: what papers print as FLOPs."""
import inspect
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from math import prod
from typing import Any

import torch
import torch.nn as nn
from mmengine.analysis import complexity_analysis
from mmengine.analysis.jit_handles import get_shape
from mmengine.model import BaseModel
from mmengine.structures import BaseDataElement, InstanceData
from torch.utils.flop_counter import FlopCounterMode

from ..errors import ConfigError
from ..growth.grow import without_data
from .shapes import ShapesOnly

SDPA = 'aten::scaled_dot_product_attention'
#: Attributes of detectors and segmentors.
DENSE_HEADS = ('roi_head', 'bbox_head', 'panoptic_head', 'decode_head')


def _attention_sizes(inputs):
    """Batch (heads and windows included), queries, keys, and widths of keys and values."""
    query, key, value = (get_shape(v) for v in inputs[:3])
    return prod(query[:-2]), query[-2], key[-2], query[-1], value[-1]


def attention_flop_jit(inputs: list, outputs: list) -> int:
    """Count the two products of an attention; mmengine's handlers have this signature.

    Args:
        inputs (list[torch._C.Value]): Query, key, value, and more that does not count.
        outputs (list[torch._C.Value]): The result.

    Returns:
        int: Multiply-accumulates.
    """
    batch, queries, keys, width, value_width = _attention_sizes(inputs)
    return batch * queries * keys * (width + value_width)


def attention_activation_jit(inputs: list, outputs: list) -> int:
    """Count the elements of an attention's two products, as if they were written out.

    Args:
        inputs (list[torch._C.Value]): Query, key, value, and more that does not count.
        outputs (list[torch._C.Value]): The result.

    Returns:
        int: Elements.
    """
    batch, queries, keys, _, value_width = _attention_sizes(inputs)
    return batch * queries * (keys + value_width)


def register_flop_handlers() -> None:
    """Make the FLOPs tools of all toolboxes count attention.

    They use mmengine's table, which has no entry for ``scaled_dot_product_attention`` and leaves
    an operator that it does not know out of the sum. An entry that is there is kept.
    """
    for table, handler in (('_DEFAULT_SUPPORTED_FLOP_OPS', attention_flop_jit),
                           ('_DEFAULT_SUPPORTED_ACT_OPS', attention_activation_jit)):
        # private names: a version of mmengine that renames them must not break the import
        getattr(complexity_analysis, table, {}).setdefault(SDPA, handler)


def count_flops(model: nn.Module, input_shape: Sequence = (3, 224, 224)) -> int:
    """Count the multiply-accumulates of one image's forward pass in eval mode.

    Matrix products and convolutions count, those inside of attention and of adapters too; norms,
    activations and sums do not. Nothing is computed: a model of any size takes about a second,
    and its weights may be on 'meta'.

    Heads that work on regions, whose number depends on what is in the image, count with as many
    as the model's ``test_cfg`` lets pass at most: the box head with ``rpn.max_per_img`` (1,000 in
    mmdet's configs), the mask head with ``rcnn.max_per_img`` (100).

    Args:
        model (nn.Module): A backbone, or a model of mmpretrain, mmseg or mmdet, with its heads.
        input_shape (Sequence[int]): Channels, height and width. Defaults to (3, 224, 224).

    Returns:
        int: Multiply-accumulates.

    Raises:
        ConfigError: If the model does not run without data.
    """
    shell: Any = without_data(model).eval()
    image = torch.empty(1, *input_shape, device='meta')
    try:
        # plain models do without, and it takes half again their time
        dense = any(hasattr(shell, head) for head in DENSE_HEADS)
        with torch.no_grad(), ShapesOnly() if dense else nullcontext():
            if not hasattr(shell, 'roi_head'):
                return _products(lambda: _run(shell, image))
            features, count = _dense_part(shell, image)
            regions = shell.test_cfg.rpn.max_per_img
            count += _head_on_regions(shell, features, image, regions, masks=False)
            if shell.roi_head.with_mask:
                found = shell.test_cfg.rcnn.max_per_img
                count += _head_on_regions(shell, features, image, found, masks=True)
                count -= _head_on_regions(shell, features, image, found, masks=False)
            return count
    except (NotImplementedError, RuntimeError, TypeError) as error:
        raise ConfigError(f'{type(model).__name__} cannot be counted on an image of shape '
                          f'{tuple(input_shape)} without data; count its backbone instead '
                          f'(model.backbone): {str(error).splitlines()[0]}') from error


def _products(run: Callable) -> int:
    with FlopCounterMode(display=False) as counter:
        run()
    # torch counts a multiplication and an addition as two
    return counter.get_total_flops() // 2


def _samples(image):
    """What heads are told of a batch of one image that fills it."""
    size = tuple(image.shape[-2:])
    known = dict(img_shape=size, ori_shape=size, pad_shape=size, batch_input_shape=size,
                 scale_factor=(1., 1.), flip=False)
    return [BaseDataElement(metainfo=known)]


def _run(model, image):
    """Everything but the regions' heads of a detector, and but what turns outputs to results."""
    if not isinstance(model, BaseModel):
        return model(image)
    head = getattr(model, 'decode_head', None)
    if head is not None and 'batch_data_samples' in inspect.signature(head.forward).parameters:
        # mmseg's tensor mode forgets what a head of mmdet's wants
        return head(model.extract_feat(image), _samples(image))
    if hasattr(model, 'bbox_head') or hasattr(model, 'panoptic_head'):
        return model(image, _samples(image), mode='tensor')
    return model(image, mode='tensor')


def _dense_part(detector, image):
    """The features of a two-stage detector, and what they and its RPN take."""
    features = []
    count = _products(lambda: features.extend(detector.extract_feat(image)))
    return features, count + _products(lambda: detector.rpn_head(features))


def _head_on_regions(detector, features, image, number, masks):
    """What a two-stage detector's heads take on a number of regions, without or with masks."""
    head, mask_head = detector.roi_head, getattr(detector.roi_head, 'mask_head', None)
    regions = [InstanceData(bboxes=image.new_empty(number, 4))]
    head.mask_head = mask_head if masks else None
    try:
        return _products(lambda: head.forward(features, regions, _samples(image)))
    finally:
        head.mask_head = mask_head
