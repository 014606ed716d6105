"""COCO annotations: are they what mmdet needs, and do classes, heads and evaluator agree?"""
import json
import logging
import os
import os.path as osp
from typing import Any, Dict, List, Optional, Sequence, Tuple

from mmengine.config import Config
from mmengine.logging import print_log

from scalenet_mm.engine.dense import (
    build_unread,
    check_heads,
    check_same_classes,
    iter_split,
    iter_steps,
    shorten,
    spread,
    suggest,
)
from scalenet_mm.engine.scopes import iter_metrics, type_name
from scalenet_mm.errors import ConfigError

#: Larger files (COCO's own training set has 450 MB) are not parsed twice: mmdet's reading takes
#: long enough. The hook's check of the built data set covers the classes' number then.
SMALL = 50 * 2**20

IMAGE_KEYS = ('id', 'file_name', 'width', 'height')
# iscrowd is asked for by the evaluation alone
ANNOTATION_KEYS = ('id', 'image_id', 'category_id', 'bbox', 'area')

FORMAT = 'an object with the lists "images", "annotations" and "categories"'


def check_detection(cfg: Config, splits: Tuple[str, ...]) -> None:
    """Check COCO-format data sets against themselves, the model's heads and the evaluator.

    Their folders and annotation files must be there already (:func:`check_data`). What mmdet
    passes over by itself (boxes without area or outside of the image) is left to it.

    Args:
        cfg (Config): The config of a detector.
        splits (tuple[str]): Which of ``'train'``, ``'val'`` and ``'test'`` will be used.

    Raises:
        ConfigError: If annotations are not what mmdet and COCO's evaluation need, or if classes
            differ between data sets, heads and files.
    """
    from mmdet.datasets import CocoDataset
    from mmdet.registry import DATASETS
    files: Dict[str, Optional[dict]] = {}  # what is read; a file may serve data set and evaluator
    seen: Dict[str, Tuple[str, Sequence[str]]] = {}
    for split in splits:
        of_split = []
        for key, options in iter_split(cfg, split):
            if (options.get('backend_args') or {}).get('backend', 'local') != 'local':
                continue
            dataset = build_unread(key, options, DATASETS, CocoDataset, 'mmdet')
            if dataset is None or '://' in str(dataset.ann_file):
                continue
            classes = dataset.metainfo.get('classes')
            of_split.append((key, dataset))
            data = _read(dataset.ann_file, f'{key}.ann_file', files)
            if data is not None:
                classes = _check_classes(data, f'{key}.ann_file', dataset.ann_file, key, classes,
                                         'classes' in (options.get('metainfo') or {}))
            if classes is None:
                continue
            check_heads(cfg.model, key, classes)
            seen.setdefault(split, (key, classes))
            if data is None:
                continue
            loaders = _loaders(options.get('pipeline'))
            # unlabelled images of semi-supervised training, or of a test without ground truth
            unlabelled = not loaders if split == 'train' else any(
                m.get('format_only') for _, m in iter_metrics(
                    cfg.get(f'{split}_evaluator'), f'{split}_evaluator'))
            _check_images(data, key, dataset)
            _check_annotations(data, key, dataset, classes, unlabelled,
                               masks=any(loader.get('with_mask') for loader in loaders))
        if split != 'train' and len(of_split) == 1:
            _check_evaluator(cfg, split, *of_split[0], files)
    check_same_classes(seen)


def _read(path: str, key: str, files: Dict[str, Optional[dict]]) -> Optional[dict]:
    """dict | None: The content of an annotation file; None if it is large."""
    path = osp.realpath(path)
    if path in files:
        return files[path]
    if not osp.isfile(path):
        raise ConfigError(f'{key}: {path} is no file: name the annotations (a .json file)')
    size = osp.getsize(path)
    if size == 0:
        raise ConfigError(f'{key}: {path} is empty (0 bytes): make or copy it again')
    with open(path, 'rb') as file:
        head = file.read(16).lstrip()
    if head.startswith(b'version https:/'):
        raise ConfigError(f'{key}: {path} is a Git LFS pointer, not the file: `git lfs pull`')
    files[path] = None
    if size > SMALL:
        return None
    try:
        with open(path, encoding='utf-8') as file:
            data = json.load(file)
    except (ValueError, RecursionError) as error:
        start = head.decode('utf-8', 'replace')
        raise ConfigError(f'{key}: {path} is not JSON ({error}; it begins with {start!r}): a COCO '
                          f'file is {FORMAT}') from None
    if not isinstance(data, dict):
        raise ConfigError(f'{key}: {path} is not of COCO\'s format: it holds a '
                          f'{type(data).__name__}, and should be {FORMAT}')
    for name in ('images', 'categories', 'annotations'):
        if not isinstance(data.get(name, [] if name == 'annotations' else None), list):
            raise ConfigError(
                f'{key}: {path} is not of COCO\'s format: it has no list "{name}" (it has '
                f'{shorten(list(data), 8) or "nothing"}), and should be {FORMAT}')
    files[path] = data
    return data


