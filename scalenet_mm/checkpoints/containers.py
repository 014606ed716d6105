"""The two kinds of files that a checkpoint can be in: torch's own and safetensors."""
import io
import json
import struct
from collections.abc import Mapping
from typing import Union

import torch

from ..errors import CheckpointError
from .keys import read_state_dict
from .safe import IN_SAFETENSORS, NOTES_SUM, sum_of_notes


def serialise(checkpoint: dict, path: str) -> Union[bytes, memoryview]:
    """Turn a checkpoint into the bytes of a file; the same ones for the same content.

    A safetensors file holds the tensors of the state dict and, as text, a delta's manifest and
    what JSON can hold of 'meta'.

    Args:
        checkpoint (dict): A checkpoint, or tensors by name.
        path (str): The file's name: ``*.safetensors``, else it is as ``torch.save`` writes.

    Returns:
        bytes | memoryview: The content.

    Raises:
        CheckpointError: If it cannot be put into a file of that kind.
    """
    if not path.endswith('.safetensors'):
        content = io.BytesIO()
        torch.save(checkpoint, content)
        return content.getbuffer()
    try:
        from safetensors.torch import save
    except ImportError:
        raise CheckpointError(f'{path}: to write the safetensors format, '
                              'pip install safetensors') from None
    state = read_state_dict(checkpoint, path)
    lost = [key for key, value in state.items() if not isinstance(value, torch.Tensor)]
    if lost:
        raise CheckpointError(f'{path}: the safetensors format holds tensors alone, and '
                              f'{lost[0]} is none: save it as .pth')
    notes = {'format': 'pt'}
    if isinstance(checkpoint.get('meta'), Mapping):
        notes['meta'] = json.dumps(_plain(checkpoint['meta']))
    if 'delta' in checkpoint:
        manifest = dict(checkpoint['delta'])
        # averaged weights do not come along
        manifest['digests'] = {'state_dict': manifest['digests']['state_dict']}
        notes[IN_SAFETENSORS] = json.dumps(manifest)
    notes['state_metadata'] = json.dumps(getattr(state, '_metadata', None))
    notes[NOTES_SUM] = sum_of_notes(notes)
    # clones: it refuses tensors that share their memory
    content = save({key: value.clone().contiguous() for key, value in state.items()}, notes)
    return _in_order(content)


def _in_order(content):
    """Sort the head of a safetensors file: its notes come in another order every time."""
    size = struct.unpack('<Q', content[:8])[0]
    head = json.dumps(json.loads(content[8:8 + size]), sort_keys=True, separators=(',', ':'))
    head = head.encode()
    head += b' ' * (-len(head) % 8)
    return struct.pack('<Q', len(head)) + head + content[8 + size:]


def _plain(value):
    """What JSON holds of nested data; the rest is left out."""
    if isinstance(value, Mapping):
        return {k: _plain(v) for k, v in value.items() if isinstance(k, str) and _is_plain(v)}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value if _is_plain(v)]
    return value


def _is_plain(value):
    return value is None or isinstance(value, (str, bool, int, float, Mapping, list, tuple))
