"""A linear layer with its adjustment, and a whole MLP, each as one operation with its own backward.

Against the same in plain torch operations

- the adapter's share is added in place, or as further columns of the layer's own product, so that
  the wide activation is not written a second time;
- an MLP keeps its hidden activation once, before the non-linearity; what comes behind it is
  computed again in the backward pass;
- no weight's gradient is computed unless the weight trains;
- wide maps are worked on in groups of rows.

The results are those of the plain form up to the rounding of the precision in use. What the
backward pass needs is kept by ``save_for_backward`` alone, so activation checkpointing, offloading
and torch's checks of tensors changed in place work as usual.
"""
from typing import NamedTuple, Optional

import torch
import torch.nn as nn
import torch.nn.functional as F
from torch.autograd import forward_ad
from torch.nn.modules.module import _has_any_global_hook

from ..errors import GrowthError
from . import products
from .fast_path import fast_paths_enabled

#: Classes of linear layers that compute ``x weight^T + bias`` and nothing else.
PLAIN_LINEARS = {nn.Linear}
#: Inputs that a square layer would take fewer multiply-adds for stay with the plain form: there
#: the calls take the time, not the computing.
SMALLEST = 2**19
#: About so many numbers of an MLP's hidden map are worked on at a time, 4 MB in float32. Smaller
#: groups read the weights more often; the memory of much larger ones is taken from the system and
#: given back at every call.
GROUP = 2**20


def is_plain_linear(module: nn.Module) -> bool:
    """Whether a module computes ``x weight^T + bias`` by a forward that we know."""
    return class_of(module) in PLAIN_LINEARS


class Activation(NamedTuple):
    """A non-linearity that the fused operations know, with what it is called with."""
    forward: object
    backward: object
    options: dict = {}

    def __call__(self, x):
        """Apply it."""
        return self.forward(x, **self.options)

    def gradient(self, grad, x):
        """Gradient of the input ``x``, by that of the result."""
        return self.backward(grad, x, **self.options)


_aten = torch.ops.aten
_ACTIVATIONS = {
    nn.Identity: (lambda x: x, lambda grad, x: grad),
    nn.ReLU: (torch.relu, lambda grad, x: _aten.threshold_backward(grad, x, 0)),
    nn.GELU: (F.gelu, _aten.gelu_backward),
    nn.SiLU: (F.silu, _aten.silu_backward),
}


def find_activation(module: nn.Module) -> Optional[Activation]:
    """Activation | None: What a non-linearity's module computes, if it is a known one."""
    if type(module) not in _ACTIVATIONS:
        return None
    options = dict(approximate=module.approximate) if isinstance(module, nn.GELU) else {}
    return Activation(*_ACTIVATIONS[type(module)], options)


IDENTITY = Activation(*_ACTIVATIONS[nn.Identity])


class Affine(NamedTuple):
    """``gain * (weight x + bias + up act(down x))``; what is not there is None."""
    weight: torch.Tensor
    bias: Optional[torch.Tensor] = None
    down: Optional[torch.Tensor] = None
    up: Optional[torch.Tensor] = None
    gain: Optional[torch.Tensor] = None


class Needs(NamedTuple):
    """Which gradients of an :class:`Affine` are wanted, and its input's."""
    input: bool
    weight: bool
    bias: bool
    down: bool
    up: bool
    gain: bool


_PLAIN_TENSORS = (torch.Tensor, nn.Parameter)
# what tells of autocast for a device by its name came with torch 2.4
_KNOWN_TORCH = hasattr(torch, 'get_autocast_dtype')
_FIELDS = len(Affine._fields)


def plain_affine(x: torch.Tensor, affine: Affine, act: Activation) -> torch.Tensor:
    """The plain twin of a fused affine map, in torch's own differentiable operations."""
    out = F.linear(x, affine.weight, affine.bias)
    if affine.down is not None:
        # both matrices are there or none
        out = out + F.linear(act(F.linear(x, affine.down)), affine.up)  # type: ignore[arg-type]
    return out if affine.gain is None else out * affine.gain.to(out.dtype)


