"""Attention within windows that are sorted by the mask they need: the fast path of Swin.

Of a shifted map only the windows at the right and lower border need a mask, and these of each
border the same one. So one gather, which pads and shifts too, takes the windows out of a batch of
maps kind by kind, and the windows of a kind are one batch with one bias: attention reads queries,
keys and values where they are, and no mask is laid out for every window.
"""
import math
from functools import lru_cache
from typing import NamedTuple, Optional

import torch
import torch.nn.functional as F

#: About so many attention weights are computed at a time in the backward pass: a megabyte.
GROUP = 2**18


class WindowOrder(NamedTuple):
    """Which token goes where when the windows of a batch are sorted by kind.

    Args:
        source (torch.Tensor): For each place in a window, the token; 0 where there is none.
        padding (torch.Tensor | None): Places without a token; None if there are none.
        target (torch.Tensor): For each token, its place.
        counts (tuple[int]): Number of windows inside, at the right border, at the lower border
            and in the corner between them; without shift, of all.
    """
    source: torch.Tensor
    padding: Optional[torch.Tensor]
    target: torch.Tensor
    counts: tuple


@lru_cache(maxsize=32)
def window_order(batch: int, height: int, width: int, size: int, shift: int,
                 device: torch.device) -> WindowOrder:
    """Sort the tokens of a batch of maps by windows, and the windows by the mask they need.

    Args:
        batch (int): Number of maps.
        height (int): Height of a map.
        width (int): Width of a map.
        size (int): Height and width of a window; maps are padded to a multiple.
        shift (int): By how much the windows are shifted to the lower right.
        device (torch.device): Where the indices are wanted.

    Returns:
        WindowOrder: The same for the same arguments.
    """
    with torch.inference_mode(False):  # the indices may be used in training later
        tokens = torch.arange(batch * height * width, dtype=torch.int32, device='cpu')
        places = F.pad(tokens.view(batch, height, width), (0, -width % size, 0, -height % size),
                       value=-1)
        places = torch.roll(places, (-shift, -shift), (1, 2))
        places = places.unflatten(1, (-1, size)).unflatten(3, (-1, size)).permute(1, 3, 0, 2, 4)
        kinds = [places]
        if shift:
            kinds = [part for rows in (places[:-1], places[-1:])
                     for part in (rows[:, :-1], rows[:, -1:])]
        source = torch.cat([kind.flatten() for kind in kinds])
        missing = source < 0
        target = torch.empty_like(tokens)
        target[source[~missing].long()] = (~missing).nonzero().flatten().int()
        padding = missing.nonzero().flatten().to(device) if missing.any() else None
        return WindowOrder(
            source.clamp_(0).to(device), padding, target.to(device),
            tuple(kind.numel() // size**2 for kind in kinds))


def to_windows(rows: torch.Tensor, order: WindowOrder,
               filling: Optional[torch.Tensor] = None) -> torch.Tensor:
    """Bring tokens into the order of windows.

    Args:
        rows (torch.Tensor): Of shape (batch * height * width, dims).
        order (WindowOrder): The order.
        filling (torch.Tensor, optional): Of shape (1, dims), for places without a token; zeros if
            None. Defaults to None.

    Returns:
        torch.Tensor: Of shape (windows * tokens, dims).
    """
    return _Rearrange.apply(rows, filling, order.source, order.padding, order.target, None)


def from_windows(rows: torch.Tensor, order: WindowOrder) -> torch.Tensor:
    """Bring tokens back from the order of windows into that of the maps."""
    return _Rearrange.apply(rows, None, order.target, None, order.source, order.padding)


class _Rearrange(torch.autograd.Function):
    """A gather whose gradient is one, too: nothing goes to two places.

    Torch's own gradient of a gather adds up row by row.
    """

    @staticmethod
    def forward(ctx, rows, filling, source, padding, target, target_padding):
        ctx.save_for_backward(source, padding, target, target_padding)
        out = rows.index_select(0, source)
        if padding is None:
            return out
        return out.index_fill_(0, padding, 0) if filling is None else out.index_put_(
            (padding, ), filling)

    @staticmethod
    def backward(ctx, grad):
        source, padding, target, target_padding = ctx.saved_tensors
        filling_grad = None
        if ctx.needs_input_grad[1]:
            filling_grad = grad.index_select(0, padding).sum(0, keepdim=True)
        rows_grad = _Rearrange.apply(grad, None, target, target_padding, source, padding)
        return rows_grad, filling_grad, None, None, None, None


def attend(qkv: torch.Tensor, bias: torch.Tensor, counts: tuple, scale: float) -> torch.Tensor:
    """Compute ``softmax(scale * query key^T + bias) value`` within windows.

    Args:
        qkv (torch.Tensor): Queries, keys and values of shape (windows, tokens, 3, heads, dims).
        bias (torch.Tensor): Of shape (kinds, heads, tokens, tokens).
        counts (tuple[int]): How many windows there are of each kind; they come sorted by it.
        scale (float): Scale of the products.

    Returns:
        torch.Tensor: Of shape (windows, tokens, heads, dims).
    """
    bias = bias.contiguous()
    # in half precision torch's own kernel computes in float32 within, which takes less memory
    if (qkv.device.type == 'cpu' and qkv.dtype in (torch.float32, torch.float64)
            and torch.is_grad_enabled() and (qkv.requires_grad or bias.requires_grad)):
        return _Attention.apply(qkv, bias, counts, scale)
    return _join([
        F.scaled_dot_product_attention(  # type: ignore[misc]  # three tensors are unpacked
            *windows.permute(2, 0, 3, 1, 4), attn_mask=b, scale=scale)
        .transpose(1, 2) for windows, b in _kinds(qkv, bias, counts)
    ])


def _kinds(qkv, bias, counts):
    """Pairs of the windows of a kind and its bias; kinds without windows are left out."""
    return [(windows, bias[i:i + 1]) for i, windows in enumerate(qkv.split(counts))
            if len(windows)]


def _join(parts):
    return parts[0] if len(parts) == 1 else torch.cat(parts)


class _Attention(torch.autograd.Function):
    """Attention that keeps its input and, for each query, the log-sum-exp of its logits.

    The backward pass computes the attention weights again, a group of windows at a time, so that
    they stay in the processor's cache. Torch's own on CPU takes half as long again for windows,
    keeps the output too, and has no gradient of the bias.
    """

    @staticmethod
    def forward(ctx, qkv, bias, counts, scale):
        outs, log_sums = [], []
        for windows, b in _kinds(qkv, bias, counts):
            out, log_sum = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu(
                *windows.permute(2, 0, 3, 1, 4), attn_mask=b, scale=scale)
            outs.append(out.transpose(1, 2))
            log_sums.append(log_sum)
        ctx.save_for_backward(qkv, bias, _join(log_sums))
        ctx.counts, ctx.scale = counts, scale
        return _join(outs)

    @staticmethod
    def backward(ctx, grad):
        qkv, bias, log_sums = ctx.saved_tensors
        if torch.is_grad_enabled():  # the backward pass is itself recorded
            return *_differentiable(ctx, qkv, bias, grad), None, None
        qkv_grad = torch.empty_like(qkv)
        bias_grad = torch.zeros_like(bias) if ctx.needs_input_grad[1] else None
        length = max(GROUP // bias[0].numel(), 1)
        # powers of two are computed several times faster than those of e
        bias, log_sums = bias * math.log2(math.e), log_sums * math.log2(math.e)
        end = 0
        with torch.autocast('cpu', enabled=False):
            for kind, count in enumerate(ctx.counts):
                start, end = end, end + count
                for at in range(start, end, length):
                    group = slice(at, min(at + length, end))
                    logits_grad = _group_gradients(
                        grad[group], qkv[group], bias[kind], log_sums[group].unsqueeze(-1),
                        ctx.scale, out=qkv_grad[group])
                    if bias_grad is not None:
                        bias_grad[kind] += logits_grad.sum(0)
        return qkv_grad, bias_grad, None, None


def _differentiable(ctx, qkv, bias, grad):
    """The gradients of attention written out, which can be differentiated again."""
    with torch.enable_grad():
        # views: the input may depend on the table, and its own path to it is not ours
        qkv, bias = qkv.view_as(qkv), bias.view_as(bias)
        outs = []
        for windows, b in _kinds(qkv, bias, ctx.counts):
            query, key, value = windows.permute(2, 0, 3, 1, 4).unbind(0)
            logits = ctx.scale * query @ key.transpose(-2, -1) + b
            outs.append((logits.softmax(-1) @ value).transpose(1, 2))
        wanted = [t for t, needed in zip((qkv, bias), ctx.needs_input_grad) if needed]
        found = iter(torch.autograd.grad(_join(outs), wanted, grad, create_graph=True))
    return [next(found) if needed else None for needed in ctx.needs_input_grad[:2]]


def _group_gradients(grad, qkv, bias, log_sums, scale, out):
    """Write the gradient of some windows' ``qkv`` to ``out``; return that of their logits."""
    count, tokens, _, heads, dims = qkv.shape
    query, key, value = qkv.permute(2, 0, 3, 1, 4).reshape(3, -1, tokens, dims)
    grad = grad.transpose(1, 2).reshape(-1, tokens, dims)
    weights = (bias - log_sums).reshape(-1, tokens, tokens)
    weights.baddbmm_(query, key.transpose(1, 2), alpha=scale * math.log2(math.e)).exp2_()
    logits_grad = torch._softmax_backward_data(
        torch.bmm(grad, value.transpose(1, 2)), weights, -1, weights.dtype)
    parts = (torch.bmm(logits_grad, key).mul_(scale),
             torch.bmm(logits_grad.transpose(1, 2), query).mul_(scale),
             torch.bmm(weights.transpose(1, 2), grad))
    for part, place in zip(parts, out.unbind(2)):
        place.copy_(part.view(count, heads, tokens, dims).transpose(1, 2))
    return logits_grad.view(count, heads, tokens, tokens)
