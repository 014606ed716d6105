"""Do the data set's classes fit the head's, and its labels the classes?"""
import re
from typing import Any, Callable, Iterable, Iterator, Optional, Set, Tuple

import torch.nn as nn

from ..errors import ConfigError, DataError

#: Parts of models to which a data set's classes say nothing of a head's number: a panoptic model
#: divides them among its heads, and one with a language model matches boxes to words.
OPEN_MODELS = ('semantic_head', 'language_model')
_HEADS = re.compile(r'(roi_head\.)?((bbox|mask|panoptic|decode|auxiliary)_)?head(\.\d+)?$')


def check_classes(model: nn.Module, dataset) -> None:
    """Check a data set against the heads of a model.

    Args:
        model (nn.Module): A classifier, detector or segmentor, unwrapped.
        dataset (Dataset): A data set that the run uses, possibly wrapped.

    Raises:
        ConfigError: If the data set is empty, or its number of classes is not that of a head.
    """
    if hasattr(dataset, '__len__') and len(dataset) == 0:
        raise ConfigError('a data set is empty: check dataset (ann_file, data_prefix, '
                          'filter_cfg) of the dataloaders, and that metainfo.classes names '
                          'classes that the annotations hold')
    classes = (getattr(dataset, 'metainfo', None) or {}).get('classes')
    if classes is None:
        return
    _check_found(dataset)
    if any(hasattr(model, name) for name in OPEN_MODELS):
        return
    wrong = [
        f'model.{name}.num_classes={module.num_classes}' for name, module in model.named_modules()
        if _classifies(name, module) and module.num_classes != len(classes)
    ]
    if wrong:
        shown = ', '.join(map(str, classes[:5])) + (', ...' if len(classes) > 5 else '')
        raise ConfigError(f'the data set has {len(classes)} classes ({shown}), but '
                          f'{", ".join(wrong)}: set num_classes={len(classes)} there, or '
                          'metainfo.classes in the data set')


def _classifies(name, module):
    """Whether a module is a head for the data set's classes; an RPN tells object from none."""
    return isinstance(getattr(module, 'num_classes', None), int) \
        and _HEADS.match(name) is not None \
        and not counts_other(type(module).__name__, lambda option: getattr(module, option, None))


def counts_other(kind: str, option: Callable[[str], Any]) -> bool:
    """Whether the number of classes of a head is not that of the data set.

    Args:
        kind (str): Name of the head's class.
        option (Callable): Gives an option of the head by name, None if it has none of that name.

    Returns:
        bool: True of STDC's head for boundaries, and of a mask head for all classes at once.
    """
    return kind == 'STDCHead' or kind == 'FCNMaskHead' and bool(option('class_agnostic'))


def _check_found(dataset):
    """Are all classes of a COCO-format data set in its annotation file?"""
    inner = [getattr(dataset, 'dataset', None), *(getattr(dataset, 'datasets', None) or ())]
    for part in inner:
        if part is not None:
            _check_found(part)
    found = getattr(dataset, 'cat_ids', None)
    classes = (getattr(dataset, 'metainfo', None) or {}).get('classes')
    if isinstance(found, list) and classes is not None and len(found) != len(classes):
        raise ConfigError(
            f'the data set has {len(classes)} classes, but {dataset.ann_file} has categories for '
            f'{len(found)} of them alone, so that labels would be shifted: metainfo.classes must '
            'be written as the names of its "categories"')


def labels_of_heads(model: nn.Module) -> Set[Tuple[int, Optional[int]]]:
    """What labels a segmentor's heads take.

    Args:
        model (nn.Module): Any model, unwrapped.

    Returns:
        set[tuple[int, int | None]]: Number of classes and ignored label of each head. Empty for a
        model that is no segmentor.
    """
    found: set = set()
    for name in ('decode_head', 'auxiliary_head'):
        heads: Any = getattr(model, name, None)
        for head in heads if isinstance(heads, nn.ModuleList) else [heads]:
            if _classifies(name, head):
                found.add((head.num_classes, getattr(head, 'ignore_index', 255)))
    return found


def labels_of_metrics(evaluator: Any) -> Set[Tuple[int, Optional[int]]]:
    """What labels the metrics of a segmentor count.

    Args:
        evaluator (Evaluator): The evaluator of a loop.

    Returns:
        set[tuple[int, int | None]]: Number of classes and ignored label of each metric that has
        both.
    """
    found = set()
    for metric in getattr(evaluator, 'metrics', None) or ():
        classes = (getattr(metric, 'dataset_meta', None) or {}).get('classes')
        if classes is not None and hasattr(metric, 'ignore_index') \
                and not getattr(metric, 'format_only', False):
            found.add((len(classes), metric.ignore_index))
    return found


def check_labels(data_batch: Any, limits: Iterable[Tuple[int, Optional[int]]]) -> None:
    """Check the label maps of a batch, before a loss fails on them or a metric miscounts.

    A loss ends in an IndexError on the CPU and in a device-side assert on a GPU, neither of which
    names the file; IoUMetric leaves the label out of one of its sums, in silence.

    Args:
        data_batch (dict): What a dataloader gives: label maps of shape (1, H, W) in
            ``data_samples``.
        limits (Iterable[tuple[int, int | None]]): Numbers of classes and ignored labels.

    Raises:
        DataError: If a label is no class and not ignored.
    """
    if not limits or not isinstance(data_batch, dict):
        return
    for sample in _samples(data_batch.get('data_samples')):
        if 'gt_sem_seg' not in sample:
            continue
        labels = getattr(sample.gt_sem_seg, 'data', None)
        if labels is None:
            continue
        for number, ignored in limits:
            wrong = labels >= number
            if ignored is not None:
                wrong &= labels != ignored
            if wrong.any():
                raise DataError(explain_labels(
                    sample.get('seg_map_path') or f'label map of {sample.get("img_path")}',
                    labels[wrong].unique().tolist(), number, ignored,
                    bool(sample.get('reduce_zero_label'))))


def _samples(samples: Any) -> Iterator:
    if isinstance(samples, (list, tuple)):  # nested in an augmented test
        for item in samples:
            yield from _samples(item)
    elif samples is not None:
        yield samples


def explain_labels(path: str, wrong: Iterable[int], number: int, ignored: Optional[int],
                   reduced: bool) -> str:
    """Say what is wrong with the labels of a file, and how to mend it.

    Args:
        path (str): The label map.
        wrong (Iterable[int]): The labels that are no classes and not ignored.
        number (int): How many classes there are.
        ignored (int, optional): The label that is passed over.
        reduced (bool): Whether labels were reduced by one (``reduce_zero_label``).

    Returns:
        str: The message.
    """
    wrong = sorted(wrong)
    stored = ', '.join(str(v + reduced) for v in wrong[:8]) + (', ...' if len(wrong) > 8 else '')
    first = int(reduced)
    text = (f'{path} holds the label(s) {stored}, but there are {number} classes, {first} to '
            f'{number - 1 + first}, and {ignored} is ignored.')
    if wrong == [number] and not reduced:
        text += (' If labels count from 1 and 0 is no class, set reduce_zero_label=True in the '
                 'data sets.')
    text += (f' If they are classes, name them in metainfo.classes of the data sets and set '
             f'num_classes of the heads. If they are to be ignored, write {ignored} for them')
    if len(wrong) == 1 and not reduced:
        text += (f'; or set ignore_index={wrong[0]} in decode_head, auxiliary_head and the '
                 f'evaluators, and seg_pad_val={wrong[0]} in the data preprocessor')
    return text
