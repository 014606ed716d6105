"""What mmpretrain's data sets will read, and whether the classes of model and data agree."""
import os
import os.path as osp
from typing import Any, Iterator, List, NamedTuple, Optional, Tuple

from mmengine.config import Config
from mmengine.utils import is_abs

from scalenet_mm.engine.scopes import iter_dataloaders, iter_datasets, type_name
from scalenet_mm.errors import ConfigError
from scalenet_mm.utils.model_cfg import student_cfg, student_key

LAYOUT = ('an ImageNet folder holds train/ and val/ with one folder a class; or images anywhere in '
          'these, and meta/train.txt and meta/val.txt with lines "path label"')


class Folder(NamedTuple):
    """What a ``CustomDataset`` or ``ImageNet`` reads.

    Args:
        key (str): The config key of the data set.
        prefix (str): The folder of images.
        ann_file (str): The list of images and labels; empty if folders tell the classes.
        with_label (bool): Whether there are labels.
        extensions (tuple[str]): Of image files, lower case.
    """
    key: str
    prefix: str
    ann_file: str
    with_label: bool
    extensions: Tuple[str, ...]


def dataset_class(cfg: dict) -> Optional[type]:
    """The class of an mmpretrain data set; None if there is none of that name."""
    from mmpretrain.registry import DATASETS
    kind = cfg.get('type')
    return DATASETS.get(kind) if isinstance(kind, str) else kind


def fill_in_split(cfg: dict) -> dict:
    """What ImageNet's ``split`` stands for.

    Args:
        cfg (dict): Config of a data set of mmpretrain.

    Returns:
        dict: The config, with the ``data_prefix`` and ``ann_file`` that its ``split`` means.
    """
    split = cfg.get('split')
    if not split or type_name(cfg) not in ('ImageNet', 'ImageNet21k'):
        return cfg
    cfg = dict(cfg, data_prefix=cfg.get('data_prefix') or split)
    listed = osp.join('meta', f'{split}.txt')
    if not cfg.get('ann_file') and osp.exists(osp.join(cfg.get('data_root') or '', listed)):
        cfg['ann_file'] = listed
    return cfg


def find_folder(key: str, cfg: dict) -> Optional[Folder]:
    """Find what a data set reads, if it reads as mmpretrain's ``CustomDataset`` does.

    Args:
        key (str): The config key of the data set.
        cfg (dict): Its config.

    Returns:
        Folder | None: None for a data set of another kind.
    """
    from mmpretrain.datasets import CustomDataset, ImageNet, ImageNet21k
    cls = dataset_class(cfg)
    known: tuple = (CustomDataset, ImageNet, ImageNet21k)
    if not isinstance(cls, type) or not issubclass(cls, CustomDataset):
        return None
    own: Any = cls
    if own.__init__ not in [k.__init__ for k in known] or \
            own.load_data_list is not CustomDataset.load_data_list:
        return None
    cfg = fill_in_split(cfg)
    prefix = cfg.get('data_prefix') or ''
    prefix = prefix.get('img_path', '') if isinstance(prefix, dict) else prefix
    root = cfg.get('data_root') or ''
    paths = [osp.expanduser(p or '') for p in (prefix, cfg.get('ann_file'))]
    prefix, ann_file = (p if not root or is_abs(p) else osp.join(root, p) for p in paths)
    if any('://' in p for p in (prefix, ann_file)):
        return None
    extensions = cfg.get('extensions') or getattr(cls, 'IMG_EXTENSIONS', None) or (
        '.jpg', '.jpeg', '.png', '.ppm', '.bmp', '.pgm', '.tif')
    return Folder(key, prefix, ann_file if cfg.get('ann_file') else '',
                  cfg.get('with_label', True) and cfg.get('split') != 'test',
                  tuple(e.lower() for e in extensions))


def named_classes(cfg: dict) -> Optional[Tuple[str, ...]]:
    """The classes that a data set's config or type names; None if its files tell them."""
    classes = (cfg.get('metainfo') or {}).get('classes')
    if classes is None:
        classes = cfg.get('classes')
        if isinstance(classes, str):
            path = osp.expanduser(classes)
            if not osp.isfile(path):
                return None
            with open(path) as file:
                classes = file.read().splitlines()
    if classes is None:
        classes = (getattr(dataset_class(cfg), 'METAINFO', None) or {}).get('classes')
    return None if classes is None else tuple(classes)


