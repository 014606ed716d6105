"""Which modules take the fast paths, and when they stay off them."""
import copy
import io
import pickle

import pytest
import torch
import torch.nn as nn
from torch.func import functional_call, jvp, vmap
from torch.nn.utils import parametrize
from torch.utils.flop_counter import FlopCounterMode

from scalenet_mm import ScaleNetSwin, ScaleNetViT
from scalenet_mm.growth import AdjustmentSpec, adjust_linears, fused, products, set_gains
from scalenet_mm.growth.fast_path import fast_paths
from scalenet_mm.growth.speed_up import FastLinear, FusedMLP, speed_up


@pytest.fixture(autouse=True)
def any_size(monkeypatch):
    """The layers of these tests are smaller than what is worth the fast paths."""
    monkeypatch.setattr(fused, 'SMALLEST', 1)


def make_mlp(width=8, hidden=32, act=nn.GELU, drop=0., nested=True):
    """An MLP, as mmcv's FFN nests it or flat as torchvision's."""
    first = [nn.Linear(width, hidden), act(), nn.Dropout(drop)]
    second = [nn.Linear(hidden, width), nn.Dropout(drop)]
    layers = [nn.Sequential(*first), *second] if nested else [*first, *second]
    block = nn.Sequential()
    block.layers = nn.Sequential(*layers)
    return block


def adjusted(block, rank=4, gain=None, **options):
    torch.manual_seed(0)
    adjust_linears(block, AdjustmentSpec(rank=rank, **options))
    if gain:
        set_gains(block, gain)
    for parameter in block.parameters():
        nn.init.normal_(parameter, std=.3)
    return speed_up(block)


@pytest.fixture
def taken(monkeypatch):
    """Names of the fused operations in the order of their calls."""
    calls = []

    def count(name):
        function = getattr(fused, name)

        def counted(*args):
            calls.append(name)
            return function(*args)

        return counted

    for name in ('fused_mlp', 'fused_affine'):
        counted = count(name)
        monkeypatch.setattr(fused, name, counted)
        monkeypatch.setattr('scalenet_mm.growth.adjustment.fused_affine', counted)
    return calls


def plain(block, *args):
    with fast_paths(False):
        return block(*args)


@pytest.mark.parametrize('nested', [True, False])
@pytest.mark.parametrize('options', [
    {}, dict(type='LoRA'), dict(act_cfg=dict(type='GELU')), dict(act_cfg=dict(type='SiLU')),
    dict(gain=.5)])
def test_an_mlp_is_one_operation(options, nested, taken):
    block = adjusted(make_mlp(nested=nested), **options)
    x = torch.randn(2, 5, 8)
    out = block(x)
    assert taken == ['fused_mlp']
    assert torch.allclose(out, plain(block, x), atol=1e-5)
    assert taken == ['fused_mlp']


