"""What a model's config says of the model that trains, distilled or not."""
import copy
from typing import Any

#: What wraps a student in a config.
DISTILLED = 'DistilledClassifier'


def is_distilled(model_cfg: Any) -> bool:
    """Whether a model's config is that of a ``DistilledClassifier``."""
    kind = model_cfg.get('type', '') if isinstance(model_cfg, dict) else ''
    return getattr(kind, '__name__', str(kind)).split('.')[-1] == DISTILLED


def student_cfg(model_cfg: Any) -> Any:
    """Get the part of a model's config that has the backbone and the head.

    Args:
        model_cfg (dict): A model's config.

    Returns:
        dict: The student's config within a ``DistilledClassifier``'s, else ``model_cfg`` itself;
        what is changed in it is changed there.
    """
    student = model_cfg.get('student') if is_distilled(model_cfg) else None
    return student if isinstance(student, dict) else model_cfg


def student_key(model_cfg: Any, key: str = 'model') -> str:
    """str: The config key of what :func:`student_cfg` gives, for messages."""
    return key if student_cfg(model_cfg) is model_cfg else f'{key}.student'


def plain_cfg(model_cfg: Any) -> Any:
    """Copy a model's config without distillation: the model that is tested and exported.

    Args:
        model_cfg (dict): A model's config.

    Returns:
        dict: A copy of the student's config, with what the ``DistilledClassifier`` hands to its
        student; of another model a copy of the whole.
    """
    student = copy.deepcopy(student_cfg(model_cfg))
    if student_cfg(model_cfg) is not model_cfg:
        for name in ('data_preprocessor', 'init_cfg'):
            if model_cfg.get(name) is not None and student.get(name) is None:
                student[name] = copy.deepcopy(model_cfg[name])
    return student
