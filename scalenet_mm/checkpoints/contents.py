"""What a checkpoint file holds, told in one look."""
import os.path as osp
import pickle
import re
from collections import OrderedDict
from collections.abc import Mapping
from datetime import datetime

import torch

from ..errors import CheckpointError
from ..growth.adjustment import ADAPTER_NAMES, GAIN_NAME
from .base_files import MANIFEST, find_base
from .delta import APPLIED, MERGED, check_manifest, describe_names, is_delta
from .keys import family_of_names, find_format, read_state_dict, split_backbone
from .report import GENE
from .safe import load_file

_KINDS = (
    ('adapters, LoRA', re.compile(rf'.*\.({"|".join(ADAPTER_NAMES)})$')),
    ('gains', re.compile(rf'.*\.{GAIN_NAME}$')),
    ('buffers', re.compile(r'.*(running_mean|running_var|num_batches_tracked|'
                           r'relative_position_index|attn_mask)$')),
)
_NORM = re.compile(r'(.*\.)?(ln|norm|bn|gn|layer_?norm)[^.]*\.(weight|bias)$')
#: What else than weights mmengine and this package write.
_REST = ('optimizer', 'param_schedulers', 'random_states', 'training_state', 'message_hub')


def describe_file(path: str) -> str:
    """Tell what a checkpoint file holds.

    Args:
        path (str): A checkpoint of any kind: a local path or URL.

    Returns:
        str: Several lines: what it is, of which base and whether that is here, how far the
        training was, how it is grown, and its tensors and bytes by kind.

    Raises:
        CheckpointError: If it cannot be read.
    """
    content = load_file(path, mmap=True)
    delta = is_delta(content)
    if delta:
        check_manifest(content, path)
    state = content['state_dict'] if delta else read_state_dict(content, path)
    meta = content.get('meta') if isinstance(content.get('meta'), Mapping) else {}
    manifest = content[MANIFEST] if delta else meta.get(APPLIED, meta.get(MERGED))
    if not isinstance(manifest, Mapping):
        manifest = None
    rows = []
    if manifest is not None:
        rows += _base_rows(manifest, path, delta)
    rows += _training_rows(meta)
    rows += _growth_rows(manifest, state)
    rows += _size_rows(content, state, manifest if delta else None)
    made = (manifest or {}).get('versions') or {}
    if not made and 'mmengine_version' in meta:
        made = {'mmengine': meta['mmengine_version']}
    if made:
        rows.append(('versions', ', '.join(f'{k} {v}' for k, v in made.items())))
    lines = [f'{name:<14}{text}'.rstrip() for name, text in rows]
    return '\n'.join([_title(path, state, delta, GENE in content), *lines])


def _title(path, state, delta, gene):
    size = f'{path}: {_megabytes(osp.getsize(path))}, ' if osp.isfile(path) else f'{path}: '
    if delta:
        return size + 'a delta: what differs from its base'
    if gene:
        return size + 'a learngene; tools/learngene.py inspect tells more of it'
    grown = any(kind in ('adapters, LoRA', 'gains') for kind in map(_kind_of, state)) \
        or describe_names(state)['blocks']
    if grown:
        return size + 'a whole checkpoint of a grown model'
    own, _ = split_backbone(state)
    for family in ('swin', 'vit'):
        found = find_format(own, family)
        if found and (found[0] == 'official' or family_of_names(own)):
            return size + f'an ungrown {family}, in {found[0]} names'
    return size + 'a whole checkpoint, not grown'


def _base_rows(manifest, path, delta):
    base = manifest['base']
    rows = [('base', f'{base["name"]}, {_megabytes(base["bytes"])}, from {base["source"]}'),
            ('', f'SHA-256 {base["sha256"]}')]
    if delta:
        try:
            rows.append(('', f'found here: {find_base(base, path, fetch=False).path}'))
        except CheckpointError:
            rows.append(('', 'not found here'))
    else:
        rows[0] = ('made from', 'a delta of ' + rows[0][1])
    return rows


