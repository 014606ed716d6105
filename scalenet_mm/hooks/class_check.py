"""Do the data set's classes fit the head's, and its labels the classes?"""
import re
from typing import Any, Iterable, Iterator, Optional, Set, Tuple

import torch.nn as nn

from ..errors import ConfigError, DataError

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
    if classes is None or hasattr(model, 'semantic_head'):
        return  # a panoptic model divides the classes among its heads
    wrong = [
        f'model.{name}.num_classes={module.num_classes}' for name, module in model.named_modules()
        if _classifies(name, module) and module.num_classes != len(classes)
    ]
    if wrong:
        shown = ', '.join(map(str, classes[:5])) + (', ...' if len(classes) > 5 else '')
        raise ConfigError(f'the data set has {len(classes)} classes ({shown}), the model '
                          f'{", ".join(wrong)}: set num_classes={len(classes)} there, or '
                          'metainfo.classes in the data set')


def _classifies(name, module):
    """Whether a module is a head for the data set's classes; an RPN tells object from none."""
    return isinstance(getattr(module, 'num_classes', None), int) and _HEADS.match(name) is not None


def labels_of_heads(model: nn.Module) -> Set[Tuple[int, Optional[int]]]:
    """What labels a segmentor's heads take.

    Args:
        model (nn.Module): Any model, unwrapped.

    Returns:
        set[tuple[int, int | None]]: Number of classes and ignored label of each head. Empty for a
        model that is no segmentor.
    """
    found = set()
    for name in ('decode_head', 'auxiliary_head'):
        heads = getattr(model, name, None)
        for head in heads if isinstance(heads, nn.ModuleList) else [heads]:
            if isinstance(getattr(head, 'num_classes', None), int):
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
        if classes is not None and hasattr(metric, 'ignore_index'):
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
        labels = sample.gt_sem_seg.data
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
