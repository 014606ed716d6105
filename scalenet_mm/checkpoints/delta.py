"""Checkpoints that hold only what a training changed, and the name and hash of the rest.

A delta is an ordinary checkpoint whose 'state_dict' (and 'ema_state_dict') lacks what another file,
its base, gives to the bit; its manifest, under 'delta', says what that is. Making it whole needs no
model.
"""
import hashlib
import json
import os
import platform
import re
import zipfile
from collections import OrderedDict
from collections.abc import Iterable, Mapping
from importlib import metadata
from typing import Any, Optional, Union

import torch
from mmengine.logging import print_log

from ..errors import CheckpointError
from ..growth import growth_of
from ..version import __version__
from .base_files import (
    FORMAT,
    MANIFEST,
    UNFOLD,
    BaseFile,
    base_name,
    find_base,
    is_delta,
    map_base,
    open_base,
    same,
)
from .containers import serialise
from .files import is_archive, write_whole
from .keys import read_state_dict
from .safe import load_file

#: The version of the format that is written; all up to it are read.
VERSION = 1
#: Where the manifest is in a checkpoint that was made whole while it was read: in its 'meta'.
MERGED = 'merged_delta'
#: And in a file that was made whole for good, which is a checkpoint like any other.
APPLIED = 'applied_delta'
#: What a delta must take from its base, as a part of the base, to be worth it.
LEAST_USED = 0.1
_EMA = 'ema_state_dict'
_WRAPPED = 'module.'
_PACKAGES = ('torch', 'mmengine', 'mmcv', 'mmpretrain', 'mmdet', 'mmsegmentation',
             'onedl-mmengine', 'onedl-mmcv', 'onedl-mmpretrain', 'onedl-mmdetection',
             'onedl-mmsegmentation')


def read_checkpoint(source,
                    map_location='cpu',
                    progress: bool = False,
                    name: Optional[str] = None,
                    mmap: bool = False):
    """Load a checkpoint file safely, and make it whole if it is a delta.

    Args:
        source (str | Path | BinaryIO): As for :func:`load_file`.
        map_location (optional): As for :func:`torch.load`. Defaults to 'cpu'.
        progress (bool): Whether to show a download. Defaults to False.
        name (str, optional): What to call an open file in messages. Defaults to None.
        mmap (bool): As for :func:`load_file`. Defaults to False.

    Returns:
        Any: What the file holds, or the whole checkpoint.

    Raises:
        CheckpointError: If it cannot be read, or the base of a delta is not found.
    """
    if name is None:
        name = 'the file' if hasattr(source, 'read') else os.fspath(source)
    checkpoint = load_file(source, map_location, progress, name, mmap)
    if not is_delta(checkpoint):
        return checkpoint
    return merge_delta(checkpoint, name=name, map_location=map_location)


# --- making --------------------------------------------------------------------------------------


def make_delta(checkpoint: dict,
               base: BaseFile,
               trained: Iterable = (),
               growth: Optional[dict] = None) -> dict:
    """Turn a whole checkpoint into a delta, in place.

    Left out is what the base gives to the bit, but for what is trained.

    Args:
        checkpoint (dict): A checkpoint with a 'state_dict' on the CPU.
        base (BaseFile): The file that the training started from.
        trained (Iterable[str]): Names of the trained parameters, which stay even as long as they
            equal the base's. Defaults to ().
        growth (dict, optional): What :func:`describe_growth` says of the model; what the names
            tell if None. Defaults to None.

    Returns:
        dict: ``checkpoint``.

    Raises:
        CheckpointError: If it is a delta already, or the base cannot be read.
    """
    if is_delta(checkpoint):
        raise CheckpointError('the checkpoint is a delta already, of the base '
                              f'{base_name(checkpoint)}')
    state = checkpoint['state_dict']
    origins = find_origins(state, base, trained)
    checkpoint['state_dict'] = _without(state, origins)
    digests = {'state_dict': _digest(checkpoint['state_dict'])}
    if _EMA in checkpoint:
        taken = [key for key, origin in origins.items()
                 if _is_from(checkpoint[_EMA].get(_WRAPPED + key), base, origin)]
        checkpoint[_EMA] = _without(checkpoint[_EMA], {_WRAPPED + key for key in taken})
        digests[_EMA] = _digest(checkpoint[_EMA])
    if 'optimizer' not in checkpoint and 'message_hub' in checkpoint:
        # nothing resumes from it, and the histories of what was logged are large
        checkpoint['message_hub'] = {**checkpoint['message_hub'], 'log_scalars': OrderedDict()}
    for key in (MERGED, APPLIED):
        (checkpoint.get('meta') or {}).pop(key, None)
    checkpoint[MANIFEST] = dict(
        format=FORMAT,
        version=VERSION,
        base=base.identity,
        map=origins,
        tensors={key: outline(value) for key, value in state.items()},
        growth=describe_names(state) if growth is None else growth,
        digests=digests,
        versions=versions())
    return checkpoint


