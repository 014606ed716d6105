"""Recognising checkpoint formats by their keys, and renaming them to the toolboxes' names."""
import re
from collections import OrderedDict
from collections.abc import Callable
from functools import lru_cache
from typing import Any, Optional

import torch

from ..errors import CheckpointError

#: (name elsewhere, name of the toolboxes): '^' stands for the beginning of a name, '#' for a
#: number. They are read in both directions.
_OFFICIAL_SWIN = (
    ('^patch_embed.proj.', '^patch_embed.projection.'),
    ('^layers.', '^stages.'),
    ('.attn.', '.attn.w_msa.'),
    ('.mlp.fc1.', '.ffn.layers.0.0.'),
    ('.mlp.fc2.', '.ffn.layers.1.'),
)
_OFFICIAL_VIT = (
    ('^patch_embed.proj.', '^patch_embed.projection.'),
    ('^blocks.#.norm#.', '^layers.#.ln#.'),
    ('.mlp.fc1.', '.ffn.layers.0.0.'),
    ('.mlp.fc2.', '.ffn.layers.1.'),
    ('^blocks.', '^layers.'),
    ('^norm.', '^ln1.'),
)
_MMSEG_VIT = (('.attn.attn.in_proj_', '.attn.qkv.'), ('.attn.attn.out_proj.', '.attn.proj.'))
#: (marker, what it is, its names) of blocks; the first marker found decides
_FORMATS = {
    'swin': (
        (r'stages\.0\.blocks\.0\.', 'OpenMMLab', ()),
        (r'layers\.0\.blocks\.0\.', 'official', _OFFICIAL_SWIN),
    ),
    'vit': (
        (r'layers\.0\.attn\.qkv\.', 'OpenMMLab', ()),
        (r'layers\.0\.attn\.attn\.in_proj_weight', 'mmseg', _MMSEG_VIT),
        (r'blocks\.0\.attn\.qkv\.', 'official', _OFFICIAL_VIT),
    ),
}
#: What a stock backbone of a family has, whatever else; other backbones share the blocks' names.
_MARKS = {'swin': r'.*\.w_msa\.relative_position_bias_table$', 'vit': r'layers\.0\.ln1\.weight$'}
#: Where the last linear layer is in the head that the toolbox gives a family.
CLASSIFIERS = {'swin': 'head.fc.', 'vit': 'head.layers.head.'}
#: The norms of a Swin's outputs.
_OUTPUT_NORM = re.compile(r'^norm\d+\.')
#: What begins the names of a backbone that stands alone in a file, of any architecture.
_ALONE = re.compile(r'(patch_embed|cls_token|pos_embed|stem|features|conv1|blocks\.\d|stages\.\d|'
                    r'layers?\.?\d)\b')
#: Keys that say nothing a model could lack: they are computed, or of a training step.
_DERIVED = re.compile(r'.*(\.attn_mask|relative_position_index|num_batches_tracked)$')


def read_state_dict(checkpoint, name: str) -> dict:
    """Find the state dict in what a file holds.

    Args:
        checkpoint (Any): What the file holds: a state dict, or a dict with one under
            'state_dict' (mmengine) or 'model' (official releases).
        name (str): The file, for messages.

    Returns:
        dict: Tensors by name, 'module.' prefixes taken away. A new dict, with the ``_metadata``
        that torch keeps in state dicts (the versions of modules).

    Raises:
        CheckpointError: If there is none.
    """
    state = checkpoint
    if isinstance(checkpoint, dict):
        for key in ('state_dict', 'model'):
            if isinstance(checkpoint.get(key), dict):
                state = checkpoint[key]
                break
    if not isinstance(state, dict) or not any(isinstance(v, torch.Tensor) for v in state.values()):
        holds = ', '.join(map(str, list(checkpoint)[:8])) if isinstance(checkpoint, dict) else type(
            checkpoint).__name__
        raise CheckpointError(f"{name} holds no state dict: neither 'state_dict' nor 'model' nor "
                              f'tensors by name, but {holds}')
    read: Any = OrderedDict((re.sub(r'^module\.', '', str(k)), v) for k, v in state.items())
    metadata = getattr(state, '_metadata', None)
    if metadata is not None:
        read._metadata = OrderedDict(
            (re.sub(r'^module(\.|$)', '', k), v) for k, v in metadata.items())
    return read


def split_backbone(state: dict, prefix: Optional[str] = None) -> tuple:
    """Split a state dict into the backbone's part and the rest.

    Args:
        state (dict): Tensors by name.
        prefix (str, optional): The backbone's prefix. If None it is 'backbone.' where such keys
            are, else everything but a classifier ('head.', 'head_dist.') is the backbone's.
            Defaults to None.

    Returns:
        tuple[dict, dict]: The backbone's tensors without prefix, and the rest.
    """
    if prefix is None and any(k.startswith('backbone.') for k in state):
        prefix = 'backbone.'
    if prefix:
        prefix = prefix if prefix.endswith('.') else prefix + '.'
        own = {k[len(prefix):]: v for k, v in state.items() if k.startswith(prefix)}
        return own, {k: v for k, v in state.items() if not k.startswith(prefix)}
    head = {k: v for k, v in state.items() if k.startswith(('head.', 'head_dist.'))}
    return {k: v for k, v in state.items() if k not in head}, head


