"""How a stock model was grown, as its checkpoint tells: read as data, never run.

``AdapterInjectionHook`` grows a stock backbone when a training begins, and writes what it did into
the config that the checkpoint carries. So the stock config and the file are enough to build the
model again.
"""
from collections.abc import Mapping
from typing import Any, Optional

from ..errors import CheckpointError
from ..utils.model_cfg import student_cfg
from .report import what_growth_added
from .stored_config import read_stored_config

#: The type under which the hook writes what it did.
GROWN = 'GrownBackbone'
_OPTIONS = ('growth', 'adjustment', 'targets')


def read_stored_growth(checkpoint: Any, name: str) -> Optional[dict]:
    """Tell how the stock backbone was grown whose tensors a checkpoint holds.

    Only the options of growth are taken, and only where they are plain data; what is built is
    never named by the file.

    Args:
        checkpoint (Any): What a checkpoint file holds, whole or a delta that was made whole.
        name (str): The file, for messages.

    Returns:
        dict | None: 'growth', 'adjustment' and 'targets' as :func:`grow_backbone` takes them;
        None if the file does not say that a stock backbone was grown.

    Raises:
        CheckpointError: If what it says is no plain data.
    """
    said = _from_config(checkpoint, name)
    if said is not None and not _is_plain(said):
        raise CheckpointError(f'{name}: the growth that its config (meta[\'cfg\']) tells is no '
                              'plain data. Name a config with a GrownBackbone')
    return said


def _from_config(checkpoint, name):
    """dict | None: What the hook wrote into the config."""
    try:
        model = read_stored_config(checkpoint, name).get('model')
    except CheckpointError:
        return None  # no config, or one that is no data; the model's own one says what is built
    if isinstance(model, Mapping) and isinstance(model.get('module'), Mapping):
        model = model['module']  # within an augmented test
    backbone = (student_cfg(model) or {}).get('backbone') if isinstance(model, Mapping) else None
    if not isinstance(backbone, Mapping) or _bare(backbone.get('type')) != GROWN:
        return None
    defaults = dict(growth='paper', adjustment='paper', targets=None)
    return {option: backbone.get(option, defaults[option]) for option in _OPTIONS}


def _bare(kind):
    return kind.split('.')[-1] if isinstance(kind, str) else None


def _is_plain(value):
    if isinstance(value, Mapping):
        return all(isinstance(k, str) and _is_plain(v) for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, (bool, int, float, str))


def refuse_grown(model, state: Mapping, name: str) -> None:
    """Refuse the file of a grown model for one that is not grown, which would load a part of it.

    Args:
        model (nn.Module): The model or backbone, unwrapped.
        state (dict): The file's tensors by name.
        name (str): The file, for the message.

    Raises:
        CheckpointError: If the file has tensors that growth adds and the model none.
    """
    added = what_growth_added(state)
    if not added or what_growth_added(model.state_dict()):
        return
    found = ', '.join(f'{len(keys)} {what}' for what, keys in added.items())
    raise CheckpointError(
        f'{name} is of a grown model (it holds {found}), and {type(model).__name__} is not grown: '
        'a part of it alone would be loaded. Name the config that its training wrote beside it, '
        'or use scalenet_mm.init_model, tools/infer.py or tools/test.py, which grow a stock '
        'backbone as the file says')
