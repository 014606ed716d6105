"""The fused operations against the same written out in plain torch."""
import gc

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils.checkpoint import checkpoint

from scalenet_mm.errors import GrowthError
from scalenet_mm.growth import fused, products
from scalenet_mm.growth.fused import IDENTITY, Affine, find_activation, fused_affine, fused_mlp

RELU, GELU = find_activation(nn.ReLU()), find_activation(nn.GELU())
#: Largest difference over the largest value, by precision: a few units of its rounding.
TOLERANCE = {torch.float64: 1e-13, torch.float32: 2e-5, torch.bfloat16: 3e-2, torch.float16: 4e-3}
FUNCTIONS = {
    'ReLU': (nn.ReLU(), F.relu),
    'GELU': (nn.GELU(), F.gelu),
    'GELU by tanh': (nn.GELU('tanh'), lambda x: F.gelu(x, approximate='tanh')),
    'SiLU': (nn.SiLU(), F.silu),
    'Identity': (nn.Identity(), lambda x: x),
}


def make_affine(inputs, outputs, rank=3, gain=False, bias=True, dtype=torch.float64, frozen=False):
    """Random tensors of one layer; weight and bias may be frozen."""

    def draw(*shape):
        return (torch.randn(*shape, dtype=torch.float64) / shape[-1]**.5).to(dtype)

    weight, bias = draw(outputs, inputs), draw(outputs) if bias else None
    rest = [None, None] if rank is None else [draw(rank, inputs), draw(outputs, rank)]
    rest.append(draw(outputs) if gain else None)
    for tensor in [*rest] + ([] if frozen else [weight, bias]):
        if tensor is not None:
            tensor.requires_grad_()
    return Affine(weight, bias, *rest)


def write_out(x, affine, act):
    """The formula, eq. 7 and 9."""
    out = x @ affine.weight.t()
    if affine.bias is not None:
        out = out + affine.bias
    if affine.down is not None:
        out = out + act(x @ affine.down.t()) @ affine.up.t()
    return out if affine.gain is None else affine.gain * out


def gradients(out, inputs, cotangent):
    """Gradients of all that wants one, None for the rest."""
    wanted = [t for t in inputs if t is not None and t.requires_grad]
    return torch.autograd.grad(out, wanted, cotangent)


def assert_close(found, expected, dtype):
    assert len(found) == len(expected)
    for a, b in zip(found, expected):
        assert a.shape == b.shape and a.dtype == dtype
        difference = (a.double() - b.double()).abs().max()
        assert difference <= TOLERANCE[dtype] * b.double().abs().max().clamp(min=1e-3)


@pytest.fixture
def small_groups(monkeypatch):
    """Cut even the maps of these tests into groups of rows."""
    monkeypatch.setattr(fused, 'GROUP', 64)


@pytest.fixture(params=['native', 'onednn'])
def library(request, monkeypatch):
    """Each of the two libraries, for products of any size."""
    monkeypatch.setattr(products, 'SMALLEST', 1)
    with products.products(request.param):
        yield request.param


@pytest.mark.parametrize('act', FUNCTIONS)
@pytest.mark.parametrize('frozen', [True, False])
@pytest.mark.parametrize('gain', [True, False])
@pytest.mark.parametrize('rank', [3, None])
def test_affine_derivatives_of_both_orders(rank, gain, frozen, act):
    torch.manual_seed(0)
    affine = make_affine(5, 7, rank, gain, frozen=frozen)
    x = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    module, function = FUNCTIONS[act]

    def run(x, *tensors):
        return fused_affine(x, Affine(*tensors), find_activation(module))

    assert torch.allclose(run(x, *affine), write_out(x, affine, function), rtol=1e-13)
    assert torch.autograd.gradcheck(run, (x, *affine))
    if rank is not None or not frozen:
        assert torch.autograd.gradgradcheck(run, (x, *affine))


@pytest.mark.parametrize('act', FUNCTIONS)
@pytest.mark.parametrize('frozen', [True, False])
@pytest.mark.parametrize('gain', [True, False])
def test_mlp_derivatives_of_both_orders(gain, frozen, act, small_groups):
    torch.manual_seed(0)
    first = make_affine(5, 6, 2, frozen=frozen)
    second = make_affine(6, 5, 3, gain, frozen=frozen)
    x = torch.randn(3, 3, 5, dtype=torch.float64, requires_grad=True)
    module, function = FUNCTIONS[act]
    acts = (RELU, find_activation(module), GELU)

    def run(x, *tensors):
        return fused_mlp(x, Affine(*tensors[:5]), Affine(*tensors[5:]), acts)

    expected = write_out(function(write_out(x, first, F.relu)), second, F.gelu)
    assert torch.allclose(run(x, *first, *second), expected, rtol=1e-12)
    assert torch.autograd.gradcheck(run, (x, *first, *second))
    assert torch.autograd.gradgradcheck(run, (x, *first, *second))


