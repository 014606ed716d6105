"""Publishing a checkpoint: what others need of it, under a name that tells its content."""
import hashlib
import os.path as osp
import re
from collections.abc import Sequence
from typing import Optional

from ..errors import CheckpointError
from .containers import serialise
from .delta import APPLIED, MERGED
from .files import write_whole
from .keys import read_state_dict
from .report import GENE

#: What a published file holds unless asked otherwise.
PUBLISHED_KEYS = ('meta', 'state_dict')
#: Where a checkpoint's 'meta' has the paths of a training. Names of classes can look like paths:
#: those of OpenImages are such as '/m/011k07'.
_WITH_PATHS = ('cfg', 'config', 'experiment_name', 'exp_name', 'work_dir', 'hook_msgs')
#: A path from the root of a file system, of at least two folders or names.
_ABSOLUTE = re.compile(r'(/|~/|[A-Za-z]:[\\/])[^\n\'"]*[\\/][^\n\'"]*')
_LITERAL = re.compile(r'(?P<quote>[\'"])(?P<text>[^\n\'"]*)(?P=quote)')


def select(checkpoint: dict, name: str, keys: Optional[Sequence] = None,
           averaged: bool = True, paths: bool = False) -> dict:
    """Take what is to be published, as a rule without the paths of this machine.

    A delta stays one, and a learngene too: the manifest is kept whatever ``keys`` says.

    Args:
        checkpoint (dict): What a file holds; a bare state dict, or one under 'model', is taken
            for the 'state_dict'.
        name (str): The file, for messages.
        keys (Sequence[str], optional): What to keep. :data:`PUBLISHED_KEYS`, as far as they are
            there, if None. Defaults to None.
        averaged (bool): Whether to take the averaged weights (EMA) where the file holds both:
            they are its 'state_dict' already, and those that were trained its
            'ema_state_dict'. Defaults to True.
        paths (bool): Whether the config's text and the name of a delta's base keep absolute
            paths, see :func:`without_local_paths`. Defaults to False.

    Returns:
        dict: The checkpoint to publish.

    Raises:
        CheckpointError: If a key is not there.
    """
    state = read_state_dict(checkpoint, name)
    if isinstance(checkpoint.get('state_dict'), dict):
        checkpoint = {**checkpoint, 'state_dict': state}
    else:
        checkpoint = {'state_dict': state}
    if not averaged:
        checkpoint = {**checkpoint, 'state_dict': _trained(checkpoint, name)}
    lacking = [key for key in keys or () if key not in checkpoint]
    if lacking:
        raise CheckpointError(f'{name} holds no {", ".join(lacking)}, only '
                              f'{", ".join(map(str, checkpoint))}: give others by --save-keys')
    kept = {*(PUBLISHED_KEYS if keys is None else keys), 'delta', GENE}
    selected = {key: value for key, value in checkpoint.items() if key in kept}
    return selected if paths else _without_paths(selected)


def _without_paths(checkpoint):
    parts = dict(checkpoint)
    if isinstance(parts.get('meta'), dict):
        parts['meta'] = {k: without_local_paths(v) if k in _WITH_PATHS else v
                         for k, v in parts['meta'].items()}
        for key in (MERGED, APPLIED):  # the manifest of a delta that was made whole
            if key in parts['meta']:
                parts['meta'][key] = _without_source(parts['meta'][key])
    if 'delta' in parts:
        parts['delta'] = _without_source(parts['delta'])
    return parts


def _without_source(manifest):
    base = manifest.get('base') if isinstance(manifest, dict) else None
    if not isinstance(base, dict) or 'source' not in base:
        return manifest
    return {**manifest, 'base': {**base, 'source': without_local_paths(base['source'])}}


def _trained(checkpoint, name):
    """The weights that were trained, of which mmengine stores the averages in their place."""
    trained = checkpoint.get('ema_state_dict')
    if 'delta' in checkpoint:
        raise CheckpointError(f'{name} is a delta: make it whole first (tools/delta.py apply)')
    if not trained:
        raise CheckpointError(f'{name} holds no averaged weights: its state_dict are the trained '
                              'ones, leave out --no-ema')
    trained = {k.removeprefix('module.'): v for k, v in trained.items()}
    return {k: trained.get(k, v) for k, v in checkpoint['state_dict'].items()}


def without_local_paths(value):
    """Shorten absolute paths in plain data, and in the text of a config, to their last part.

    Args:
        value (Any): Plain data.

    Returns:
        Any: A copy.
    """
    if isinstance(value, dict):
        return {k: without_local_paths(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(without_local_paths, value))
    if not isinstance(value, str):
        return value
    if _ABSOLUTE.fullmatch(value):
        return _shorten(value)
    return _LITERAL.sub(lambda m: m['quote'] + _shorten(m['text']) + m['quote'], value)


def _shorten(text):
    if not _ABSOLUTE.fullmatch(text):
        return text
    name = re.split(r'[\\/]', text.rstrip('\\/'))[-1]
    return name + '/' if text.endswith('/') else name


def publish(checkpoint: dict, path: str, force: bool = False) -> str:
    """Save a checkpoint with its own hash in the name, as OpenMMLab's files have it.

    Args:
        checkpoint (dict): What :func:`select` gives.
        path (str): ``*.pth``, ``*.safetensors``, or a name without ending, which means the former.
        force (bool): Whether a file of that name may be there. Defaults to False.

    Returns:
        str: The file: the first eight digits of its SHA-256 stand before the ending.

    Raises:
        CheckpointError: If it cannot be written.
    """
    stem, ending = osp.splitext(path)
    if ending not in ('.pth', '.safetensors'):
        stem, ending = path, '.pth'
    if GENE in checkpoint and ending != '.pth':
        raise CheckpointError(f'{path}: the file of a learngene ends with .pth; safetensors has no '
                              'place for its manifest')
    content = serialise(checkpoint, stem + ending)
    path = f'{stem}-{hashlib.sha256(content).hexdigest()[:8]}{ending}'
    refuse_overwriting([path], force)
    write_whole(path, lambda file: file.write(content))
    return path


def refuse_overwriting(paths: Sequence, force: bool) -> None:
    """Check that nothing is lost by writing files.

    Args:
        paths (Sequence[str]): The files.
        force (bool): Whether they may be there.

    Raises:
        CheckpointError: If one is there and may not be.
    """
    there = [path for path in paths if osp.exists(path)]
    if there and not force:
        raise CheckpointError(f'{" and ".join(there)} is there already: --force writes over it')
