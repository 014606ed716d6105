"""What the checks of detection's and segmentation's data share: data sets, heads, classes."""
import difflib
import os.path as osp
from copy import deepcopy
from typing import Any, Dict, Iterator, List, Optional, Sequence, Tuple

from mmengine.config import Config
from mmengine.registry import Registry

from scalenet_mm.engine.scopes import iter_dataloaders, iter_datasets, type_name
from scalenet_mm.errors import ConfigError
from scalenet_mm.hooks.class_check import OPEN_MODELS, counts_other

HEADS = ('bbox_head', 'mask_head', 'panoptic_head', 'panoptic_fusion_head', 'query_head',
         'decode_head', 'auxiliary_head')


def iter_split(cfg: Config, split: str) -> Iterator[Tuple[str, dict]]:
    """Yield the config keys and configs of a split's data sets, through loaders and wrappers."""
    for loader_key, loader in iter_dataloaders(cfg, split):
        yield from iter_datasets(loader.get('dataset'), f'{loader_key}.dataset')


def iter_steps(pipeline: Any) -> Iterator[dict]:
    """Yield the configs of a pipeline's transforms, those within others too."""
    if isinstance(pipeline, dict):
        if 'type' in pipeline:
            yield pipeline
        pipeline = list(pipeline.values())
    if isinstance(pipeline, (list, tuple)):
        for item in pipeline:
            yield from iter_steps(item)


def reads_image_files(pipeline: Any) -> bool:
    """Whether a pipeline loads images from this machine's files, as the data set names them."""
    loaders = [step for step in iter_steps(pipeline) if type_name(step) == 'LoadImageFromFile']
    return bool(loaders) and all(
        (step.get('backend_args') or {}).get('backend', 'local') == 'local' for step in loaders)


def build_unread(key: str, cfg: dict, registry: Registry, base: type, scope: str) -> Any:
    """Build a data set without reading its files: its classes and paths, defaults filled in.

    Args:
        key (str): The config key of the data set.
        cfg (dict): Its config.
        registry (Registry): The toolbox's data sets.
        base (type): The kind of data set that is understood.
        scope (str): The toolbox.

    Returns:
        BaseDataset | None: None if it is of another kind, or reads its files in a way of its own.

    Raises:
        ConfigError: If it cannot be built.
    """
    with registry.switch_scope_and_registry(scope) as found:
        kind = cfg.get('type')
        kind = found.get(kind) if isinstance(kind, str) else kind
        if not isinstance(kind, type) or not issubclass(kind, base) or any(
                getattr(kind, name) is not getattr(base, name)
                for name in ('load_data_list', 'parse_data_info')):
            return None
        classes = (cfg.get('metainfo') or {}).get('classes')
        if isinstance(classes, str) and not osp.isfile(classes):
            # the toolboxes would take its letters for classes
            raise ConfigError(
                f'{key}.metainfo.classes is the text {classes!r}, neither a list of classes nor a '
                f'file with one: one class, too, needs a comma: classes=({classes!r}, )')
        options = {k: deepcopy(v) for k, v in cfg.items() if k not in ('type', '_scope_')}
        options.update(pipeline=[], lazy_init=True)
        try:
            return kind(**options)
        except (TypeError, ValueError, AssertionError, OSError) as error:
            raise ConfigError(f'{key}: {kind.__name__} cannot be built: '
                              f'{str(error) or type(error).__name__}') from error


def find_heads(model: Any, key: str = 'model') -> Iterator[Tuple[str, dict]]:
    """Yield the config keys and configs of the heads that tell the data set's classes apart.

    Args:
        model (dict): Config of a detector or segmentor.
        key (str): Its config key. Defaults to 'model'.

    Yields:
        tuple[str, dict]: Key and config of each head, those of lists one by one.
    """
    if isinstance(model, (list, tuple)):
        for i, item in enumerate(model):
            yield from find_heads(item, f'{key}.{i}')
    elif isinstance(model, dict):
        name = next(n for n in reversed(key.split('.')) if not n.isdigit())
        if name in HEADS:
            yield key, model
            return
        for k, value in model.items():
            if isinstance(value, (dict, list, tuple)):
                yield from find_heads(value, f'{key}.{k}')


