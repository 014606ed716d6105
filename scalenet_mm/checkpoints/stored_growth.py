"""How a stock model was grown, as its checkpoint tells: read as data, never run.

``AdapterInjectionHook`` grows a stock backbone when a training begins, and writes what it did into
the config that the checkpoint carries. So the stock config and the file are enough to build the
model again.
"""
import reprlib
from collections.abc import Mapping
from typing import Any, Optional

from ..errors import CheckpointError
from ..growth import growth_of
from ..utils.model_cfg import student_cfg
from .report import shows_growth, what_growth_added
from .stored_config import read_stored_config

#: The type under which the hook writes what it did.
GROWN = 'GrownBackbone'
_OPTIONS = ('growth', 'adjustment', 'targets')
#: More uses of a block, numbers in an order, or ranks no training has; they would take minutes, or
#: all of the memory, to build.
MOST_USES, MOST_BLOCKS, MOST_RANKS = 64, 4096, 4096


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
        CheckpointError: If what it says is no plain data, or cannot be meant.
    """
    said = _from_config(checkpoint, name)
    if said is not None and not _is_plain(said):
        raise CheckpointError(f'{name}: the growth that its config (meta[\'cfg\']) tells is no '
                              'plain data. Name a config with a GrownBackbone')
    for key, value in _strange(said or {}):
        raise CheckpointError(f'{name}: the growth that its config (meta[\'cfg\']) tells cannot be '
                              f'meant: {key}={reprlib.repr(value)}. Name a config with a '
                              'GrownBackbone')
    return said


def _strange(said):
    """Yield key and value of what no training writes; the rest is judged when it is built."""
    targets = said.get('targets')
    patterns = targets if isinstance(targets, (list, tuple)) else [targets]
    if targets is not None and not all(isinstance(pattern, str) for pattern in patterns):
        yield 'targets', targets
    growth = said.get('growth')
    if isinstance(growth, Mapping):
        if any(n > MOST_USES for n in _numbers_in(growth.get('times'))):
            yield 'growth.times', growth['times']
        if sum(1 for _ in _numbers_in(growth.get('order'))) > MOST_BLOCKS:
            yield 'growth.order', growth['order']
    adjustment = said.get('adjustment')
    if isinstance(adjustment, Mapping):
        if any(n > MOST_RANKS for n in _numbers_in(adjustment.get('rank'))):
            yield 'adjustment.rank', adjustment['rank']


def _numbers_in(value):
    if isinstance(value, (list, tuple)):
        for item in value:
            yield from _numbers_in(item)
    elif isinstance(value, (int, float)):
        yield value


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


def note_of_grown(checkpoint: Any, state: Mapping, name: str) -> Optional[dict]:
    """Note of a file of a grown model what :func:`refuse_grown` wants to know.

    Args:
        checkpoint (Any): What the file holds.
        state (dict): Its tensors by name.
        name (str): The file, for messages.

    Returns:
        dict | None: 'name', and 'told': whether its config says that blocks are repeated, which
        the tensors do not show if repeats share them all; None if nothing says that it is grown.
    """
    told = _tells_repeats(checkpoint, name)
    return dict(name=name, told=told) if told or shows_growth(state) else None


def _tells_repeats(checkpoint, name):
    meta = checkpoint.get('meta') if isinstance(checkpoint, Mapping) else None
    text = meta.get('cfg') if isinstance(meta, Mapping) else None
    if not isinstance(text, str) or GROWN not in text:  # then it need not be parsed
        return False
    try:
        said = read_stored_growth(checkpoint, name)
    except CheckpointError:
        return False
    return said is not None and said['growth'] is not None


def refuse_grown(model, state: Mapping, prefix: str, note: dict) -> None:
    """Refuse the file of a grown model for one that is not grown, which would load a part of it.

    Args:
        model (nn.Module): The model or backbone, unwrapped.
        state (dict): The file's tensors by name.
        prefix (str): The backbone's prefix in it; may be empty. What heads and necks hold is not
            judged.
        note (dict): What :func:`note_of_grown` says.

    Raises:
        CheckpointError: If the file's backbone is grown and the model's is not.
    """
    names = [key for key in state if key.startswith(prefix)] or list(state)
    if any(True for _ in growth_of(model)) or shows_growth(model.state_dict()):
        return
    if shows_growth(names):
        added = what_growth_added(dict.fromkeys(names))
        reason = 'it holds ' + ', '.join(f'{len(keys)} {what}' for what, keys in added.items())
    elif note['told']:
        reason = "its config, meta['cfg'], repeats blocks"
    else:
        return
    raise CheckpointError(
        f'{note["name"]} is of a grown model ({reason}), and {type(model).__name__} is not '
        'grown: a part of it alone would be loaded. Name the config that its training wrote '
        'beside it, or use scalenet_mm.init_model, tools/infer.py or tools/test.py, which grow a '
        'stock backbone as the file says')