def plain_mlp(x, first: Affine, second: Affine, acts) -> torch.Tensor:
    """The plain twin of a fused MLP."""
    return plain_affine(acts[1](plain_affine(x, first, acts[0])), second, acts[2])


def can_fuse(x: torch.Tensor) -> bool:
    """Whether the fast paths can go here with this input.

    They cannot where operations are recorded or transformed: compiling, tracing, exporting,
    counting, functorch, forward-mode derivatives. And they do not where there is too little to
    compute.
    """
    # first: what follows is neither for a compiler to read nor for a tracer
    if torch.compiler.is_compiling() or torch.jit.is_tracing() or type(x) not in _PLAIN_TENSORS:
        return False
    return (x.numel() * x.shape[-1] >= SMALLEST and fast_paths_enabled(x.device.type)
            and _KNOWN_TORCH and x.is_floating_point()
            and not torch._C._len_torch_dispatch_stack()
            and not torch._C._are_functorch_transforms_active()
            and forward_ad._current_level < 0)


def can_take(x: torch.Tensor, *affines) -> bool:
    """Whether the fast paths can take these tensors: plain ones, whose precisions fit."""
    tensors = [t for affine in affines for t in affine if t is not None]
    dtype, device = tensors[0].dtype, x.device
    if any(type(t) not in _PLAIN_TENSORS or t.dtype != dtype or t.device != device
           or t.layout != torch.strided for t in tensors):
        return False
    if not torch.is_autocast_enabled(device.type):
        return x.dtype == dtype
    # The input comes in either precision. Of a weight that trains autocast keeps the narrow copy.
    return not (torch.is_grad_enabled() and any(a.weight.requires_grad for a in affines))


def is_watched(module: nn.Module) -> bool:
    """Whether calling a module does more than its class's forward."""
    return bool(module._forward_hooks or module._forward_pre_hooks or module._backward_hooks
                or module._backward_pre_hooks or 'forward' in module.__dict__
                or _has_any_global_hook())


def class_of(module: nn.Module) -> type:
    """type: The class that a module had before any behaviour of ours was added."""
    recipe = getattr(module, '_recipe', None)
    return recipe[0] if recipe else type(module)


def _wants_gradient(*tensors):
    return torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors)


def _as_computed(x):
    """The input in the precision that a linear layer computes in here."""
    device = x.device.type
    if torch.is_autocast_enabled(device) and x.dtype != torch.float64:
        x = x.to(torch.get_autocast_dtype(device))
    return x


def fused_affine(x: torch.Tensor, affine: Affine, act: Activation) -> torch.Tensor:
    """Compute an affine map with its adjustment.

    Args:
        x (torch.Tensor): Of shape (..., inputs).
        affine (Affine): Weight (outputs, inputs), bias and gain (outputs, ), down (rank, inputs),
            up (outputs, rank).
        act (Activation): The adapter's non-linearity; :data:`IDENTITY` for LoRA.

    Returns:
        torch.Tensor: Of shape (..., outputs).
    """
    x = _as_computed(x)
    if _wants_gradient(x, *affine):
        return _FusedAffine.apply(act, x, *affine)
    return _shaped(_affine(_rows(x), _cast(affine, x.dtype), act)[0], x)


def fused_mlp(x: torch.Tensor, first: Affine, second: Affine, acts) -> torch.Tensor:
    """Compute ``second(act(first(x)))``.

    Args:
        x (torch.Tensor): Of shape (..., inputs).
        first (Affine): The hidden layer, without a gain.
        second (Affine): The output layer.
        acts (tuple[Activation]): The non-linearities of the first adapter, of the MLP, and of the
            second adapter.

    Returns:
        torch.Tensor: Of shape (..., outputs).
    """
    x = _as_computed(x)
    if _wants_gradient(x, *first, *second):
        return _FusedMLP.apply(acts, x, *first, *second)
    first, second = _cast(first, x.dtype), _cast(second, x.dtype)
    outs = [
        _affine(acts[1](_affine(rows, first, acts[0])[0]), second, acts[2])[0]
        for rows in _groups(_rows(x), first)
    ]
    return _shaped(_join(outs), x)


