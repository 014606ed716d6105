"""The feature pyramid from one map of a plain backbone."""
import pytest
import torch
import torch.nn.functional as F
from mmengine.registry import MODELS, DefaultScope

from scalenet_mm import ConfigError, ScaleNetViT, SimpleFeaturePyramid


def make(in_channels=16, out_channels=8, **kwargs):
    torch.manual_seed(0)
    neck = SimpleFeaturePyramid(in_channels, out_channels, **kwargs)
    for name, parameter in neck.named_parameters():
        if parameter.dim() == 1:  # norms start as ones and zeros, which hide their place
            torch.nn.init.uniform_(parameter, 0.5, 1.5)
    return neck


@pytest.mark.parametrize('scope', ['mmdet', 'mmseg', 'mmpretrain'])
def test_every_toolbox_finds_it(scope):
    with DefaultScope.overwrite_default_scope(scope):
        neck = MODELS.build(dict(type='SimpleFeaturePyramid', in_channels=8))
    assert isinstance(neck, SimpleFeaturePyramid)
    assert neck.out_channels == 256 and len(neck(torch.randn(1, 1, 8, 2, 2))) == 5


@pytest.mark.parametrize('stride', [4, 8, 16, 32, 64])
def test_levels_have_strides_4_to_64(stride):
    side = 128 // stride
    outs = make(stride=stride)([torch.randn(2, 16, side, 2 * side)])
    assert [tuple(out.shape) for out in outs] == [
        (2, 8, 128 // s, 256 // s) for s in (4, 8, 16, 32, 64)]


@pytest.mark.parametrize('num_outs', [1, 3, 4, 5, 7])
def test_number_of_levels(num_outs):
    neck = make(num_outs=num_outs)
    outs = neck([torch.randn(1, 16, 4, 4)])
    assert [out.shape[-1] for out in outs] == [16, 8, 4, 2, 1, 1, 1][:num_outs]
    assert len(neck.levels) == min(num_outs, 4)  # the rest is pooled


@pytest.mark.parametrize('size', [(1, 1), (3, 5), (5, 2)])
def test_odd_sizes_are_rounded_up(size):
    outs = make()([torch.randn(1, 16, *size)])
    for level, out in enumerate(outs):
        assert out.shape[-2:] == tuple(-(-side * 4 // 2**level) for side in size)
    # what is in the last row of the map reaches the coarsest level
    x = torch.zeros(1, 16, *size)
    x[..., -1, -1] = torch.arange(16.)
    changed = make()([x])[3] - make()([torch.zeros_like(x)])[3]
    assert changed[..., -1, -1].abs().sum() > 0


def channel_norm(x, weight, bias):
    mean = x.mean(dim=1, keepdim=True)
    variance = x.var(dim=1, keepdim=True, unbiased=False)
    return (x - mean) / (variance + 1e-6).sqrt() * weight[:, None, None] + bias[:, None, None]


def test_a_level_by_hand():
    neck = make()
    x = torch.randn(2, 16, 3, 4)
    p = dict(neck.levels[0].named_parameters())
    want = F.conv_transpose2d(x, p['0.weight'], p['0.bias'], stride=2)
    want = F.gelu(channel_norm(want, p['1.weight'], p['1.bias']))
    want = F.conv_transpose2d(want, p['3.weight'], p['3.bias'], stride=2)
    want = channel_norm(F.conv2d(want, p['4.weight']), p['5.weight'], p['5.bias'])
    want = channel_norm(F.conv2d(want, p['6.weight'], padding=1), p['7.weight'], p['7.bias'])
    first = torch.randn(2, 16, 6, 8)
    outs = neck((first, x))  # the last map is the one that counts
    assert torch.allclose(outs[0], want, atol=1e-5)

    p = dict(neck.levels[3].named_parameters())
    want = F.max_pool2d(F.pad(x, (0, 0, 0, 1), value=-float('inf')), 2)
    want = channel_norm(F.conv2d(want, p['1.weight']), p['2.weight'], p['2.bias'])
    want = channel_norm(F.conv2d(want, p['3.weight'], padding=1), p['4.weight'], p['4.bias'])
    assert torch.allclose(outs[3], want, atol=1e-5)
    assert torch.equal(outs[4], outs[3][..., ::2, ::2])


def test_gradients_reach_everything():
    backbone = ScaleNetViT(
        arch=dict(embed_dims=8, num_layers=2, num_heads=2, feedforward_channels=16),
        img_size=32, out_type='featmap')
    neck = make(in_channels=8)
    image = torch.randn(1, 3, 64, 96)
    outs = neck(backbone(image))
    assert [tuple(out.shape[-2:]) for out in outs] == [(16, 24), (8, 12), (4, 6), (2, 3), (1, 2)]
    sum((out * torch.randn_like(out)).sum() for out in outs).backward()
    for name, parameter in [*neck.named_parameters(), *backbone.named_parameters()]:
        if not name.endswith(('adapter_down', 'k_bias')):  # behind an adapter_up of zeros
            assert parameter.grad is not None and parameter.grad.abs().sum() > 0, name


@pytest.mark.parametrize('wrong, message', [
    (dict(in_channels=[192, 192]), 'in_channels must be a positive number.*last map'),
    (dict(in_channels=0), 'in_channels must be'),
    (dict(out_channels=-8), 'out_channels must be'),
    (dict(num_outs=0), 'num_outs must be'),
    (dict(stride=14), 'stride must be 4, 8, 16, 32 or 64.*14'),
    (dict(in_channels=18), 'in_channels must be a multiple of 4'),
])
def test_arguments(wrong, message):
    with pytest.raises(ConfigError, match=message):
        SimpleFeaturePyramid(**{**dict(in_channels=16), **wrong})


@pytest.mark.parametrize('x, got', [
    (torch.zeros(1, 16), r'\(1, 16\)'),  # out_type='cls_token'
    (torch.zeros(1, 5, 16), r'\(1, 5, 16\)'),  # 'raw'
    (torch.zeros(1, 8, 2, 2), r'\(1, 8, 2, 2\)'),
    ([torch.zeros(1, 16, 2, 2), torch.zeros(1, 16)], 'list'),  # output_cls_token
])
def test_what_is_no_map(x, got):
    with pytest.raises(ConfigError, match=f"16 channels.*got {got}.*out_type='featmap'"):
        make()((x, ))
