"""Images and label maps: do they pair, and do their values, classes, heads and metric agree?"""
import logging
import os
import os.path as osp
import time
from copy import deepcopy
from typing import Any, Dict, List, NamedTuple, Optional, Sequence, Tuple

import numpy as np
from mmengine.config import Config
from mmengine.logging import print_log
from PIL import Image

from scalenet_mm.datasets.readable import find_fault
from scalenet_mm.engine.dense import (
    build_unread,
    check_heads,
    check_same_classes,
    find_heads,
    iter_split,
    iter_steps,
    reads_image_files,
    spread,
)
from scalenet_mm.engine.scopes import iter_metrics, type_name
from scalenet_mm.errors import ConfigError, DataError
from scalenet_mm.hooks.class_check import explain_labels

#: How many label maps of a split are looked at before training, and for how long at most. The
#: hook looks at all of them, batch by batch.
SAMPLES, SECONDS = 50, 1.5

# these give labels another meaning behind the loader
RELABELLING = ('MapillaryHack', )

_SUFFIXES = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp', '.ppm', '.npy')


class Labels(NamedTuple):
    """What labels there may be.

    Args:
        number (int): Labels from 0 to one below it are classes.
        ignored (tuple[int]): The labels that are passed over.
    """
    number: int
    ignored: Tuple[int, ...]


def check_segmentation(cfg: Config, splits: Tuple[str, ...]) -> None:
    """Check folders of images and label maps against themselves, the heads and the metric.

    Their folders and lists must be there already (:func:`check_data`).

    Args:
        cfg (Config): The config of a segmentor.
        splits (tuple[str]): Which of ``'train'``, ``'val'`` and ``'test'`` will be used.

    Raises:
        ConfigError: If images and label maps do not pair, or if classes differ between data sets,
            heads and label maps.
        DataError: If a label map cannot be read or is none.
    """
    from mmseg.datasets import BaseSegDataset
    from mmseg.registry import DATASETS
    seen: Dict[str, Tuple[str, Sequence[str]]] = {}
    zero = {}
    if 'train' in splits:
        _check_padding(cfg)
    for split in splits:
        for key, options in iter_split(cfg, split):
            if (options.get('backend_args') or {}).get('backend', 'local') != 'local':
                continue
            dataset = build_unread(key, options, DATASETS, BaseSegDataset, 'mmseg')
            if dataset is None or '://' in str(dataset.data_prefix.get('img_path')):
                continue
            classes = dataset.metainfo.get('classes')
            metrics = [m for _, m in iter_metrics(
                cfg.get(f'{split}_evaluator'), f'{split}_evaluator') if type_name(m) == 'IoUMetric']
            if classes is None and split != 'train' and metrics:
                # the evaluation would end in a KeyError, after the training before it
                raise ConfigError(
                    f'{key} names no classes, which the metric needs: set metainfo=dict(classes='
                    "('background', 'cat')) of the data sets, in the order of the labels 0, 1, ...")
            if classes is not None:
                check_heads(cfg.model, key, classes)
                seen.setdefault(split, (key, classes))
            zero[key] = dataset.reduce_zero_label
            samples = dataset.load_data_list()
            local = reads_image_files(options.get('pipeline'))
            _check_any_image(key, dataset, samples, local)
            if local and split != 'train':
                _check_image_sizes(cfg, key, samples, options.get('pipeline'))
            loader = _find_loader(options.get('pipeline'))
            if loader is None or dataset.data_prefix.get('seg_map_path') is None:
                continue
            _check_pairs(key, dataset, samples)
            labels = _labels(cfg, split, classes)
            if labels is not None and not _relabels(options.get('pipeline')):
                _check_label_maps(key, dataset, samples, loader, labels, local)
    check_same_classes(cfg.model, seen)
    if len(set(zero.values())) > 1:
        raise ConfigError(
            'reduce_zero_label differs, so that labels would not mean the same: ' +
            ', '.join(f'{key}.reduce_zero_label={value}' for key, value in zero.items()) +
            '. True is right if 0 means no class and the first class is 1; set the same everywhere')


