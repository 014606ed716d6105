"""The ViT encoder layer."""
from copy import deepcopy

import torch.nn as nn
import torch.nn.functional as F
import torch.utils.checkpoint as cp
from mmcv.cnn import build_norm_layer
from mmcv.cnn.bricks.drop import build_dropout
from mmcv.cnn.bricks.transformer import FFN
from mmengine.model import BaseModule

from ..errors import ConfigError


class SelfAttention(BaseModule):
    """Multi-head self-attention with one projection for query, key and value.

    Args:
        embed_dims (int): Number of channels.
        num_heads (int): Number of heads.
        qkv_bias (bool): Whether query, key and value have a bias. Defaults to True.
        proj_bias (bool): Whether the output projection has a bias. Defaults to True.
        attn_drop_rate (float): Dropout of the attention weights. Defaults to 0.
        proj_drop_rate (float): Dropout of the output. Defaults to 0.
        dropout_layer (dict): The drop path. Defaults to dict(type='DropPath', drop_prob=0.).
        init_cfg (dict, optional): Initialisation. Defaults to None.
    """

    def __init__(self,
                 embed_dims,
                 num_heads,
                 qkv_bias=True,
                 proj_bias=True,
                 attn_drop_rate=0.,
                 proj_drop_rate=0.,
                 dropout_layer=dict(type='DropPath', drop_prob=0.),
                 init_cfg=None):
        super().__init__(init_cfg)
        if embed_dims % num_heads:
            raise ConfigError(f'embed_dims {embed_dims} is not divisible by num_heads {num_heads}')
        self.num_heads = num_heads
        self.attn_drop_rate = attn_drop_rate
        self.qkv = nn.Linear(embed_dims, embed_dims * 3, bias=qkv_bias)
        self.proj = nn.Linear(embed_dims, embed_dims, bias=proj_bias)
        self.proj_drop = nn.Dropout(proj_drop_rate)
        self.out_drop = build_dropout(dropout_layer)

    def forward(self, x):
        """Attend; ``x`` and the result have shape (batch, tokens, embed_dims)."""
        batch, tokens, dims = x.shape
        # parted before the heads are moved: the gradients then come together in one copy
        qkv = self.qkv(x).view(batch, tokens, 3, self.num_heads, -1).unbind(2)
        out = F.scaled_dot_product_attention(
            *(part.transpose(1, 2) for part in qkv),
            dropout_p=self.attn_drop_rate if self.training else 0.)
        out = self.proj(out.transpose(1, 2).reshape(batch, tokens, dims))
        return self.out_drop(self.proj_drop(out))


class ViTBlock(BaseModule):
    """Attention and an MLP, each behind a norm and around a residual connection.

    Args:
        embed_dims (int): Number of channels.
        num_heads (int): Number of heads.
        feedforward_channels (int): Hidden width of the MLP.
        qkv_bias (bool): Whether query, key and value have a bias. Defaults to True.
        proj_bias (bool): Whether the attention's output projection has a bias. Defaults to True.
        num_fcs (int): Number of linear layers of the MLP. Defaults to 2.
        drop_rate (float): Dropout of the outputs. Defaults to 0.
        attn_drop_rate (float): Dropout of the attention weights. Defaults to 0.
        with_cp (bool): Whether to recompute the block in the backward pass instead of keeping
            its activations. Defaults to False.
        act_cfg (dict): The MLP's activation. Defaults to dict(type='GELU').
        norm_cfg (dict): The norms. Defaults to dict(type='LN', eps=1e-6).
        init_cfg (dict, optional): Initialisation. Defaults to None.
    """

    def __init__(self,
                 embed_dims,
                 num_heads,
                 feedforward_channels,
                 qkv_bias=True,
                 proj_bias=True,
                 num_fcs=2,
                 drop_rate=0.,
                 attn_drop_rate=0.,
                 with_cp=False,
                 act_cfg=dict(type='GELU'),
                 norm_cfg=dict(type='LN', eps=1e-6),
                 init_cfg=None):
        super().__init__(init_cfg)
        self.with_cp = with_cp
        drop_path = dict(type='DropPath', drop_prob=0.)  # rates are set once the depth is known
        self.ln1 = build_norm_layer(norm_cfg, embed_dims)[1]
        self.attn = SelfAttention(
            embed_dims,
            num_heads,
            qkv_bias=qkv_bias,
            proj_bias=proj_bias,
            attn_drop_rate=attn_drop_rate,
            proj_drop_rate=drop_rate,
            dropout_layer=deepcopy(drop_path))
        self.ln2 = build_norm_layer(norm_cfg, embed_dims)[1]
        self.ffn = FFN(
            embed_dims=embed_dims,
            feedforward_channels=feedforward_channels,
            num_fcs=num_fcs,
            ffn_drop=drop_rate,
            dropout_layer=deepcopy(drop_path),
            act_cfg=act_cfg)

    def forward(self, x):
        """Run the block; ``x`` and the result have shape (batch, tokens, embed_dims)."""
        if self.with_cp and self.training:
            return cp.checkpoint(self._run, x, use_reentrant=False)
        return self._run(x)

    def _run(self, x):
        x = x + self.attn(self.ln1(x))
        return self.ffn(self.ln2(x), identity=x)