def check_classification(cfg: Config, splits: Tuple[str, ...]) -> None:
    """Check the data sets of a classifier's config against themselves and against the model.

    Their folders and annotation files must be there already (:func:`check_data`).

    Args:
        cfg (Config): The config.
        splits (tuple[str]): Which of ``'train'``, ``'val'`` and ``'test'`` will be used.

    Raises:
        ConfigError: If a data set is empty, is not what its kind demands, has labels or a number
            of classes that do not fit the head's, or if the splits disagree on the classes.
    """
    head = student_cfg(cfg.model).get('head')
    head_classes = head.get('num_classes') if isinstance(head, dict) else None
    seen: dict = {}  # classes by folders: split -> (key, names)
    for split in splits:
        for loader_key, loader in iter_dataloaders(cfg, split):
            for key, dataset in iter_datasets(loader.get('dataset'), f'{loader_key}.dataset'):
                if type_name(dataset) == 'CustomDataset' and 'split' in dataset:
                    raise ConfigError(
                        f'{key}: CustomDataset has no split, it is of the ImageNet data set that '
                        f'the config inherits: write {key} with _delete_=True and the whole of '
                        "it, data_prefix='train' or 'val' in the place of split")
                classes = named_classes(dataset)
                folder = find_folder(key, dataset)
                if folder is not None and not folder.ann_file and folder.with_label:
                    found = _check_class_folders(folder, classes, dataset)
                    if classes is None:
                        classes = found
                        seen.setdefault(split, (key, found))
                elif folder is not None and not folder.ann_file:
                    _check_any_image(folder, folder.prefix)
                number = len(classes) if classes is not None else None
                if folder is not None and folder.ann_file:
                    _check_list(folder, number, head_classes, student_key(cfg.model))
                _check_number(cfg, key, classes, head_classes, split)
    if 'train' in seen and 'val' in seen and seen['train'][1] != seen['val'][1]:
        (key, train), (other, val) = seen['train'], seen['val']
        raise ConfigError(
            f'{key} and {other} have different folders of classes, so that their labels would not '
            f'mean the same: {_difference(train, val)}. Make the folders the same (an empty one '
            'will do), or use lists (ann_file)')


def _class_folders(prefix: str) -> List[str]:
    return sorted(entry.name for entry in os.scandir(prefix) if entry.is_dir())


def _images(folder: Folder, path: str) -> Iterator[str]:
    for parent, _, names in os.walk(path, followlinks=True):
        for name in names:
            if not name.startswith('.') and name.lower().endswith(folder.extensions):
                yield osp.join(parent, name)


def _check_any_image(folder: Folder, path: str) -> None:
    if next(_images(folder, path), None) is None:
        raise ConfigError(
            f'{folder.key}: there is no image in {osp.abspath(path)} (of type '
            f'{", ".join(sorted(folder.extensions))}): put the data there, or name the right '
            f'folder: --cfg-options {folder.key}.data_root=FOLDER')


def _check_class_folders(folder: Folder, classes: Optional[tuple], cfg: dict) -> tuple:
    """tuple[str]: The classes by their folders, checked."""
    _check_any_image(folder, folder.prefix)
    found = _class_folders(folder.prefix)
    of_imagenet = f' ({LAYOUT})' if type_name(cfg).startswith('ImageNet') else ''
    if not found:
        raise ConfigError(
            f'{folder.key}: {osp.abspath(folder.prefix)} holds images, but no folders of classes: '
            f'give each class a folder, or name a list of images and labels as ann_file'
            f'{of_imagenet}')
    if classes is not None and len(classes) != len(found):
        named = set(classes) & set(found)
        what = f': {_difference(classes, found)}' if named else ''
        raise ConfigError(
            f'{folder.key}: its classes are {len(classes)} ({_shorten(classes)}), but '
            f'{osp.abspath(folder.prefix)} holds {len(found)} folder(s) ({_shorten(found)}){what}. '
            'Make them agree: each folder is a class, and metainfo.classes, if it is given, names '
            f'them in alphabetical order{of_imagenet}')
    # up to the first image only: a data set of many files takes long to list
    if not any(True for name in found for _ in _images(folder, osp.join(folder.prefix, name))):
        raise ConfigError(f'{folder.key}: the images of {osp.abspath(folder.prefix)} lie outside '
                          f'of its folders of classes ({_shorten(found)}), which are empty')
    return tuple(found)


