"""Swin with growth, for mmpretrain, mmdet and mmseg alike."""
from collections.abc import Sequence

import torch
import torch.nn as nn
from mmcv.cnn import build_norm_layer
from mmcv.cnn.bricks.transformer import PatchEmbed
from mmengine.model import BaseModule, ModuleList
from mmengine.registry import MODELS
from mmengine.utils import to_2tuple

from ..checkpoints.resize import resize_pos_embed
from ..errors import ConfigError
from .base import UNSET, GrowableBackbone, lookup_arch, only_given, refuse_mixed
from .patch_merging import PatchMerging
from .swin_block import SwinBlock


class SwinStage(BaseModule):
    """The blocks of one resolution and the merging of patches behind them.

    Args:
        blocks (list[nn.Module]): The blocks.
        downsample (nn.Module, optional): The patch merging. Defaults to None.
    """

    def __init__(self, blocks, downsample=None):
        super().__init__()
        self.blocks = ModuleList(blocks)
        self.downsample = downsample

    def forward(self, x, hw_shape):
        """Run the blocks on a map of shape (batch, height * width, dims); merge no patches."""
        for block in self.blocks:
            x = block(x, hw_shape)
        return x


@MODELS.register_module()
class ScaleNetSwin(GrowableBackbone):
    """Swin transformer, grown by weight sharing with adapters (ScaleNet, arXiv 2510.18431).

    It takes the arguments of the stock Swins, so that a config changes ``type`` and nothing else,
    has their parameter names, and reads their checkpoints. Where the stock classes differ, the
    way in which the architecture is given decides: ``arch`` selects mmpretrain's meaning,
    ``embed_dims``, ``depths`` and ``num_heads`` mmdet's and mmseg's:

    ================= ================================ =====================================
    argument          with ``arch``                    with ``embed_dims``, ``depths``, ...
    ================= ================================ =====================================
    out_indices       (3, )                            (0, 1, 2, 3)
    a map of 7 x 7    not shifted (pad_small_map       shifted
                      decides)
    frozen_stages=k   patch embedding, stages 0 to k   patch embedding, stages 0 to k - 1
    returns           tuple                            list
    ================= ================================ =====================================

    Args:
        arch (str | dict, optional): 'tiny', 'small', 'base' or 'large', or a dict of
            ``embed_dims``, ``depths`` and ``num_heads``. 'tiny' if no architecture is given.
        img_size (int | tuple): Size of the images in pretraining; matters only for absolute
            position embeddings. With ``arch``. Defaults to 224.
        pretrain_img_size (int | tuple): The same, with ``embed_dims``. Defaults to 224.
        embed_dims (int): Number of channels of the first stage.
        depths (Sequence[int]): Number of pretrained blocks of each stage.
        num_heads (Sequence[int]): Number of heads in each stage.
        patch_size (int): Defaults to 4.
        in_channels (int): Channels of the image. Defaults to 3.
        window_size (int): Defaults to 7.
        mlp_ratio (int): Hidden width of an MLP over its width. Defaults to 4.
        strides (Sequence[int]): Stride of the patch embedding and of each merging; the stock
            values are the only ones. Defaults to (4, 2, 2, 2).
        qkv_bias (bool): Defaults to True.
        qk_scale (float, optional): Defaults to None.
        patch_norm (bool): Whether the patch embedding and the mergings have a norm. Defaults to
            True.
        drop_rate (float): Dropout of outputs. Defaults to 0.
        attn_drop_rate (float): Dropout of attention weights. Defaults to 0.
        drop_path_rate (float): Stochastic depth of the last block; it rises linearly over the
            *grown* depth. Defaults to 0.1.
        out_indices (Sequence[int]): Stages whose maps are returned.
        out_after_downsample (bool): Whether a map is taken behind the merging. With ``arch``.
            Defaults to False.
        use_abs_pos_embed (bool): Defaults to False.
        interpolate_mode (str): How absolute position embeddings are resized. Defaults to
            'bicubic'.
        act_cfg (dict): The MLPs' activation. Defaults to dict(type='GELU').
        norm_cfg (dict): The norms. With ``arch`` it is that of the outputs alone, and None takes
            them away. Defaults to dict(type='LN').
        with_cp (bool): Whether to recompute blocks in the backward pass. Defaults to False.
        frozen_stages (int): See above; -1 freezes nothing. Defaults to -1.
        norm_eval (bool): Taken for compatibility: it speaks of BatchNorm, and there is none.
        pad_small_map (bool): Whether maps not larger than a window are padded and shifted. With
            ``arch``. Defaults to False.
        patch_cfg (dict): Further arguments of the patch embedding. With ``arch``. Defaults to {}.
        stage_cfgs (dict): Must be empty: stages are made by growth. With ``arch``.
        convert_weights (bool): Taken for compatibility: formats are recognised.
        pretrained (str, optional): The older spelling of ``init_cfg``. Defaults to None.
        growth (str | dict | None): What is repeated, see :class:`GrowthSpec`; a dict is laid over
            the paper's: the last stage, twice, stacked at its end. 'paper' for just that, None
            for nothing. Defaults to 'paper'.
        adjustment (str | dict | None): What each block gets for itself, see
            :class:`AdjustmentSpec`. 'paper' for adapters of rank 16 in all blocks of all stages,
            None for nothing. Defaults to 'paper'.
        init_cfg (dict, optional): Initialisation. Defaults to None.

    Raises:
        ConfigError: If arguments of both ways are mixed or cannot be honoured.
        GrowthError: If ``growth`` or ``adjustment`` does not fit.
    """
    key_family = 'swin'
    default_growth = dict(order='stack', times=2, stages=(-1, ))

    arch_zoo = {
        'tiny': dict(embed_dims=96, depths=(2, 2, 6, 2), num_heads=(3, 6, 12, 24)),
        'small': dict(embed_dims=96, depths=(2, 2, 18, 2), num_heads=(3, 6, 12, 24)),
        'base': dict(embed_dims=128, depths=(2, 2, 18, 2), num_heads=(4, 8, 16, 32)),
        'large': dict(embed_dims=192, depths=(2, 2, 18, 2), num_heads=(6, 12, 24, 48)),
    }
    arch_zoo.update({k[0]: v for k, v in tuple(arch_zoo.items())})

    def __init__(self,
                 arch=UNSET,
                 img_size=UNSET,
                 pretrain_img_size=UNSET,
                 in_channels=3,
                 embed_dims=UNSET,
                 depths=UNSET,
                 num_heads=UNSET,
                 patch_size=4,
                 window_size=7,
                 mlp_ratio=UNSET,
                 strides=UNSET,
                 qkv_bias=UNSET,
                 qk_scale=UNSET,
                 patch_norm=UNSET,
                 drop_rate=0.,
                 attn_drop_rate=UNSET,
                 drop_path_rate=0.1,
                 out_indices=None,
                 out_after_downsample=UNSET,
                 use_abs_pos_embed=False,
                 interpolate_mode='bicubic',
                 act_cfg=UNSET,
                 norm_cfg=dict(type='LN'),
                 with_cp=False,
                 frozen_stages=-1,
                 norm_eval=False,
                 pad_small_map=UNSET,
                 patch_cfg=UNSET,
                 stage_cfgs=UNSET,
                 convert_weights=UNSET,
                 pretrained=None,
                 growth='paper',
                 adjustment='paper',
                 init_cfg=None):
        super().__init__(init_cfg, pretrained)
        pretrain_style = only_given(
            img_size=img_size,
            out_after_downsample=out_after_downsample,
            pad_small_map=pad_small_map,
            patch_cfg=patch_cfg,
            stage_cfgs=stage_cfgs)
        dense_style = only_given(
            pretrain_img_size=pretrain_img_size,
            mlp_ratio=mlp_ratio,
            strides=strides,
            qkv_bias=qkv_bias,
            qk_scale=qk_scale,
            patch_norm=patch_norm,
            attn_drop_rate=attn_drop_rate,
            act_cfg=act_cfg,
            convert_weights=convert_weights)
        sizes = only_given(embed_dims=embed_dims, depths=depths, num_heads=num_heads)
        self.by_arch = arch is not UNSET or not (sizes or dense_style)
        if self.by_arch:
            refuse_mixed('ScaleNetSwin', 'arch', {**sizes, **dense_style},
                         'arch selects the meaning of mmpretrain, they are of mmdet and mmseg')
            arch = lookup_arch('tiny' if arch is UNSET else arch, self.arch_zoo,
                               {'embed_dims', 'depths', 'num_heads'}, 'ScaleNetSwin')
        else:
            refuse_mixed('ScaleNetSwin', 'embed_dims, depths or their like', pretrain_style,
                         'those are of mmdet and mmseg, which do not have it; use arch')
            arch = {**self.arch_zoo['tiny'], **sizes}
        if pretrain_style.get('stage_cfgs'):
            raise ConfigError('ScaleNetSwin: stage_cfgs cannot be honoured; growth and adjustment '
                              'say what differs between stages')
        self.embed_dims = arch['embed_dims']
        self.depths = tuple(arch['depths'])
        self.num_heads = tuple(arch['num_heads'])
        self.num_layers = len(self.depths)
        if len(self.num_heads) != self.num_layers:
            raise ConfigError(f'ScaleNetSwin: depths names {self.num_layers} stages, num_heads '
                              f'{len(self.num_heads)}')
        if window_size != int(window_size) or window_size < 1:
            raise ConfigError(f'ScaleNetSwin: window_size must be an integer, got {window_size!r}')

        strides = tuple(dense_style.get('strides', (patch_size, ) + (2, ) * (self.num_layers - 1)))
        if strides != (patch_size, ) + (2, ) * (self.num_layers - 1):
            raise ConfigError(f'ScaleNetSwin: strides must be those of non-overlapping patches and '
                              f'mergings of 2 x 2, {(patch_size, ) + (2, ) * (self.num_layers - 1)}'
                              f' here, got {strides}')
        if out_indices is None:
            out_indices = (self.num_layers - 1, ) if self.by_arch else tuple(
                range(self.num_layers))
        if not isinstance(out_indices, Sequence) or any(
                not isinstance(i, int) or not 0 <= i < self.num_layers for i in out_indices):
            raise ConfigError(f'ScaleNetSwin: out_indices must be a list of stages from 0 to '
                              f'{self.num_layers - 1}, got {out_indices}')
        self.out_indices = tuple(out_indices)
        self.out_after_downsample = pretrain_style.get('out_after_downsample', False)
        self.use_abs_pos_embed = use_abs_pos_embed
        self.interpolate_mode = interpolate_mode
        self.frozen_stages = frozen_stages

        block_norm = dict(type='LN') if self.by_arch else norm_cfg
        input_norm = block_norm if dense_style.get('patch_norm', True) else None
        size = to_2tuple(pretrain_style.get('img_size', dense_style.get('pretrain_img_size', 224)))
        self.patch_embed = PatchEmbed(**{
            **dict(
                in_channels=in_channels,
                input_size=size,
                embed_dims=self.embed_dims,
                conv_type='Conv2d',
                kernel_size=patch_size,
                stride=patch_size,
                norm_cfg=input_norm),
            **pretrain_style.get('patch_cfg', {})
        })
        self.patch_resolution = self.patch_embed.init_out_size
        if use_abs_pos_embed:
            self.absolute_pos_embed = nn.Parameter(
                torch.zeros(1, self.patch_resolution[0] * self.patch_resolution[1],
                            self.embed_dims))
        self.drop_after_pos = nn.Dropout(p=drop_rate)

        widths = [self.embed_dims * 2**i for i in range(self.num_layers)]
        self.stages = ModuleList()
        for i, width in enumerate(widths):
            blocks = [
                SwinBlock(
                    embed_dims=width,
                    num_heads=self.num_heads[i],
                    feedforward_channels=int(dense_style.get('mlp_ratio', 4) * width),
                    window_size=window_size,
                    shift=j % 2 == 1,
                    qkv_bias=dense_style.get('qkv_bias', True),
                    qk_scale=dense_style.get('qk_scale'),
                    drop_rate=drop_rate,
                    attn_drop_rate=dense_style.get('attn_drop_rate', 0.),
                    pad_small_map=pretrain_style.get('pad_small_map', not self.by_arch),
                    with_cp=with_cp,
                    act_cfg=dense_style.get('act_cfg', dict(type='GELU')),
                    norm_cfg=block_norm) for j in range(self.depths[i])
            ]
            downsample = None
            if i < self.num_layers - 1:
                downsample = PatchMerging(width, widths[i + 1], norm_cfg=input_norm)
            self.stages.append(SwinStage(blocks, downsample))

        self.num_features = widths
        if self.out_after_downsample:
            self.num_features = widths[1:] + widths[-1:]
        for i in self.out_indices:
            norm = nn.Identity() if norm_cfg is None else build_norm_layer(
                norm_cfg, self.num_features[i])[1]
            self.add_module(f'norm{i}', norm)

        self._grow(growth, adjustment, drop_path_rate)

    @property
    def block_lists(self):
        """list[nn.ModuleList]: The blocks of each stage."""
        return [stage.blocks for stage in self.stages]

    def forward(self, x):
        """Compute the maps of the stages in ``out_indices``.

        Args:
            x (torch.Tensor): Images of shape (batch, in_channels, height, width).

        Returns:
            tuple[torch.Tensor] | list[torch.Tensor]: Maps of shape (batch, width of the stage,
            height / stride, width / stride), sizes rounded up.
        """
        x, hw_shape = self.patch_embed(x)
        if self.use_abs_pos_embed:
            x = x + resize_pos_embed(self.absolute_pos_embed, self.patch_resolution, hw_shape,
                                     self.interpolate_mode, 0)
        x = self.drop_after_pos(x)

        outs = []
        for i, stage in enumerate(self.stages):
            x = stage(x, hw_shape)
            if stage.downsample is not None and self.out_after_downsample:
                x, hw_shape = stage.downsample(x, hw_shape)
            if i in self.out_indices:
                out = getattr(self, f'norm{i}')(x)
                out = out.view(-1, *hw_shape, self.num_features[i])
                outs.append(out.permute(0, 3, 1, 2).contiguous())
            if stage.downsample is not None and not self.out_after_downsample:
                x, hw_shape = stage.downsample(x, hw_shape)
        return tuple(outs) if self.by_arch else outs

    def _depth_of(self, name):
        # the position embedding is no part of the stem in mmpretrain
        if name.startswith('patch_embed.'):
            return 0
        if not name.startswith('stages.'):
            return None
        _, stage, part, index = name.split('.')[:4]
        before = sum(self.depths[:int(stage)])
        return before + (int(index) + 1 if part == 'blocks' else self.depths[int(stage)])

    def _frozen_modules(self):
        if self.frozen_stages < 0:
            return []
        stages = self.frozen_stages + 1 if self.by_arch else self.frozen_stages
        frozen = [self.patch_embed, self.drop_after_pos, *self.stages[:stages]]
        return frozen + [getattr(self, f'norm{i}') for i in self.out_indices if i < stages]

    def _frozen_parameters(self):
        if self.frozen_stages >= 0 and self.use_abs_pos_embed:
            return [self.absolute_pos_embed]
        return []
