"""From a grown backbone to an ordinary deeper one: each repeat a block of its own.

LoRA and gains fold into the weights once nothing is shared. A parallel adapter has a non-linearity
and stays. Repeats of a Swin have the window shift of their source, while a stock Swin shifts every
second block: where the two do not go together, blocks without effect can be put between.
"""
import copy
from collections.abc import Sequence
from dataclasses import dataclass, field

from ..errors import CheckpointError
from ..growth import growth_of
from ..growth.adjustment import GAIN_NAME
from ..growth.layer_map import LayerMap
from .keys import find_family, split_backbone, to_names_of

#: Where the last layer of each residual branch is in a Swin's block.
_BRANCH_ENDS = ('attn.w_msa.proj', 'ffn.layers.1')


@dataclass
class Unshared:
    """The tensors of an ordinary deeper model.

    Args:
        state (dict): Tensors by name; those of blocks are numbered by execution order.
        depths (dict[str, int]): Number of blocks of each grown list, by its name.
        folded (int): Number of linear layers into which LoRA or a gain went.
        adapters (int): Number of parallel adapters that stay.
        idle_adapters (int): Number of those left out because all adapters still add zero.
        empty (int): Number of blocks without effect.
    """
    state: dict
    depths: dict = field(default_factory=dict)
    folded: int = 0
    adapters: int = 0
    idle_adapters: int = 0
    empty: int = 0


def unshare(model, empty_blocks: bool = False) -> Unshared:
    """Give each block of a grown model tensors of its own.

    Args:
        model (nn.Module): A grown model, whose ``backbone`` is a Swin or ViT.
        empty_blocks (bool): Whether to put blocks without effect where a stock Swin's shifts would
            not be those of the grown one. Defaults to False.

    Returns:
        Unshared: Copies of the tensors; parallel adapters have those of the grown model.

    Raises:
        CheckpointError: If the model is not grown, or its backbone is of another kind.
    """
    lists = list(growth_of(model))
    if not lists:
        raise CheckpointError('the model is not grown, so there is nothing to unshare')
    elsewhere = [name for name, _, _ in lists if not name.startswith('backbone.')]
    if elsewhere or find_family(model.backbone) is None:
        raise CheckpointError(
            f'{elsewhere[0] if elsewhere else type(model.backbone).__name__} is no part of a Swin '
            'or plain ViT backbone; of others the deeper stock model is not known')
    state = model.state_dict()
    result = Unshared({k: v.clone() for k, v in state.items()
                       if not k.startswith(tuple(f'{name}.' for name, _, _ in lists))})
    for name, blocks, layer_map in lists:
        order = list(range(len(layer_map)))
        if empty_blocks:
            order = alternate(shifts_of(blocks)) or order
        for index, position in enumerate(order):
            block = block_state(state, f'{name}.', layer_map, position or 0)
            folded = fold(block)
            if position is None:
                result.empty += 1
                _silence(block)
            else:
                result.folded += folded
            result.state.update({f'{name}.{index}.{k}': v for k, v in block.items()})
        result.depths[name] = len(order)
    _drop_idle_adapters(result)
    return result


def block_state(state: dict, prefix: str, layer_map: LayerMap, position: int) -> dict:
    """Collect the tensors that a block of a grown list uses, its own and those of its source.

    Args:
        state (dict): The grown model's state dict.
        prefix (str): The list's name, with a final dot.
        layer_map (LayerMap): The list's map.
        position (int): The block's place in the order of execution.

    Returns:
        dict: Copies of the tensors, by name within the block.
    """
    source, name = layer_map.sources[position], layer_map.names[position]
    found = {}
    if not layer_map.new[position] and layer_map.repeats[position]:
        # adapters, LoRA and gains of the source give way to those that every repeat has, too
        found = _within(state, f'{prefix}{source}.')
    found.update(_within(state, f'{prefix}{name}.'))
    return {k: v.clone() for k, v in found.items()}