def _check_padding(cfg: Config) -> None:
    """Is the label that small images are filled up with a class or an ignored one?"""
    preprocessor = cfg.model.get('data_preprocessor') or {}
    key = 'model.data_preprocessor'
    if not preprocessor:
        preprocessor, key = cfg.get('data_preprocessor') or {}, 'data_preprocessor'
    if type_name(preprocessor) != 'SegDataPreProcessor':
        return
    value = preprocessor.get('seg_pad_val', 255)
    for head_key, head in find_heads(cfg.model):
        number, ignored = head.get('num_classes'), head.get('ignore_index', 255)
        if isinstance(number, int) and ignored is not None and value >= number and value != ignored:
            message = (
                f'{key}.seg_pad_val={value}, with which label maps are filled up to a batch\'s '
                f'size, is neither a class nor {head_key}.ignore_index={ignored}: set '
                f'--cfg-options {key}.seg_pad_val={ignored}')
            if ignored >= number:
                raise ConfigError(message)
            # a class is ignored, and it may be that nothing is filled up
            print_log(message, 'current', logging.WARNING)


def _labels(cfg: Config, split: str, classes: Optional[Sequence[str]]) -> Optional[Labels]:
    """Labels | None: What the heads or the metric take; None if that is not known."""
    heads = [head for _, head in find_heads(cfg.model)]
    if split == 'train':
        ignored = {head.get('ignore_index', 255) for head in heads}
        number = len(classes) if classes is not None else heads and heads[0].get('num_classes')
    else:
        ignored = {m.get('ignore_index', 255) for _, m in iter_metrics(
            cfg.get(f'{split}_evaluator'), f'{split}_evaluator')
            if type_name(m) == 'IoUMetric' and not m.get('format_only')}
        number = len(classes) if classes is not None else None
    if not isinstance(number, int) or not number or len(ignored) != 1 or None in ignored:
        return None
    return Labels(number, tuple(ignored))


def _transform_class(step: dict) -> Any:
    """BaseTransform | type | None: The class of a transform."""
    from mmseg.registry import TRANSFORMS
    with TRANSFORMS.switch_scope_and_registry('mmseg') as registry:
        kind = step['type']
        return registry.get(kind) if isinstance(kind, str) else kind


def _find_loader(pipeline: Any) -> Any:
    """BaseTransform | None: The pipeline's loader of label maps, built."""
    from mmseg.datasets.transforms import LoadAnnotations
    for step in iter_steps(pipeline):
        kind = _transform_class(step)
        if isinstance(kind, type) and issubclass(kind, LoadAnnotations):
            if (step.get('backend_args') or {}).get('backend', 'local') != 'local':
                return None
            return kind(**{k: deepcopy(v) for k, v in step.items() if k not in ('type', '_scope_')})
    return None


def _relabels(pipeline: Any) -> bool:
    """Whether transforms may change labels: those that are not of the toolboxes may."""
    for step in iter_steps(pipeline):
        module = getattr(_transform_class(step), '__module__', '')
        if type_name(step) in RELABELLING or not module.startswith(('mmseg.', 'mmcv.')):
            return True
    return False


def _files(folder: str) -> List[str]:
    """list[str]: The files in a folder and below, relative to it."""
    found = []
    for parent, _, names in os.walk(folder, followlinks=True):
        found += [osp.relpath(osp.join(parent, n), folder) for n in names if n[:1] != '.']
    return sorted(found)


def _suffixes(names: List[str]) -> str:
    counts: Dict[str, int] = {}
    for name in names:
        suffix = osp.splitext(name)[1]
        counts[suffix] = counts.get(suffix, 0) + 1
    return ', '.join(f'{count} {suffix!r}' for suffix, count in sorted(counts.items()))


