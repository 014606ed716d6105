"""The file that a delta is the difference to: where it is looked for, and what it gives."""
import os
import os.path as osp
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from functools import cached_property
from http.client import HTTPException
from typing import Optional

import torch
from torch.hub import get_dir

from ..errors import CheckpointError
from .files import sha256_of
from .keys import (
    family_of_names,
    name_head,
    read_state_dict,
    split_backbone,
    to_mm_keys,
    to_names_of,
    to_unfold_order,
)
from .safe import cache_path, download, is_url, load_file
from .zoo import zoo_address

#: The environment variable that names places where bases are looked for, as PATH does.
ENVIRONMENT = 'SCALENET_BASE'
#: The top-level key of a delta's manifest.
MANIFEST = 'delta'
FORMAT = 'scalenet-delta'
#: The one thing that is done to a base's tensor, see :func:`to_unfold_order`.
UNFOLD = 'unfold'
#: Tensors with fewer elements are not looked for by what they hold.
_WORTH_A_SEARCH = 1024

_places: list = []
_found: dict = {}  # the bases that were found in this process, by what identifies them


def add_base(place: str) -> None:
    """Name a place where the bases of deltas are looked for, before all others.

    Args:
        place (str): A file, a folder or a URL.

    Raises:
        CheckpointError: If there is no such file or folder.
    """
    place = os.fspath(place)
    if not is_url(place):
        place = osp.abspath(osp.expanduser(place))
        if not osp.exists(place):
            raise CheckpointError(f'base: there is no file or folder {place}')
    if place not in _places:
        _places.append(place)


def is_delta(checkpoint) -> bool:
    """Whether what a file holds is a delta; others may have something else of that name."""
    manifest = checkpoint.get(MANIFEST) if isinstance(checkpoint, dict) else None
    return isinstance(manifest, Mapping) and (
        manifest.get('format') == FORMAT or 'base' in manifest)


def base_name(delta: dict) -> str:
    """str: The name of a delta's base, for messages; the delta may be damaged."""
    base = delta[MANIFEST].get('base')
    return str(base.get('name')) if isinstance(base, Mapping) else 'unknown'


class BaseFile:
    """A file that deltas are made against.

    Args:
        path (str): The local file.
        source (str, optional): Where it came from: the path or URL that the user gave. The path
            if None. Defaults to None.

    Raises:
        CheckpointError: When its tensors are read: if it is none, or a delta itself.
    """

    def __init__(self, path: str, source: Optional[str] = None):
        self.path = path
        self.source = path if source is None else source
        self._reordered: dict = {}

    @cached_property
    def identity(self) -> dict:
        """dict: What a manifest says of it."""
        name = osp.basename(self.source.split('?')[0]) if '://' in self.source else self.path
        return dict(
            name=osp.basename(name),
            source=self.source,
            sha256=sha256_of(self.path),
            bytes=osp.getsize(self.path))

    @cached_property
    def tensors(self) -> dict:
        """dict: Its tensors by name, left on the disk until they are used."""
        content = load_file(self.path, mmap=True)
        if is_delta(content):
            raise CheckpointError(
                f'{self.path} is a delta itself (of the base {base_name(content)}) and cannot be a '
                'base: make it whole by tools/delta.py apply, or name the base that it was made '
                'from')
        return read_state_dict(content, self.path)

    @cached_property
    def _by_shape(self):
        groups = {}
        for key, value in self.tensors.items():
            if isinstance(value, torch.Tensor) and value.numel() >= _WORTH_A_SEARCH:
                groups.setdefault((value.dtype, value.shape), []).append(key)
        return groups

    def get(self, origin) -> torch.Tensor:
        """Give what a manifest's map names.

        Args:
            origin (str | list): A name, or a list of it and 'unfold'.

        Returns:
            torch.Tensor: The tensor; the file's own one, or a reordered copy.
        """
        if isinstance(origin, str):
            return self.tensors[origin]
        key, _ = origin
        if key not in self._reordered:
            self._reordered[key] = to_unfold_order(self.tensors[key])
        return self._reordered[key]

    def find(self, value: torch.Tensor, candidate=None):
        """Find a tensor in the file that holds the same.

        Args:
            value (torch.Tensor): The tensor, on the CPU.
            candidate (str | list, optional): Where it is expected, see :meth:`get`. Defaults to
                None.

        Returns:
            str | list | None: Where it is; None if it is nowhere.
        """
        if candidate is not None and same(self.get(candidate), value):
            return candidate
        for key in self._by_shape.get((value.dtype, value.shape), ()):
            if same(self.tensors[key], value):
                return key
        return None


def same(one: torch.Tensor, other: torch.Tensor) -> bool:
    """Whether two tensors are equal to the bit; unlike for ``torch.equal``, -0 is not 0."""
    return one.dtype == other.dtype and one.shape == other.shape \
        and torch.equal(_bits(one), _bits(other))


def _bits(value):
    integers = {2: torch.int16, 4: torch.int32, 8: torch.int64}
    return value.contiguous().reshape(-1).view(integers.get(value.element_size(), torch.uint8))


def open_base(source: str) -> BaseFile:
    """Open a base that the user names.

    Args:
        source (str): A local path, a URL, or a name of a model zoo that mmengine knows; it is
            downloaded if it has to be.

    Returns:
        BaseFile: The base.

    Raises:
        CheckpointError: If there is no such file, or it is in a storage that is not read in
            place.
    """
    path = osp.abspath(_local(source))
    if not osp.isfile(path):
        raise CheckpointError(f'base: there is no file {path}')
    base = BaseFile(path, source)
    _found[base.identity['sha256']] = path
    return base