def _training_rows(meta):
    known = [f'{name} {meta[key]}' for name, key in (('epoch', 'epoch'), ('iteration', 'iter'))
             if key in meta]
    if meta.get('time'):
        try:
            when = datetime.strptime(str(meta['time']), '%Y%m%d_%H%M%S')
            known.append(f'saved {when:%Y-%m-%d %H:%M:%S}')
        except ValueError:
            known.append(f'saved {meta["time"]}')
    rows = [('training', ', '.join(known))] if known else []
    classes = (meta.get('dataset_meta') or {}).get('classes')
    if classes:
        shown = ', '.join(str(name).split(',')[0] for name in classes[:4])
        shown += ', ...' if len(classes) > 4 else ''
        rows.append(('classes', f'{len(classes)}: {shown}'))
    return rows


def _growth_rows(manifest, state):
    growth = (manifest or {}).get('growth') or describe_names(state)
    rows = [('growth' if i == 0 else '', f'{name}: {len(blocks)} blocks: {" ".join(blocks)}')
            for i, (name, blocks) in enumerate(growth.get('blocks', {}).items())]
    rows += [('' if rows else 'growth', f'{option} = {growth[option]}')
             for option in ('backbone', 'growth', 'adjustment') if option in growth]
    return rows or [('growth', 'none')]


def _size_rows(content, state, manifest):
    groups = OrderedDict()
    for key, value in state.items():
        if isinstance(value, torch.Tensor):
            groups.setdefault(_kind_of(key, state), []).append(value)
    rows = []
    if manifest is not None:
        left_out = manifest['map']
        size = sum(_size_of(*manifest['tensors'][key]) for key in left_out)
        rows.append(('left out', f'{len(left_out)} tensors, {_megabytes(size)}: in the base'))
    rows += [('holds' if i == 0 else '', _row(kind, groups[kind]))
             for i, kind in enumerate(sorted(groups, key=_order))]
    seen = {_place(value) for value in state.values() if isinstance(value, torch.Tensor)}
    averaged = [v for v in (content.get('ema_state_dict') or {}).values()
                if isinstance(v, torch.Tensor)]
    if averaged:
        rows.append(('', _row('averaged (EMA)', [v for v in averaged if _place(v) not in seen])
                     + f', and {sum(_place(v) in seen for v in averaged)} that equal the weights'))
    for key in _REST:
        if content.get(key):
            tensors, rest = _tensors_in(content[key])
            size = sum(map(_bytes, tensors)) + rest
            rows.append(('', f'{key.replace("_", " "):<18}{"":>20}{_megabytes(size):>12}'))
    return rows


def _kind_of(key, state=()):
    for kind, pattern in _KINDS:
        if pattern.match(key):
            return kind
    if any(name.startswith('backbone.') for name in state):
        of_head = not key.startswith('backbone.')
    else:
        of_head = key.startswith(('head.', 'head_dist.'))
    if of_head:
        return 'head, neck'
    return 'norms' if _NORM.match(key) else 'weights'


def _order(kind):
    return ('weights', 'adapters, LoRA', 'gains', 'norms', 'head, neck', 'buffers').index(kind)


def _row(kind, tensors):
    size = sum(map(_bytes, tensors))
    return f'{kind:<18}{len(tensors):>5} tensors{_megabytes(size):>19}'


def _place(value):
    return value.data_ptr(), value.shape


def _bytes(value):
    return value.numel() * value.element_size()


def _size_of(dtype, shape):
    return torch.Size(shape).numel() * torch.empty((), dtype=getattr(torch, dtype)).element_size()


def _tensors_in(value):
    """tuple[list, int]: The tensors in nested data, and the bytes of the rest, pickled."""
    tensors, rest, todo = [], 0, [value]
    while todo:
        item = todo.pop()
        if isinstance(item, torch.Tensor):
            tensors.append(item)
        elif isinstance(item, Mapping):
            todo.extend(item.values())
        elif isinstance(item, (list, tuple)):
            todo.extend(item)
        else:
            rest += len(pickle.dumps(item))
    return tensors, rest


def _megabytes(size):
    return f'{size / 1e6:,.2f} MB' if size >= 1e4 else f'{size:,} bytes'
