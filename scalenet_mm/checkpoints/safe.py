"""Safe loading: tensors and plain data, never code.

Since torch 2.6 ``torch.load`` refuses pickled objects that are not on an allow-list, and mmengine
0.10's own training checkpoints hold some. Their types are allowed here, by name and no wider, and
mmengine's loaders are replaced by ones that never unpickle anything else, for local files and for
URLs. Importing the package is enough.
"""
import os
import os.path as osp
import pickle
import struct
from urllib.parse import urlparse

import numpy as np
import torch
from mmengine.dist import get_dist_info
from mmengine.logging import HistoryBuffer
from mmengine.runner.checkpoint import CheckpointLoader
from torch.hub import load_state_dict_from_url

from ..errors import CheckpointError

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
#: hub's histories, which hold numpy arrays.
MMENGINE_TYPES = (
    HistoryBuffer,
    np.ndarray,
    np.dtype,
    _multiarray.multiarray._reconstruct,
    _multiarray.multiarray.scalar,
    *{type(np.dtype(name))
      for name in ('bool', 'int32', 'int64', 'uint32', 'uint64', 'float32', 'float64')},
    # under the names that the files give them
    (_history_method, 'builtins.getattr'),
    (_latin1, '_codecs.encode'),
)


#: What torch's readers raise, beside UnpicklingError, on files that are no checkpoints.
_DAMAGE = (EOFError, RuntimeError, ValueError, LookupError, TypeError, AttributeError,
           AssertionError, struct.error)


def allow_types(*types: type) -> None:
    """Allow further types in checkpoint files.

    Only for types whose unpickling cannot run code that you do not know.

    Args:
        *types (type): Classes or functions that a file may name.
    """
    torch.serialization.add_safe_globals(list(types))


def load_file(source: str, map_location='cpu', progress: bool = False):
    """Load a checkpoint file without executing anything in it.

    Args:
        source (str | Path): A local path or an http(s) URL; a URL is downloaded once, into torch's
            hub folder, by the first process.
        map_location (optional): As for :func:`torch.load`. Defaults to 'cpu'.
        progress (bool): Whether to show the download. Defaults to False.

    Returns:
        Any: What the file holds.

    Raises:
        CheckpointError: If there is no such file, it cannot be downloaded, is damaged, or holds
            objects that are not on the list of safe types.
    """
    source = os.fspath(source)
    try:
        if source.startswith(('http://', 'https://')):
            return _download(source, map_location, progress)
        path = osp.expanduser(source)
        if osp.isdir(path):
            raise CheckpointError(f'{source} is a folder; name a checkpoint file in it')
        if not osp.isfile(path):
            raise CheckpointError(f'there is no checkpoint file {source}')
        return torch.load(path, map_location=map_location, weights_only=True)
    except pickle.UnpicklingError as error:
        raise CheckpointError(_refusal(source, str(error))) from error
    except CheckpointError:
        raise
    except OSError as error:
        raise CheckpointError(f'{source} cannot be read: {error}') from error
    except _DAMAGE as error:
        # torch's own words where they tell something, such as a device that is not there
        reason = str(error).split('. ')[0] if isinstance(error, RuntimeError) else ''
        raise CheckpointError(_damage(source, reason)) from error


def _damage(source, reason=''):
    remedy = 'copy or download it again'
    if source.startswith(('http://', 'https://')):
        # what was downloaded is kept, so that trying again would read the same file
        kept = osp.join(torch.hub.get_dir(), 'checkpoints', osp.basename(urlparse(source).path))
        remedy = f'delete {kept} to download it again'
    reason = f' ({reason})' if reason else ''
    return f'{source} is no checkpoint file, or is truncated or damaged{reason}: {remedy}'


def _refusal(source, reason):
    if 'Unsupported global' in reason or 'GLOBAL' in reason:
        named = reason.split('GLOBAL ')[-1].split()[0] if 'GLOBAL ' in reason else 'an object'
        return (f'{source} holds {named}, which is not on the list of types that are safe to '
                'load. Unpickling it could run code, so the file is refused. If you trust it, '
                'allow the type by scalenet_mm.checkpoints.allow_types, or save the file again '
                'with its tensors alone')
    return _damage(source)


def _download(url, map_location, progress):
    rank, world_size = get_dist_info()

    def fetch():
        return load_state_dict_from_url(
            url, map_location=map_location, progress=progress, weights_only=True)

    if world_size == 1:
        return fetch()
    # the first process downloads, the others then find the file
    try:
        checkpoint = fetch() if rank == 0 else None
    finally:  # if the first one fails the others must not wait for ever
        torch.distributed.barrier()
    return checkpoint if rank == 0 else fetch()


def _load_for_mmengine(filename, map_location=None):
    return load_file(filename, map_location)


def _load_url_for_mmengine(filename, map_location=None, model_dir=None, progress=os.isatty(0)):
    return load_file(filename, map_location, progress)


def install() -> None:
    """Allow mmengine's types and put the safe loaders into its registry of loaders."""
    allow_types(*MMENGINE_TYPES)
    CheckpointLoader.register_scheme(prefixes='', loader=_load_for_mmengine, force=True)
    CheckpointLoader.register_scheme(
        prefixes=('http://', 'https://'), loader=_load_url_for_mmengine, force=True)
