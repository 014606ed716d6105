"""COCO annotations: are they what mmdet needs, and do classes, heads and evaluator agree?"""
import json
import logging
import os
import os.path as osp
from collections import Counter
from typing import Any, Dict, List, Optional, Sequence, Tuple

from mmengine.config import Config
from mmengine.logging import print_log

from scalenet_mm.engine.dense import (
    build_unread,
    check_heads,
    check_same_classes,
    iter_split,
    iter_steps,
    reads_image_files,
    shorten,
    spread,
    suggest,
)
from scalenet_mm.engine.scopes import iter_metrics, type_name
from scalenet_mm.errors import ConfigError

#: Larger files (COCO's own training set has 450 MB) are not parsed twice: mmdet's reading takes
#: long enough. The hook's check of the built data set sees then whether all classes are there.
SMALL = 50 * 2**20

_ID, _NUMBER = (int, str), (int, float)
IMAGE_KEYS = dict(id=_ID, file_name=str, width=_NUMBER, height=_NUMBER)
CATEGORY_KEYS = dict(id=_ID, name=str)
# iscrowd is asked for by the evaluation alone
ANNOTATION_KEYS = dict(id=_ID, image_id=_ID, category_id=_ID, bbox=list, area=_NUMBER)

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
            differ between data sets, heads and files. Before a test, another order of the classes
            than the file's is a warning only: a model may have been trained so.
    """
    from mmdet.datasets import CocoDataset
    from mmdet.registry import DATASETS
    files: Dict[str, Optional[dict]] = {}  # what is read; a file may serve data set and evaluator
    seen: Dict[str, Tuple[str, Sequence[str]]] = {}
    for split in splits:
        of_split, without = [], []
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
                                         'classes' in (options.get('metainfo') or {}),
                                         in_order='train' in splits)
            if classes is None:
                continue
            check_heads(cfg.model, key, classes)
            seen.setdefault(split, (key, classes))
            if data is None:
                continue
            loaders = _loaders(options.get('pipeline'))
            _check_images(data, key, dataset, reads_image_files(options.get('pipeline')))
            if not data.get('annotations'):
                # unlabelled images of semi-supervised training are no fault
                without += [key] if split != 'train' or loaders else []
                continue
            _check_annotations(data, key, dataset, classes,
                               masks=any(loader.get('with_mask') for loader in loaders))
        # a part without objects may stand beside others, and a test need not measure
        if without and len(without) == len(of_split) and (split == 'train' or _measures(
                cfg.get(f'{split}_evaluator'), f'{split}_evaluator')):
            raise ConfigError(
                f'{without[0]}.ann_file: {osp.abspath(of_split[0][1].ann_file)} has no '
                'annotations: there is nothing to learn or to measure. If objects are elsewhere, '
                'name that file as ann_file')
        if split != 'train' and len(of_split) == 1:
            _check_evaluator(cfg, split, *of_split[0], files)
    check_same_classes(cfg.model, seen)


def _measures(evaluator: Any, key: str) -> bool:
    """Whether an evaluator compares with the truth."""
    return any(not metric.get('format_only') and not type_name(metric).startswith('Dump')
               for _, metric in iter_metrics(evaluator, key))


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


def _require(items: List[Any], kinds: Dict[str, Any], what: str, key: str, path: str) -> None:
    """Check that each item has values of these kinds."""
    for i, item in enumerate(items):
        this = f'{key}: {path}: {what}[{i}]'
        missing = [n for n in kinds if n not in item] if isinstance(item, dict) else list(kinds)
        if missing:
            raise ConfigError(f'{this} has no {", ".join(map(repr, missing))}: each of {what} '
                              f'needs {", ".join(kinds)}')
        for name, kind in kinds.items():
            if not isinstance(item[name], kind):
                kind = 'a number' if kind == _NUMBER else 'a list' if kind is list else \
                    'a text' if kind is str else 'a number or a text'
                raise ConfigError(f'{this} has {name}={item[name]!r}, which must be {kind}')


def _check_classes(data: dict, key: str, path: str, dataset_key: str,
                   classes: Optional[Sequence[str]], given: bool,
                   in_order: bool) -> Optional[Sequence[str]]:
    """Sequence[str] | None: The classes of a data set, which the file must have in this order."""
    path = osp.abspath(path)
    _require(data['categories'], CATEGORY_KEYS, 'categories', key, path)
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
        message = (
            f'{option} has another order than the categories of {path}. mmdet numbers classes in '
            f'the order of the file, so pictures would show wrong names: set metainfo=dict('
            f'classes={_as_tuple(chosen)}) of the data sets')
        if in_order:
            raise ConfigError(message)
        print_log(message, 'current', logging.WARNING)
    ids = [category['id'] for category in data['categories']]
    if len(set(ids)) != len(ids):
        doubled = sorted({i for i in ids if ids.count(i) > 1}, key=str)
        raise ConfigError(f'{key}: {path} has several categories of id {shorten(doubled)}')
    return classes


def _as_tuple(names: Sequence[str]) -> str:
    return f'({", ".join(repr(n) for n in names)}{", " if len(names) == 1 else ""})'


def _check_images(data: dict, key: str, dataset: Any, local: bool) -> None:
    path = osp.abspath(dataset.ann_file)
    if not data['images']:
        raise ConfigError(f'{key}.ann_file: {path} lists no images')
    _require(data['images'], IMAGE_KEYS, 'images', f'{key}.ann_file', path)
    folder = dataset.data_prefix.get('img') or ''
    if not local or '://' in folder:
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
                       masks: bool) -> None:
    path = osp.abspath(dataset.ann_file)
    where = f'{key}.ann_file: {path}'
    annotations = data['annotations']
    # mmdet passes over those to be ignored before it looks at the rest
    wanted = [a for a in annotations if not (isinstance(a, dict) and a.get('ignore'))]
    _require(wanted, ANNOTATION_KEYS, 'annotations', f'{key}.ann_file', path)
    images = {image['id']: image for image in data['images']}
    if len(images) != len(data['images']):
        raise ConfigError(f'{where} has several images of one id: number them anew')
    if len({a['id'] for a in wanted}) != len(wanted):
        raise ConfigError(f'{where} has several annotations of one id: number them anew')
    categories = {category['id']: category['name'] for category in data['categories']}
    count = 0
    lost: Counter = Counter()
    for i, annotation in enumerate(wanted):
        this = f'{where}: annotations[{i}] (id {annotation["id"]})'
        # what is left when a file is cut down; mmdet and the evaluation pass over it
        if annotation['image_id'] not in images or annotation['category_id'] not in categories:
            lost['images' if annotation['image_id'] not in images else 'categories'] += 1
            continue
        box = annotation['bbox']
        if len(box) != 4 or not all(isinstance(x, _NUMBER) for x in box):
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
    for name, number in lost.items():
        print_log(f'{where}: {number} of {len(wanted)} annotations are of none of its "{name}" and '
                  'are passed over', 'current', logging.WARNING)
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
        _check_classes(truth, option, path, key, dataset.metainfo.get('classes'), True,
                       in_order=False)  # the data set's file says it
        if metric.get('format_only'):
            continue
        kinds = dict(ANNOTATION_KEYS, iscrowd=int)
        if 'segm' in (metric.get('metric') or 'bbox'):
            kinds['segmentation'] = (list, dict)
        # COCO's evaluation ends in a KeyError, after all images
        _require(truth.get('annotations') or [], kinds, 'annotations', option, path)
        if any(a['id'] == 0 for a in truth.get('annotations') or []):
            print_log(f'{option}: {path} has an annotation of id 0, which the evaluation never '
                      'counts as found: number them from 1', 'current', logging.WARNING)
        indices = getattr(dataset, '_indices', None)
        if indices is not None:
            print_log(
                f'{key}.indices={indices} leaves images out, but {option} does not: what is not '
                'found in them lowers the AP', 'current', logging.WARNING)
