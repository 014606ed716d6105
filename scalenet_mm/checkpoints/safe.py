"""Safe loading: tensors and plain data, never code.

Since torch 2.6 ``torch.load`` refuses pickled objects that are not on an allow-list, and mmengine
0.10's own training checkpoints hold some. Their types are allowed here, by name and no wider, and
mmengine's loaders are replaced by ones that never unpickle anything else, whatever the place of the
file. Importing the package is enough.
"""
import hashlib
import io
import json
import os
import os.path as osp
import pickle
import re
import struct
from collections import OrderedDict
from typing import Optional
from urllib.parse import urlparse

import numpy as np
import torch
from mmengine.dist import get_dist_info
from mmengine.logging import HistoryBuffer
from torch.hub import download_url_to_file, get_dir, load_state_dict_from_url

from ..errors import CheckpointError
from .files import check_whole, damage, is_archive

_multiarray = getattr(np, '_core', None) or np.core


def _history_method(owner, name):
    """All that mmengine's histories need of ``getattr``: their own statistics."""
    if owner is not HistoryBuffer or name not in ('min', 'max', 'mean', 'current'):
        raise pickle.UnpicklingError(f'GLOBAL builtins.getattr for {name!r} is not allowed')
    return getattr(owner, name)


def _latin1(text, encoding):
    """All that pickled bytes need of ``codecs.encode``."""
    if encoding != 'latin1':
        raise pickle.UnpicklingError(f'GLOBAL _codecs.encode to {encoding!r} is not allowed')
    return text.encode('latin1')


#: What mmengine writes into its checkpoints beside tensors and plain Python data: the message
#: hub's histories, which hold numpy arrays; and the arrays of a data set's metainfo.
MMENGINE_TYPES = (
    HistoryBuffer,
    np.ndarray,
    np.dtype,
    _multiarray.multiarray._reconstruct,
    _multiarray.multiarray.scalar,
    # numbers, texts and bytes, but no objects
    *{type(np.dtype(code)) for code in '?bhilqBHILQefdgFDGUS'},
    # under the names that the files give them
    (_history_method, 'builtins.getattr'),
    (_latin1, '_codecs.encode'),
)


#: Under this name a safetensors file has the manifest of a delta, see :mod:`.delta`.
IN_SAFETENSORS = 'scalenet_delta'
#: And under this one the checksum of all such texts, which the format itself does not protect.
NOTES_SUM = 'notes_sha256'

#: What torch's readers raise, beside UnpicklingError, on files that are no checkpoints.
_DAMAGE = (EOFError, RuntimeError, ValueError, LookupError, TypeError, AttributeError,
           AssertionError, struct.error)


#: How torch names a type that it refuses.
_NAMED = (
    re.compile(r'GLOBAL (\S+)'),
    re.compile(r"but got <class '([^']+)'>"),
    re.compile(r"unrecognized function <\w+ '?([^\s'>]+)"),
    re.compile(r'``(torch\.\S+)``.*must be imported'),
)


class TypeRefusedError(CheckpointError):
    """A file that holds an object of a type that is not on the list; it may well be whole.

    Args:
        source (str): The file.
        type_name (str): The type, as it is called in the file.
    """

    def __init__(self, source, type_name: str):
        super().__init__(
            f'{source} holds {type_name}, which is not on the list of types that are safe to '
            'load. Unpickling it could run code, so the file is refused. If you trust it, allow '
            'the type by scalenet_mm.checkpoints.allow_types, or save the file again with its '
            'tensors alone')
        self.source = source
        self.type_name = type_name

    def __reduce__(self):  # other processes are told of it
        return type(self), (self.source, self.type_name)


def allow_types(*types: type) -> None:
    """Allow further types in checkpoint files.

    Only for types whose unpickling cannot run code that you do not know.

    Args:
        *types (type): Classes or functions that a file may name.
    """
    torch.serialization.add_safe_globals(list(types))


def load_file(source, map_location='cpu', progress: bool = False,
              name: Optional[str] = None, mmap: bool = False):
    """Load a checkpoint file without executing anything in it, and see that it is undamaged.

    Args:
        source (str | Path | BinaryIO): A local path, an http(s) URL or an open file; a URL is
            downloaded once, into torch's hub folder, by the first process. What is named
            ``*.safetensors`` is read by that package.
        map_location (optional): As for :func:`torch.load`. Defaults to 'cpu'.
        progress (bool): Whether to show the download. Defaults to False.
        name (str, optional): What to call an open file in messages. Defaults to None.
        mmap (bool): Whether to leave the tensors on the disk until they are used, where the
            format allows it; they are on the CPU then. Defaults to False.

    Returns:
        Any: What the file holds.

    Raises:
        CheckpointError: If there is no such file, it cannot be downloaded, is damaged, or (a
            :class:`TypeRefusedError`) holds objects that are not on the list of safe types.
    """
    if not hasattr(source, 'read'):
        name = source = os.fspath(source)
    try:
        if hasattr(source, 'read'):
            check_whole(source, name)
            source.seek(0)
            return torch.load(source, map_location=map_location, weights_only=True)
        if is_url(source):
            return _download(source, map_location, progress)
        path = osp.expanduser(source)
        if osp.isdir(path):
            raise CheckpointError(f'{source} is a folder; name a checkpoint file in it')
        if not osp.isfile(path):
            raise CheckpointError(f'there is no checkpoint file {source}')
        if path.endswith('.safetensors'):
            return _load_safetensors(path, map_location, name)
        check_whole(path)
        if mmap and is_archive(path):
            return torch.load(path, map_location='cpu', weights_only=True, mmap=True)
        return torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        raise _refusal(name, str(error)) from error
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f'{name} cannot be read: {error}') from error
    except _DAMAGE as error:
        # torch's own words where they tell something, such as a device that is not there
        reason = str(error).split('. ')[0] if isinstance(error, RuntimeError) else ''
        if 'TorchScript archives' in reason:
            reason = 'it is a TorchScript program'
        raise CheckpointError(_damage(name, reason)) from error


