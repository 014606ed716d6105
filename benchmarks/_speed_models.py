"""Our models and their peers: backbones that take images and give features of the same shape.

A ViT gives its tokens behind the final norm, a Swin the map of its last stage behind its norm.
Nothing drops out anywhere.
"""
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Optional

import torch
import torch.nn as nn
from _speed_plain import plain_scalenet

from scalenet_mm import ScaleNetSwin, ScaleNetViT
from scalenet_mm.growth import apply_freezing

RANK = 16
#: Where `make bench` installs what is in requirements-bench.txt.
EXTRA = Path(sys.prefix) / 'bench'


class Unavailable(Exception):
    """A peer is not installed; the message says how to install it."""


@dataclass(frozen=True)
class ViTSize:
    """A DeiT to be grown.

    Args:
        title (str): Its name.
        dims (int): Width.
        depth (int): Pretrained blocks.
        heads (int): Heads.
        timm (str): timm's model of that kind.
        image (int): Height and width of the images. Defaults to 224.
    """
    title: str
    dims: int
    depth: int
    heads: int
    timm: str = 'vit_small_patch16_224'
    image: int = 224
    family = 'vit'

    def grown(self, times):
        """str: What the grown model is called."""
        return f'{self.title}, {self.depth * times} blocks'


@dataclass(frozen=True)
class SwinSize:
    """A Swin to be grown; arguments as for :class:`ViTSize`, ``depth`` and ``heads`` per stage."""
    title: str
    dims: int
    depth: tuple
    heads: tuple
    timm: str = 'swin_tiny_patch4_window7_224'
    image: int = 224
    family = 'swin'

    def grown(self, times):
        """str: What the grown model is called."""
        return f'{self.title} {"-".join(map(str, grown_depth(self, times)))}'


DEIT_SMALL = ViTSize('DeiT-Small', 384, 12, 6)
DEIT_BASE = ViTSize('DeiT-Base', 768, 12, 12)
SWIN_TINY = SwinSize('Swin-Tiny', 96, (2, 2, 6, 2), (3, 6, 12, 24))
SWIN_BASE = SwinSize('Swin-Base', 128, (2, 2, 18, 2), (4, 8, 16, 32))
#: For tests: the same code in seconds.
QUICK = {
    'DeiT-Small': ViTSize('DeiT-Small', 32, 2, 2, image=64),
    'DeiT-Base': ViTSize('DeiT-Base', 32, 2, 2, image=64),
    'Swin-Tiny': SwinSize('Swin-Tiny', 16, (1, 1, 1, 2), (1, 1, 2, 2), image=224),
    'Swin-Base': SwinSize('Swin-Base', 16, (1, 1, 1, 2), (1, 1, 2, 2), image=224),
}


def grown_depth(size, times):
    """int | tuple[int]: Depth after the paper's growth."""
    if size.family == 'vit':
        return size.depth * times
    return (*size.depth[:-1], size.depth[-1] * times)


# --- ours ----------------------------------------------------------------------------------------


def ours(size, times=2, adjustment='paper', frozen=True, mmdet=False) -> nn.Module:
    """Build our backbone.

    Args:
        size (ViTSize | SwinSize): Which.
        times (int): Growth; 1 for none. Defaults to 2.
        adjustment (str | dict | None): As the backbones take it. Defaults to 'paper'.
        frozen (bool): Whether to freeze the base by the rules of ``freeze='paper'``. Defaults to
            True.
        mmdet (bool): Whether a Swin is given by mmdet's arguments, with their meaning. Defaults to
            False.
    """
    growth = None if times == 1 else dict(times=times)
    cfg = dict(growth=growth, adjustment=adjustment, drop_path_rate=0.)
    if size.family == 'vit':
        model = ScaleNetViT(arch=_vit_arch(size, size.depth), img_size=size.image, out_type='raw',
                            **cfg)
    elif mmdet:
        model = ScaleNetSwin(**_mmdet_swin(size, size.depth), **cfg)
    else:
        model = ScaleNetSwin(arch=_swin_arch(size, size.depth), **cfg)
    if frozen:
        whole = nn.Module()
        whole.backbone = model
        apply_freezing(whole, 'backbone-paper')
    return model


def _vit_arch(size, depth):
    return dict(embed_dims=size.dims, num_layers=depth, num_heads=size.heads,
                feedforward_channels=4 * size.dims)


def _swin_arch(size, depth):
    return dict(embed_dims=size.dims, depths=tuple(depth), num_heads=tuple(size.heads))


def _mmdet_swin(size, depth):
    return dict(embed_dims=size.dims, depths=tuple(depth), num_heads=tuple(size.heads),
                window_size=7, out_indices=(len(depth) - 1, ))


# --- peers ---------------------------------------------------------------------------------------