def _require(items: List[Any], names: Sequence[str], what: str, key: str, path: str) -> None:
    for i, item in enumerate(items):
        if not isinstance(item, dict) or any(name not in item for name in names):
            missing = [n for n in names if n not in item] if isinstance(item, dict) else names
            raise ConfigError(
                f'{key}: {path}: {what}[{i}] has no {", ".join(map(repr, missing))}: each of '
                f'{what} needs {", ".join(names)}')


def _check_classes(data: dict, key: str, path: str, dataset_key: str,
                   classes: Optional[Sequence[str]], given: bool) -> Optional[Sequence[str]]:
    """Sequence[str] | None: The classes of a data set, which the file must have in this order."""
    path = osp.abspath(path)
    _require(data['categories'], ('id', 'name'), 'categories', key, path)
    names = [category['name'] for category in data['categories']]
    if not names:
        raise ConfigError(f'{key}: {path} has no categories')
    option = f'{dataset_key}.metainfo.classes'
    if classes is None:
        return None
    absent = [name for name in classes if name not in names]
    if absent:
        near = [(a, suggest(a, names)) for a in absent]
        near = ', '.join(f'{n!r} for {a!r}' for a, n in near[:5] if n)
        what = option if given else f'{dataset_key}: its own list of {len(classes)} classes'
        fix = f'Did you mean {near}? Set' if near and given else 'Set'
        raise ConfigError(
            f'{what} names {len(absent)} that {path} does not have: '
            f'{shorten(absent)}. mmdet would leave them out in silence and shift the labels. Its '
            f'categories are {shorten(names, 20)}. {fix} metainfo=dict(classes='
            f'{_as_tuple(names)}) of the data sets, or those of them that you want')
    chosen = [name for name in names if name in set(classes)]
    doubled = sorted({name for name in chosen if chosen.count(name) > 1})
    if doubled or len(set(classes)) != len(classes):
        doubled = doubled or sorted({name for name in classes if list(classes).count(name) > 1})
        where = path if any(names.count(n) > 1 for n in doubled) else option
        raise ConfigError(f'{dataset_key}: {where} has more than one class of the name '
                          f'{shorten(doubled)}: give each a name of its own')
    if chosen != list(classes):
        # the labels are counted in the file's order, whatever order the config has
        raise ConfigError(
            f'{option} has another order than the categories of {path}. mmdet numbers classes in '
            f'the order of the file, so pictures would show wrong names: set metainfo=dict('
            f'classes={_as_tuple(chosen)}) of the data sets')
    ids = [category['id'] for category in data['categories']]
    if len(set(ids)) != len(ids):
        doubled = sorted({i for i in ids if ids.count(i) > 1}, key=str)
        raise ConfigError(f'{key}: {path} has several categories of id {shorten(doubled)}')
    return classes


def _as_tuple(names: Sequence[str]) -> str:
    return f'({", ".join(repr(n) for n in names)}{", " if len(names) == 1 else ""})'


def _check_images(data: dict, key: str, dataset: Any) -> None:
    path = osp.abspath(dataset.ann_file)
    if not data['images']:
        raise ConfigError(f'{key}.ann_file: {path} lists no images')
    _require(data['images'], IMAGE_KEYS, 'images', f'{key}.ann_file', path)
    folder = dataset.data_prefix.get('img') or ''
    if '://' in folder:
        return
    # a sample: a look at every file of a large set takes long on a network's disk
    sample = spread(data['images'], 20)
    lost = [i for i in sample if not osp.exists(osp.join(folder, i['file_name']))]
    if not lost:
        return
    hint = ''
    name = lost[0]['file_name']
    if osp.exists(osp.join(folder, osp.basename(name))):
        hint = (f' ({osp.basename(name)} is there: "file_name" is relative to data_prefix.img, so '
                'one of them has a folder too many)')
    elif osp.isdir(folder):
        there = sorted(os.listdir(folder))[:3]
        hint = f' (that folder holds {", ".join(there) or "nothing"}{", ..." if there else ""})'
    raise ConfigError(
        f'{key}: {len(lost)} of {len(sample)} images that were looked for are not there, such as '
        f'{osp.abspath(osp.join(folder, name))}{hint}: set {key}.data_prefix.img, or mend '
        f'"file_name" in {path}')