def _rows(x):
    return None if x is None else x.reshape(-1, x.shape[-1])


def _groups(rows, first, whole=False):
    count = 1 if whole else max(round(rows.shape[0] * first.weight.shape[0] / GROUP), 1)
    return rows.split(-(-rows.shape[0] // count))


def _shaped(rows, x):
    """Rows in the shape of ``x``, as no view: what comes next may work in place."""
    return _aten._unsafe_view(rows, [*x.shape[:-1], rows.shape[-1]])


def _join(groups):
    return groups[0] if len(groups) == 1 else torch.cat(groups)


def _halves(values):
    return values[:_FIELDS], values[_FIELDS:]


def _cast(affine, dtype):
    return Affine(*(None if t is None else t.to(dtype) for t in affine))


def _affine(x, affine, act):
    """The result, the adapter's hidden numbers before ``act``, and the result without gain."""
    weight, bias, down, up, _ = affine
    hidden = None if down is None else products.linear(x, down)
    outputs, inputs = weight.shape
    if down is not None and outputs > inputs and len(x) >= 2 * inputs and (
            products.chooses_onednn(x, weight)):
        # one product with a few more columns: the wide result is not passed over again
        out = products.linear(
            torch.cat((x, act(hidden)), dim=1), torch.cat((weight, up), dim=1), bias)
    else:
        out = products.linear(x, weight, bias)
        if down is not None:
            products.add_product(out, act(hidden), up)
    return (out if affine.gain is None else out * affine.gain), hidden, out


def _affine_gradients(grad, x, affine, act, hidden, ungained, needs):
    """Gradients of an affine map's input and of its parameters, None where not wanted."""
    wanted = dict.fromkeys(Needs._fields)
    if affine.gain is not None:
        if needs.gain:
            wanted['gain'] = (grad * ungained).sum(0)
        grad = grad * affine.gain
    if needs.bias:
        wanted['bias'] = grad.sum(0)
    if needs.weight:
        wanted['weight'] = products.outer(grad, x)
    if needs.input:
        wanted['input'] = products.linear(grad, affine.weight.t())
    if affine.down is not None:
        if needs.up:
            wanted['up'] = products.outer(grad, act(hidden))
        if needs.down or needs.input:
            hidden_grad = act.gradient(products.linear(grad, affine.up.t()), hidden)
            if needs.down:
                wanted['down'] = products.outer(hidden_grad, x)
            if needs.input:
                products.add_product(wanted['input'], hidden_grad, affine.down.t())
    return Needs(**wanted)


def _keeps_input(needs):
    """Whether gradients of parameters call for the input of an affine map."""
    return needs.weight or needs.down


def _sum(totals, parts):
    """Add one group's gradients of parameters to those of the groups before it, in float32."""
    if totals is None:
        return Needs(*(None if p is None else _widened(p) for p in parts))
    return Needs(*(None if t is None else t.add_(p) for t, p in zip(totals, parts)))


def _widened(tensor):
    return tensor.float() if tensor.dtype in (torch.bfloat16, torch.float16) else tensor


def _like(grads, tensors):
    """Gradients in the precision of what they are of."""
    return [None if g is None else g.to(t.dtype) for g, t in zip(grads, tensors)]


def _differentiable(plain, needs, x, tensors, grad):
    """The gradients by way of the plain form, for a backward pass that is itself recorded."""
    if x is None:
        raise GrowthError('derivatives of second order are asked for, and the fast path kept no '
                          'input for them: compute the forward pass under fast_paths(False)')
    with torch.enable_grad():
        # views, because x may depend on the very weights: its own path to them is not ours
        inputs = [None if t is None else t.view_as(t) for t in (x, *tensors)]
        wanted = [t for t, needed in zip(inputs, needs) if needed]
        found = iter(torch.autograd.grad(plain(*inputs), wanted, grad, create_graph=True))
    return [next(found) if needed else None for needed in needs]


class _FusedAffine(torch.autograd.Function):

    @staticmethod
    def forward(ctx, act, x, *tensors):
        affine = _cast(Affine(*tensors), x.dtype)
        ctx.act, ctx.needs = act, Needs(*ctx.needs_input_grad[1:])
        out, hidden, ungained = _affine(_rows(x), affine, act)
        ctx.save_for_backward(x if _keeps_input(ctx.needs) else None, hidden,
                              ungained if ctx.needs.gain else None, *tensors)
        return _shaped(out, x)

    @staticmethod
    def backward(ctx, grad):
        with torch.autocast(grad.device.type, enabled=False):  # as it was computed, so back
            return _FusedAffine._backward(ctx, grad)

    @staticmethod
    def _backward(ctx, grad):
        x, hidden, ungained, *tensors = ctx.saved_tensors
        if torch.is_grad_enabled():
            return None, *_differentiable(
                lambda x, *tensors: plain_affine(x, _cast(Affine(*tensors), x.dtype), ctx.act),
                ctx.needs, x, tensors, grad)
        found = _affine_gradients(
            _rows(grad), _rows(x), _cast(Affine(*tensors), grad.dtype), ctx.act, hidden, ungained,
            ctx.needs)
        dx = None if found.input is None else found.input.view(*grad.shape[:-1], -1)
        return None, dx, *found[1:]


class _FusedMLP(torch.autograd.Function):

    @staticmethod
    def forward(ctx, acts, x, *tensors):
        first, second = (_cast(Affine(*part), x.dtype) for part in _halves(tensors))
        needs_x, *needs = ctx.needs_input_grad[1:]
        needs_first, needs_second = _halves(needs)
        ctx.acts = acts
        ctx.first = Needs(needs_x, *needs_first)
        ctx.second = Needs(any(ctx.first), *needs_second)
        outs, kept = [], []
        for rows in _groups(_rows(x), first, ctx.first.weight or ctx.second.weight):
            wide, narrow, _ = _affine(rows, first, acts[0])
            out, second_narrow, ungained = _affine(acts[1](wide), second, acts[2])
            outs.append(out)
            kept += [wide, narrow, second_narrow, ungained if ctx.second.gain else None]
        ctx.save_for_backward(x if _keeps_input(ctx.first) else None, *tensors, *kept)
        return _shaped(_join(outs), x)

    @staticmethod
    def backward(ctx, grad):
        with torch.autocast(grad.device.type, enabled=False):
            return _FusedMLP._backward(ctx, grad)

    @staticmethod
    def _backward(ctx, grad):
        x, *saved = ctx.saved_tensors
        tensors, kept = saved[:2 * _FIELDS], saved[2 * _FIELDS:]
        if torch.is_grad_enabled():
            return None, *_differentiable(
                lambda x, *tensors: plain_mlp(
                    x, *(_cast(Affine(*part), x.dtype) for part in _halves(tensors)), ctx.acts),
                (*ctx.first, *ctx.second[1:]), x, tensors, grad)
        first, second = (_cast(Affine(*part), grad.dtype) for part in _halves(tensors))
        sizes = [wide.shape[0] for wide in kept[::4]]
        groups = [None] * len(sizes) if x is None else _rows(x).split(sizes)
        inputs, totals, second_totals = [], None, None
        for i, (rows, out_grad) in enumerate(zip(groups, _rows(grad).split(sizes))):
            wide, narrow, second_narrow, ungained = kept[4 * i:4 * i + 4]
            found = _affine_gradients(
                out_grad, ctx.acts[1](wide) if _keeps_input(ctx.second) else None, second,
                ctx.acts[2], second_narrow, ungained, ctx.second)
            wide_grad, found = found.input, found._replace(input=None)
            second_totals = _sum(second_totals, found)
            if wide_grad is None:
                continue
            wide_grad = ctx.acts[1].gradient(wide_grad, wide)
            found = _affine_gradients(wide_grad, rows, first, ctx.acts[0], narrow, None, ctx.first)
            inputs.append(found.input)
            totals = _sum(totals, found._replace(input=None))
        dx = _join(inputs).view(*grad.shape[:-1], -1) if ctx.first.input else None
        totals = totals or Needs(*[None] * len(Needs._fields))
        return None, dx, *_like((*totals[1:], *second_totals[1:]), tensors)