def find_origins(state: dict, base: BaseFile, trained: Iterable = ()) -> dict:
    """Find the tensors that a base gives to the bit.

    Args:
        state (dict): A whole state dict.
        base (BaseFile): The base.
        trained (Iterable[str]): Names that are not looked for. Defaults to ().

    Returns:
        dict[str, str | list]: Where each of those that were found is in the base, see
        :meth:`BaseFile.get`.

    Raises:
        CheckpointError: If the base cannot be read.
    """
    trained = set(trained)
    candidates = map_base(base.tensors, state)
    origins = {}
    for key, value in state.items():
        if key not in trained and isinstance(value, torch.Tensor):
            origin = base.find(value.cpu(), candidates.get(key))
            if origin is not None:
                origins[key] = origin
    return origins


def used_part(origins: dict, base: BaseFile) -> float:
    """float: Which part of a base's bytes its deltas take from it."""
    sizes = {key: value.numel() * value.element_size() for key, value in base.tensors.items()
             if isinstance(value, torch.Tensor)}
    used = {origin if isinstance(origin, str) else origin[0] for origin in origins.values()}
    return sum(sizes[key] for key in used) / max(sum(sizes.values()), 1)


def _is_from(value, base, origin):
    return isinstance(value, torch.Tensor) and same(base.get(origin), value.cpu())


def _without(state, keys):
    """The part of a state dict that is not named, free of what it shares its memory with."""
    kept = OrderedDict((key, compact(value)) for key, value in state.items() if key not in keys)
    if hasattr(state, '_metadata'):
        kept._metadata = state._metadata
    return kept


def compact(value):
    """Copy a tensor that is a part of a larger one: torch would save all of that."""
    if isinstance(value, torch.Tensor) and \
            value.untyped_storage().nbytes() > value.numel() * value.element_size():
        return value.clone()
    return value


def outline(value) -> Optional[list]:
    """list | None: Type and shape of a tensor, as the manifest has them."""
    if not isinstance(value, torch.Tensor):
        return None
    return [str(value.dtype).removeprefix('torch.'), list(value.shape)]


def _digest(state):
    """str: SHA-256 of tensors: of their names, types, shapes and bytes, in the order of names."""
    digest = hashlib.sha256()
    for key, value in sorted(state.items()):
        if isinstance(value, torch.Tensor):
            digest.update(json.dumps([key, *outline(value)]).encode())
            value = value.detach().cpu().contiguous().reshape(-1).view(torch.uint8)
            digest.update(value.numpy().data)
    return digest.hexdigest()


def versions() -> dict:
    """dict[str, str]: The versions of the packages that made a file."""
    found = dict(python=platform.python_version(), scalenet_mm=__version__)
    for package in _PACKAGES:
        try:
            found[package] = metadata.version(package)
        except metadata.PackageNotFoundError:
            continue
    return found


def describe_growth(model) -> dict:
    """Describe for a manifest how a model was grown.

    Args:
        model (nn.Module): The model, unwrapped.

    Returns:
        dict: The blocks of each grown list in the order of execution under 'blocks', and, where
        the backbone tells it, its class and what its config said.
    """
    described: dict = dict(blocks={name: list(layer_map.names)
                             for name, _, layer_map in growth_of(model)})
    backbone = getattr(model, 'backbone', model)
    described['backbone'] = type(backbone).__name__
    for option in ('growth', 'adjustment'):
        # lists for tuples, and whatever else is no plain data as text
        described[option] = json.loads(json.dumps(getattr(backbone, option, None), default=str))
    return described