def _check_annotations(data: dict, key: str, dataset: Any, classes: Sequence[str],
                       unlabelled: bool, masks: bool) -> None:
    path = osp.abspath(dataset.ann_file)
    where = f'{key}.ann_file: {path}'
    annotations = data.get('annotations')
    if not annotations:
        if unlabelled:
            return
        raise ConfigError(
            f'{where} has no annotations: there is nothing to learn or to measure. If objects are '
            'elsewhere, name that file as ann_file')
    _require(annotations, ANNOTATION_KEYS, 'annotations', f'{key}.ann_file', path)
    images = {image['id']: image for image in data['images']}
    if len(images) != len(data['images']):
        raise ConfigError(f'{where} has several images of one id: number them anew')
    if len({a['id'] for a in annotations}) != len(annotations):
        raise ConfigError(f'{where} has several annotations of one id: number them anew')
    categories = {category['id']: category['name'] for category in data['categories']}
    count = 0
    for i, annotation in enumerate(annotations):
        this = f'{where}: annotations[{i}] (id {annotation["id"]})'
        if annotation['image_id'] not in images:
            raise ConfigError(f'{this} is of image_id {annotation["image_id"]!r}, which is not in '
                              '"images": mend or remove it')
        if annotation['category_id'] not in categories:
            raise ConfigError(
                f'{this} is of category_id {annotation["category_id"]!r}, which is not in '
                f'"categories" ({shorten(list(categories), 10)}): mend or remove it')
        box = annotation['bbox']
        if not isinstance(box, list) or len(box) != 4 or not all(
                isinstance(x, (int, float)) for x in box):
            raise ConfigError(f'{this} has the box {box!r}: a box is [x, y, width, height] in '
                              'pixels')
        if categories[annotation['category_id']] not in classes or \
                not _is_used(annotation, images[annotation['image_id']]):
            continue
        count += 1
        if masks and not annotation.get('segmentation'):
            raise ConfigError(
                f'{this} has no "segmentation", but the pipeline loads masks (with_mask=True): add '
                'masks, or use a detector without a mask head and with_mask=False in both '
                'pipelines')
    if not count:
        raise ConfigError(
            f'{where} has {len(annotations)} annotations, but none that can be used of '
            f'{shorten(classes)}: boxes must be [x, y, width, height] in pixels, at least 1 pixel '
            'wide and high, inside of the image, with area > 0')


def _is_used(annotation: dict, image: dict) -> bool:
    """Whether mmdet uses an annotation: what it passes over, it may pass over."""
    x, y, width, height = annotation['bbox']
    inside = (min(x + width, image['width']) > max(x, 0)
              and min(y + height, image['height']) > max(y, 0))
    return bool(inside and width >= 1 and height >= 1 and annotation['area'] > 0
                and not annotation.get('ignore', False))


def _loaders(pipeline: Any) -> List[dict]:
    """list[dict]: The transforms of a pipeline that load boxes and masks."""
    return [step for step in iter_steps(pipeline) if type_name(step) == 'LoadAnnotations']


def _check_evaluator(cfg: Config, split: str, key: str, dataset: Any,
                     files: Dict[str, Optional[dict]]) -> None:
    """Is the evaluator's ground truth that of the data set, and fit for COCO's evaluation?"""
    for metric_key, metric in iter_metrics(cfg.get(f'{split}_evaluator'), f'{split}_evaluator'):
        path = metric.get('ann_file')
        if type_name(metric) != 'CocoMetric' or not path or '://' in path or \
                (metric.get('backend_args') or {}).get('backend', 'local') != 'local':
            continue
        option = f'{metric_key}.ann_file'
        truth = _read(path, option, files)
        data = files.get(osp.realpath(dataset.ann_file))
        if truth is None or data is None:
            continue
        _require(truth['images'], IMAGE_KEYS, 'images', option, path)
        if {(i['id'], i['file_name']) for i in truth['images']} != \
                {(i['id'], i['file_name']) for i in data['images']}:
            raise ConfigError(
                f'{option}={path!r} lists other images than {key}.ann_file='
                f'{dataset.ann_file!r}: the AP would be wrong. Set --cfg-options '
                f'{option}={dataset.ann_file}')
        _check_classes(truth, option, path, key, dataset.metainfo.get('classes'), True)
        if metric.get('format_only'):
            continue
        names = ANNOTATION_KEYS + ('iscrowd', )
        if 'segm' in (metric.get('metric') or 'bbox'):
            names += ('segmentation', )
        # COCO's evaluation ends in a KeyError, after all images
        _require(truth.get('annotations') or [], names, 'annotations', option, path)
        indices = getattr(dataset, '_indices', None)
        if indices is not None:
            print_log(
                f'{key}.indices={indices} leaves images out, but {option} does not: what is not '
                'found in them lowers the AP', 'current', logging.WARNING)
