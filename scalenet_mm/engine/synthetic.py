"""Made-up training batches of the three toolboxes, of the sizes that a config's data would have."""
from collections.abc import Iterator, Sequence
from typing import Optional

import torch
from mmengine.config import Config

from scalenet_mm.engine.scopes import get_scope, iter_datasets, type_name
from scalenet_mm.errors import ConfigError
from scalenet_mm.utils.model_cfg import student_cfg

#: Shape of most of COCO's images, and how many objects they have on average.
COCO_SHAPE = (480, 640)
COCO_OBJECTS = 7


def _transforms(pipeline) -> Iterator:
    """Yield the transforms of a pipeline, those within others too."""
    for item in pipeline or ():
        if isinstance(item, dict):
            yield item
            yield from _transforms(item.get('transforms'))
        elif isinstance(item, (list, tuple)):
            yield from _transforms(item)


def _pair(value):
    """tuple[int]: A size given as one number or two."""
    return (value, value) if isinstance(value, (int, float)) else tuple(value)[:2]


def _pipeline(cfg):
    for _, dataset in iter_datasets(cfg.train_dataloader.dataset, 'train_dataloader.dataset'):
        if dataset.get('pipeline'):
            return list(_transforms(dataset['pipeline']))
    return []


def image_size(cfg: Config) -> tuple:
    """Find the size of the images that a config trains on.

    Args:
        cfg (Config): The config.

    Returns:
        tuple[int, int]: Height and width. Of a detection config, an image of 480 x 640, as most of
        COCO's are, at the largest scale that its pipeline names.

    Raises:
        ConfigError: If the pipeline does not tell.
    """
    scope, transforms = get_scope(cfg).name, _pipeline(cfg)
    crops = [_pair(t[key])[::order] for t in transforms for name, key, order in (
        ('RandomCrop', 'crop_size', 1), ('CenterCrop', 'crop_size', 1),
        ('RandomResizedCrop', 'scale', 1)) if type_name(t) == name and key in t]
    scales = []
    for t in transforms:
        if 'Resize' in type_name(t) and type_name(t) != 'RandomResizedCrop':
            found = t.get('scale') or t.get('scales') or ()
            several = isinstance(found, (list, tuple)) and found and isinstance(
                found[0], (list, tuple))
            scales += [_pair(s) for s in found] if several else [_pair(found)] if found else []
    if scope == 'mmdet':
        if scales:
            # mm's scales: the long edge is at most the larger, the short edge the smaller number
            large, small = max(((max(s), min(s)) for s in scales), key=lambda s: s[0] * s[1])
            factor = min(large / max(COCO_SHAPE), small / min(COCO_SHAPE))
            return tuple(int(edge * factor + 0.5) for edge in COCO_SHAPE)
    elif crops:
        return tuple(map(int, crops[-1]))
    elif scales:
        width, height = max(scales, key=lambda s: s[0] * s[1])
        return int(height), int(width)
    raise ConfigError('the training pipeline names no size (no crop, no Resize): give --size '
                      'HEIGHT WIDTH of the images')


def number_of_classes(cfg: Config) -> int:
    """Find how many classes a config's head has.

    Args:
        cfg (Config): The config.

    Returns:
        int: The number.

    Raises:
        ConfigError: If no head names it.
    """
    model = student_cfg(cfg.model)
    roi_head = model.get('roi_head') or {}
    for head in (model.get('head'), roi_head.get('bbox_head'), model.get('bbox_head'),
                 model.get('decode_head')):
        head = head[-1] if isinstance(head, (list, tuple)) else head
        if isinstance(head, dict) and head.get('num_classes'):
            return head['num_classes']
    raise ConfigError('no head of the model names num_classes, so no labels can be made up; '
                      'use --data')


def make_batch(cfg: Config, batch_size: int, size: Optional[Sequence] = None) -> tuple:
    """Make a training batch up, packed as the toolbox's data sets pack it.

    Args:
        cfg (Config): A config of mmpretrain, mmdet or mmseg.
        batch_size (int): Number of images.
        size (Sequence[int], optional): Height and width; :func:`image_size` if None. Defaults to
            None.

    Returns:
        tuple[dict, str]: The batch, and what it is in words.

    Raises:
        ConfigError: If it is not known what the batch must look like.
    """
    makers = dict(mmpretrain=_classification, mmdet=_detection, mmseg=_segmentation)
    scope = get_scope(cfg).name
    if scope not in makers:
        raise ConfigError(f'default_scope={scope!r}: batches are made up for '
                          f'{", ".join(makers)} only; use --data')
    height, width = size or image_size(cfg)
    batch, extra = makers[scope](cfg, batch_size, height, width, number_of_classes(cfg))
    return batch, f'made-up images of {height} x {width}{extra}'


def _images(batch_size, height, width):
    return torch.randint(0, 256, (batch_size, 3, height, width), dtype=torch.uint8)


def _classification(cfg, batch_size, height, width, classes):
    from mmpretrain.structures import DataSample
    labels = torch.randint(0, classes, (batch_size, ))
    samples = [DataSample().set_gt_label(label) for label in labels]
    return dict(inputs=_images(batch_size, height, width), data_samples=samples), ''


def _detection(cfg, batch_size, height, width, classes):
    from mmdet.testing import demo_mm_inputs
    with_mask = bool((cfg.model.get('roi_head') or {}).get('mask_head')
                     or cfg.model.get('mask_head'))
    batch = demo_mm_inputs(
        batch_size, (3, height, width), num_items=[COCO_OBJECTS] * batch_size,
        num_classes=max(classes, 2), with_mask=with_mask)
    for sample in batch['data_samples']:
        sample.gt_instances.labels %= classes
    return batch, f' with {COCO_OBJECTS} objects each'


def _segmentation(cfg, batch_size, height, width, classes):
    from mmengine.structures import PixelData
    from mmseg.structures import SegDataSample
    samples = []
    for _ in range(batch_size):
        sample = SegDataSample(gt_sem_seg=PixelData(
            data=torch.randint(0, classes, (1, height, width))))
        sample.set_metainfo(dict(img_shape=(height, width), ori_shape=(height, width)))
        samples.append(sample)
    return dict(inputs=list(_images(batch_size, height, width)), data_samples=samples), ''