def growth_of_delta(checkpoint) -> Optional[dict]:
    """dict | None: What the manifest says of growth, of a delta that is whole now."""
    value: Any = checkpoint if isinstance(checkpoint, dict) else {}
    for key in ('meta', MERGED, 'growth'):
        value = value.get(key)
        if not isinstance(value, Mapping):
            return None
    return value if isinstance(value.get('blocks'), Mapping) else None


_BLOCK = re.compile(r'(?P<list>.*)\.(?P<block>\d+_r\d+|new\d+)\.')


def describe_names(state: dict, ordered: bool = True) -> dict:
    """Describe for a manifest how a model was grown, as far as names tell.

    Args:
        state (dict): A whole state dict.
        ordered (bool): Whether it is in the model's order, which is that of execution. Defaults
            to True.

    Returns:
        dict: The blocks of each grown list under 'blocks', and ``ordered``.
    """
    lists = dict.fromkeys(m['list'] for m in map(_BLOCK.match, state) if m)
    blocks = {
        name: list(dict.fromkeys(key[len(name) + 1:].split('.')[0]
                                 for key in state if key.startswith(f'{name}.')))
        for name in lists}
    return dict(blocks=blocks, ordered=ordered)


# --- making whole --------------------------------------------------------------------------------


def merge_delta(checkpoint: dict,
                base: Union[BaseFile, str, None] = None,
                name: str = 'the delta',
                map_location='cpu') -> dict:
    """Make a delta whole, in place.

    Args:
        checkpoint (dict): What the delta's file holds.
        base (BaseFile | str, optional): Its base, or the only place to look for it, see
            :func:`find_base`. Defaults to None.
        name (str): The delta's file, for messages and to look beside it. Defaults to 'the
            delta'.
        map_location (optional): Where the base's tensors go: a device or its name, else they stay
            on the CPU. Defaults to 'cpu'.

    Returns:
        dict: ``checkpoint``, with the tensors that the whole checkpoint of the same moment holds;
        its manifest is in 'meta' as 'merged_delta'.

    Raises:
        CheckpointError: If the delta is damaged or of a newer format, or its base is not found.
    """
    manifest = check_manifest(checkpoint, name)
    if not isinstance(base, BaseFile):
        base = find_base(manifest['base'], name, base)
        print_log(f'{name} is a delta; the rest is from {base.path}', logger='current')
    check_base(manifest, base, name)
    whole = whole_state(checkpoint, base, map_location)
    if _EMA in checkpoint:
        own = checkpoint[_EMA]
        averaged: Any = OrderedDict((k, v) for k, v in own.items() if not k.startswith(_WRAPPED))
        for key in manifest['tensors']:
            if _WRAPPED + key in own:
                averaged[_WRAPPED + key] = own[_WRAPPED + key]
            elif key in manifest['map']:
                averaged[_WRAPPED + key] = _give(manifest['map'][key], base, map_location)
        if hasattr(own, '_metadata'):
            averaged._metadata = own._metadata
        checkpoint[_EMA] = averaged
    checkpoint['state_dict'] = whole
    del checkpoint[MANIFEST]
    checkpoint['meta'] = {**(checkpoint.get('meta') or {}), MERGED: manifest}
    return checkpoint


def check_base_found(path: str) -> None:
    """Check that a file, if it is a delta, can be made whole. Of other files little is read.

    Args:
        path (str): A local file.

    Raises:
        CheckpointError: If it is a delta that is damaged, or whose base is not found.
    """
    if is_archive(path):
        with zipfile.ZipFile(path) as archive:
            outlines = [name for name in archive.namelist() if name.endswith('/data.pkl')]
            if not any(FORMAT.encode() in archive.read(name) for name in outlines):
                return
    elif not path.endswith('.safetensors'):
        return
    checkpoint = load_file(path)
    if is_delta(checkpoint):
        find_base(check_manifest(checkpoint, path)['base'], path)


def whole_state(checkpoint: dict, base, map_location='cpu') -> dict:
    """Give the whole state dict of a delta whose manifest and base were checked.

    Args:
        checkpoint (dict): The delta.
        base (BaseFile | Base): Gives the base's tensors.
        map_location (optional): As for :func:`merge_delta`. Defaults to 'cpu'.

    Returns:
        OrderedDict: The tensors in the model's order, with torch's ``_metadata``.
    """
    manifest, own = checkpoint[MANIFEST], checkpoint['state_dict']
    whole: Any = OrderedDict(
        (key, own[key] if key in own else _give(manifest['map'][key], base, map_location))
        for key in manifest['tensors'])
    if hasattr(own, '_metadata'):
        whole._metadata = own._metadata
    return whole