def _check_any_image(key: str, dataset: Any, samples: List[dict], local: bool) -> None:
    folder = dataset.data_prefix['img_path']
    if not samples and dataset.ann_file and not osp.isdir(dataset.ann_file):
        raise ConfigError(f'{key}: {osp.abspath(dataset.ann_file)} is empty: it should name one '
                          'image a line, without suffix')
    if not samples:
        there = _suffixes(_files(folder))
        fix = f'set {key}.img_suffix to the right one' if there else 'put the data there'
        raise ConfigError(
            f'{key}: there is no image with img_suffix={dataset.img_suffix!r} in '
            f'{osp.abspath(folder)}, which holds {"files of " + there if there else "no files"}: '
            f'{fix}, or name the right folder by data_root and data_prefix.img_path')
    if local and dataset.ann_file and not osp.exists(samples[0]['img_path']):
        raise ConfigError(
            f'{key}: the first image of {dataset.ann_file} is not there: '
            f'{osp.abspath(samples[0]["img_path"])}; names are relative to data_prefix.img_path '
            f'and have no suffix (img_suffix={dataset.img_suffix!r} is added)')


def _check_image_sizes(cfg: Config, key: str, samples: List[dict], pipeline: Any) -> None:
    """Refuse images of which a plain ViT's smallest map would be empty.

    Images to train on are filled up to a size, and Swin fills its maps up to a window.
    """
    neck, patch = cfg.model.get('neck'), (cfg.model.get('backbone') or {}).get('patch_size', 16)
    preprocessor = cfg.model.get('data_preprocessor') or {}
    resized = preprocessor.get('test_cfg') or any(
        'Resize' in type_name(step) for step in iter_steps(pipeline))
    if type_name(neck) != 'MultiLevelNeck' or not isinstance(patch, int) or resized:
        return
    # a map of one patch, halved, has no pixels
    least = int(patch * (1 / min(neck.get('scales', [0.5])) - 1)) + 1
    for sample in spread(samples, SAMPLES):
        try:
            with Image.open(sample['img_path']) as file:
                size = file.size
        except Exception:
            continue  # said when it is read
        if min(size) < least:
            raise ConfigError(
                f'{key}: {sample["img_path"]} has {size[0]} x {size[1]} pixels, but MultiLevelNeck '
                f'behind patches of {patch} needs {least} and more on each side: put '
                "dict(type='Resize', scale=(2048, 512), keep_ratio=True) before LoadAnnotations in "
                'the pipeline, or set model.data_preprocessor.test_cfg=dict(size_divisor='
                f'{2 * patch})')


def _check_pairs(key: str, dataset: Any, samples: List[dict]) -> None:
    """Has each image its label map?"""
    folder = dataset.data_prefix['seg_map_path']
    names = _files(folder)  # one listing instead of a look for every file
    there = set(names)
    lost = [s for s in samples if osp.relpath(s['seg_map_path'], folder) not in there]
    if not lost:
        return
    if not names:
        raise ConfigError(f'{key}: there is no label map in {osp.abspath(folder)}: put them there, '
                          'or name the right folder by data_root and data_prefix.seg_map_path')
    image, wanted = lost[0]['img_path'], lost[0]['seg_map_path']
    stem = osp.relpath(wanted, folder)[:-len(dataset.seg_map_suffix) or None]
    near = [n[len(stem):] for n in names if n.startswith(stem)]
    if near:
        fix = f'set {key}.seg_map_suffix={near[0]!r}'
    elif osp.isdir(folder) and len(lost) < len(samples):
        fix = 'add them, or remove the images'
    else:
        fix = ('the name of a label map must be that of its image, with seg_map_suffix in place of '
               'img_suffix')
    raise ConfigError(
        f'{key}: {len(lost)} of {len(samples)} images have no label map, such as '
        f'{osp.abspath(image)}, which needs {osp.abspath(wanted)}. {osp.abspath(folder)} holds '
        f'files of {_suffixes(names)} such as {names[0]}: {fix}')


