"""Compiled backbones against the same ones run as they are."""
import copy

import pytest
import torch
import torch._dynamo
import torch._inductor.config
from mmdet.models.backbones.swin import SwinTransformer
from mmpretrain.models import VisionTransformer
from torch._dynamo.utils import counters

from scalenet_mm import ScaleNetSwin, ScaleNetViT, grow_backbone, load_pretrained
from scalenet_mm.growth import apply_freezing, check_ties
from scalenet_mm.growth.fast_path import fast_paths

VIT = dict(
    arch=dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32),
    img_size=16,
    patch_size=8,
    out_type='raw')
SWIN = dict(
    embed_dims=8, depths=(2, 1), num_heads=(1, 2), strides=(4, 2), out_indices=(0, 1),
    window_size=4, drop_path_rate=0.)
GROWTH = dict(stages=(0, ))
FREEZE = [dict(freeze='.*'), dict(train='.*', kind=('adapter', 'norm'))]

MODELS = {
    'ScaleNetViT': lambda **k: ScaleNetViT(**{**VIT, **k}),
    'ScaleNetSwin': lambda **k: ScaleNetSwin(**{**SWIN, **k}, growth=GROWTH),
    'stock ViT': lambda: grow_backbone(VisionTransformer(**VIT)),
    'stock Swin': lambda: grow_backbone(SwinTransformer(**SWIN), GROWTH),
}


@pytest.fixture(autouse=True)
def fresh():
    """Nothing compiled before, and eager mode's random numbers."""
    torch._dynamo.reset()
    counters.clear()
    with torch._inductor.config.patch(fallback_random=True):
        yield
    torch._dynamo.reset()


@pytest.fixture
def build(randomise):
    """A model whose base is frozen."""

    def make(name, **kwargs):
        torch.manual_seed(0)
        model = randomise(MODELS[name](**kwargs))
        apply_freezing(model, FREEZE)
        model.train()
        return model

    return make


def run(model, compiled, x):
    """Outputs, and gradients by name, from the same state of the random numbers."""
    model.zero_grad()
    torch.manual_seed(0)
    outs = [out.float() for out in compiled(x)]
    sum((out * torch.linspace(-1, 1, out.numel()).view_as(out)).sum() for out in outs).backward()
    grads = {n: p.grad for n, p in model.named_parameters() if p.grad is not None}
    return {**{f'output {i}': out.detach() for i, out in enumerate(outs)}, **grads}


def largest_error(got, expected):
    """The largest difference of a tensor, as a part of its largest number."""
    assert list(got) == list(expected)
    assert any('adapter_down' in key for key in expected)
    errors = []
    for key, value in expected.items():
        scale = value.abs().max()
        assert scale > 1e-6, key
        errors.append(float((got[key] - value).abs().max() / scale))
    return max(errors)


@pytest.mark.parametrize('name', MODELS)
def test_one_graph(name, build, image):
    """Neither adapters nor tied tensors break it, nor the backward pass behind it."""
    model, x = build(name), image(2, 3, 16, 16)
    compiled = torch.compile(model, backend='aot_eager', fullgraph=True)
    assert largest_error(run(model, compiled, x), run(model, model, x)) < 1e-4
    assert counters['stats']['unique_graphs'] == 1


@pytest.mark.parametrize('name', ['ScaleNetViT', 'ScaleNetSwin'])
def test_training(name, build, image):
    """By torch's own compiler, with drop path; steps of an optimizer compile nothing again."""
    # every kernel takes a second of the C++ compiler, so as few as a repeat and its source need
    smallest = dict(arch=dict(VIT['arch'], num_layers=1)) if name == 'ScaleNetViT' else dict(
        depths=(2, ), num_heads=(2, ), strides=(4, ), out_indices=(0, ))
    model, x = build(name, drop_path_rate=0.5, **smallest), image(4, 3, 16, 16)
    compiled = torch.compile(model)
    for step in range(3):
        expected = run(model, model, x)
        with torch._dynamo.config.patch(error_on_recompile=step > 0):
            assert largest_error(run(model, compiled, x), expected) < 1e-4
        with torch.no_grad():  # the base too, as by loading; repeats must see it
            for parameter in model.parameters():
                parameter.mul_(1.1)
        assert largest_error(run(model, model, x), expected) > 1e-2


def test_autocast(build, image):
    """In bfloat16 it is as close to float32 as the plain form in eager mode is."""
    model, x = build('ScaleNetViT'), image(2, 3, 16, 16)
    compiled = torch.compile(model, backend='aot_eager', fullgraph=True)
    expected = run(model, model, x)
    with torch.autocast('cpu', torch.bfloat16):
        with fast_paths(False):
            eager = run(model, model, x)
        found = run(model, compiled, x)
    assert 1e-4 < largest_error(found, expected) < 2 * largest_error(eager, expected)


@pytest.mark.parametrize('name', ['ScaleNetViT', 'ScaleNetSwin'])
def test_activation_checkpointing(name, build, image):
    model, x = build(name, with_cp=True), image(2, 3, 16, 16)
    compiled = torch.compile(model, backend='aot_eager', fullgraph=True)
    assert largest_error(run(model, compiled, x), run(model, model, x)) < 1e-4


def test_other_sizes(build, image):
    """The second size makes the graph one for any; further ones compile nothing."""
    model = build('ScaleNetViT')
    compiled = torch.compile(model, backend='aot_eager')
    for batch, size in ((2, 16), (3, 24), (4, 32), (5, 40)):
        x = image(batch, 3, size, size)
        assert largest_error(run(model, compiled, x), run(model, model, x)) < 1e-4
    assert counters['stats']['unique_graphs'] <= 3


def test_compiled_in_place(build, image, tmp_path):
    """``Module.compile`` keeps the names; loading and copying work as before."""
    model, x = build('ScaleNetViT'), image(2, 3, 16, 16)
    names = list(model.state_dict())
    path = str(tmp_path / 'other.pth')
    other = build('ScaleNetViT')
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.1)
    torch.save(other.state_dict(), path)
    model.compile(backend='aot_eager')
    before = model(x)[0].detach().clone()
    assert list(model.state_dict()) == names
    load_pretrained(model, path)
    torch.testing.assert_close(model(x)[0], other(x)[0], rtol=1e-4, atol=1e-5)
    assert not torch.allclose(model(x)[0], before, atol=1e-2)
    copied = copy.deepcopy(model)
    torch.testing.assert_close(copied(x)[0], other(x)[0], rtol=1e-4, atol=1e-5)
    check_ties(copied)
    assert counters['stats']['unique_graphs'] >= 1