@settings(max_examples=60, deadline=None)
@given(
    shape=st.lists(st.integers(1, 4), min_size=0, max_size=3),
    widths=st.tuples(*[st.integers(1, 9)] * 3),
    ranks=st.tuples(*[st.sampled_from([None, 1, 4])] * 2),
    flags=st.tuples(*[st.booleans()] * 9),
    group=st.integers(1, 40))
def test_any_mlp_and_any_choice_of_what_trains(shape, widths, ranks, flags, group):
    """Shapes of any number of axes, layers with and without each part, any part frozen."""
    torch.manual_seed(0)
    first = make_affine(widths[0], widths[1], ranks[0], bias=flags[0])
    second = make_affine(widths[1], widths[2], ranks[1], gain=flags[1], bias=flags[2])
    x = torch.randn(*shape, widths[0], dtype=torch.float64, requires_grad=flags[3])
    for affine in (first, second):
        for tensor, trains in zip(affine, flags[4:]):
            if tensor is not None:
                tensor.requires_grad_(trains)
    before, fused.GROUP = fused.GROUP, group
    try:
        out = fused_mlp(x, first, second, (RELU, GELU, RELU))
        expected = write_out(F.gelu(write_out(x, first, F.relu)), second, F.relu)
        assert_close([out], [expected], torch.float64)
        assert out.requires_grad == expected.requires_grad
        if out.requires_grad:
            cotangent = torch.randn_like(out)
            inputs = (x, *first, *second)
            assert_close(
                gradients(out, inputs, cotangent), gradients(expected, inputs, cotangent),
                torch.float64)
    finally:
        fused.GROUP = before


@pytest.mark.parametrize('frozen', [True, False])
@pytest.mark.parametrize('dtype', TOLERANCE, ids=str)
def test_precisions(dtype, frozen, library, small_groups):
    """Outputs and gradients against the formula in float64, in units of each precision."""
    torch.manual_seed(0)
    first = make_affine(24, 96, 4, dtype=dtype, frozen=frozen)
    second = make_affine(96, 24, 4, gain=True, dtype=dtype, frozen=frozen)
    x = torch.randn(2, 30, 24).to(dtype).requires_grad_()
    exact = [Affine(*(None if t is None else t.detach().double().requires_grad_(t.requires_grad)
                      for t in affine)) for affine in (first, second)]
    exact_x = x.detach().double().requires_grad_()
    out = fused_mlp(x, first, second, (RELU, GELU, RELU))
    expected = write_out(F.gelu(write_out(exact_x, exact[0], F.relu)), exact[1], F.relu)
    assert_close([out], [expected], dtype)
    cotangent = torch.randn(out.shape).to(dtype)
    assert_close(
        gradients(out, (x, *first, *second), cotangent),
        gradients(expected, (exact_x, *exact[0], *exact[1]), cotangent.double()), dtype)


@pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize('backward_inside', [True, False])
def test_autocast(dtype, backward_inside, small_groups):
    """Parameters stay in float32 and so do their gradients; only the computing is narrower."""
    torch.manual_seed(0)
    first = make_affine(24, 96, 4, dtype=torch.float32, frozen=True)
    second = make_affine(96, 24, 4, gain=True, dtype=torch.float32, frozen=True)
    x = torch.randn(2, 30, 24, requires_grad=True)
    cotangent = torch.randn(2, 30, 24).to(dtype)
    inputs = (x, *first, *second)
    results = []
    for form in (lambda: fused_mlp(x, first, second, (RELU, GELU, RELU)),
                 lambda: fused.plain_mlp(x, first, second, (RELU, GELU, RELU))):
        with torch.autocast('cpu', dtype=dtype):
            out = form()
            if backward_inside:
                grads = gradients(out, inputs, cotangent)
        if not backward_inside:
            grads = gradients(out, inputs, cotangent)
        assert out.dtype == dtype and all(g.dtype == torch.float32 for g in grads)
        results.append((out, *grads))
    for fast, plain in zip(*results):
        assert (fast.float() - plain.float()).abs().max() <= TOLERANCE[dtype] * plain.abs().max()


