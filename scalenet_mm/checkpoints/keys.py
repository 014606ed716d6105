"""Recognising checkpoint formats by their keys, and renaming them to the toolboxes' names."""
import re
from collections import OrderedDict

import torch

from ..errors import CheckpointError

#: (marker, what it is, replacements) for the names of blocks; the first marker found decides
_FORMATS = {
    'swin': (
        (r'stages\.0\.blocks\.0\.', 'OpenMMLab', ()),
        (r'layers\.0\.blocks\.0\.', 'official', (
            (r'^patch_embed\.proj\.', 'patch_embed.projection.'),
            (r'^layers\.', 'stages.'),
            (r'\.attn\.', '.attn.w_msa.'),
            (r'\.mlp\.fc1\.', '.ffn.layers.0.0.'),
            (r'\.mlp\.fc2\.', '.ffn.layers.1.'),
        )),
    ),
    'vit': (
        (r'layers\.0\.attn\.qkv\.', 'OpenMMLab', ()),
        (r'layers\.0\.attn\.attn\.in_proj_weight', 'mmseg', (
            (r'\.attn\.attn\.in_proj_', '.attn.qkv.'),
            (r'\.attn\.attn\.out_proj\.', '.attn.proj.'),
        )),
        (r'blocks\.0\.attn\.qkv\.', 'official', (
            (r'^patch_embed\.proj\.', 'patch_embed.projection.'),
            (r'^blocks\.(\d+)\.norm([12])\.', r'layers.\1.ln\2.'),
            (r'^blocks\.(\d+)\.mlp\.fc1\.', r'layers.\1.ffn.layers.0.0.'),
            (r'^blocks\.(\d+)\.mlp\.fc2\.', r'layers.\1.ffn.layers.1.'),
            (r'^blocks\.', 'layers.'),
            (r'^norm\.', 'ln1.'),
        )),
    ),
}
#: What a stock backbone of a family has, whatever else; other backbones share the blocks' names.
_MARKS = {'swin': r'.*\.w_msa\.relative_position_bias_table$', 'vit': r'layers\.0\.ln1\.weight$'}
#: Where the last linear layer is in the head that the toolbox gives a family.
CLASSIFIERS = {'swin': 'head.fc.', 'vit': 'head.layers.head.'}
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
    read = OrderedDict((re.sub(r'^module\.', '', str(k)), v) for k, v in state.items())
    metadata = getattr(state, '_metadata', None)
    if metadata is not None:
        read._metadata = OrderedDict(
            (re.sub(r'^module(\.|$)', '', k), v) for k, v in metadata.items())
    return read


def split_backbone(state: dict, prefix: str = None) -> tuple:
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
        tuple | None: What it is ('OpenMMLab', 'mmseg', 'official') and the replacements to make.
    """
    for marker, what, replacements in _FORMATS[family]:
        if any(re.match(marker, key) for key in state):
            return what, replacements
    return None


def find_family(backbone):
    """Tell of which family a backbone is, and how its own parameters are named.

    Args:
        backbone (nn.Module): A :class:`GrowableBackbone` or any other.

    Returns:
        tuple[str, str] | None: 'swin' or 'vit', and 'OpenMMLab' or 'mmseg'; None for another
        kind of backbone, of which only files with its own names can be read.
    """
    family = getattr(backbone, 'key_family', None)
    if family:
        return family, 'OpenMMLab'
    state = backbone.state_dict()
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
    return {
        k.replace('.attn.qkv.', '.attn.attn.in_proj_').replace('.attn.proj.',
                                                              '.attn.attn.out_proj.'): v
        for k, v in state.items()
    }


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
        place, part = re.match(r'(.*\.)?(.*)', key).groups()
        renamed[places.get(place, place or '') + part] = value
    return renamed


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


def to_mm_keys(state: dict, family: str, distilled: bool = False) -> tuple:
    """Rename a backbone's tensors to the toolboxes' names.

    Args:
        state (dict): The backbone's tensors, without prefix.
        family (str): 'swin' or 'vit'.
        distilled (bool): Whether the backbone has a distillation token. Defaults to False.

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
    what, replacements = found
    if 'dist_token' in state and not distilled:
        raise CheckpointError('the weights are of a distilled DeiT, which has a second token; '
                              'use the plain DeiT')
    if what == 'official' and family == 'swin':
        state, what = _align_downsampling(state, what)
    renamed = {}
    for key, value in state.items():
        if _DERIVED.match(key):
            continue
        for pattern, replacement in replacements:
            key = re.sub(pattern, replacement, key)
        if what != 'OpenMMLab' and family == 'swin':
            value = _to_unfold_order(key, value)
        renamed[key] = value
    if family == 'swin' and 'norm.weight' in renamed:
        # the one norm of a classifier is that of the last stage's output; mmpretrain's older files
        # and the ones that mmseg converted have that name too
        last = 1 + max(int(k.split('.')[1]) for k in renamed if k.startswith('stages.'))
        for part in ('weight', 'bias'):
            renamed[f'norm{last - 1}.{part}'] = renamed.pop(f'norm.{part}')
    return renamed, what


def _align_downsampling(state, what):
    """timm counts a merging to the stage behind it, everybody else to the one before."""
    stages = {int(k.split('.')[1]) for k in state if k.startswith('layers.')}
    if not any(k.startswith(f'layers.{max(stages)}.downsample.') for k in state):
        return state, what
    return {
        re.sub(r'^layers\.(\d+)\.downsample\.',
               lambda m: f'layers.{int(m.group(1)) - 1}.downsample.', k): v
        for k, v in state.items()
    }, 'timm'


def _to_unfold_order(key, value):
    """The toolboxes merge patches by ``nn.Unfold``, with another order of channels."""
    if key.endswith('downsample.reduction.weight'):
        out, inner = value.shape
        return value.reshape(out, 4, inner // 4)[:, [0, 2, 1, 3]].transpose(1, 2).reshape(
            out, inner)
    if '.downsample.norm.' in key:
        return value.reshape(4, -1)[[0, 2, 1, 3]].T.reshape(-1)
    return value


def is_derived(key: str) -> bool:
    """Whether a key holds something computed, such as an attention mask."""
    return _DERIVED.match(key) is not None
