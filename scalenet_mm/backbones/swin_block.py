"""The Swin transformer block."""
from copy import deepcopy

import torch.utils.checkpoint as cp
from mmcv.cnn import build_norm_layer
from mmcv.cnn.bricks.transformer import FFN
from mmengine.model import BaseModule

from .window_attention import ShiftWindowMSA


class SwinBlock(BaseModule):
    """Window attention and an MLP, each behind a norm and around a residual connection.

    Args:
        embed_dims (int): Number of channels.
        num_heads (int): Number of heads.
        feedforward_channels (int): Hidden width of the MLP.
        window_size (int): Height and width of a window.
        shift (bool): Whether the windows are shifted by half their size.
        qkv_bias (bool): Whether query, key and value have a bias. Defaults to True.
        qk_scale (float, optional): Scale of query times key. Defaults to None.
        drop_rate (float): Dropout of the outputs. Defaults to 0.
        attn_drop_rate (float): Dropout of the attention weights. Defaults to 0.
        pad_small_map (bool): See :class:`ShiftWindowMSA`. Defaults to True.
        with_cp (bool): Whether to recompute the block in the backward pass instead of keeping
            its activations. Defaults to False.
        act_cfg (dict): The MLP's activation. Defaults to dict(type='GELU').
        norm_cfg (dict): The norms. Defaults to dict(type='LN').
        init_cfg (dict, optional): Initialisation. Defaults to None.
    """

    def __init__(self,
                 embed_dims,
                 num_heads,
                 feedforward_channels,
                 window_size,
                 shift,
                 qkv_bias=True,
                 qk_scale=None,
                 drop_rate=0.,
                 attn_drop_rate=0.,
                 pad_small_map=True,
                 with_cp=False,
                 act_cfg=dict(type='GELU'),
                 norm_cfg=dict(type='LN'),
                 init_cfg=None):
        super().__init__(init_cfg)
        self.with_cp = with_cp
        drop_path = dict(type='DropPath', drop_prob=0.)  # rates are set once the depth is known
        self.norm1 = build_norm_layer(norm_cfg, embed_dims)[1]
        self.attn = ShiftWindowMSA(
            embed_dims=embed_dims,
            num_heads=num_heads,
            window_size=window_size,
            shift_size=window_size // 2 if shift else 0,
            pad_small_map=pad_small_map,
            dropout_layer=deepcopy(drop_path),
            qkv_bias=qkv_bias,
            qk_scale=qk_scale,
            attn_drop_rate=attn_drop_rate,
            proj_drop_rate=drop_rate)
        self.norm2 = build_norm_layer(norm_cfg, embed_dims)[1]
        self.ffn = FFN(
            embed_dims=embed_dims,
            feedforward_channels=feedforward_channels,
            num_fcs=2,
            ffn_drop=drop_rate,
            dropout_layer=deepcopy(drop_path),
            act_cfg=act_cfg)

    def forward(self, x, hw_shape):
        """Run the block.

        Args:
            x (torch.Tensor): Map of shape (batch, height * width, embed_dims).
            hw_shape (tuple[int]): Height and width of the map.

        Returns:
            torch.Tensor: Of the shape of ``x``.
        """

        def run(x):
            x = x + self.attn(self.norm1(x), hw_shape)
            return self.ffn(self.norm2(x), identity=x)

        if self.with_cp and self.training:
            return cp.checkpoint(run, x, use_reentrant=False)
        return run(x)
