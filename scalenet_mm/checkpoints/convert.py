"""Converting what growth left as it was to the names of others, and back."""
import math
import re
from dataclasses import dataclass, field
from typing import Optional

from ..errors import CheckpointError
from .keys import (
    CLASSIFIERS,
    count_stages,
    find_format,
    from_mm_keys,
    read_state_dict,
    rename_head,
    split_backbone,
    to_mm_keys,
)
from .report import what_growth_added
from .resize import relative_position_index

TARGETS = ('timm', 'official', 'openmmlab')
#: Where a classifier's last linear layer is in the models of others.
_HEADS = {
    'official': {'swin': 'head.', 'vit': 'head.'},
    'timm': {'swin': 'head.fc.', 'vit': 'head.'},
    'openmmlab': CLASSIFIERS,
}
#: All that a Swin and a ViT or DeiT consist of, by the toolboxes' names.
_PARTS = {
    'swin': re.compile(
        r'(absolute_pos_embed|patch_embed\.(projection|norm)\.(weight|bias)|norm\d+\.(weight|bias)|'
        r'stages\.\d+\.downsample\.(norm|reduction)\.(weight|bias)|'
        r'stages\.\d+\.blocks\.\d+\.((norm1|norm2|attn\.w_msa\.qkv|attn\.w_msa\.proj|'
        r'ffn\.layers\.0\.0|ffn\.layers\.1)\.(weight|bias)|'
        r'attn\.w_msa\.relative_position_bias_table))$'),
    'vit': re.compile(
        r'(cls_token|dist_token|pos_embed|patch_embed\.projection\.(weight|bias)|ln1\.(weight|bias)|'
        r'layers\.\d+\.(ln1|ln2|attn\.qkv|attn\.proj|ffn\.layers\.0\.0|ffn\.layers\.1)\.'
        r'(weight|bias))$'),
}


@dataclass
class Converted:
    """A converted checkpoint.

    Args:
        content (dict): What the file is to hold.
        source (str): What the names were: 'OpenMMLab', 'mmseg', 'official' or 'timm'.
        family (str): 'swin' or 'vit'.
        lost (dict[str, list[str]]): Names of what is not in it, by what they are.
    """
    content: dict
    source: str
    family: str
    lost: dict = field(default_factory=dict)

    def __str__(self):
        lost = ', '.join(f'{len(keys)} of {what}' for what, keys in self.lost.items())
        return f'{self.source} names of a {self.family}; tensors left out: {lost or "none"}'


def convert_checkpoint(checkpoint,
                       name: str,
                       to: str,
                       part: Optional[str] = None,
                       backbone_only: bool = False) -> Converted:
    """Convert a Swin or ViT between the names of OpenMMLab, of timm and of the official code.

    The values of a tensor change in one place alone: the official code and timm order the
    channels of merged patches in another way.

    Args:
        checkpoint (Any): What the file holds, of any of these formats.
        name (str): The file, for messages.
        to (str): One of :data:`TARGETS`.
        part (str, optional): 'ungrown' leaves out what growth added. Defaults to None.
        backbone_only (bool): Whether to leave out the head; to OpenMMLab, the names then have no
            prefix. Defaults to False.

    Returns:
        Converted: The result.

    Raises:
        CheckpointError: If it is no Swin or ViT, or grown and ``part`` is not given although the
            target knows no growth.
    """
    state = read_state_dict(checkpoint, name)
    own, rest = split_backbone(state)
    family = next((f for f in _PARTS if find_format(own, f)), None)
    if family is None:
        raise CheckpointError(f'{name} holds no Swin and no ViT or DeiT: its names begin with '
                              f'{", ".join(list(state)[:3])}')
    own, source = to_mm_keys(own, family, distilled='dist_token' in own)
    added = what_growth_added(own)
    if added and part != 'ungrown' and to != 'openmmlab':
        found = ', '.join(f'{len(keys)} tensors of {what}' for what, keys in added.items())
        raise CheckpointError(
            f'{name} is grown ({found}), which models of {to} are not: --part ungrown leaves that '
            'out, which changes what the model computes; or make it an ordinary deeper model '
            'first, by tools/model_converters/unshare.py')
    plain = dict(own)
    for keys in added.values():
        for key in keys:
            del plain[key]
    _check_parts(plain, family, name)

    lost = {}
    if part == 'ungrown':
        own, lost = plain, added
    if family == 'swin':
        own = _fit_swin(own, to, lost)
    if to != 'openmmlab':
        own = from_mm_keys(own, family, to)
    head, others = _split_head(rest, family, to)
    if backbone_only:
        others, head = {**others, **head}, {}
    elif to == 'openmmlab':
        head, others = {**head, **others}, {}
    if others:
        lost['other parts of the model'] = list(others)
    return Converted(_lay_out(own, head, to, backbone_only, checkpoint), source, family, lost)


def _check_parts(own, family, name):
    """Refuse relatives of the two, whose blocks have such names and something else beside."""
    foreign = [k for k in own if not _PARTS[family].match(k)]
    if foreign:
        what = 'Swin' if family == 'swin' else 'ViT or DeiT'
        raise CheckpointError(f'{name} holds no plain {what}: {foreign[0]} is no part of one, and '
                              'what it would be called elsewhere is not known')


def _fit_swin(own, to, lost):
    """Give a Swin the indices of its bias tables, and timm's the one norm that it has."""
    if to == 'timm':
        last = f'norm{count_stages(own) - 1}.'
        norms = [k for k in own if re.match(r'norm\d', k) and not k.startswith(last)]
        if norms:
            lost['norms of outputs'] = norms
        return {k: v for k, v in own.items() if k not in norms}
    complete = {}
    for key, value in own.items():
        complete[key] = value
        if key.endswith('relative_position_bias_table'):  # computed, but strict loading wants it
            window = (math.isqrt(len(value)) + 1) // 2
            complete[key.replace('bias_table', 'index')] = relative_position_index(window)
    return complete


def _split_head(rest, family, to):
    """The classifier's last layer, as the target calls it, and what else is no backbone."""
    prefix = _HEADS[to][family]
    renamed = rename_head(rest, prefix)
    if to != 'openmmlab':
        renamed = {re.sub(r'^head\.layers\.head_dist\.', 'head_dist.', k): v
                   for k, v in renamed.items()}
    kept = re.compile(rf'({re.escape(prefix)}|head_dist\.|head\.layers\.head_dist\.)(weight|bias)$')
    return ({k: v for k, v in renamed.items() if kept.match(k)},
            {k: v for k, v in renamed.items() if not kept.match(k)})


def _lay_out(own, head, to, backbone_only, checkpoint):
    """What a file of the target holds."""
    if to == 'timm':
        return {**own, **head}
    if to == 'official':
        return {'model': {**own, **head}}
    if not backbone_only:
        own = {f'backbone.{k}': v for k, v in own.items()}
    # the config in it would be that of another model
    meta = checkpoint.get('meta') if isinstance(checkpoint.get('meta'), dict) else {}
    meta = {k: v for k, v in meta.items() if k in ('dataset_meta', 'CLASSES')}
    return {'meta': meta, 'state_dict': {**own, **head}}