def find_format(state: dict, family: str):
    """Recognise the names of a backbone's blocks.

    Args:
        state (dict): The backbone's tensors, without prefix.
        family (str): 'swin' or 'vit'.

    Returns:
        tuple | None: What it is ('OpenMMLab', 'mmseg', 'official') and its names.
    """
    for marker, what, names in _FORMATS[family]:
        if any(re.match(marker, key) for key in state):
            return what, names
    return None


def _rename(key, names, back=False):
    for pair in names:
        pattern, replacement = _compile(*(reversed(pair) if back else pair))
        key = re.sub(pattern, replacement, key)
    return key


@lru_cache(maxsize=None)
def _compile(name, other):
    pattern = re.escape(name).replace(r'\^', '^').replace(r'\#', r'(\d+)')
    first, *rest = other.removeprefix('^').split('#')
    return pattern, first + ''.join(rf'\{i}{part}' for i, part in enumerate(rest, 1))


def find_family(backbone):
    """Tell of which family a backbone is, and how its own parameters are named.

    Args:
        backbone (nn.Module): A :class:`GrowableBackbone` or any other.

    Returns:
        tuple[str, str] | None: 'swin' or 'vit', and 'OpenMMLab' or 'mmseg'; None for another
        kind of backbone, of which only files with its own names can be read.
    """
    family = getattr(backbone, 'key_family', None)
    return (family, 'OpenMMLab') if family else family_of_names(backbone.state_dict())


def family_of_names(state: dict):
    """What :func:`find_family` tells, from the names of a backbone's own tensors.

    Args:
        state (dict): The backbone's state dict, without prefix.

    Returns:
        tuple[str, str] | None: As there.
    """
    for family, mark in _MARKS.items():
        found = find_format(state, family)
        if found and found[0] != 'official' and any(re.match(mark, key) for key in state):
            return family, found[0]
    return None


def to_names_of(naming: str, state: dict) -> dict:
    """Rename a ViT's tensors from mmpretrain's names to those of a stock backbone.

    Args:
        naming (str): What :func:`find_family` says of the backbone.
        state (dict): Tensors under mmpretrain's names.

    Returns:
        dict: Tensors under the backbone's names.
    """
    if naming != 'mmseg':
        return state
    return {_rename(k, _MMSEG_VIT, back=True): v for k, v in state.items()}


def rename_head(head: dict, prefix: str) -> dict:
    """Give a classifier's last linear layer the name that it has in another head.

    Args:
        head (dict): Tensors outside the backbone.
        prefix (str): One of :data:`CLASSIFIERS`.

    Returns:
        dict: The tensors; those of other layers as they are.
    """
    places = {'head.': prefix, **{other: prefix for other in CLASSIFIERS.values()}}
    if prefix == CLASSIFIERS['vit']:
        places['head_dist.'] = 'head.layers.head_dist.'
    renamed = {}
    for key, value in head.items():
        place, dot, part = key.rpartition('.')
        renamed[places.get(place + dot, place + dot) + part] = value
    return renamed


def name_head(rest: dict, wanted: dict) -> dict:
    """Give a classifier's last linear layer the name that it has in a model.

    Args:
        rest (dict): Tensors outside the backbone.
        wanted (dict): The model's state dict.

    Returns:
        dict: The tensors; the same ones if the model has no such head.
    """
    for prefix in CLASSIFIERS.values():
        if f'{prefix}weight' in wanted and f'{prefix}weight' not in rest:
            return rename_head(rest, prefix)
    return rest


def name_as_classifier(state_dict: dict, prefix: str, family: str) -> None:
    """Give a file without prefixes, in place, the names that an image classifier has.

    Args:
        state_dict (dict): Tensors by name.
        prefix (str): The classifier's prefix in it, with its final dot; may be empty.
        family (str): 'swin' or 'vit', which also tells the usual head.
    """
    own = {k[len(prefix):]: v for k, v in state_dict.items() if k.startswith(prefix)}
    backbone, head = split_backbone(own)
    if any(k.startswith('backbone.') for k in own) or find_format(backbone, family) is None:
        return
    for key in own:
        del state_dict[prefix + key]
    state_dict.update({f'{prefix}backbone.{k}': v for k, v in backbone.items()})
    head = rename_head(head, CLASSIFIERS[family])
    state_dict.update({prefix + k: v for k, v in head.items()})


def names_alone(state: dict) -> list:
    """list[str]: The first names of a backbone that stands alone in a file, without prefix.

    None if the file holds a 'backbone.', or nothing that a backbone begins with, such as a head.
    """
    names = [re.sub(r'^module\.', '', str(k)) for k in state]
    if any(k.startswith('backbone.') for k in names):
        return []
    return [k for k in names if _ALONE.match(k)][:3]