def stock_cfg(size, depth, mmdet=False) -> dict:
    """dict: Config of the toolbox's own backbone."""
    if size.family == 'vit':
        return dict(type='mmpretrain.VisionTransformer', arch=_vit_arch(size, depth),
                    img_size=size.image, out_type='raw')
    if mmdet:
        return dict(type='mmdet.SwinTransformer', drop_path_rate=0., **_mmdet_swin(size, depth))
    return dict(type='mmpretrain.SwinTransformer', arch={
        **_swin_arch(size, depth), 'depths': list(depth), 'num_heads': list(size.heads)},
                drop_path_rate=0.)


def stock(size, times=2, mmdet=False) -> nn.Module:
    """The toolbox's own backbone of the grown depth: mmpretrain's, or mmdet's Swin."""
    return _build(stock_cfg(size, grown_depth(size, times), mmdet), mmdet)


def _build(cfg, mmdet=False):
    if mmdet:
        import mmdet.models  # noqa: F401
    else:
        import mmpretrain.models  # noqa: F401
    from mmengine.registry import MODELS
    return MODELS.build(cfg)


def timm_model(size, times=2) -> nn.Module:
    """timm's model of the grown depth, which gives its features."""
    import timm
    if size.family == 'vit':
        model = timm.create_model(
            size.timm, depth=grown_depth(size, times), embed_dim=size.dims, num_heads=size.heads,
            img_size=size.image, num_classes=0)
    else:
        model = timm.create_model(
            size.timm, depths=grown_depth(size, times), embed_dim=size.dims,
            num_heads=size.heads, img_size=size.image, num_classes=0, drop_path_rate=0.)
    return model


def plain(size, times=2) -> nn.Module:
    """ScaleNet in plain modules on timm's blocks, its base frozen."""
    return plain_scalenet(timm_model(size, 1), times, RANK)


def peft_lora(size, times=2) -> nn.Module:
    """peft's LoRA on all linear layers of all blocks of timm's model of the grown depth.

    Raises:
        Unavailable: If peft is not installed.
    """
    peft = import_peft()
    config = peft.LoraConfig(
        r=RANK, lora_alpha=RANK, lora_dropout=0.,
        target_modules=r'.*blocks\.\d+\.(attn\.(qkv|proj)|mlp\.fc[12])')
    return peft.inject_adapter_in_model(config, timm_model(size, times))


def import_peft():
    """Import peft, from the folder that `make bench` installs it into if need be.

    That folder holds transformers, too, which mmpretrain must not find: its multimodal models do
    not load with this version. So mmpretrain comes first, and the path is there only meanwhile.
    """
    import mmpretrain.models  # noqa: F401
    added = EXTRA.is_dir()
    if added:
        sys.path.append(str(EXTRA))
    try:
        import peft
    except ImportError as error:
        raise Unavailable(f'peft is not installed ({error}); `make bench` installs it') from None
    finally:
        if added:
            sys.path.remove(str(EXTRA))
    return peft


def lora_model(size, times=2) -> nn.Module:
    """mmpretrain's LoRAModel on its own backbone of the grown depth."""
    targets = ('qkv', 'attn.proj', 'w_msa.proj', 'ffn.layers.0.0', 'ffn.layers.1')
    return _build(dict(
        type='mmpretrain.LoRAModel', module=stock_cfg(size, grown_depth(size, times)), alpha=RANK,
        rank=RANK, targets=[dict(type=target) for target in targets]))


def norms_only(model: nn.Module) -> nn.Module:
    """Freeze everything but the layer norms, in place."""
    model.requires_grad_(False)
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.requires_grad_(True)
    return model


def features(model: nn.Module, images: torch.Tensor) -> torch.Tensor:
    """Run any of the backbones.

    Args:
        model (nn.Module): One of this module's.
        images (torch.Tensor): Shape (batch, 3, height, width).

    Returns:
        torch.Tensor: A ViT's tokens, shape (batch, tokens, dims); a Swin's last map, shape (batch,
        dims, height / 32, width / 32).
    """
    run = getattr(model, 'forward_features', None)
    if run is None:
        return model(images)[-1]
    out = run(images)  # timm's, whose maps have the channels last
    return out.permute(0, 3, 1, 2).contiguous() if out.ndim == 4 else out


# --- the same weights ----------------------------------------------------------------------------


def copy_blocks(source: nn.Module, target: nn.Module) -> Optional[list]:
    """Give a stock backbone of the grown depth the function of a grown one, its adapters at zero.

    Args:
        source (nn.Module): Our grown backbone.
        target (nn.Module): The toolbox's own, with blocks of the same names inside; in place.
    """
    with torch.no_grad():
        for lists in zip(source.block_lists, _stock_lists(target)):
            for ours_block, stock_block in zip(*lists, strict=True):
                for name, parameter in stock_block.named_parameters():
                    owner, _, key = name.rpartition('.')
                    # a repeat's module reads its source's tensor here
                    parameter.copy_(getattr(ours_block.get_submodule(owner), key))
        rest = dict(source.named_parameters())
        for name, parameter in target.named_parameters():
            if '.blocks.' not in name and not name.startswith('layers.'):
                parameter.copy_(rest[name])


def _stock_lists(model):
    if hasattr(model, 'stages'):
        return [stage.blocks for stage in model.stages]
    return [model.layers]