def count_classes(head: dict) -> Optional[Dict[str, int]]:
    """The options of a head's config that count classes; None if none counts the data set's."""
    if counts_other(type_name(head), head.get):
        return None
    names = ('num_things_classes', 'num_stuff_classes') if 'num_things_classes' in head else (
        'num_classes', )
    counts = {name: head[name] for name in names if isinstance(head.get(name), int)}
    return counts or None


def check_heads(model: dict, key: str, classes: Sequence[str]) -> None:
    """Do the heads tell as many classes apart as a data set has?

    Args:
        model (dict): Config of the model.
        key (str): The config key of the data set.
        classes (Sequence[str]): Its classes.

    Raises:
        ConfigError: Names all heads with another number, and how to set them; or a list of class
            weights of another length.
    """
    model = model.get('module', model)  # of a model for augmented tests
    if any(name in model for name in OPEN_MODELS):
        return
    wrong, fixes = [], []
    for head_key, head in find_heads(model):
        counts = count_classes(head)
        if counts is None or sum(counts.values()) == len(classes):
            continue
        for name, count in counts.items():
            # a data set of objects has no stuff
            number = 0 if name == 'num_stuff_classes' else len(classes)
            if count != number:
                wrong.append(f'{head_key}.{name}={count}')
                fixes.append(f'{head_key}.{name}={number}')
    if wrong:
        raise ConfigError(
            f'{key} has {len(classes)} classes ({shorten(classes)}), but {", ".join(wrong)}: set '
            f'--cfg-options {" ".join(fixes)}, or name the right classes in {key}.metainfo')
    for head_key, head in find_heads(model):
        _check_weights(head_key, head, len(classes))


def _check_weights(key: str, head: dict, number: int) -> None:
    """Refuse a list of class weights that was left over from other classes."""
    # these two tell no object from the classes, by one more weight
    more = 1 if type_name(head) in ('MaskFormerHead', 'Mask2FormerHead') else 0
    for name in ('loss_cls', 'loss_decode'):
        loss = head.get(name)
        weights = loss.get('class_weight') if isinstance(loss, dict) else None
        if (more == 0) == (name == 'loss_cls') or not isinstance(weights, (list, tuple)) or \
                len(weights) == number + more:
            continue
        raise ConfigError(
            f'{key}.{name}.class_weight has {len(weights)} numbers, but there are {number} classes'
            f'{" and one number for no object" if more else ""}: set {key}.{name}=dict('
            f'class_weight=[1.0] * {number}{" + [0.1]" if more else ""}) in the config')


def check_same_classes(model: dict, found: Dict[str, Tuple[str, Sequence[str]]]) -> None:
    """Do the splits mean the same by their labels?

    Args:
        model (dict): Config of the model; one that knows words may be tested on other classes.
        found (dict[str, tuple[str, Sequence[str]]]): Of each split the key and the classes of a
            data set.

    Raises:
        ConfigError: If they differ.
    """
    if 'language_model' in model.get('module', model):
        return
    (key, first), *others = found.values() or [('', ())]
    for other, classes in others:
        if list(classes) != list(first):
            raise ConfigError(
                f'{key} and {other} have different classes, so that their labels would not mean '
                f'the same: {shorten(first)} and {shorten(classes)}: give both the same '
                'metainfo.classes')


def shorten(names: Sequence, count: int = 5) -> str:
    """str: The first of some names, for a message."""
    return ', '.join(str(n) for n in list(names)[:count]) + (', ...' if len(names) > count else '')


def suggest(word: str, names: Sequence[str]) -> Optional[str]:
    """The name that may be meant by a word, upper or lower case; None if none is near."""
    lower = {str(name).lower(): str(name) for name in names}
    near = difflib.get_close_matches(str(word).lower(), list(lower), n=1)
    return lower[near[0]] if near else None


def spread(items: List, count: int) -> List:
    """list: That many of the items, evenly spread, the first and the last among them."""
    if len(items) <= count:
        return list(items)
    return [items[round(i * (len(items) - 1) / (count - 1))] for i in range(count)]
