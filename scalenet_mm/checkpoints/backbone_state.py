"""Bringing a backbone's tensors into the shape the backbone wants, whatever wrote them."""
from .keys import find_format, to_mm_keys
from .resize import fit_bias_table, fit_pos_embed


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
        backbone (GrowableBackbone): The backbone.
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
        extra = getattr(backbone, 'num_extra_tokens', 0)
        return fit_pos_embed(value, wanted[key].shape, backbone.patch_resolution,
                             backbone.interpolate_mode, extra)
    if key.endswith('relative_position_bias_table'):
        return fit_bias_table(value, wanted[key].shape)
    return None