def to_unfold_order(value: torch.Tensor) -> torch.Tensor:
    """Bring a tensor that merges patches from the official order of channels to the toolboxes'.

    They merge patches by ``nn.Unfold``.
    """
    if value.ndim == 1:
        return value.reshape(4, -1)[[0, 2, 1, 3]].T.reshape(-1)
    out, inner = value.shape
    return value.reshape(out, 4, inner // 4)[:, [0, 2, 1, 3]].transpose(1, 2).reshape(out, inner)


def from_unfold_order(value: torch.Tensor) -> torch.Tensor:
    """The inverse of :func:`to_unfold_order`."""
    if value.ndim == 1:
        return value.reshape(-1, 4).T[[0, 2, 1, 3]].reshape(-1)
    out, inner = value.shape
    return value.reshape(out, inner // 4, 4).transpose(1, 2)[:, [0, 2, 1, 3]].reshape(out, inner)


def to_mm_keys(state: dict, family: str, distilled: bool = False,
               reorder: Callable = to_unfold_order) -> tuple:
    """Rename a backbone's tensors to the toolboxes' names.

    Args:
        state (dict): The backbone's tensors, without prefix.
        family (str): 'swin' or 'vit'.
        distilled (bool): Whether the backbone has a distillation token. Defaults to False.
        reorder (Callable): What is done to the tensors of an official Swin that merge patches.
            Defaults to :func:`to_unfold_order`.

    Returns:
        tuple[dict, str]: The renamed tensors, derived ones left out, and what format it was.

    Raises:
        CheckpointError: If the names are of no known format of that family.
    """
    found = find_format(state, family)
    if found is None:
        others = [f for f in _FORMATS if f != family and find_format(state, f)]
        what = f'of a {others[0]}' if others else 'of no known backbone'
        raise CheckpointError(f'the names are {what}, not of a {family}: they begin with '
                              f'{", ".join(list(state)[:3])}')
    what, names = found
    if 'dist_token' in state and not distilled:
        raise CheckpointError('the weights are of a distilled DeiT, which has a second token; '
                              'use the plain DeiT')
    if what == 'official' and family == 'swin':
        state, what = _align_downsampling(state, what)
    renamed = {}
    for key, value in state.items():
        if _DERIVED.match(key):
            continue
        key = _rename(key, names)
        if what != 'OpenMMLab' and family == 'swin' and _merges_patches(key):
            value = reorder(value)
        renamed[key] = value
    if family == 'swin' and 'norm.weight' in renamed:
        # the one norm of a classifier is that of the last stage's output; mmpretrain's older files
        # and the ones that mmseg converted have that name too
        last = count_stages(renamed) - 1
        for part in ('weight', 'bias'):
            renamed[f'norm{last}.{part}'] = renamed.pop(f'norm.{part}')
    return renamed, what


def _align_downsampling(state, what):
    """timm counts a merging to the stage behind it, everybody else to the one before."""
    stages = {int(k.split('.')[1]) for k in state if k.startswith('layers.')}
    if not any(k.startswith(f'layers.{max(stages)}.downsample.') for k in state):
        return state, what
    return {_move_downsampling(k, -1): v for k, v in state.items()}, 'timm'


def _move_downsampling(key, by):
    return re.sub(r'^layers\.(\d+)\.downsample\.',
                  lambda match: f'layers.{int(match.group(1)) + by}.downsample.', key)


def from_mm_keys(state: dict, family: str, to: str) -> dict:
    """Rename a backbone's tensors from the toolboxes' names: the inverse of :func:`to_mm_keys`.

    Args:
        state (dict): The ungrown backbone's tensors under mmpretrain's names, without prefix.
        family (str): 'swin' or 'vit'.
        to (str): 'official' or 'timm'; they differ for a Swin.

    Returns:
        dict: The renamed tensors.
    """
    names = next(names for _, what, names in _FORMATS[family] if what == 'official')
    outputs = {k.split('.')[0] for k in state if _OUTPUT_NORM.match(k)}
    of_classifier = outputs == {f'norm{count_stages(state) - 1}'}
    renamed = {}
    for key, value in state.items():
        if family == 'swin':
            if _merges_patches(key):
                value = from_unfold_order(value)
            if of_classifier:
                key = _OUTPUT_NORM.sub('norm.', key)
        key = _rename(key, names, back=True)
        if family == 'swin' and to == 'timm':
            key = _move_downsampling(key, 1)
        renamed[key] = value
    return renamed


def count_stages(state: dict) -> int:
    """int: The number of a Swin's stages, from the toolboxes' names; 0 for another backbone."""
    return 1 + max((int(k.split('.')[1]) for k in state if k.startswith('stages.')), default=-1)


def _merges_patches(key):
    return key.endswith('downsample.reduction.weight') or '.downsample.norm.' in key


def is_derived(key: str) -> bool:
    """Whether a key holds something computed, such as an attention mask."""
    return _DERIVED.match(key) is not None
