"""Window attention with and without shift (Swin, arXiv 2103.14030)."""
from functools import lru_cache

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmcv.cnn.bricks.drop import build_dropout
from mmengine.model import BaseModule

from ..checkpoints.resize import relative_position_index
from ..errors import ConfigError
from ..growth.fused import can_fuse, is_watched
from .sorted_windows import attend, from_windows, to_windows, window_order


class WindowMSA(BaseModule):
    """Multi-head self-attention within windows, with a relative position bias.

    Args:
        embed_dims (int): Number of channels.
        num_heads (int): Number of heads.
        window_size (int): Height and width of a window.
        qkv_bias (bool): Whether query, key and value have a bias. Defaults to True.
        qk_scale (float, optional): Scale of query times key; ``head_dims ** -0.5`` if None.
            Defaults to None.
        attn_drop_rate (float): Dropout of the attention weights. Defaults to 0.
        proj_drop_rate (float): Dropout of the output. Defaults to 0.
        init_cfg (dict, optional): Initialisation. Defaults to None.
    """

    def __init__(self,
                 embed_dims,
                 num_heads,
                 window_size,
                 qkv_bias=True,
                 qk_scale=None,
                 attn_drop_rate=0.,
                 proj_drop_rate=0.,
                 init_cfg=None):
        super().__init__(init_cfg)
        if embed_dims % num_heads:
            raise ConfigError(f'embed_dims {embed_dims} is not divisible by num_heads {num_heads}')
        self.window_size = window_size
        self.num_heads = num_heads
        self.scale = qk_scale or (embed_dims // num_heads)**-0.5
        self.attn_drop_rate = attn_drop_rate

        self.relative_position_bias_table = nn.Parameter(
            torch.zeros((2 * window_size - 1)**2, num_heads))
        self.register_buffer('relative_position_index', relative_position_index(window_size))
        self.qkv = nn.Linear(embed_dims, embed_dims * 3, bias=qkv_bias)
        self.proj = nn.Linear(embed_dims, embed_dims)
        self.proj_drop = nn.Dropout(proj_drop_rate)

    def forward(self, x, mask=None, order=None):
        """Attend within windows.

        Args:
            x (torch.Tensor): Windows of shape (batch * windows, tokens, embed_dims), the windows
                of an image one after the other; with an ``order``, the tokens of the maps, of
                shape (batch * height * width, embed_dims).
            mask (torch.Tensor, optional): Added to the attention logits; shape (windows, tokens,
                tokens), with an ``order`` (kinds of windows, tokens, tokens). Defaults to None.
            order (WindowOrder, optional): Where tokens lie in windows. Defaults to None.

        Returns:
            torch.Tensor: Of the shape of ``x``.
        """
        tokens = self.window_size**2
        bias = self.relative_position_bias_table[self.relative_position_index.view(-1)]
        bias = bias.view(tokens, tokens, -1).permute(2, 0, 1).unsqueeze(0)
        if mask is not None:
            bias = bias + mask.unsqueeze(1)
        if order is not None:
            return self._attend_in_order(x, bias, order)
        count, _, dims = x.shape
        # (3, batch, windows * heads, tokens, dims of a head): with the windows among the heads
        # one additive mask serves the whole batch. Without a mask each window is a batch item.
        windows = bias.shape[0]
        qkv = self.qkv(x).view(count // windows, windows, tokens, 3, self.num_heads, -1)
        query, key, value = qkv.permute(3, 0, 1, 4, 2, 5).flatten(2, 3)
        out = F.scaled_dot_product_attention(
            query,
            key,
            value,
            attn_mask=bias.flatten(0, 1).unsqueeze(0).to(query.dtype),
            dropout_p=self.attn_drop_rate if self.training else 0.,
            scale=self.scale)
        out = out.unflatten(1, (windows, self.num_heads)).transpose(2, 3)
        return self.proj_drop(self.proj(out.reshape(count, tokens, dims)))

    def _attend_in_order(self, x, bias, order):
        if order.padding is None:
            qkv = self.qkv(to_windows(x, order))
        else:  # each token once, and all places without one have the same
            qkv = to_windows(self.qkv(x), order, self.qkv(x.new_zeros(1, x.shape[1])))
        qkv = qkv.view(-1, self.window_size**2, 3, self.num_heads, x.shape[1] // self.num_heads)
        out = attend(qkv, bias.to(qkv.dtype), order.counts, self.scale)
        return self.proj_drop(self.proj(from_windows(out.reshape(-1, x.shape[1]), order)))


class ShiftWindowMSA(BaseModule):
    """Partition a map into windows, shifted or not, and attend within them.

    Args:
        embed_dims (int): Number of channels.
        num_heads (int): Number of heads.
        window_size (int): Height and width of a window.
        shift_size (int): By how much the windows are shifted to the lower right; 0 for none.
            Defaults to 0.
        pad_small_map (bool): Whether a map not larger than a window is treated like any other:
            padded to it, and shifted (mmdet, mmseg). If False it is not shifted, and a smaller
            one is refused (mmpretrain). Defaults to True.
        dropout_layer (dict): The drop path. Defaults to dict(type='DropPath', drop_prob=0.).
        init_cfg (dict, optional): Initialisation. Defaults to None.
        **kwargs: Passed on to :class:`WindowMSA`.
    """

    def __init__(self,
                 embed_dims,
                 num_heads,
                 window_size,
                 shift_size=0,
                 pad_small_map=True,
                 dropout_layer=dict(type='DropPath', drop_prob=0.),
                 init_cfg=None,
                 **kwargs):
        super().__init__(init_cfg)
        self.window_size = window_size
        self.shift_size = shift_size
        self.pad_small_map = pad_small_map
        self.w_msa = WindowMSA(embed_dims, num_heads, window_size, **kwargs)
        self.drop = build_dropout(dropout_layer)

    def forward(self, x, hw_shape):
        """Attend.

        Args:
            x (torch.Tensor): Map of shape (batch, height * width, embed_dims).
            hw_shape (tuple[int]): Height and width of the map.

        Returns:
            torch.Tensor: Of the shape of ``x``.

        Raises:
            ConfigError: If the map is smaller than a window and ``pad_small_map`` is False.
        """
        batch, _, dims = x.shape
        height, width = hw_shape
        size, shift = self.window_size, self.shift_size
        if not self.pad_small_map and min(hw_shape) <= size:
            if min(hw_shape) < size:
                raise ConfigError(f'a map of {height} x {width} is smaller than the window of '
                                  f'{size}: use larger images, or pad_small_map=True')
            shift = 0
        if self._goes_by_order(x):
            order = window_order(batch, height, width, size, shift, x.device)
            # a map of 2 x 2 windows has one of each kind
            mask = shift_mask(2 * size, 2 * size, size, shift, x.device) if shift else None
            return self.drop(self.w_msa(x.reshape(-1, dims), mask, order).view(x.shape))

        x = x.view(batch, height, width, dims)
        pad_right, pad_bottom = -width % size, -height % size
        if pad_right or pad_bottom:
            x = F.pad(x, (0, 0, 0, pad_right, 0, pad_bottom))
        padded_h, padded_w = height + pad_bottom, width + pad_right
        if shift:
            x = torch.roll(x, (-shift, -shift), (1, 2))

        rows, cols = padded_h // size, padded_w // size
        windows = x.view(batch, rows, size, cols, size, dims).transpose(2, 3)
        windows = windows.reshape(-1, size * size, dims)
        mask = shift_mask(padded_h, padded_w, size, shift, x.device) if shift else None
        windows = self.w_msa(windows, mask)
        x = windows.view(batch, rows, cols, size, size, dims).transpose(2, 3)
        x = x.reshape(batch, padded_h, padded_w, dims)

        if shift:
            x = torch.roll(x, (shift, shift), (1, 2))
        if pad_right or pad_bottom:
            x = x[:, :height, :width].contiguous()
        return self.drop(x.view(batch, height * width, dims))


    def _goes_by_order(self, x):
        """Whether the fast path can go here; a hook is to see windows, and once."""
        inner = self.w_msa
        return can_fuse(x) and not (self.training and inner.attn_drop_rate) and not any(
            is_watched(module) for module in (inner, inner.qkv, inner.proj))


def shift_mask(height: int, width: int, size: int, shift: int, device) -> torch.Tensor:
    """Mask that keeps tokens from attending across the seam of a shifted map.

    Args:
        height (int): Height of the padded map.
        width (int): Width of the padded map.
        size (int): Height and width of a window.
        shift (int): The shift.
        device (torch.device): Where the mask is wanted.

    Returns:
        torch.Tensor: 0 for pairs of the same region, -100 for others; shape (windows, size *
        size, size * size). The same tensor for the same arguments.
    """
    # what is made while tracing or counting (fake tensors) must not be found by a later run
    if (torch.compiler.is_compiling() or torch.jit.is_tracing()
            or torch._C._len_torch_dispatch_stack()):
        return _make_shift_mask(height, width, size, shift, device)
    return _cached_shift_mask(height, width, size, shift, device)


def _make_shift_mask(height, width, size, shift, device):
    with torch.inference_mode(False):  # the mask may be used in training later
        bounds = torch.zeros(1, device=device)
        region_y = (torch.arange(height, device=device) >= height - size).int() + (
            torch.arange(height, device=device) >= height - shift).int()
        region_x = (torch.arange(width, device=device) >= width - size).int() + (
            torch.arange(width, device=device) >= width - shift).int()
        region = region_y[:, None] * 3 + region_x[None, :]
        region = region.view(height // size, size, width // size, size).transpose(1, 2)
        region = region.reshape(-1, size * size)
        different = region[:, :, None] != region[:, None, :]
        return torch.where(different, bounds - 100., bounds)


_cached_shift_mask = lru_cache(maxsize=64)(_make_shift_mask)