class Wrapped(nn.Module):
    """A layer that another library has put itself around."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        return self.layer(x) + 1


class AlwaysDropout(nn.Dropout):
    """Drops in eval mode too."""

    def forward(self, x):
        return nn.functional.dropout(x, .5)


def add_identity(block):
    block.layers.append(nn.Identity().train())
    block.layers[-1].register_forward_hook(lambda m, args, out: out + 1)


CHANGES = {
    'a dropout of another class': lambda b: b.layers.__setitem__(2, AlwaysDropout().eval()),
    'a hook on an Identity': add_identity,
    'a hook on the activation of an adapter': lambda b: b.layers[1].adapter_act
    .register_forward_hook(lambda m, args, out: 2 * out),
    'a hook on a part': lambda b: b.layers[1].register_forward_hook(lambda *_: None),
    'a hook before a part': lambda b: b.layers[0][1].register_forward_pre_hook(lambda *_: None),
    'a hook on the inner Sequential': lambda b: b.layers[0].register_forward_hook(lambda *_: None),
    'a backward hook': lambda b: b.layers[1].register_full_backward_hook(lambda *_: None),
    'a replaced forward': lambda b: setattr(b.layers[1], 'forward', b.layers[1].forward),
    'another module in its place': lambda b: b.layers.__setitem__(1, Wrapped(b.layers[1])),
    'dropout': lambda b: setattr(b.layers[2], 'p', .5),
    'an unknown activation': lambda b: b.layers[0].__setitem__(1, nn.Hardtanh()),
    'an unknown activation of the adapter': lambda b: setattr(
        b.layers[1], 'adapter_act', nn.Hardtanh()),
}


@pytest.mark.parametrize('change', CHANGES)
def test_an_mlp_that_is_more_is_run_by_its_parts(change, taken):
    block = adjusted(make_mlp())
    CHANGES[change](block)
    x = torch.randn(2, 5, 8)
    torch.manual_seed(1)
    out = block(x)
    assert 'fused_mlp' not in taken
    torch.manual_seed(1)
    assert torch.allclose(out, plain(block, x), atol=1e-5)


class Residual(nn.Sequential):

    def forward(self, x):
        return x + super().forward(x)


def test_a_sequential_of_another_class_is_left_alone():
    mlp = make_mlp()
    mlp.layers.__class__ = Residual
    assert type(speed_up(mlp).layers) is Residual
    mlp = make_mlp()
    mlp.layers[0].__class__ = Residual
    speed_up(mlp)
    assert type(mlp.layers) is nn.Sequential and type(mlp.layers[0]) is Residual
    # also where it comes in later
    mlp = speed_up(make_mlp())
    mlp.layers[0] = Residual(*mlp.layers[0])
    with pytest.raises(RuntimeError, match='size'):  # 8 and 32 features do not add up
        mlp(torch.randn(2, 8))


def test_it_can_be_undone():
    """For tools that go by the exact class."""
    model = nn.Sequential(adjusted(make_mlp()), make_mlp(), nn.Linear(8, 8))
    kinds = [type(m) for m in model.modules()]
    speed_up(speed_up(model), False)
    for module, kind in zip(model.modules(), kinds):
        assert type(module) is (kind if not isinstance(module, nn.Sequential) else nn.Sequential)
    assert type(speed_up(vit().layers[0], False).attn.qkv) is nn.Linear
    repeat = vit().layers[1]
    mine = repeat.attn.qkv
    assert isinstance(mine, FastLinear)
    speed_up(repeat, False)
    assert type(mine).__name__ == 'TiedLinear'
    quantized = torch.ao.quantization.quantize_dynamic(
        speed_up(nn.Sequential(nn.Linear(8, 8)), False), {nn.Linear})
    assert type(quantized[0]) is not nn.Linear


def test_an_adapter_and_lora_on_one_layer_take_the_plain_form(taken):
    linear = adjusted(nn.Sequential(nn.Linear(8, 8)), layers=['0'])
    adjust_linears(linear, AdjustmentSpec(type='LoRA', rank=2))
    nn.init.normal_(linear[0].lora_up)
    x = torch.randn(3, 8)
    layer = linear[0]
    expected = (x @ layer.weight.t() + layer.bias
                + (x @ layer.adapter_down.t()).relu() @ layer.adapter_up.t()
                + x @ layer.lora_down.t() @ layer.lora_up.t())
    assert torch.allclose(linear(x), expected, atol=1e-5) and not taken


def test_fx_reads_the_plain_form():
    block = speed_up(make_mlp())
    x = torch.randn(3, 8)
    assert torch.equal(torch.fx.symbolic_trace(block)(x), plain(block, x))


def test_a_parametrised_weight_is_computed_once_a_call():
    linear = speed_up(nn.Sequential(nn.Linear(8, 8)))
    calls = []

    class Count(nn.Module):

        def forward(self, weight):
            calls.append(1)
            return weight

    parametrize.register_parametrization(linear[0], 'weight', Count())
    calls.clear()
    linear(torch.randn(3, 8))
    assert len(calls) == 1


def test_a_sparse_weight_takes_the_plain_form(taken, monkeypatch):
    monkeypatch.setattr(products, 'SMALLEST', 1)
    linear = speed_up(nn.Linear(8, 8)).requires_grad_(False)
    x = torch.randn(3, 8)
    expected = plain(linear, x)
    linear.weight = nn.Parameter(linear.weight.to_sparse_csr(), requires_grad=False)
    with products.products('onednn'):
        assert torch.allclose(linear(x), expected, atol=1e-6)
    assert not taken


def test_small_work_is_left_to_the_plain_form(taken, monkeypatch):
    monkeypatch.setattr(fused, 'SMALLEST', 10 * 8 * 8)
    monkeypatch.setattr(products, 'SMALLEST', 1)
    block = adjusted(make_mlp())
    alone = adjusted(nn.Sequential(nn.Linear(8, 32)), layers=['0'])
    linear = speed_up(nn.Sequential(nn.Linear(8, 32)))
    with products.products('onednn'):
        for module, name in ((block, 'fused_mlp'), (alone, 'fused_affine'),
                             (linear, 'fused_affine')):
            module(torch.randn(9, 8))
            assert taken == (['fused_affine'] if module is block else [])  # its wide layer alone
            taken.clear()
            module(torch.randn(10, 8))
            assert taken == [name]
            taken.clear()


def test_hooks_for_all_modules_see_the_parts(taken):
    block, seen = adjusted(make_mlp()), []
    handle = nn.modules.module.register_module_forward_hook(lambda m, *_: seen.append(type(m)))
    try:
        block(torch.randn(2, 8))
    finally:
        handle.remove()
    assert nn.GELU in seen and nn.ReLU in seen and not taken


def test_under_autocast_whatever_precision_comes(taken):
    block = adjusted(make_mlp())
    for name, parameter in block.named_parameters():
        parameter.requires_grad_('adapter' in name)
    x = torch.randn(2, 8)
    with torch.autocast('cpu'):
        for given in (x, x.bfloat16()):
            out, expected = block(given), plain(block, given)
            assert out.dtype == expected.dtype == torch.bfloat16
            assert torch.allclose(out, expected, rtol=.05, atol=.05)
    assert taken == ['fused_mlp'] * 2
    with torch.autocast('cpu'):  # of weights that train autocast keeps the narrow copies
        block.requires_grad_()(x)
    assert len(taken) == 2


def test_dropout_is_no_obstacle_where_it_does_nothing(taken):
    block = adjusted(make_mlp(drop=.5)).eval()
    block(torch.randn(2, 8))
    assert taken == ['fused_mlp']
    block.train()(torch.randn(2, 8))
    assert taken[1:] == ['fused_affine'] * 2


def test_where_operations_are_recorded_the_plain_form_runs(taken):
    block = adjusted(make_mlp())
    x = torch.randn(3, 8)
    expected = plain(block, x)
    with FlopCounterMode(display=False) as counter:
        block(x)
    # rows x (8 x 32 + (8 + 32) x 4 of an adapter) x 2 layers, a multiply-add counted as two
    assert counter.get_total_flops() == 2 * 3 * 2 * (8 * 32 + (8 + 32) * 4)
    traced = torch.jit.trace(block, x, check_trace=False)
    assert torch.equal(traced(x), expected)
    exported = torch.export.export(block, (x, ))
    assert not any('fused' in str(node.target).lower() for node in exported.graph.nodes)
    assert torch.equal(exported.module()(x), expected)
    assert torch.allclose(vmap(block)(x), expected, atol=1e-5)
    _, tangent = jvp(block, (x, ), (torch.ones_like(x), ))
    with fast_paths(False):
        assert torch.allclose(tangent, jvp(block, (x, ), (torch.ones_like(x), ))[1])
    with torch.autograd.forward_ad.dual_level():
        dual = torch.autograd.forward_ad.make_dual(x, torch.ones_like(x))
        out = torch.autograd.forward_ad.unpack_dual(block(dual))
        assert torch.allclose(out.tangent, tangent, atol=1e-5)
    assert block(torch.empty(0, 8)).shape == (0, 8)
    assert not taken
    with torch.device('meta'):
        assert copy.deepcopy(block).to('meta')(torch.empty(2, 8)).device.type == 'meta'


def test_an_mlp_in_another_precision_than_its_input_is_refused_as_ever():
    block = adjusted(make_mlp())
    with pytest.raises(RuntimeError, match='dtype'):
        block(torch.randn(2, 8, dtype=torch.float64))


def test_the_classes_survive_copies_and_files():
    block = adjusted(make_mlp())
    assert isinstance(block.layers, FusedMLP) and isinstance(block.layers, nn.Sequential)
    x = torch.randn(2, 8)
    buffer = io.BytesIO()
    torch.save(block, buffer)
    buffer.seek(0)
    copies = [copy.deepcopy(block), pickle.loads(pickle.dumps(block)),
              torch.load(buffer, weights_only=False)]
    for other in copies:
        assert type(other.layers) is type(block.layers)
        assert torch.equal(other(x), block(x))
        assert list(other.state_dict()) == list(block.state_dict())


def test_values_are_read_at_every_call():
    block = adjusted(make_mlp())
    x = torch.randn(2, 8)
    zeros = {name: torch.zeros_like(p) for name, p in block.named_parameters()}
    assert not functional_call(block, zeros, x).any() and block(x).any()
    block.load_state_dict(zeros, assign=True)
    assert not block(x).any()

    class Twice(nn.Module):

        def forward(self, weight):
            return 2 * weight

    linear = speed_up(nn.Sequential(nn.Linear(8, 8, bias=False)))
    before = linear(x)
    parametrize.register_parametrization(linear[0], 'weight', Twice())
    assert torch.allclose(linear(x), 2 * before, atol=1e-6)


def test_which_linears_change():
    """Plain ones do; those of other kinds, and what is adjusted, stay as they are."""

    class Scaled(nn.Linear):

        def forward(self, x):
            return 2 * super().forward(x)

    model = nn.ModuleDict(dict(
        plain=nn.Linear(2, 2), scaled=Scaled(2, 2), attention=nn.MultiheadAttention(4, 2),
        norm=nn.LayerNorm(2), mlp=make_mlp(), lone=nn.Sequential(nn.Linear(2, 2))))
    adjust_linears(model['mlp'], AdjustmentSpec())
    names = list(model.state_dict())
    kinds = {name: type(m) for name, m in model.named_modules()}
    assert speed_up(model) is model and speed_up(model) is model
    changed = {name for name, m in model.named_modules() if type(m) is not kinds[name]}
    assert changed == {'plain', 'lone.0', 'mlp.layers'}
    assert isinstance(model['plain'], FastLinear) and isinstance(model['plain'], nn.Linear)
    assert model['plain']._recipe[1] == ((FastLinear, ()), )
    assert list(model.state_dict()) == names


@pytest.mark.parametrize('frozen', [True, False])
def test_a_fast_linear_has_the_gradients_of_a_plain_one(frozen, taken, monkeypatch):
    torch.manual_seed(0)
    monkeypatch.setattr(products, 'SMALLEST', 1)
    linear = speed_up(nn.Linear(6, 5))
    if frozen:
        linear.requires_grad_(False)
    x = torch.randn(4, 3, 6, requires_grad=True)
    found = []
    for library in ('onednn', 'native'):
        with products.products(library):
            out = linear(x)
        wanted = [t for t in (x, *linear.parameters()) if t.requires_grad]
        found.append((out, *torch.autograd.grad(out.square().sum(), wanted)))
    assert taken == ['fused_affine']  # with torch's own products there is nothing to gain
    for a, b in zip(*found):
        assert torch.allclose(a, b, rtol=1e-5, atol=1e-5)


def vit(**options):
    arch = dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64)
    return ScaleNetViT(arch=arch, img_size=32, patch_size=8, **options)


def swin(**options):
    return ScaleNetSwin(embed_dims=32, depths=(2, 2), num_heads=(1, 2), window_size=4, **options)


BACKBONES = {
    'vit': vit,
    'ungrown vit': lambda: vit(growth=None, adjustment=None),
    'vit with gains': lambda: vit(growth=dict(start=dict(type='split', share=.5))),
    'swin': swin,
    'swin with LoRA and gains': lambda: swin(
        growth=dict(stages=(0, 1), start='identity'), adjustment=dict(type='LoRA')),
}


@pytest.mark.parametrize('make', BACKBONES)
@pytest.mark.parametrize('frozen', [True, False])
@pytest.mark.parametrize('library', ['native', 'onednn'])
def test_backbones_by_both_forms(make, frozen, library, monkeypatch, taken):
    """Outputs and gradients of whole backbones, all parameters random, in training mode."""
    torch.manual_seed(0)
    monkeypatch.setattr(products, 'SMALLEST', 1)
    model = BACKBONES[make]().train()
    for name, parameter in model.named_parameters():
        nn.init.normal_(parameter, std=.2)
        trains = any(part in name for part in ('norm', 'ln', 'adapter', 'lora', 'gain'))
        parameter.requires_grad_(trains or not frozen)
    for module in model.modules():
        if hasattr(module, 'drop_prob'):
            module.drop_prob = 0.
    images = torch.randn(2, 3, 32, 32)
    results = []
    for enabled in (True, True, False):
        with fast_paths(enabled), products.products(library):
            outs = model(images)
            loss = sum(out.square().sum() for out in outs)
            loss.backward()
        grads = {n: p.grad for n, p in model.named_parameters()}
        model.zero_grad(set_to_none=True)
        results.append((outs, grads))
        assert bool(taken) == enabled
        taken.clear()
    (outs, grads), (outs_again, grads_again), (plain_outs, plain_grads) = results
    # the same to the bit every time, as resumed trainings need it
    assert all(map(torch.equal, outs, outs_again))
    assert all(g is None or torch.equal(g, grads_again[n]) for n, g in grads.items())
    for a, b in zip(outs, plain_outs):
        assert torch.allclose(a, b, rtol=1e-3, atol=1e-4 * b.abs().max().item())
    for name, grad in plain_grads.items():
        assert (grads[name] is None) == (grad is None), name
        if grad is not None:
            assert (grads[name] - grad).abs().max() <= 1e-3 * grad.abs().max() + 1e-5, name
