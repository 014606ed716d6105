"""The counts that the paper's tables pin down, with a linear head for 1000 classes."""
import pytest
import torch

from scalenet_mm import ScaleNetSwin, ScaleNetViT
from scalenet_mm.growth.sharing import is_norm

CLASSES = 1000


def count(backbone, owned=lambda name: True):
    width = backbone.embed_dims
    if isinstance(backbone, ScaleNetSwin):
        width = backbone.num_features[-1]
    own = sum(p.numel() for name, p in backbone.named_parameters() if owned(name))
    return own + CLASSES * width + CLASSES


def build(cls, arch, **kwargs):
    with torch.device('meta'):
        return cls(arch, **kwargs)


MODELS = [
    # class, arch, pretrained, grown with the paper's defaults
    (ScaleNetViT, 'deit-tiny', 5_717_416, 6_463_912),
    (ScaleNetViT, 'deit-small', 22_050_664, 23_543_656),
    (ScaleNetViT, 'deit-base', 86_567_656, 89_553_640),
    (ScaleNetSwin, 'tiny', 28_288_354, 29_246_818),
    (ScaleNetSwin, 'small', 49_606_258, 51_302_002),
    (ScaleNetSwin, 'base', 87_768_224, 90_029_216),
]


@pytest.mark.parametrize('cls, arch, pretrained, grown', MODELS)
def test_default_models(cls, arch, pretrained, grown):
    assert count(build(cls, arch, growth=None, adjustment=None)) == pretrained
    assert count(build(cls, arch)) == grown


@pytest.mark.parametrize('stages, expected', [
    ((0, ), 89_735_328),
    ((1, ), 89_777_312),
    ((2, ), 91_204_768),
    ((3, ), 90_029_216),
    (None, 91_666_592),
])
def test_table_3_swin_base(stages, expected):
    """Adapters sit in all blocks of all stages, whichever stage is doubled."""
    assert count(build(ScaleNetSwin, 'base', growth=dict(stages=stages))) == expected


def adapters(blocks, width=768, rank=16):
    """An adapter on both layers of the MLP: twice (4 D + D) r."""
    return blocks * 10 * width * rank


@pytest.mark.parametrize('blocks, scope, expected', [
    ((0, 1, 2), 'shared', 87_314_152),
    ((0, 1, 2), 'all', 88_420_072),
    ((9, 10, 11), 'shared', 87_314_152),
    (tuple(range(6)), 'shared', 86_567_656 + adapters(12) + 6 * 4 * 768),
    (None, 'shared', 89_553_640),
    (None, 'all', 89_553_640),
])
def test_table_3_deit_base(blocks, scope, expected):
    model = build(ScaleNetViT, 'deit-base', growth=dict(blocks=blocks),
                  adjustment=dict(scope=scope))
    assert count(model) == expected


@pytest.mark.parametrize('cls, arch, adjustment, expected', [
    # adapters of the unexpanded model: r = 32 (DeiT), r = 16 (Swin)
    (ScaleNetViT, 'deit-base', dict(rank=32), 86_567_656 + adapters(12, rank=32)),
    (ScaleNetSwin, 'tiny', dict(rank=16),
     28_288_354 + sum(adapters(n, w) for n, w in zip((2, 2, 6, 2), (96, 192, 384, 768)))),
    # LoRA of the unexpanded model: r = 16 (DeiT), r = 8 (Swin); 16 D r a block
    (ScaleNetViT, 'deit-base', dict(type='LoRA', rank=16), 86_567_656 + 12 * 16 * 768 * 16),
    (ScaleNetSwin, 'tiny', dict(type='LoRA', rank=8),
     28_288_354 + sum(n * 16 * w * 8 for n, w in zip((2, 2, 6, 2), (96, 192, 384, 768)))),
])
def test_table_2_without_growth(cls, arch, adjustment, expected):
    model = build(cls, arch, growth=None, adjustment=adjustment)
    assert count(model) == expected


def test_table_2_deit_base_adapter_is_what_the_rule_gives():
    model = build(ScaleNetViT, 'deit-base', growth=None, adjustment=dict(rank=32))
    assert round(count(model) / 1e6, 2) == 89.52


@pytest.mark.parametrize('rank, exact, in_millions', [
    (4, 86_567_656 + 24 * 16 * 768 * 4, 87.75),
    (8, 86_567_656 + 24 * 16 * 768 * 8, 88.93),
    (16, 86_567_656 + 24 * 16 * 768 * 16, 91.29),
])
def test_table_6_lora(rank, exact, in_millions):
    """A doubled DeiT-Base whose repeats share the norms too."""
    model = build(ScaleNetViT, 'deit-base', growth=dict(share='all'),
                  adjustment=dict(type='LoRA', rank=rank))
    assert count(model) == exact
    assert round(exact / 1e6, 2) == in_millions


def test_gains_cost_two_widths_a_block():
    """... and the paper's start has none."""
    paper = count(build(ScaleNetViT, 'deit-tiny'))
    identity = count(build(ScaleNetViT, 'deit-tiny', growth=dict(start='identity')))
    assert identity - paper == 24 * 2 * 192


def test_only_norms_and_adapters_are_added():
    base = build(ScaleNetSwin, 'tiny', growth=None, adjustment=None)
    grown = build(ScaleNetSwin, 'tiny')
    added = dict(grown.named_parameters()).keys() - dict(base.named_parameters()).keys()
    norms = {f'{name}.{p}' for name, m in grown.named_modules() if is_norm(m)
             for p in ('weight', 'bias')}
    assert added
    assert all(name in norms or name.split('.')[-1] in ('adapter_down', 'adapter_up')
               for name in added)


@pytest.mark.parametrize('cls, arch, stages, depth, new, in_millions', [
    (ScaleNetViT, 'deit-tiny', None, 12, 2, 6.61),
    (ScaleNetViT, 'deit-small', None, 12, 1, 23.83),
    (ScaleNetViT, 'deit-base', None, 12, 1, 93.66),
    (ScaleNetSwin, 'tiny', (2, ), 6, 1, 30.06),
    (ScaleNetSwin, 'small', (2, ), 18, 1, 51.38),
    (ScaleNetSwin, 'base', (2, ), 18, 1, 90.92),
])
@pytest.mark.parametrize('entry', [[], [0, 3], 0])
def test_baselines_of_table_1(entry, cls, arch, stages, depth, new, in_millions):
    """Random blocks, averages and copies, none of which share."""
    growth = dict(order=[*range(depth), *[entry] * new], stages=stages, share='none')
    model = build(cls, arch, growth=growth, adjustment=None)
    assert round(count(model) / 1e6, 2) == in_millions