@pytest.mark.parametrize('inside', [torch.float32, torch.bfloat16])
def test_backward_under_another_autocast_than_forward(inside):
    first = make_affine(8, 32, dtype=torch.float32, frozen=True)
    second = make_affine(32, 8, dtype=torch.float32, gain=True, frozen=True)
    x = torch.randn(6, 8, requires_grad=True)
    inputs = (x, *first, *second)
    for form in (lambda: fused_mlp(x, first, second, (RELU, GELU, RELU)),
                 lambda: fused_affine(fused_affine(x, first, RELU), second, RELU)):
        with torch.autocast('cpu', enabled=inside != torch.float32):
            out = form()
        assert out.dtype == inside
        cotangent = torch.randn_like(out)
        expected = gradients(out, inputs, cotangent)
        with torch.autocast('cpu', enabled=inside != torch.float32):
            out = form()
        with torch.autocast('cpu', enabled=inside == torch.float32):
            found = gradients(out, inputs, cotangent)
        assert all(map(torch.equal, found, expected))


def test_many_groups_lose_no_precision(monkeypatch):
    """Sums over the groups are in float32 where the gradients are not."""
    torch.manual_seed(0)
    first = make_affine(16, 64, 4, dtype=torch.bfloat16)
    second = make_affine(64, 16, 4, dtype=torch.bfloat16)
    for affine in (first, second):
        affine.weight.requires_grad_(False)
    x = torch.randn(6400, 16).bfloat16()
    cotangent = torch.randn(6400, 16).bfloat16()
    inputs = (*first, *second)
    exact = [Affine(*(None if t is None else t.detach().double().requires_grad_(t.requires_grad)
                      for t in affine)) for affine in (first, second)]
    expected = gradients(
        write_out(F.gelu(write_out(x.double(), exact[0], F.relu)), exact[1], F.relu),
        (*exact[0], *exact[1]), cotangent.double())

    def error(group):
        monkeypatch.setattr(fused, 'GROUP', group)
        found = gradients(fused_mlp(x, first, second, (RELU, GELU, RELU)), inputs, cotangent)
        return [((a.double() - b).norm() / b.norm()).item() for a, b in zip(found, expected)]

    for many, one in zip(error(64 * 64), error(2**30)):
        assert many <= 1.3 * one + 1e-4


@pytest.mark.parametrize('frozen', [True, False])
def test_checkpointing_recomputes_to_the_bit(frozen):
    torch.manual_seed(0)
    first = make_affine(8, 32, dtype=torch.float32, frozen=frozen)
    second = make_affine(32, 8, dtype=torch.float32, frozen=frozen)
    x = torch.randn(5, 8, requires_grad=True)
    acts = (RELU, GELU, RELU)
    direct = fused_mlp(x, first, second, acts)
    again = checkpoint(lambda x: fused_mlp(x, first, second, acts), x, use_reentrant=False)
    cotangent = torch.randn_like(direct)
    assert torch.equal(direct, again)
    inputs = (x, *first, *second)
    assert all(map(torch.equal, gradients(direct, inputs, cotangent),
                   gradients(again, inputs, cotangent)))


def kept_bytes(run, known):
    """Bytes of the distinct storages that a forward pass keeps, but for those of ``known``."""
    known = {t.untyped_storage().data_ptr() for t in known if t is not None}
    seen = {}

    def pack(tensor):
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in known:
            seen[storage.data_ptr()] = storage.nbytes()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        out = run()
    assert out.requires_grad
    return sum(seen.values())


def test_what_is_kept_for_the_backward_pass():
    """The input and the hidden map once each, and the adapters' narrow ones; no weight's copy."""
    rows, width, hidden, rank = 64, 16, 64, 4
    first = make_affine(width, hidden, rank, dtype=torch.float32, frozen=True)
    second = make_affine(hidden, width, rank, dtype=torch.float32, frozen=True)
    leaf = torch.randn(rows, width, requires_grad=True)
    x = leaf * 1
    acts = (RELU, GELU, RELU)
    kept = kept_bytes(lambda: fused_mlp(x, first, second, acts), (*first, *second))
    assert kept == 4 * rows * (width + hidden + 2 * rank)
    plain = kept_bytes(lambda: fused.plain_mlp(x, first, second, acts), (*first, *second))
    assert plain >= 4 * rows * (width + 2 * hidden + 2 * rank)
    # without adapters nothing but the hidden map is needed, with a gain the result before it
    bare = [Affine(a.weight, a.bias) for a in (first, second)]
    assert kept_bytes(lambda: fused_mlp(x, *bare, acts), (*first, *second)) == 4 * rows * hidden
    gained = bare[1]._replace(gain=torch.ones(width, requires_grad=True))
    known = (*first, *second, gained.gain)
    assert kept_bytes(lambda: fused_mlp(x, bare[0], gained, acts), known) == 4 * rows * (
        hidden + width)
    # a frozen layer alone keeps nothing, one with a low-rank update its input and the narrow map
    assert kept_bytes(lambda: fused_affine(x, bare[0], IDENTITY), known) == 0
    assert kept_bytes(lambda: fused_affine(x, first, IDENTITY), known) == 4 * rows * (width + rank)


