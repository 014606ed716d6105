"""Matrix products by either library."""
import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st

from scalenet_mm.errors import ConfigError
from scalenet_mm.growth import products


@pytest.fixture(params=['native', 'onednn'])
def library(request, monkeypatch):
    monkeypatch.setattr(products, 'SMALLEST', 1)
    with products.products(request.param):
        yield request.param


@pytest.fixture
def called(monkeypatch):
    """The products that oneDNN computes."""
    calls, function = [], torch.ops.mkldnn._linear_pointwise
    # the operator cannot be replaced in place, the namespace's entry can
    monkeypatch.setattr(torch.ops.mkldnn, '_linear_pointwise',
                        lambda *args: calls.append(args[0].shape) or function(*args))
    return calls


@settings(max_examples=50, deadline=None)
@given(rows=st.integers(1, 40), inputs=st.integers(1, 40), outputs=st.integers(1, 40),
       turned=st.booleans(), bias=st.booleans())
def test_both_libraries_agree(rows, inputs, outputs, turned, bias):
    torch.manual_seed(0)
    x = torch.randn(inputs, rows).t() if turned else torch.randn(rows, inputs)
    weight = torch.randn(inputs, outputs).t() if turned else torch.randn(outputs, inputs)
    bias = torch.randn(outputs) if bias else None
    exact = F.linear(x.double(), weight.double(), None if bias is None else bias.double())
    smallest, products.SMALLEST = products.SMALLEST, 1
    try:
        for library in ('native', 'onednn'):
            with products.products(library):
                assert torch.allclose(products.linear(x, weight, bias).double(), exact, atol=1e-4)
                out = torch.randn(rows, outputs)
                expected = out.double() + x.double() @ weight.double().t()
                same = products.add_product(out, x, weight)
                assert same is out and torch.allclose(out.double(), expected, atol=1e-4)
                other = torch.randn(rows, outputs)
                assert torch.allclose(products.outer(x, other), x.t() @ other, atol=1e-4)
    finally:
        products.SMALLEST = smallest


def test_float32_stays_float32(library):
    """No product is rounded to bfloat16 or TF32 on the way."""
    torch.manual_seed(0)
    x, weight = torch.randn(64, 512), torch.randn(64, 512)
    exact = x.double() @ weight.double().t()
    error = (products.linear(x, weight).double() - exact).abs().max() / exact.abs().max()
    assert error < 1e-6  # of bfloat16 it would be 1e-3, of TF32 1e-4


def test_the_choice(called, monkeypatch):
    x, weight = torch.randn(1024, 32), torch.randn(32, 32)
    with products.products('native'):
        products.linear(x, weight)
    assert not called
    with products.products('onednn'):
        products.linear(x, weight)
        assert called == [(1024, 32)]
        # too small to be worth the call; another precision; switched off; autocast
        products.linear(x[:8], weight)
        products.linear(x.double(), weight.double())
        with torch.backends.mkldnn.flags(enabled=False):
            products.linear(x, weight)
        with torch.autocast('cpu'):
            assert products.linear(x, weight).dtype == torch.bfloat16
        # what wants a derivative goes the way that has one
        out = products.linear(x, weight.requires_grad_())
        out.sum().backward()
        assert weight.grad is not None and called == [(1024, 32)]
        with torch.no_grad():
            products.linear(x, weight)
        assert len(called) == 2
    for faster in (True, False):
        called.clear()
        monkeypatch.setattr(products, 'onednn_is_faster', lambda: faster)
        products.linear(x, weight.detach())
        assert bool(called) == faster


@pytest.mark.parametrize('capability, vendor, faster', [
    ('AVX512', 'AuthenticAMD', True), ('AVX512_BF16', 'AuthenticAMD', True),
    ('AVX512', 'GenuineIntel', False), ('AVX2', 'AuthenticAMD', False),
    ('AVX512', None, False)])
def test_which_processors_get_onednn(capability, vendor, faster, monkeypatch, tmp_path):
    info = tmp_path / 'cpuinfo'
    if vendor:
        info.write_text(f'processor : 0\nvendor_id : {vendor}\n')
    monkeypatch.setattr(products, 'CPU_INFO', info)
    monkeypatch.setattr(torch.backends.cpu, 'get_cpu_capability', lambda: capability)
    assert products.onednn_is_faster.__wrapped__() == faster


def test_the_context_puts_back_what_was_before():
    with products.products('native'):
        with products.products('onednn'):
            assert products._choice == 'onednn'
        assert products._choice == 'native'
    assert products._choice == 'auto'
    products.products('native')
    assert products._choice == 'native'
    products.products('auto')


def test_bad_choices(monkeypatch):
    with pytest.raises(ConfigError, match="'auto', 'onednn' or 'native', got 'mkl'"):
        products.products('mkl')
    monkeypatch.setattr(products, 'has_onednn', lambda: False)
    with pytest.raises(ConfigError, match='has no oneDNN'):
        products.products('onednn')
    assert products._choice == 'auto'