def _within(state, prefix):
    return {k[len(prefix):]: v for k, v in state.items() if k.startswith(prefix)}


def fold(block: dict) -> int:
    """Fold LoRA and gains into the weights of a block's linear layers, in place.

    ``gain * (W x + b + up down x)`` is ``(gain * (W + up down)) x + gain * b``; of a parallel
    adapter the up-projection takes the gain.

    Args:
        block (dict): Tensors by name within the block, shared with no other.

    Returns:
        int: The number of layers that were changed.
    """
    layers = dict.fromkeys(k.rsplit('.', 1)[0] for k in block
                           if k.endswith(('.lora_up', f'.{GAIN_NAME}')))
    for layer in layers:
        up, down, gain = (block.pop(f'{layer}.{name}', None)
                          for name in ('lora_up', 'lora_down', GAIN_NAME))
        weight = block[f'{layer}.weight']
        folded = weight.double()  # rounded once
        if up is not None:
            folded = folded + up.double() @ down.double()
        if gain is not None:
            gain = gain.double()
            folded = gain[:, None] * folded
            for name in ('bias', 'adapter_up'):
                value = block.get(f'{layer}.{name}')
                if value is not None:
                    scale = gain if name == 'bias' else gain[:, None]
                    block[f'{layer}.{name}'] = (scale * value.double()).to(value.dtype)
        block[f'{layer}.weight'] = folded.to(weight.dtype)
    return len(layers)


def _silence(block):
    """Make a Swin block add nothing to its input."""
    for key in list(block):
        if key.endswith('.adapter_up') or key.rsplit('.', 1)[0] in _BRANCH_ENDS \
                and not key.endswith('.adapter_down'):
            block[key].zero_()


def _drop_idle_adapters(result):
    ups = [k for k in result.state if k.endswith('.adapter_up')]
    if any(result.state[k].any() for k in ups):
        result.adapters = len(ups)
        return
    result.idle_adapters = len(ups)
    for key in ups:
        del result.state[key], result.state[key.removesuffix('up') + 'down']


# --- window shifts -------------------------------------------------------------------------------


def shifts_of(blocks) -> list:
    """list[bool]: For each block of a Swin's list, in order, whether its windows are shifted.

    Empty for blocks without windows.
    """
    return [block.attn.shift_size > 0 for block in blocks
            if hasattr(getattr(block, 'attn', None), 'shift_size')]


def alternate(shifts: Sequence) -> list:
    """Put blocks between others so that every second one is shifted.

    Args:
        shifts (Sequence[bool]): Whether each block is shifted.

    Returns:
        list[int | None]: Positions in ``shifts``, and None for each block to put between.
    """
    order: list = []
    for position, shifted in enumerate(shifts):
        if len(order) % 2 != shifted:
            order.append(None)
        order.append(position)
    return order


