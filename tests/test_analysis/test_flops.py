"""Multiply-accumulates: torch's counter, mmengine's, and the formula, against each other."""
import pytest
import timm
import torch
import torch.nn as nn
import torch.nn.functional as F
from mmengine.analysis import ActivationAnalyzer, FlopAnalyzer, complexity_analysis
from mmengine.registry import MODELS

from scalenet_mm import ConfigError
from scalenet_mm.analysis import count_flops, register_flop_handlers
from scalenet_mm.analysis.flops import SDPA
from scalenet_mm.growth.grow import without_data

#: What mmengine calls the operators that both count; norms and pooling are its own additions.
PRODUCTS = ('linear', 'matmul', 'conv', 'scaled_dot_product_attention')


def build(kind, arch, device='meta', **kwargs):
    with torch.device(device):
        return MODELS.build(dict(type=f'ScaleNet{kind}', arch=arch, **kwargs))


def by_mmengine(model, shape):
    counts = FlopAnalyzer(model.eval(), (torch.rand(1, *shape), )).by_operator()
    return sum(counts[name] for name in PRODUCTS), counts


class Attention(nn.Module):

    def forward(self, query, key, value):
        return F.scaled_dot_product_attention(query, key, value)


class WrittenOut(nn.Module):

    def forward(self, query, key, value):
        return (query @ key.transpose(-1, -2)).softmax(-1) @ value


def test_attention_counts_as_if_it_were_written_out():
    inputs = torch.rand(2, 3, 5, 4), torch.rand(2, 3, 7, 4), torch.rand(2, 3, 7, 6)
    for analyzer, expected in ((FlopAnalyzer, 6 * 5 * 7 * (4 + 6)),
                               (ActivationAnalyzer, 6 * 5 * (7 + 6))):
        totals = [analyzer(module, inputs).total() for module in (Attention(), WrittenOut())]
        assert totals == [expected, expected]


def test_an_entry_that_is_there_is_kept(monkeypatch):
    table = dict.fromkeys([SDPA], 'theirs')
    monkeypatch.setattr(complexity_analysis, '_DEFAULT_SUPPORTED_FLOP_OPS', table)
    monkeypatch.delattr(complexity_analysis, '_DEFAULT_SUPPORTED_ACT_OPS')  # renamed, say
    register_flop_handlers()
    assert table == {SDPA: 'theirs'}


SMALL_VIT = dict(embed_dims=16, num_layers=3, num_heads=2, feedforward_channels=64)
SMALL_SWIN = dict(embed_dims=8, depths=(1, 2), num_heads=(1, 2))


@pytest.mark.parametrize('kind, arch, options', [
    ('ViT', SMALL_VIT, dict(growth=None, adjustment=None)),
    ('ViT', SMALL_VIT, dict(growth=dict(start='identity'))),
    ('ViT', SMALL_VIT, dict(adjustment=dict(type='LoRA', rank=4))),
    ('Swin', SMALL_SWIN, dict(growth=None, adjustment=None, pad_small_map=True)),
    ('Swin', SMALL_SWIN, dict(growth=dict(stages=(0, 1), start='identity'), pad_small_map=True)),
    ('Swin', SMALL_SWIN, dict(growth=dict(stages=(1, )), adjustment=dict(type='LoRA', rank=4),
                              pad_small_map=True)),
])
@pytest.mark.parametrize('size', [(32, 64), (40, 72)])
def test_both_counters_agree(kind, arch, options, size):
    model = build(kind, arch, 'cpu', **options)
    total, counts = by_mmengine(model, (3, *size))
    assert counts['scaled_dot_product_attention'] > 0
    assert count_flops(model, (3, *size)) == total


def vit_by_hand(dim, blocks, tokens=197, adapters=0):
    embedding = (tokens - 1) * 16 * 16 * 3 * dim
    block = 12 * dim**2 * tokens + 2 * tokens**2 * dim
    return embedding + blocks * (block + 10 * dim * adapters * tokens)


@pytest.mark.parametrize('arch, name, dim, printed', [
    ('deit-tiny', 'deit_tiny_patch16_224', 192, 1.3),
    ('deit-small', 'deit_small_patch16_224', 384, 4.6),
    ('deit-base', 'deit_base_patch16_224', 768, 17.6),
])
def test_deit(arch, name, dim, printed):
    plain = count_flops(build('ViT', arch, growth=None, adjustment=None))
    assert plain == vit_by_hand(dim, 12) and round(plain / 1e9, 1) == printed
    with torch.device('meta'):
        theirs = timm.create_model(name)
    assert count_flops(theirs) == plain + dim * 1000  # with its head
    assert count_flops(build('ViT', arch)) == vit_by_hand(dim, 24, adapters=16)


def swin_by_hand(dim, depths, size=224, window=7, adapters=0):
    """Stages of blocks; maps that are no multiple of a window are padded for attention only."""
    edge = size // 4
    total = edge**2 * 4 * 4 * 3 * dim
    for stage, depth in enumerate(depths):
        if stage:
            edge //= 2
            total += edge**2 * 4 * dim * 2 * dim  # merging
            dim *= 2
        padded = -(-edge // window) * window
        attention = padded**2 * (4 * dim**2 + 2 * window**2 * dim)
        total += depth * (attention + edge**2 * (8 * dim**2 + 10 * dim * adapters))
    return total


@pytest.mark.parametrize('arch, dim, depths, printed', [
    ('tiny', 96, (2, 2, 6, 2), 4.5),
    ('small', 96, (2, 2, 18, 2), 8.7),
    ('base', 128, (2, 2, 18, 2), 15.4),
])
def test_swin(arch, dim, depths, printed):
    plain = count_flops(build('Swin', arch, growth=None, adjustment=None))
    assert plain == swin_by_hand(dim, depths) and round(plain / 1e9, 1) == printed
    grown = (*depths[:3], 4)
    assert count_flops(build('Swin', arch)) == swin_by_hand(dim, grown, adapters=16)


def test_swin_pads_maps_that_are_no_multiple_of_a_window():
    model = build('Swin', 'tiny', growth=None, adjustment=None, pad_small_map=True)
    assert count_flops(model, (3, 256, 256)) == swin_by_hand(96, (2, 2, 6, 2), 256)


def test_the_model_is_left_as_it_is():
    model = build('ViT', SMALL_VIT, 'cpu').train()
    image = torch.rand(1, 3, 32, 32)
    before = model(image)[0]
    count_flops(model, (3, 32, 32))
    assert model.training and all(module.training for module in model.modules())
    assert torch.equal(model(image)[0], before)
    shell = without_data(model)
    assert {p.device.type for p in [*shell.parameters(), *shell.buffers()]} == {'meta'}
    assert [p.shape for p in shell.parameters()] == [p.shape for p in model.parameters()]


def test_a_model_that_needs_data():

    class Chooses(nn.Module):

        def forward(self, x):
            return x if x.sum() > 0 else -x

    with pytest.raises(ConfigError, match=r'Chooses cannot be counted .*count its backbone'):
        count_flops(Chooses(), (3, 8, 8))


@pytest.mark.parametrize('arch, printed', [('small', 8.8), ('base', 15.5)])
def test_norms_explain_the_printed_swins(arch, printed):
    """Table I rounds what mmengine counts, which takes five operations for an element of a norm."""
    model = build('Swin', arch, 'cpu', growth=None, adjustment=None)
    _, counts = by_mmengine(model, (3, 224, 224))
    assert round(sum(counts.values()) / 1e9, 1) == printed
    assert round(count_flops(model) / 1e9, 1) == round(printed - 0.1, 1)