def test_nothing_is_kept_past_the_hooks():
    """What the saved-tensor hooks replace is freed: no tensor stands in another place."""
    first = make_affine(16, 64, dtype=torch.float32, frozen=True)
    second = make_affine(64, 16, dtype=torch.float32, frozen=True, gain=True)
    x = torch.randn(32, 16, requires_grad=True)

    def tensors():
        gc.collect()
        return [t for t in gc.get_objects() if isinstance(t, torch.Tensor)]

    before = tensors()  # held, so that no new tensor can have the place of an old one
    known = {id(t) for t in before}
    with torch.autograd.graph.saved_tensors_hooks(lambda t: t.tolist(), torch.tensor):
        out = fused_mlp(x, first, second, (RELU, GELU, RELU))
        assert [t for t in tensors() if id(t) not in known] == [out]
    out.sum().backward()
    assert x.grad is not None and second.gain.grad is not None


def test_a_weight_changed_in_between_is_noticed():
    affine = make_affine(4, 4)
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    out = fused_affine(x, affine, RELU)
    with torch.no_grad():
        affine.weight.add_(1)
    with pytest.raises(RuntimeError, match='modified by an inplace operation'):
        out.sum().backward()


@pytest.mark.parametrize('gain', [True, False])
def test_the_result_may_be_worked_on_in_place(gain):
    """As heads do with ``ReLU(inplace=True)`` behind a linear layer."""
    first, second = make_affine(4, 6), make_affine(6, 4, gain=gain)
    x = torch.randn(2, 3, 4, dtype=torch.float64, requires_grad=True)
    inputs = (x, *first, *second)
    forms = (lambda: fused_mlp(x, first, second, (RELU, GELU, RELU)),
             lambda: fused_affine(fused_affine(x, first, RELU), second, RELU))
    for form in forms:
        out = form()
        cotangent = torch.randn_like(out)
        expected = gradients(form().relu(), inputs, cotangent)
        assert_close(gradients(out.relu_(), inputs, cotangent), expected, torch.float64)
        with torch.no_grad():
            assert torch.equal(form().relu_(), form().relu())


@pytest.mark.parametrize('frozen', [True, False])
def test_recorded_gradients_of_a_layer_that_is_used_twice(frozen):
    """The input depends on the very tensors whose gradients are asked for, as in a repeat."""
    torch.manual_seed(0)
    first = make_affine(4, 8, frozen=frozen)
    second = make_affine(8, 4, frozen=frozen, gain=True)
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    inputs = [t for t in (x, *first, *second) if t is not None and t.requires_grad]

    def fast(x):
        return fused_mlp(x, first, second, (RELU, GELU, RELU))

    def written(x):
        return write_out(F.gelu(write_out(x, first, F.relu)), second, F.relu)

    results = []
    for form in (fast, written):
        out = form(form(x))
        grads = torch.autograd.grad(out.square().sum(), inputs, create_graph=True)
        again = torch.autograd.grad(sum(g.square().sum() for g in grads), inputs)
        results.append([*grads, *again])
    assert_close(results[0], results[1], torch.float64)


def test_second_derivatives_without_an_input_are_refused():
    affine = make_affine(4, 4, None, frozen=True)
    x = torch.randn(3, 4, dtype=torch.float64, requires_grad=True)
    out = fused_affine(x, affine, IDENTITY)
    with pytest.raises(GrowthError, match=r'fast_paths\(False\)'):
        torch.autograd.grad(out.sum(), x, create_graph=True)


@pytest.mark.parametrize('view', [
    lambda x: x.transpose(0, 1), lambda x: x[:, ::2], lambda x: x[..., 2:6],
    lambda x: x[:1].expand(3, -1, -1)
])
def test_inputs_of_any_strides(view, library):
    x = view(torch.randn(4, 6, 8, dtype=torch.float32)).requires_grad_()
    first = make_affine(x.shape[-1], 16, dtype=torch.float32)
    second = make_affine(16, 8, dtype=torch.float32)
    inputs = (x, *first, *second)
    out = fused_mlp(x, first, second, (RELU, GELU, RELU))
    expected = write_out(F.gelu(write_out(x, first, F.relu)), second, F.relu)
    # a sum gives a gradient whose strides are all zero
    assert_close([out, *gradients(out.sum(), inputs, None)],
                 [expected, *gradients(expected.sum(), inputs, None)], torch.float32)


@pytest.mark.parametrize('module', [nn.PReLU(), nn.RReLU(), nn.Hardtanh(), nn.Sequential()])
def test_unknown_activations_are_left_alone(module):
    assert find_activation(module) is None


def test_find_activation_takes_the_approximation():
    x = torch.randn(100)
    assert torch.equal(find_activation(nn.GELU('tanh'))(x), F.gelu(x, approximate='tanh'))
