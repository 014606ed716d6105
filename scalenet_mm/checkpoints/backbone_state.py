"""Bringing a backbone's tensors into the shape the backbone wants, whatever wrote them."""
import math

from ..errors import CheckpointError
from .keys import find_format, to_mm_keys
from .report import compare, list_prefixes, refuse_gene, refuse_other_blocks
from .resize import fit_bias_table, fit_pos_embed

#: Under this name the loaders that mmengine uses leave a note in a state dict's metadata: the first
#: names of a backbone that stands alone in the file, or none (see :func:`check_backbone_state`).
FILE_NOTE = 'scalenet_file'
#: And under this one, if the file is a delta, which belongs to one model alone, its name and how
#: that model was grown.
DELTA_NOTE = 'scalenet_delta'
#: And under this one, if the file is a learngene, its name, method and number of blocks.
GENE_NOTE = 'scalenet_gene'
#: And under this one, if the file is of a grown model, its name and whether its config tells so.
GROWN_NOTE = 'scalenet_grown'


def adapt_backbone_state(backbone, state_dict: dict, prefix: str) -> None:
    """Rename and resize, in place, what a state dict holds for a backbone.

    It runs on every way of loading (torch's and mmengine's ``load_state_dict``).

    Args:
        backbone (GrowableBackbone): The backbone.
        state_dict (dict): Tensors by name.
        prefix (str): The backbone's prefix in it, with its final dot; may be empty.
    """
    own = {k[len(prefix):]: v for k, v in state_dict.items() if k.startswith(prefix)}
    if find_format(own, backbone.key_family) is None:
        return
    renamed, _ = to_mm_keys(own, backbone.key_family)
    wanted = dict(backbone.named_parameters())
    for key, value in renamed.items():
        fitted = fit_tensor(backbone, key, value, wanted)
        if fitted is not None:
            renamed[key] = fitted
    for name, buffer in backbone.named_buffers():
        if name.endswith('relative_position_index'):
            # of another window size, or left out of the file
            value = own.get(name)
            fits = value is not None and value.shape == buffer.shape
            renamed[name] = value if fits else buffer
    for key in own:
        del state_dict[prefix + key]
    state_dict.update({prefix + k: v for k, v in renamed.items()})


def fit_tensor(backbone, key: str, value, wanted: dict):
    """Resize one tensor if it depends on the image or window size.

    Args:
        backbone (nn.Module): The backbone.
        key (str): The tensor's name, without prefix.
        value (torch.Tensor): The tensor.
        wanted (dict): The backbone's parameters by name.

    Returns:
        torch.Tensor | None: The resized tensor; None if nothing is to be done.

    Raises:
        CheckpointError: If it cannot be resized.
    """
    if key not in wanted or value.shape == wanted[key].shape:
        return None
    if key in ('pos_embed', 'absolute_pos_embed'):
        grid = _patch_grid(backbone, wanted[key].shape[1])
        mode = getattr(backbone, 'interpolate_mode', 'bicubic')
        extra = wanted[key].shape[1] - grid[0] * grid[1]
        return fit_pos_embed(value, wanted[key].shape, grid, mode, extra)
    if key.endswith('relative_position_bias_table'):
        return fit_bias_table(value, wanted[key].shape)
    return None


def _patch_grid(backbone, tokens):
    """tuple[int]: Rows and columns of a backbone's patches.

    The toolboxes tell them in different places, mmdet's and mmseg's Swins nowhere; a square it is
    then, of as many as there are tokens.
    """
    grid = getattr(backbone, 'patch_resolution', None) or getattr(
        getattr(backbone, 'patch_embed', None), 'init_out_size', None)
    size, patch = (getattr(backbone, name, None) for name in ('img_size', 'patch_size'))
    if grid is None and isinstance(size, (tuple, list)) and isinstance(patch, int):
        grid = [side // patch for side in size]
    return tuple(grid or (math.isqrt(tokens), ) * 2)


def check_backbone_state(backbone, state_dict: dict, prefix: str, metadata: dict) -> None:
    """Refuse what cannot be meant for a backbone, on every way of loading.

    mmengine answers a file that does not fit by a WARNING, and goes on with random weights. What
    its loaders read from a file (:mod:`.loaders` notes it in the metadata) must be the whole
    backbone. Any other state dict may hold a part of it, but not only foreign names.

    Not refused, because it looks the same as a head's weights alone, is a state dict without
    anything under the backbone's prefix, unless the loaders noted that the file holds a backbone
    alone.

    Args:
        backbone (GrowableBackbone): The backbone.
        state_dict (dict): Tensors by name, adapted.
        prefix (str): The backbone's prefix in it, with its final dot; may be empty.
        metadata (dict): The state dict's metadata for the backbone.

    Raises:
        CheckpointError: If the tensors are not the backbone's.
    """
    note = metadata.get(FILE_NOTE)
    own = {k[len(prefix):]: v for k, v in state_dict.items() if k.startswith(prefix)}
    if not prefix:  # a classifier's head beside the backbone
        own = {k: v for k, v in own.items() if not k.startswith(('head.', 'head_dist.'))}
    if not own:
        if note:
            raise CheckpointError(
                f'the checkpoint holds a backbone alone ({", ".join(note)}, ...), and nothing '
                f'whose name begins with {prefix!r}: nothing of it would be loaded. Name it by the '
                "backbone's init_cfg=dict(type='Pretrained', checkpoint=...), or put the "
                'AdapterInjectionHook into custom_hooks, with which load_from reads it')
        return
    wanted = backbone.state_dict()
    name = 'the checkpoint'
    if DELTA_NOTE in metadata:
        name = metadata[DELTA_NOTE]['name']
        refuse_other_blocks(backbone, metadata[DELTA_NOTE]['growth'], name)
    if GENE_NOTE in metadata:
        name = metadata[GENE_NOTE]['name']
        refuse_gene(backbone, metadata[GENE_NOTE], name)
    if note is not None or not any(key in wanted for key in own):
        compare(name, '', wanted, own, '', list_prefixes(backbone))
