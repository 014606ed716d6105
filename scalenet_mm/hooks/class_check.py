"""Do the data set's classes fit the head's?"""
import torch.nn as nn

from ..errors import ConfigError


def check_classes(model: nn.Module, dataset) -> None:
    """Check a data set against the heads of a model.

    Args:
        model (nn.Module): A classifier, detector or segmentor, unwrapped.
        dataset (Dataset): The training set, possibly wrapped.

    Raises:
        ConfigError: If the data set is empty, or its number of classes is not that of a head.
    """
    if hasattr(dataset, '__len__') and len(dataset) == 0:
        raise ConfigError('the training set is empty: check train_dataloader.dataset (ann_file, '
                          'data_prefix, filter_cfg), and that metainfo.classes names classes that '
                          'the annotations hold')
    classes = (getattr(dataset, 'metainfo', None) or {}).get('classes')
    if classes is None:
        return
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
    last = name.rsplit('.', 1)[-1]
    return (isinstance(getattr(module, 'num_classes', None), int)
            and not isinstance(module.num_classes, bool)
            and ('head' in last or 'head' in name) and 'rpn' not in name and 'loss' not in name)
