"""Windows sorted by kind: the order, the gathers, and attention with its own backward pass."""
import pytest
import torch
import torch.nn.functional as F
from torch.autograd import gradcheck, gradgradcheck

from scalenet_mm.backbones import sorted_windows
from scalenet_mm.backbones.sorted_windows import attend, from_windows, to_windows, window_order
from scalenet_mm.backbones.window_attention import shift_mask

CPU = torch.device('cpu')
# height, width, window, shift: of all kinds, one row, one column, one window, padded, odd
MAPS = [(12, 16, 4, 2), (4, 12, 4, 2), (12, 4, 4, 1), (4, 4, 4, 2), (9, 14, 4, 2), (3, 5, 7, 3),
        (10, 7, 3, 0), (8, 8, 4, 0)]


def padded(values, height, width, size, filling):
    """A batch of maps of numbers, padded as Swin does."""
    return F.pad(values.view(-1, height, width), (0, -width % size, 0, -height % size),
                 value=filling)


@pytest.mark.parametrize('height, width, size, shift', MAPS)
def test_every_window_is_there_with_the_mask_of_its_kind(height, width, size, shift):
    batch = 3
    order = window_order(batch, height, width, size, shift, CPU)
    tokens = torch.arange(1, batch * height * width + 1)
    windows = to_windows(tokens.view(-1, 1).float(), order).view(-1, size * size).int()

    maps = padded(tokens, height, width, size, 0)
    rows, cols = maps.shape[1] // size, maps.shape[2] // size
    maps = torch.roll(maps, (-shift, -shift), (1, 2))
    expected = maps.view(batch, rows, size, cols, size).transpose(2, 3)
    expected = expected.reshape(-1, size * size)
    where = {tuple(window): i % (rows * cols) for i, window in enumerate(expected.tolist())}
    assert len(where) == len(expected) == len(windows) == sum(order.counts)
    assert set(where) == set(map(tuple, windows.tolist()))

    if not shift:
        assert order.counts == (len(windows), )
        return
    full = shift_mask(rows * size, cols * size, size, shift, CPU)
    kinds = shift_mask(2 * size, 2 * size, size, shift, CPU)
    assert len(order.counts) == len(kinds) == 4
    masks = torch.cat([kind.expand(n, -1, -1) for kind, n in zip(kinds, order.counts)])
    for window, mask in zip(windows.tolist(), masks):
        assert torch.equal(mask, full[where[tuple(window)]])


@pytest.mark.parametrize('height, width, size, shift', MAPS)
def test_there_and_back(height, width, size, shift, image):
    order = window_order(2, height, width, size, shift, CPU)
    x = image(2 * height * width, 5)
    windows = to_windows(x, order)
    assert windows.shape == (sum(order.counts) * size * size, 5)
    assert torch.equal(from_windows(windows, order), x)
    if order.padding is None:
        assert len(windows) == len(x)
        return
    assert not windows[order.padding].any() and len(order.padding) == len(windows) - len(x)
    filled = to_windows(x, order, image(1, 5, seed=1))
    assert (filled[order.padding] == image(1, 5, seed=1)).all()
    assert torch.equal(from_windows(filled, order), x)


@pytest.mark.parametrize('height, width', [(4, 4), (3, 5)])
def test_gradients_of_the_gathers(height, width, image):
    order = window_order(2, height, width, 2, 1, CPU)
    x = image(2 * height * width, 2).double().requires_grad_()
    y = to_windows(x, order).detach().requires_grad_()
    filling = image(1, 2).double().requires_grad_()
    calls = [(lambda x: to_windows(x, order), (x, )), (lambda y: from_windows(y, order), (y, ))]
    if order.padding is not None:
        calls.append((lambda x, f: to_windows(x, order, f), (x, filling)))
    for call, inputs in calls:
        assert gradcheck(call, inputs) and gradgradcheck(call, inputs)


def test_an_order_is_made_once_and_few_are_kept():
    window_order.cache_clear()
    order = window_order(2, 9, 14, 4, 2, CPU)
    assert window_order(2, 9, 14, 4, 2, CPU) is order
    # 32-bit indices: 8 bytes for a token
    assert order.source.dtype is order.target.dtype is torch.int32
    for width in range(4, 60):
        window_order(1, 4, width, 4, 0, CPU)
    assert window_order.cache_info().currsize == 32
    assert window_order(2, 9, 14, 4, 2, CPU) is not order


# --- attention -----------------------------------------------------------------------------------


def reference(qkv, bias, counts, scale):
    """Attention by its definition."""
    bias = torch.cat([b.expand(n, -1, -1, -1) for b, n in zip(bias, counts)])
    query, key, value = qkv.permute(2, 0, 3, 1, 4)
    logits = scale * query @ key.transpose(-2, -1) + bias
    return (logits.softmax(-1) @ value).transpose(1, 2)


def inputs(image, windows=7, tokens=4, heads=2, dims=3, kinds=4):
    qkv = image(windows, tokens, 3, heads, dims)
    bias = 2 * image(kinds, heads, tokens, tokens, seed=1)
    return qkv.requires_grad_(), bias.requires_grad_()