def _give(origin, base, map_location):
    value = base.get(origin)
    return value.to(map_location) if isinstance(map_location, (str, torch.device)) else value


def check_manifest(checkpoint: dict, name: str) -> dict:
    """Check that a delta can be read by this version and is as it was made.

    Args:
        checkpoint (dict): What the delta's file holds.
        name (str): The file, for messages.

    Returns:
        dict: The manifest.

    Raises:
        CheckpointError: If it is of a newer version of the format, or damaged.
    """
    manifest = checkpoint[MANIFEST]
    check_format(manifest, MANIFEST, 'a delta', FORMAT, VERSION, name)
    problem = _problem(checkpoint, manifest)
    if problem:
        raise CheckpointError(f'{name} is a damaged delta: {problem}. Copy or make it again')
    return manifest


def check_format(manifest, key: str, what: str, fmt: str, newest: int, name: str) -> None:
    """Check that a manifest is of a format, in a version that can be read.

    Args:
        manifest (Any): What should be the manifest.
        key (str): Under which it stands in the file.
        what (str): What such a file is, with its article.
        fmt (str): Name of the format.
        newest (int): Its newest version; all up to it can be read.
        name (str): The file, for messages.

    Raises:
        CheckpointError: If it is not, or of a newer version.
    """
    version = manifest.get('version') if isinstance(manifest, Mapping) else None
    if type(version) is not int or version < 1 or manifest.get('format') != fmt:
        raise CheckpointError(f'{name} has a key {key!r}, but not the manifest of {what} there '
                              f'(format {fmt!r} and a version): it is damaged, or from another '
                              'program')
    if version > newest:
        made = manifest.get('versions')
        made = made.get('scalenet_mm', '') if isinstance(made, Mapping) else ''
        raise CheckpointError(
            f'{name} is {what} of format version {version}, written by scalenet_mm {made}; '
            f'scalenet_mm {__version__} reads versions up to {newest}: upgrade scalenet_mm')


def _problem(checkpoint, manifest):
    """str | None: What is wrong with the content of a delta."""
    for key in ('base', 'map', 'tensors', 'growth', 'digests', 'versions'):
        if not isinstance(manifest.get(key), Mapping):
            return f'its manifest has no {key!r}'
    for key, kind in (('name', str), ('source', str), ('sha256', str), ('bytes', int)):
        if not isinstance(manifest['base'].get(key), kind):
            return f'its manifest does not say {key!r} of its base'
    if not re.fullmatch('[0-9a-f]{64}', manifest['base']['sha256']):  # it becomes part of a path
        return f'the SHA-256 of its base is none: {manifest["base"]["sha256"]!r}'
    blocks = manifest['growth'].get('blocks')
    if not isinstance(blocks, Mapping) or not all(
            isinstance(names, (list, tuple))
            and all(isinstance(name, str) for name in names)
            for names in blocks.values()):
        return f'its manifest says of blocks what cannot be read: {blocks}'
    own, outlines = checkpoint.get('state_dict'), manifest['tensors']
    if not isinstance(own, Mapping):
        return 'it has no state_dict'
    for key, origin in manifest['map'].items():
        steps = [origin, UNFOLD] if isinstance(origin, str) else origin
        if not isinstance(steps, (list, tuple)) or len(steps) != 2 \
                or not isinstance(steps[0], str) or steps[1] != UNFOLD:
            return f'its manifest says of {key} what cannot be read: {origin}'
    for key in outlines:
        if key in own and key in manifest['map']:
            return f'{key} is in it and in its base as well'
        if key not in own and key not in manifest['map']:
            return f'{key} is neither in it nor in its base'
    for key in (*own, *manifest['map']):
        if key not in outlines:
            return f'its manifest does not know {key}'
    for part, digest in manifest['digests'].items():
        if part in checkpoint and _digest(checkpoint[part]) != digest:
            return f'the checksum of its {part} does not agree'
    for key, value in own.items():
        if outline(value) != outlines[key]:
            return f'its manifest says {outlines[key]} of {key}'
    return None


