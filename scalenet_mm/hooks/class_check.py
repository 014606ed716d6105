"""Do the data set's classes fit the head's?"""
import re

import torch.nn as nn

from ..errors import ConfigError

_HEADS = re.compile(r'(roi_head\.)?((bbox|mask|decode|auxiliary)_)?head(\.\d+)?$')


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
