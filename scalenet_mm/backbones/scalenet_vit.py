"""ViT and DeiT with growth, for mmpretrain, mmdet and mmseg alike."""
from collections.abc import Sequence

import torch
import torch.nn as nn
from mmcv.cnn import build_norm_layer
from mmcv.cnn.bricks.transformer import PatchEmbed
from mmengine.model import ModuleList
from mmengine.registry import MODELS
from mmengine.utils import to_2tuple

from ..checkpoints.resize import resize_pos_embed
from ..errors import ConfigError
from .base import UNSET, GrowableBackbone, lookup_arch, only_given, refuse_mixed
from .vit_block import ViTBlock

OUT_TYPES = ('raw', 'cls_token', 'featmap', 'avg_featmap')


@MODELS.register_module()
class ScaleNetViT(GrowableBackbone):
    """Plain vision transformer, grown by weight sharing with adapters (ScaleNet, arXiv 2510.18431).

    It takes the arguments of mmpretrain's and mmseg's ``VisionTransformer``, has mmpretrain's
    parameter names, and reads the checkpoints of both. Where the two differ, the way in which the
    architecture is given decides: ``arch`` selects mmpretrain's meaning, ``embed_dims``,
    ``num_layers`` and ``num_heads`` without it mmseg's:

    ================= ================================ =====================================
    argument          with ``arch``                    with ``embed_dims``, ``num_layers``, ...
    ================= ================================ =====================================
    norm_cfg          eps 1e-6                         eps 1e-5
    final_norm        True                             False
    patch bias        yes, unless pre_norm             patch_bias, False
    returns           what ``out_type`` names          feature maps
    ================= ================================ =====================================

    Args:
        arch (str | dict, optional): 'deit-tiny', 'deit-small', 'deit-base' ('base' is the same),
            'large' or 'huge', or a dict of ``embed_dims``, ``num_layers``, ``num_heads`` and
            ``feedforward_channels``. 'deit-base' if no architecture is given.
        img_size (int | tuple): Size of the images in pretraining. Any other size can be fed: the
            position embeddings are resized. Defaults to 224.
        patch_size (int): Defaults to 16.
        in_channels (int): Channels of the image. Defaults to 3.
        embed_dims (int): Number of channels.
        num_layers (int): Number of pretrained blocks. Together with ``arch`` it takes the place of
            the number that the architecture has.
        num_heads (int): Number of heads.
        mlp_ratio (int): Hidden width of an MLP over its width. Defaults to 4.
        out_indices (int | Sequence[int]): Pretrained blocks whose results are returned, each
            behind the last instance of that block; negative ones count from the end. Defaults to
            -1.
        out_type (str): 'raw', 'cls_token', 'featmap' or 'avg_featmap'. With ``arch``. Defaults to
            'cls_token'.
        out_origin (bool): Whether the patch embedding is returned as well. With ``embed_dims``.
            Defaults to False.
        output_cls_token (bool): Whether each map comes with the class token. With
            ``embed_dims``. Defaults to False.
        qkv_bias (bool): Whether query, key and value have a bias; with ``embed_dims`` the
            attention's output too, as in mmseg. Defaults to True.
        drop_rate (float): Dropout of outputs. Defaults to 0.
        attn_drop_rate (float): Dropout of attention weights. With ``embed_dims``. Defaults to 0.
        drop_path_rate (float): Stochastic depth of the last block; it rises linearly over the
            *grown* depth. Defaults to 0.
        with_cls_token (bool): Whether the class token goes through the blocks. Defaults to True.
        norm_cfg (dict): The norms.
        act_cfg (dict): The MLPs' activation. With ``embed_dims``. Defaults to dict(type='GELU').
        patch_norm (bool): Whether the patch embedding has a norm. With ``embed_dims``. Defaults
            to False.
        patch_bias (bool): Whether the patch embedding has a bias. With ``embed_dims``. Defaults
            to False.
        patch_pad (str | int): Padding of the image. With ``embed_dims``. Defaults to 'corner'.
        patch_cfg (dict): Further arguments of the patch embedding. With ``arch``. Defaults to {}.
        pre_norm (bool): Whether there is a norm before the first block. With ``arch``. Defaults
            to False.
        final_norm (bool): Whether there is a norm behind the last block.
        interpolate_mode (str): How position embeddings are resized. Defaults to 'bicubic'.
        num_fcs (int): Number of linear layers of an MLP. With ``embed_dims``. Defaults to 2.
        with_cp (bool): Whether to recompute blocks in the backward pass. Defaults to False.
        frozen_stages (int): Freezes the embeddings and the first k pretrained blocks, if
            positive. With ``arch``. Defaults to -1.
        layer_scale_init_value (float): Must be 0. With ``arch``.
        layer_cfgs (dict): Must be empty. With ``arch``.
        norm_eval (bool): Taken for compatibility: it speaks of BatchNorm, and there is none.
        frozen_exclude (list): Must be ['all'], which freezes nothing. With ``embed_dims``.
        pretrained (str, optional): The older spelling of ``init_cfg``. Defaults to None.
        growth (str | dict | None): What is repeated, see :class:`GrowthSpec`; a dict is laid over
            the paper's: all blocks, twice, interpolated. 'paper' for just that, None for nothing.
            Defaults to 'paper'.
        adjustment (str | dict | None): What each block gets for itself, see
            :class:`AdjustmentSpec`. 'paper' for adapters of rank 16, None for nothing. Defaults
            to 'paper'.
        init_cfg (dict, optional): Initialisation. Defaults to None.

    Raises:
        ConfigError: If arguments of both ways are mixed or cannot be honoured.
        GrowthError: If ``growth`` or ``adjustment`` does not fit.
    """
    key_family = 'vit'
    default_growth = dict(order='interpolate', times=2)

    arch_zoo = {
        'deit-tiny': dict(embed_dims=192, num_layers=12, num_heads=3, feedforward_channels=768),
        'deit-small': dict(embed_dims=384, num_layers=12, num_heads=6, feedforward_channels=1536),
        'deit-base': dict(embed_dims=768, num_layers=12, num_heads=12, feedforward_channels=3072),
        'large': dict(embed_dims=1024, num_layers=24, num_heads=16, feedforward_channels=4096),
        'huge': dict(embed_dims=1280, num_layers=32, num_heads=16, feedforward_channels=5120),
    }
    arch_zoo.update({
        'deit-t': arch_zoo['deit-tiny'],
        'deit-s': arch_zoo['deit-small'],
        'deit-b': arch_zoo['deit-base'],
        'b': arch_zoo['deit-base'],
        'base': arch_zoo['deit-base'],
        'l': arch_zoo['large'],
        'h': arch_zoo['huge'],
    })

    def __init__(self,
                 arch=UNSET,
                 img_size=224,
                 patch_size=16,
                 in_channels=3,
                 embed_dims=UNSET,
                 num_layers=UNSET,
                 num_heads=UNSET,
                 mlp_ratio=UNSET,
                 out_indices=-1,
                 out_type=UNSET,
                 out_origin=UNSET,
                 output_cls_token=UNSET,
                 qkv_bias=True,
                 drop_rate=0.,
                 attn_drop_rate=UNSET,
                 drop_path_rate=0.,
                 with_cls_token=True,
                 norm_cfg=None,
                 act_cfg=UNSET,
                 patch_norm=UNSET,
                 patch_bias=UNSET,
                 patch_pad=UNSET,
                 patch_cfg=UNSET,
                 pre_norm=False,
                 final_norm=None,
                 interpolate_mode='bicubic',
                 num_fcs=UNSET,
                 with_cp=False,
                 frozen_stages=UNSET,
                 layer_scale_init_value=UNSET,
                 layer_cfgs=UNSET,
                 norm_eval=False,
                 frozen_exclude=UNSET,
                 pretrained=None,
                 growth='paper',
                 adjustment='paper',
                 init_cfg=None):
        super().__init__(init_cfg, pretrained)
        pretrain_style = only_given(
            out_type=out_type,
            frozen_stages=frozen_stages,
            patch_cfg=patch_cfg,
            layer_scale_init_value=layer_scale_init_value,
            layer_cfgs=layer_cfgs)
        dense_style = only_given(
            mlp_ratio=mlp_ratio,
            out_origin=out_origin,
            output_cls_token=output_cls_token,
            attn_drop_rate=attn_drop_rate,
            act_cfg=act_cfg,
            patch_norm=patch_norm,
            patch_bias=patch_bias,
            patch_pad=patch_pad,
            num_fcs=num_fcs,
            frozen_exclude=frozen_exclude)
        sizes = only_given(embed_dims=embed_dims, num_layers=num_layers, num_heads=num_heads)
        self.by_arch = arch is not UNSET or not (sizes or dense_style)
        if self.by_arch:
            depth = only_given(num_layers=num_layers)  # as of a descendant
            others = {name: value for name, value in sizes.items() if name not in depth}
            refuse_mixed('ScaleNetViT', 'arch', {**others, **dense_style},
                         'arch selects the meaning of mmpretrain, they are of mmseg')
            arch = 'deit-base' if arch is UNSET else arch
            arch = lookup_arch({**arch, **depth} if isinstance(arch, dict) else arch, self.arch_zoo,
                               {'embed_dims', 'num_layers', 'num_heads', 'feedforward_channels'},
                               'ScaleNetViT')
            arch = {**arch, **depth}
        else:
            refuse_mixed('ScaleNetViT', 'embed_dims, num_layers or their like', pretrain_style,
                         'those are of mmseg, which does not have it; use arch')
            arch = dict(embed_dims=768, num_layers=12, num_heads=12)
            arch.update(sizes)
            arch['feedforward_channels'] = int(dense_style.get('mlp_ratio', 4) *
                                               arch['embed_dims'])
        self._refuse_unsupported(pretrain_style, dense_style, pre_norm and not self.by_arch)
        layers = arch['num_layers']
        if isinstance(layers, bool) or not isinstance(layers, int) or layers < 1:
            raise ConfigError(f'ScaleNetViT: num_layers must be an integer >= 1, got {layers!r}')

        self.embed_dims = arch['embed_dims']
        self.num_layers = arch['num_layers']
        self.out_type = pretrain_style.get('out_type', 'cls_token' if self.by_arch else 'featmap')
        if self.out_type not in OUT_TYPES:
            raise ConfigError(f'ScaleNetViT: out_type must be one of {OUT_TYPES}, got '
                              f'{self.out_type!r}')
        self.out_origin = dense_style.get('out_origin', False)
        self.output_cls_token = dense_style.get('output_cls_token', False)
        if not with_cls_token and (self.out_type == 'cls_token' or self.output_cls_token):
            raise ConfigError('ScaleNetViT: the class token cannot be returned when '
                              'with_cls_token=False')
        self.with_cls_token = with_cls_token
        self.interpolate_mode = interpolate_mode
        self.frozen_stages = pretrain_style.get('frozen_stages', -1)
        norm_cfg = norm_cfg or dict(type='LN', eps=1e-6 if self.by_arch else 1e-5)
        self.final_norm = self.by_arch if final_norm is None else final_norm

        patch = dict(
            in_channels=in_channels,
            input_size=img_size,
            embed_dims=self.embed_dims,
            conv_type='Conv2d',
            kernel_size=patch_size,
            stride=patch_size,
            bias=not pre_norm)
        if not self.by_arch:
            patch.update(
                bias=dense_style.get('patch_bias', False),
                padding=dense_style.get('patch_pad', 'corner'),
                norm_cfg=norm_cfg if dense_style.get('patch_norm', False) else None)
        self.img_size = to_2tuple(img_size)
        self.patch_embed = PatchEmbed(**{**patch, **pretrain_style.get('patch_cfg', {})})
        self.patch_resolution = self.patch_embed.init_out_size

        # mmseg's model has a class token and its position embedding even where the blocks do not
        # see it, mmpretrain's does not
        self.num_extra_tokens = 1 if with_cls_token or not self.by_arch else 0
        self.cls_token = None
        if self.num_extra_tokens:
            self.cls_token = nn.Parameter(torch.zeros(1, 1, self.embed_dims))
        patches = self.patch_resolution[0] * self.patch_resolution[1]
        self.pos_embed = nn.Parameter(
            torch.zeros(1, patches + self.num_extra_tokens, self.embed_dims))
        self.drop_after_pos = nn.Dropout(p=drop_rate)
        self.pre_norm = nn.Identity()
        if pre_norm:
            self.pre_norm = build_norm_layer(norm_cfg, self.embed_dims)[1]

        self.layers = ModuleList([
            ViTBlock(
                embed_dims=self.embed_dims,
                num_heads=arch['num_heads'],
                feedforward_channels=arch['feedforward_channels'],
                qkv_bias=qkv_bias,
                proj_bias=self.by_arch or qkv_bias,
                num_fcs=dense_style.get('num_fcs', 2),
                drop_rate=drop_rate,
                attn_drop_rate=dense_style.get('attn_drop_rate', 0.),
                with_cp=with_cp,
                act_cfg=dense_style.get('act_cfg', dict(type='GELU')),
                norm_cfg=norm_cfg) for _ in range(self.num_layers)
        ])
        if self.final_norm:
            self.ln1 = build_norm_layer(norm_cfg, self.embed_dims)[1]
        if self.out_type == 'avg_featmap':
            self.ln2 = build_norm_layer(norm_cfg, self.embed_dims)[1]

        self._grow(growth, adjustment, drop_path_rate)
        self.out_indices = self._resolve_out_indices(out_indices)

    @staticmethod
    def _refuse_unsupported(pretrain_style, dense_style, dense_pre_norm):
        """Refuse what the stock classes take and this one cannot honour."""
        refused = {
            'layer_scale_init_value': pretrain_style.get('layer_scale_init_value', 0.) > 0,
            'layer_cfgs': bool(pretrain_style.get('layer_cfgs')),
            'frozen_exclude': list(dense_style.get('frozen_exclude', ['all'])) != ['all'],
            'pre_norm': dense_pre_norm,  # mmseg's has other names and another bias
        }
        for name, is_refused in refused.items():
            if is_refused:
                raise ConfigError(f'ScaleNetViT: {name} cannot be honoured; leave it at its '
                                  'default, or use the stock backbone with the '
                                  'AdapterInjectionHook')

    def _resolve_out_indices(self, out_indices):
        """tuple[int]: Positions in the grown model of the pretrained blocks in out_indices."""
        indices = [out_indices] if isinstance(out_indices, int) else out_indices
        if not isinstance(indices, Sequence) or any(
                not isinstance(i, int) or not -self.num_layers <= i < self.num_layers
                for i in indices):
            raise ConfigError(f'ScaleNetViT: out_indices must name pretrained blocks from 0 to '
                              f'{self.num_layers - 1}, got {out_indices}')
        return tuple(self.layer_maps[0].output_position(i % self.num_layers) for i in indices)

    @property
    def block_lists(self):
        """list[nn.ModuleList]: The one list of blocks."""
        return [self.layers]

    def forward(self, x):
        """Compute the results of the blocks in ``out_indices``.

        Args:
            x (torch.Tensor): Images of shape (batch, in_channels, height, width).

        Returns:
            tuple: One item an index. By ``out_type``: 'raw' tokens of shape (batch, tokens,
            embed_dims); 'cls_token' and 'avg_featmap' of shape (batch, embed_dims); 'featmap' of
            shape (batch, embed_dims, height / patch, width / patch), together with the class
            token if ``output_cls_token``.
        """
        x, hw_shape = self.patch_embed(x)
        if self.cls_token is not None:
            x = torch.cat((self.cls_token.expand(x.shape[0], -1, -1), x), dim=1)
        x = x + resize_pos_embed(self.pos_embed, self.patch_resolution, hw_shape,
                                 self.interpolate_mode, self.num_extra_tokens)
        x = self.drop_after_pos(x)
        if self.cls_token is not None and not self.with_cls_token:
            x = x[:, 1:]
        x = self.pre_norm(x)

        outs = [self._format(x, hw_shape)] if self.out_origin else []
        for i, block in enumerate(self.layers):
            x = block(x)
            if i == len(self.layers) - 1 and self.final_norm:
                x = self.ln1(x)
            if i in self.out_indices:
                outs.append(self._format(x, hw_shape))
        return tuple(outs)

    def _format(self, x, hw_shape):
        if self.out_type == 'raw':
            return x
        if self.out_type == 'cls_token':
            return x[:, 0]
        patches = x[:, 1:] if self.with_cls_token else x
        if self.out_type == 'avg_featmap':
            return self.ln2(patches.mean(dim=1))
        featmap = patches.reshape(x.shape[0], *hw_shape, -1).permute(0, 3, 1, 2).contiguous()
        return [featmap, x[:, 0]] if self.output_cls_token else featmap

    def _depth_of(self, name):
        # the norm in front of the blocks is no part of the stem in mmpretrain
        part = name.split('.')[0]
        if part in ('cls_token', 'pos_embed', 'patch_embed'):
            return 0
        return int(name.split('.')[1]) + 1 if part == 'layers' else None

    def _frozen_modules(self):
        if self.frozen_stages <= 0:
            return []
        frozen = [self.patch_embed, self.drop_after_pos, self.pre_norm]
        frozen += [
            block for source, block in zip(self.layer_maps[0].sources, self.layers)
            if isinstance(source, int) and source < self.frozen_stages
        ]
        if self.frozen_stages >= self.num_layers:
            frozen += [getattr(self, n) for n in ('ln1', 'ln2') if hasattr(self, n)]
        return frozen

    def _frozen_parameters(self):
        if self.frozen_stages <= 0:
            return []
        return [p for p in (self.cls_token, self.pos_embed) if p is not None]