def check_base(manifest: dict, base, name: str) -> None:
    """Check that a base is that of a delta, and gives what the delta takes from it.

    Args:
        manifest (dict): The delta's manifest, checked.
        base (BaseFile | Base): The base.
        name (str): The delta's file, for messages.

    Raises:
        CheckpointError: If it is another file, or the manifest does not fit it.
    """
    wanted = manifest['base']
    if base.identity['sha256'] != wanted['sha256']:
        raise CheckpointError(
            f'{name} is a delta of another base: wanted is {wanted["name"]} from '
            f'{wanted["source"]} (SHA-256 {wanted["sha256"]}), given is {base.path} (SHA-256 '
            f'{base.identity["sha256"]})')
    for key, origin in manifest['map'].items():
        source = origin if isinstance(origin, str) else origin[0]
        found = outline(base.tensors.get(source))
        if found != manifest['tensors'][key]:
            raise CheckpointError(f'{name} is a damaged delta: it takes {key} '
                                  f'{manifest["tensors"][key]} from {source} of {base.path}, which '
                                  f'is {found or "not there"}. Copy or make it again')


# --- files ---------------------------------------------------------------------------------------


def extract_delta(whole: str, base: str, keep_optimizer: bool = False) -> dict:
    """Make a delta of a file.

    Args:
        whole (str): A checkpoint file.
        base (str): The file that its training started from: a path, URL or zoo name.
        keep_optimizer (bool): Whether a training can be resumed from the delta; otherwise only
            'meta' and the weights are kept. Defaults to False.

    Returns:
        dict: The delta.

    Raises:
        CheckpointError: If one of them cannot be read, or they have nothing to do with each
            other.
    """
    checkpoint = load_file(whole)
    if is_delta(checkpoint):
        raise CheckpointError(f'{whole} is a delta already')
    if not isinstance(checkpoint, dict) or not isinstance(checkpoint.get('state_dict'), dict):
        state = read_state_dict(checkpoint, whole)
        checkpoint = {'meta': {}, 'state_dict': state}
    if not keep_optimizer:
        checkpoint = {key: value for key, value in checkpoint.items()
                      if key in ('meta', 'state_dict', 'message_hub')}
    opened = open_base(base)
    # tensors in a safetensors file are sorted
    ordered = not os.fspath(whole).endswith('.safetensors')
    growth = describe_names(checkpoint['state_dict'], ordered)
    make_delta(checkpoint, opened, growth=growth)
    used = used_part(checkpoint[MANIFEST]['map'], opened)
    if used < LEAST_USED:
        raise CheckpointError(
            f'{base} is not the base of {whole}: {used:.0%} of its bytes are there as they are. '
            'Name the file that the training started from (load_from, or init_cfg of the '
            'backbone). If there is none, or everything was trained, there is no delta to make')
    return checkpoint


def apply_delta(delta: str, base: Optional[str] = None) -> dict:
    """Make a delta's file whole.

    Args:
        delta (str): The delta's file.
        base (str, optional): The only place to look for its base: a file, folder or URL. Defaults
            to None.

    Returns:
        dict: The whole checkpoint, to be saved.

    Raises:
        CheckpointError: If it is no delta or damaged, or its base is not found.
    """
    checkpoint = load_file(delta)
    if not is_delta(checkpoint):
        raise CheckpointError(f'{delta} is no delta, but whole already')
    merge_delta(checkpoint, base, delta)
    checkpoint['meta'][APPLIED] = checkpoint['meta'].pop(MERGED)
    for key in ('state_dict', _EMA):
        if key in checkpoint:
            checkpoint[key] = _without(checkpoint[key], ())
    return checkpoint


def write_checkpoint(checkpoint: dict, path: str) -> None:
    """Save a delta or a whole checkpoint, as safetensors if the name ends so.

    That format holds tensors and text: the weights, the manifest, and of 'meta' what is plain
    data; no optimizer and no averaged weights.

    Args:
        checkpoint (dict): The checkpoint.
        path (str): The file, ``*.pth`` or ``*.safetensors``.

    Raises:
        CheckpointError: If it cannot be written.
    """
    content = serialise(checkpoint, path)
    write_whole(path, lambda file: file.write(content))