@pytest.mark.parametrize('counts', [(7, ), (3, 2, 1, 1), (0, 0, 5, 2), (0, 0, 0, 7), (0, 6, 0, 1)])
@pytest.mark.parametrize('group', [1, 70, 2**18])
def test_attention_and_its_gradients(counts, group, image, monkeypatch):
    monkeypatch.setattr(sorted_windows, 'GROUP', group)  # a window at a time, two, all of a kind
    qkv, bias = (t.detach().double().requires_grad_()
                 for t in inputs(image, kinds=len(counts)))
    assert gradcheck(lambda *args: attend(*args, counts, 0.7), (qkv, bias))
    out = attend(qkv, bias, counts, 0.7)
    torch.testing.assert_close(out, reference(qkv, bias, counts, 0.7))
    with torch.no_grad():
        assert torch.equal(attend(qkv.detach(), bias.detach(), counts, 0.7), out)


@pytest.mark.parametrize('tokens, dims', [(49, 32), (9, 7), (1, 1), (144, 8)])
def test_gradients_in_single_precision(tokens, dims, image):
    qkv, bias = inputs(image, windows=9, tokens=tokens, heads=3, dims=dims)
    bias.data[1:, :, ::2, 1::2] -= 100  # the masks'
    counts, found = (4, 2, 2, 1), []
    grad = image(9, tokens, 3, dims, seed=2)
    for call, dtype in ((attend, torch.float32), (reference, torch.float64)):
        tensors = [t.detach().to(dtype).requires_grad_() for t in (qkv, bias)]
        out = call(*tensors, counts, dims**-0.5)
        found.append((out, *torch.autograd.grad(out, tensors, grad.to(dtype))))
    for got, expected in zip(*found):
        torch.testing.assert_close(got, expected.float(), rtol=1e-5, atol=1e-5)
        assert expected.abs().max() > 1e-2 or tokens == 1


def test_only_wanted_gradients(image):
    qkv, bias = inputs(image)
    counts = (3, 2, 1, 1)
    both = torch.autograd.grad(attend(qkv, bias, counts, 1.).sum().sin(), (qkv, bias))
    out = attend(qkv, bias.detach(), counts, 1.)
    assert torch.equal(torch.autograd.grad(out.sum().sin(), qkv)[0], both[0])
    out = attend(qkv.detach(), bias, counts, 1.)
    assert torch.equal(torch.autograd.grad(out.sum().sin(), bias)[0], both[1])
    assert both[0].any() and both[1].any()
    assert not attend(qkv.detach(), bias.detach(), counts, 1.).requires_grad


def test_kinds_without_windows_are_left_out(image, monkeypatch):
    calls, original = [], F.scaled_dot_product_attention

    def counting(query, *args, **kwargs):
        calls.append(len(query))
        return original(query, *args, **kwargs)

    monkeypatch.setattr(F, 'scaled_dot_product_attention', counting)
    qkv, bias = (t.detach() for t in inputs(image))
    out = attend(qkv, bias, (0, 5, 0, 2), 0.7)
    assert calls == [5, 2]
    torch.testing.assert_close(out, reference(qkv, bias, (0, 5, 0, 2), 0.7))


@pytest.mark.parametrize('bias_trains', [True, False])
def test_second_derivatives(bias_trains, image):
    qkv, bias = (t.detach().double().requires_grad_() for t in inputs(image))
    bias.requires_grad_(bias_trains)
    counts = (3, 2, 1, 1)
    assert torch.autograd.gradgradcheck(lambda *args: attend(*args, counts, 0.7), (qkv, bias))

    # the input may depend on the table, which has one path of its own to the result
    wanted = (qkv, bias) if bias_trains else (qkv, )

    def twice(call):
        out = call(qkv + bias.sum(), bias, counts, 0.7)
        return torch.autograd.grad(out.square().sum(), wanted, create_graph=True)

    torch.testing.assert_close(twice(attend), twice(reference))


def test_what_is_kept(image):
    """The input, the bias and a number for each query: neither weights nor the output."""
    qkv, bias = inputs(image, windows=8, tokens=49, heads=3, dims=32)
    kept = {}

    def keep(tensor):
        kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        attend(qkv, bias, (3, 2, 2, 1), 0.2)
    assert sum(kept.values()) == 4 * (qkv.numel() + bias.numel() + 8 * 3 * 49)


@pytest.mark.parametrize('dtype, tolerance', [(torch.bfloat16, 0.03), (torch.float16, 0.004)])
def test_half_precision(dtype, tolerance, image):
    qkv, bias = inputs(image, tokens=9, dims=8)
    counts = (3, 2, 1, 1)
    expected = torch.autograd.grad(reference(qkv, bias, counts, 0.4).sin().sum(), (qkv, bias))
    half = [t.detach().to(dtype).requires_grad_() for t in (qkv, bias)]
    out = attend(*half, counts, 0.4)
    assert out.dtype == dtype
    grads = torch.autograd.grad(out.sin().sum(), half)
    for got, wanted in zip(grads, expected):
        torch.testing.assert_close(got.float(), wanted, rtol=tolerance, atol=4 * tolerance)


def test_a_backward_pass_within_autocast(image):
    qkv, bias = inputs(image)
    grads = []
    for enabled in (False, True):
        out = attend(qkv, bias, (3, 2, 1, 1), 0.4).sin().sum()
        with torch.autocast('cpu', dtype=torch.bfloat16, enabled=enabled):
            grads.append(torch.autograd.grad(out, (qkv, bias)))
    assert all(map(torch.equal, *grads))