def _check_list(folder: Folder, number: Optional[int], head: Optional[int], model: str) -> None:
    """Check the lines of an annotation file: images and labels."""
    limit = number if number is not None else head
    first = None
    with open(folder.ann_file) as file:
        for index, line in enumerate(file, 1):
            path, _, label = line.strip().rpartition(' ') if folder.with_label else (
                line.strip(), '', '0')
            where = f'{folder.ann_file}, line {index}'
            if not path or not label.lstrip('-').isdigit():
                raise ConfigError(f'{where}: {line.strip()!r} is not of the form "path label" with '
                                  'a number as label')
            if int(label) < 0 or limit is not None and int(label) >= limit:
                what = 'the data set has' if number is not None else f'{model}.head.num_classes ='
                allowed = f'; {what} {limit} classes, 0 to {limit - 1}' if limit is not None else ''
                raise ConfigError(f'{where}: there is no class {label}, labels count from 0'
                                  f'{allowed}')
            first = first or path
    if first is None:
        raise ConfigError(f'{folder.key}: {osp.abspath(folder.ann_file)} is empty')
    path = osp.join(folder.prefix, first)
    if not osp.exists(path):
        raise ConfigError(
            f'{folder.key}: the first image of {folder.ann_file} is not there: '
            f'{osp.abspath(path)}; check data_prefix ({osp.abspath(folder.prefix)}), which the '
            'paths of the list are relative to')


def _check_number(cfg: Config, key: str, classes: Optional[tuple], head: Optional[int],
                  split: str) -> None:
    """Do the numbers of classes of data set, head and data preprocessor agree?"""
    if not isinstance(head, int):
        return
    if classes is not None and len(classes) != head:
        model = student_key(cfg.model)
        options = [f'{model}.head.num_classes={len(classes)}']
        name, preprocessor = preprocessor_of(cfg)
        if preprocessor.get('num_classes') is not None:
            options.append(f'{name}.num_classes={len(classes)}')
        raise ConfigError(
            f'{key} has {len(classes)} classes ({_shorten(classes)}), but '
            f'{model}.head.num_classes={head}. Set --cfg-options {" ".join(options)}, or name the '
            'right data set')
    name, preprocessor = preprocessor_of(cfg)
    classifier, model = student_cfg(cfg.model), student_key(cfg.model)
    augments = preprocessor.get('batch_augments', classifier.get('train_cfg'))
    if split != 'train' or type_name(classifier) != 'ImageClassifier' or not (
            augments or preprocessor.get('to_onehot')):
        return
    if preprocessor.get('num_classes') != head:
        raise ConfigError(
            f'{name}.num_classes={preprocessor.get("num_classes")}, by which mixup and the like '
            f'make their labels, but {model}.head.num_classes={head}: set --cfg-options '
            f'{name}.num_classes={head}')


def preprocessor_of(cfg: Config) -> Tuple[str, dict]:
    """tuple[str, dict]: Key and config of a classifier's data preprocessor.

    The model's own takes precedence.
    """
    # what a DistilledClassifier has is for a student that names none
    places = {student_key(cfg.model): student_cfg(cfg.model), 'model': cfg.model}
    for key, model in places.items():
        own = model.get('data_preprocessor')
        if own is not None:
            return f'{key}.data_preprocessor', own
    return 'data_preprocessor', cfg.get('data_preprocessor') or {}


def _shorten(names: Any) -> str:
    names = [str(name).split(',')[0] for name in names]  # ImageNet's have synonyms
    return ', '.join(names[:5]) + (', ...' if len(names) > 5 else '')


def _difference(first: Any, second: Any) -> str:
    parts = [f'{_shorten(sorted(set(a) - set(b)))} {where}'
             for a, b, where in ((first, second, 'only in the first'),
                                 (second, first, 'only in the second')) if set(a) - set(b)]
    return '; '.join(parts) or 'in another order'