def _local(source):
    """The local file behind a path, URL or name."""
    address = zoo_address(source) or source
    if is_url(address):
        return _download(address)
    if '://' in address:
        raise CheckpointError(f'base: {source} is in a storage that cannot be looked into; copy '
                              'it to a local file and name that')
    return osp.expanduser(address)


def _download(url, path=None):
    try:
        return download(url, path=path)
    except (OSError, ValueError, HTTPException) as error:
        raise CheckpointError(f'{url} cannot be downloaded: {error}') from error


def find_base(identity: dict,
              delta: str = 'the delta',
              place: Optional[str] = None,
              fetch: bool = True) -> BaseFile:
    """Find the base of a delta, wherever it may be, and see that it is that very file.

    Looked at are, in this order: ``place``; what was found before in this process; the places of
    :func:`add_base` and of the environment variable SCALENET_BASE (files and folders); where it
    was when the delta was made, as a path from the current folder and from the delta's; the
    delta's folder; torch's cache of downloads; and the URL, if it came from one.

    Args:
        identity (dict): What the manifest says of it: name, source, sha256, bytes.
        delta (str): The delta's file, also for messages. Defaults to 'the delta'.
        place (str, optional): The only place to look at: a file, folder or URL. Defaults to None.
        fetch (bool): Whether to download it if need be. Defaults to True.

    Returns:
        BaseFile: The base.

    Raises:
        CheckpointError: If it is not found, naming the file that is wanted and what was found at
            each place.
    """
    looked = []
    candidates = [place] if place else _candidates(identity, delta, fetch)
    for candidate in dict.fromkeys(candidates):
        try:
            path = _local(candidate) if isinstance(candidate, str) else candidate()
        except CheckpointError as error:
            looked.append(str(error))
            continue
        if osp.isdir(path):
            path = osp.join(path, identity['name'])
        if not osp.isfile(path):
            looked.append(f'{path}: not there')
        elif osp.getsize(path) != identity['bytes']:
            looked.append(f'{path}: another file, of {osp.getsize(path):,} bytes')
        elif sha256_of(path) != identity['sha256']:
            looked.append(f'{path}: another file, of SHA-256 {sha256_of(path)}')
        else:
            _found[identity['sha256']] = path
            return BaseFile(path, identity['source'])
    places = ''.join(f'\n  {line}' for line in looked)
    raise CheckpointError(
        f'{delta} is a delta, and the base that belongs to it was not found. Wanted is '
        f'{identity["name"]}, which came from {identity["source"]}: {identity["bytes"]:,} bytes, '
        f'SHA-256 {identity["sha256"]}. Looked at:{places}\nName the file, or its folder, by '
        f'--base, by the environment variable {ENVIRONMENT} or by scalenet_mm.add_base')


def _candidates(identity, delta, fetch) -> Iterator:
    """Yield paths and URLs, and last what downloads the base."""
    if identity['sha256'] in _found:
        yield _found[identity['sha256']]
    yield from _places
    yield from filter(None, os.environ.get(ENVIRONMENT, '').split(os.pathsep))
    folder = osp.dirname(osp.abspath(delta)) if '://' not in delta else None
    source = identity['source']
    if '://' not in source:
        yield osp.abspath(osp.expanduser(source))
        if folder and not osp.isabs(source):
            yield osp.join(folder, source)
    if folder:
        yield osp.join(folder, identity['name'])
    downloads = osp.join(get_dir(), 'checkpoints')
    if '://' not in source:
        yield osp.join(downloads, identity['name'])
        return

    def address():
        found = zoo_address(source) or source
        return cache_path(found) if is_url(found) else _local(found)

    def downloaded():
        # under a name of its own: the address is from a file, and must not decide what is found
        # later under the name of another one
        path = osp.join(downloads, f'{identity["sha256"][:16]}-{osp.basename(identity["name"])}')
        found = zoo_address(source) or source
        if fetch and is_url(found):
            _download(found, path)
            if sha256_of(path) != identity['sha256']:
                os.remove(path)
                raise CheckpointError(f'{found}: another file')
        return path

    yield address
    yield downloaded


def map_base(given: dict, wanted: dict) -> dict:
    """Tell where a model's tensors would come from if it started from a base.

    It knows what :func:`load_pretrained` and :func:`adapt_checkpoint` know, and no model: names
    alone.

    Args:
        given (dict): The base's tensors, in any known format.
        wanted (dict): The model's state dict, of a whole model or of a backbone alone.

    Returns:
        dict[str, str | list]: The base's name for each of the model's that it can give; a list of
        it and 'unfold' if the tensor has to be reordered.
    """
    origins = {key: key for key in given}
    own, rest = split_backbone(origins)
    ours, _ = split_backbone(wanted)
    prefix = 'backbone.' if any(key.startswith('backbone.') for key in wanted) else ''
    found = family_of_names(ours)
    if found is not None:
        family, naming = found
        try:
            own, _ = to_mm_keys(
                own, family, 'dist_token' in ours,
                lambda origin: [origin, UNFOLD])
        except CheckpointError:  # of another family
            own = {}
        own = to_names_of(naming, own)
    origins.update({prefix + key: origin for key, origin in own.items()})
    origins.update(name_head(rest, wanted))
    return OrderedDict((key, origins[key]) for key in wanted if key in origins)