def misplaced_shifts(backbone, image_size: Sequence) -> tuple:
    """Find the stages in which a stock Swin of the grown depth would shift other windows.

    Args:
        backbone (nn.Module): The grown backbone.
        image_size (Sequence[int]): Height and width of the images.

    Returns:
        tuple[list[int], list[int]]: Stages in which that matters, and others in which it does not
        matter for images of that size: in mmpretrain's meaning, a map of one window is not
        shifted.
    """
    matter: list = []
    hidden: list = []
    for name, blocks, _ in growth_of(backbone):
        if len(alternate(shifts_of(blocks))) == len(shifts_of(blocks)):
            continue
        stage = int(name.split('.')[1])
        attention = blocks[0].attn
        # the patch embedding and each merging round up
        shorter = -(-min(image_size) // (backbone.patch_embed.projection.stride[0] * 2**stage))
        one_window = shorter == attention.window_size
        unshifted = one_window and not getattr(attention, 'pad_small_map', True)
        (hidden if unshifted else matter).append(stage)
    return matter, hidden


# --- the deeper model ----------------------------------------------------------------------------


def fit_names(result: Unshared, model, deeper) -> None:
    """Give the tensors, in place, the names of a deeper model, and adapters to all its blocks.

    Args:
        result (Unshared): The tensors.
        model (nn.Module): The grown model that they are from.
        deeper (nn.Module): The model that is to have them.
    """
    namings = [find_family(m.backbone)[1] for m in (model, deeper)]
    if namings[0] != namings[1]:
        own, rest = split_backbone(result.state)
        own = to_names_of(namings[1], own)
        result.state = {**{f'backbone.{k}': v for k, v in own.items()}, **rest}
    if result.adapters:  # with scope='shared' some blocks had none; theirs add zero
        for key, value in deeper.state_dict().items():
            if key.endswith(('.adapter_down', '.adapter_up')):
                result.state.setdefault(key, value)


# --- configs -------------------------------------------------------------------------------------


def deeper_backbones(cfg: dict, backbone, result: Unshared, scope: str) -> list:
    """Write the configs of backbones that the tensors may fit: a stock one first, if it can be.

    Args:
        cfg (dict): The grown backbone's config: of a ScaleNetViT or ScaleNetSwin, of a
            GrownBackbone, or of the stock backbone that was grown in place.
        backbone (nn.Module): The grown backbone.
        result (Unshared): What :func:`unshare` gives.
        scope (str): The config's toolbox, 'mmpretrain', 'mmdet' or 'mmseg'.

    Returns:
        list[dict]: Configs to try in that order.
    """
    adjustment = dict(backbone.adjustment, scope='all') if result.adapters else None
    if not hasattr(backbone, 'key_family'):
        base = cfg['base'] if cfg['type'] == 'GrownBackbone' else cfg
        base = _deepen(base, backbone, result.depths)
        if not result.adapters:
            return [base]
        return [dict(type='GrownBackbone', base=base, growth=None, adjustment=adjustment)]
    own = _deepen(cfg, backbone, result.depths)
    grown = dict(own, growth=None, adjustment=adjustment)
    stock = None if result.adapters else _stock_type(backbone, scope)
    if stock is None:
        return [grown]
    own = {k: v for k, v in own.items() if k not in ('growth', 'adjustment', 'convert_weights')}
    return [dict(own, type=stock), grown]


def _stock_type(backbone, scope):
    if backbone.key_family == 'vit':
        return f'{"mmpretrain" if backbone.by_arch else "mmseg"}.VisionTransformer'
    if backbone.by_arch:
        return 'mmpretrain.SwinTransformer'
    return f'{scope}.SwinTransformer' if scope in ('mmdet', 'mmseg') else None


def _deepen(cfg, backbone, depths):
    """A Swin's or ViT's config with another depth, and without what it would load."""
    cfg = {k: copy.deepcopy(v) for k, v in cfg.items() if k not in ('pretrained', 'init_cfg')}
    by_arch = getattr(backbone, 'by_arch', hasattr(backbone, 'arch_settings'))
    if find_family(backbone)[0] == 'swin':
        stages = [stage.blocks for stage in backbone.stages]
        depths = [depths.get(f'backbone.stages.{i}.blocks', len(blocks))
                  for i, blocks in enumerate(stages)]
        sizes = dict(
            embed_dims=stages[0][0].norm1.weight.numel(),
            depths=depths,
            num_heads=[blocks[0].attn.w_msa.num_heads for blocks in stages])
        cfg.update(dict(arch=sizes) if by_arch else dict(depths=depths))
        return cfg
    cfg.pop('frozen_stages', None)  # it counts blocks
    block, depth = backbone.layers[0], depths['backbone.layers']
    sizes = dict(
        embed_dims=block.ln1.weight.numel(),
        num_layers=depth,
        num_heads=block.attn.num_heads,
        feedforward_channels=block.ffn.feedforward_channels)
    cfg.update(dict(arch=sizes) if by_arch else dict(num_layers=depth))
    cfg['out_indices'] = list(backbone.out_indices)
    return cfg