def _check_label_maps(key: str, dataset: Any, samples: List[dict], loader: Any,
                      labels: Labels, local: bool) -> None:
    """Look at a sample of label maps, as the pipeline's loader reads them."""
    end = time.monotonic() + SECONDS
    found: set = set()
    stored: set = set()
    # first the ends, then what lies between: should time run out, these were seen
    chosen = spread(samples, SAMPLES)
    for sample in chosen[::4] + [s for i, s in enumerate(chosen) if i % 4]:
        if found and time.monotonic() > end:
            break
        path = sample['seg_map_path']
        stored |= _check_file(sample, local)
        try:
            results = loader(dict(sample, seg_fields=[]))
        except Exception as error:  # decoders raise what they meet
            fault = find_fault(path) or f'cannot be loaded ({type(error).__name__}: {error})'
            raise DataError(f'{key}: the label map {path} {fault}') from error
        values = {int(v) for v in np.flatnonzero(np.bincount(
            np.asarray(results['gt_seg_map']).ravel(), minlength=1))}
        wrong = {v for v in values if v >= labels.number and v not in labels.ignored}
        if wrong:
            raise DataError(f'{key}: ' + explain_labels(
                path, wrong, labels.number, labels.ignored[0], dataset.reduce_zero_label))
        found |= values
    classes = {v for v in found if v not in labels.ignored}
    if not classes:
        raise DataError(
            f'{key}: all label maps that were looked at ({len(chosen)}) hold nothing but the '
            f'ignored label {labels.ignored[0]}, such as {chosen[0]["seg_map_path"]}')
    if labels.number > 1 and 255 in labels.ignored and stored == {0, 255}:
        raise DataError(
            f'{key}: the label maps hold 0 and 255 alone, such as {chosen[0]["seg_map_path"]}. 255 '
            'is the ignored label, so nothing but label 0 would be learned: write 1 for the class')
    if len(classes) == 1 and labels.number > 1:
        print_log(f'{key}: the {len(chosen)} label maps that were looked at hold label '
                  f'{classes.pop()} alone, of {labels.number} classes', 'current', logging.WARNING)


def _shown_size(path: str) -> Tuple[int, int]:
    """tuple[int]: Width and height of an image as OpenCV shows it, turned as its EXIF data say."""
    with Image.open(path) as file:
        turned = file.getexif().get(0x0112) in (5, 6, 7, 8)
        return file.size[::-1] if turned else file.size


def _check_file(sample: dict, local: bool) -> set:
    """set[int]: The values in the file of a label map, which must be one."""
    path, image = sample['seg_map_path'], sample['img_path']
    if not path.lower().endswith(_SUFFIXES[:-1]):
        return set()
    try:
        with Image.open(path) as file:
            bands, mode, size = file.getbands(), file.mode, file.size
            if len(bands) > 1:
                raise DataError(
                    f'{path} is a {mode} picture with {len(bands)} channels, not a label map: it '
                    'must have one channel, whose values are the labels. Turn each colour into its '
                    'label: 0 for the first class, 1 for the next, 255 for what is ignored')
            values = np.unique(np.asarray(file))
        if values.max() > 255 or values.dtype.kind == 'f':
            raise DataError(
                f'{path} holds the value {values.max()} (mode {mode}): labels are whole numbers '
                'from 0 to 255, others would wrap around in silence. Save it with 8 bits')
        shown = _shown_size(image) if local else size
    except DataError:
        raise
    except Exception as error:
        for file, what in ((path, 'label map'), (image, 'image'))[:1 + local]:
            fault = find_fault(file)
            if fault is not None:
                raise DataError(f'the {what} {file} {fault}') from error
        return set()
    if size != shown:
        raise DataError(
            f'{path} has {size[0]} x {size[1]} pixels, but its image {image} {shown[0]} x '
            f'{shown[1]} (width x height): both must have the same size. Resize the label map with '
            'nearest-neighbour interpolation')
    return {int(v) for v in values}