def is_url(source: str) -> bool:
    """Whether a file is named by an http(s) URL."""
    return source.startswith(('http://', 'https://'))


def cache_path(url: str) -> str:
    """str: Where a download is kept: as torch does, but for files that are all called the same."""
    base = osp.basename(urlparse(url).path)
    if base.endswith(('.safetensors', '.bin')):  # model.safetensors, pytorch_model.bin
        base = f'{hashlib.sha256(url.encode()).hexdigest()[:8]}-{base}'
    return osp.join(get_dir(), 'checkpoints', base)


def download(url: str, progress: bool = False, path: Optional[str] = None) -> str:
    """Download a file if it is not there yet.

    Args:
        url (str): Where from.
        progress (bool): Whether to show it. Defaults to False.
        path (str, optional): Where to; :func:`cache_path` if None. Defaults to None.

    Returns:
        str: The local file.
    """
    path = path or cache_path(url)
    if not osp.exists(path):
        os.makedirs(osp.dirname(path), exist_ok=True)
        download_url_to_file(url, path, progress=progress)
    return path


def _load_safetensors(path, map_location, name):
    try:
        from safetensors import SafetensorError, safe_open
        from safetensors.torch import load_file as read
    except ImportError:
        raise CheckpointError(f'{name} is in the safetensors format; to read it, '
                              'pip install safetensors') from None
    try:
        tensors = read(path)
        with safe_open(path, 'pt') as file:
            notes = file.metadata() or {}
    except SafetensorError as error:
        raise CheckpointError(_damage(name, str(error))) from error
    if NOTES_SUM in notes and notes[NOTES_SUM] != sum_of_notes(notes):
        raise CheckpointError(_damage(name, 'the checksum of its notes does not agree'))
    if isinstance(map_location, (str, torch.device)):  # no device is noted in such a file
        tensors = {k: v.to(map_location) for k, v in tensors.items()}
    ours = IN_SAFETENSORS in notes or NOTES_SUM in notes
    return _read_notes(tensors, notes, name) if ours else tensors


def sum_of_notes(notes: dict) -> str:
    """str: The SHA-256 of the texts beside a safetensors file's tensors."""
    told = sorted((key, text) for key, text in notes.items() if key != NOTES_SUM)
    return hashlib.sha256(json.dumps(told).encode()).hexdigest()


def _read_notes(tensors, notes, name):
    """The checkpoint, whole or a delta, of which a file of ours holds the tensors."""
    state = OrderedDict(tensors)
    try:
        state._metadata = json.loads(notes.get('state_metadata', 'null')) or OrderedDict()
        checkpoint = {'meta': json.loads(notes.get('meta', '{}')), 'state_dict': state}
        if IN_SAFETENSORS in notes:
            checkpoint['delta'] = json.loads(notes[IN_SAFETENSORS])
    except ValueError as error:
        raise CheckpointError(_damage(name, f'its notes are no JSON: {error}')) from error
    if not all(isinstance(value, dict) for value in checkpoint.values()):
        raise CheckpointError(_damage(name, 'its notes are no dicts'))
    return checkpoint


def _damage(source, reason=''):
    if is_url(source):
        # what was downloaded is kept, so that trying again would read the same file
        return damage(source, reason, f'delete {cache_path(source)} to download it again')
    return damage(source, reason)


def _refusal(source, reason):
    found = list(filter(None, (pattern.search(reason) for pattern in _NAMED)))
    return TypeRefusedError(source, found[0][1]) if found else CheckpointError(_damage(source))


def find_refused(value, place: str = '') -> Optional[str]:
    """Find what :func:`load_file` would refuse if it were saved.

    Args:
        value (Any): What is to be saved, such as a checkpoint.
        place (str): Where it stands itself. Defaults to ''.

    Returns:
        str | None: Where the first such object stands, as in 'meta.dataset_meta.palette'; None if
        there is none.
    """
    content = io.BytesIO()
    torch.save(value, content)
    try:
        load_file(content)
    except CheckpointError:
        parts = value.items() if isinstance(value, dict) else (
            enumerate(value) if isinstance(value, (list, tuple)) else ())
        inner = (find_refused(part, f'{place}.{key}'.lstrip('.')) for key, part in parts)
        return next(filter(None, inner), place)
    return None


def _download(url, map_location, progress):
    rank, world_size = get_dist_info()

    def fetch():
        path = download(url, progress)
        if path.endswith('.safetensors'):
            return _load_safetensors(path, map_location, url)
        try:
            check_whole(path)
        except CheckpointError as error:
            raise CheckpointError(_damage(url, f'{path}: it was damaged')) from error
        # it finds the file, and knows archives of archives
        return load_state_dict_from_url(
            url, map_location=map_location, progress=progress, file_name=osp.basename(path),
            weights_only=True)

    if world_size == 1:
        return fetch()
    # the first process downloads, the others then find the file
    try:
        checkpoint = fetch() if rank == 0 else None
    finally:  # if the first one fails the others must not wait for ever
        torch.distributed.barrier()
    return checkpoint if rank == 0 else fetch()


def install() -> None:
    """Allow mmengine's types and put the safe loaders into its registry of loaders."""
    from .loaders import register_loaders  # they stand on this module
    allow_types(*MMENGINE_TYPES)
    register_loaders()
