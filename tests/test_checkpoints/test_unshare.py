"""A grown backbone and the ordinary deeper one that is made of it compute the same."""
import pytest
import torch
import torch.nn as nn
from mmengine.registry import MODELS

from scalenet_mm.checkpoints.unshare import (
    alternate,
    deeper_backbones,
    fit_names,
    fold,
    misplaced_shifts,
    shifts_of,
    unshare,
)
from scalenet_mm.errors import CheckpointError

SWIN_ARCH = dict(embed_dims=8, depths=(2, 2), num_heads=(1, 2))
SWIN = dict(type='ScaleNetSwin', arch=SWIN_ARCH, img_size=56, out_indices=(0, 1))
DENSE_SWIN = dict(type='ScaleNetSwin', embed_dims=8, depths=(2, 2), num_heads=(1, 2),
                  strides=(4, 2), out_indices=(0, 1), pretrain_img_size=56)
VIT_ARCH = dict(embed_dims=8, num_layers=3, num_heads=2, feedforward_channels=16)
VIT = dict(type='ScaleNetViT', arch=VIT_ARCH, img_size=32, out_indices=[0, -1])
DENSE_VIT = dict(type='ScaleNetViT', embed_dims=8, num_layers=3, num_heads=2, img_size=32,
                 out_indices=[0, -1], final_norm=True)
ADAPTER = dict(type='ParallelAdapter', rank=2)
LORA = dict(type='LoRA', rank=2)
STAGES = dict(stages=(0, 1), order='stack')


class Whole(nn.Module):
    """A backbone and a head."""

    def __init__(self, cfg):
        super().__init__()
        self.backbone = MODELS.build(cfg)
        self.head = nn.Linear(2, 2)


@pytest.fixture
def build(randomise):

    def build(cfg):
        model = randomise(Whole(cfg))
        for name, parameter in model.named_parameters():
            # large, so that every tensor counts
            parameter.data.add_(0.7) if parameter.ndim < 2 else parameter.data.mul_(5.)
        model.eval()
        return model

    return build


def run(model, size=56, seed=0):
    image = torch.randn(2, 3, size, size, generator=torch.Generator().manual_seed(seed))
    with torch.no_grad():
        return list(model.backbone(image))


def make_deeper(cfg, model, result, which=0, scope='mmseg'):
    deeper = Whole(deeper_backbones(cfg, model.backbone, result, scope)[which])
    fit_names(result, model, deeper)
    deeper.load_state_dict(result.state)
    deeper.eval()
    return deeper


def assert_same(model, deeper, size, exact):
    for ours, theirs in zip(run(model, size), run(deeper, size), strict=True):
        assert ours.shape == theirs.shape and ours.abs().max() > 0.01
        if exact:
            assert torch.equal(ours, theirs)
        else:
            torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5 * ours.abs().max())


GROWTHS = [
    dict(order='interpolate'), dict(order='stack', blocks=[0, 1], times=3), dict(order='cyclic'),
    dict(share='all'), dict(share='none'), dict(start='identity'),
    dict(start=dict(type='split', share=0.5)), dict(order=[0, 1, [1, 2], 2, [], 0]),
]


@pytest.mark.parametrize('adjustment', [None, LORA, ADAPTER, dict(ADAPTER, scope='shared')],
                         ids=['plain', 'lora', 'adapter', 'adapter-shared'])
@pytest.mark.parametrize('growth', GROWTHS, ids=str)
def test_vit(growth, adjustment, build):
    cfg = dict(VIT, growth=growth, adjustment=adjustment)
    model = build(cfg)
    result = unshare(model)
    choices = deeper_backbones(cfg, model.backbone, result, 'mmpretrain')
    stays = adjustment is not None and adjustment['type'] == 'ParallelAdapter'
    assert [c['type'] for c in choices] == (
        ['ScaleNetViT'] if stays else ['mmpretrain.VisionTransformer', 'ScaleNetViT'])
    assert bool(result.adapters) == stays
    gains = 'start' in growth
    assert bool(result.folded) == (gains or adjustment == LORA)
    deeper = make_deeper(cfg, model, result, which=-1)
    assert_same(model, deeper, 32, exact=not result.folded)
    assert not any('_r' in k or 'new' in k or 'lora' in k or 'gain' in k for k in result.state)
    assert all(n.isdigit() for n in deeper.backbone.layers._modules)
    assert torch.equal(deeper.head.weight, model.head.weight)
    if not stays:
        assert_same(model, make_deeper(cfg, model, unshare(model)), 32, exact=False)


def test_nothing_is_shared_any_more(build):
    result = unshare(build(dict(VIT, growth=dict(share='all'), adjustment=None)))
    pointers = [v.data_ptr() for v in result.state.values()]
    assert len(set(pointers)) == len(pointers)
    assert torch.equal(result.state['backbone.layers.0.attn.qkv.weight'],
                       result.state['backbone.layers.1.attn.qkv.weight'])


@pytest.mark.parametrize('base, scope, stock', [
    (SWIN, 'mmpretrain', 'mmpretrain.SwinTransformer'),
    (DENSE_SWIN, 'mmdet', 'mmdet.SwinTransformer'), (DENSE_SWIN, 'mmseg', 'mmseg.SwinTransformer'),
    (DENSE_VIT, 'mmseg', 'mmseg.VisionTransformer'),
], ids=['mmpretrain', 'mmdet', 'mmseg', 'mmseg-vit'])
def test_stock_backbones_of_the_toolboxes(base, scope, stock, build):
    is_vit = base is DENSE_VIT
    growth = dict(order='stack', start='identity', **({} if is_vit else dict(stages=(0, 1))))
    cfg = dict(base, growth=growth, adjustment=LORA)
    model = build(cfg)
    result = unshare(model)
    first = deeper_backbones(cfg, model.backbone, result, scope)[0]
    assert first['type'] == stock and 'growth' not in first and 'adjustment' not in first
    deeper = make_deeper(cfg, model, result, scope=scope)
    assert type(deeper.backbone).__module__.startswith(scope)
    for size in (64,) if is_vit else (56, 90):
        assert_same(model, deeper, size, exact=False)


def test_out_indices_go_with_the_last_instance(build):
    cfg = dict(VIT, growth=dict(order='interpolate'), adjustment=None, frozen_stages=1)
    model = build(cfg)
    deeper = deeper_backbones(cfg, model.backbone, unshare(model), 'mmpretrain')[0]
    assert deeper['out_indices'] == [1, 5]
    assert deeper['arch']['num_layers'] == 6 and 'frozen_stages' not in deeper


@pytest.mark.parametrize('base', [
    dict(type='mmpretrain.VisionTransformer', arch=VIT_ARCH, img_size=32, out_indices=[0, 2]),
    dict(type='mmseg.VisionTransformer', embed_dims=8, num_layers=3, num_heads=2, img_size=32,
         out_indices=[0, 2]),
    dict(type='mmdet.SwinTransformer', embed_dims=8, depths=(2, 2, 2), num_heads=(1, 2, 2),
         strides=(4, 2, 2), out_indices=(0, 1, 2)),
], ids=['mmpretrain', 'mmseg', 'mmdet'])
@pytest.mark.parametrize('adjustment', [None, ADAPTER], ids=['plain', 'adapter'])
def test_stock_backbones_that_were_grown_in_place(base, adjustment, build):
    growth = dict(order='stack')
    targets = None
    if 'Swin' in base['type']:  # not all of its stages
        growth, targets = dict(order='stack', stages=(0, )), [r'stages\.2\.blocks']
    cfg = dict(type='GrownBackbone', base=base, growth=growth, adjustment=adjustment,
               targets=targets)
    model = build(cfg)
    result = unshare(model)
    choice, = deeper_backbones(cfg, model.backbone, result, 'mmdet')
    if adjustment is None:
        assert choice['type'] == base['type']
        assert choice.get('depths', [2, 2, 4]) == [2, 2, 4]
        assert_same(model, make_deeper(cfg, model, result), 64, exact=True)
    else:
        assert choice['type'] == 'GrownBackbone' and choice['growth'] is None
        assert_same(model, make_deeper(cfg, model, result), 64, exact=True)


@pytest.mark.parametrize('kind', ['ScaleNetViT', 'ScaleNetSwin'])
def test_idle_adapters_are_left_out(kind, build):
    base = VIT if kind == 'ScaleNetViT' else SWIN
    cfg = dict(base, growth=dict(order='stack', times=2), adjustment=ADAPTER)
    model = build(cfg)
    for name, parameter in model.named_parameters():
        if name.endswith('adapter_up'):
            parameter.data.zero_()
    result = unshare(model)
    assert not result.adapters and result.idle_adapters > 0
    assert_same(model, make_deeper(cfg, model, result, scope='mmpretrain'), 56, exact=False)


@pytest.mark.parametrize('bias', [True, False])
@pytest.mark.parametrize('lora, gain, adapter', [(1, 0, 0), (0, 1, 0), (1, 1, 0), (0, 1, 1)])
def test_fold(lora, gain, adapter, bias):
    from scalenet_mm.growth.adjustment import AdjustmentSpec, adjust_linears, set_gains
    block = nn.Sequential(nn.Linear(6, 12, bias=bias), nn.ReLU(), nn.Linear(12, 6, bias=bias))
    if lora or adapter:
        adjust_linears(block, AdjustmentSpec('LoRA' if lora else 'ParallelAdapter', rank=2))
    if gain:
        set_gains(block, 1.)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.copy_(torch.randn_like(parameter))
    tensors = {k: v.clone() for k, v in block.state_dict().items()}
    assert fold(tensors) == (2 if lora else 1)
    assert not any(k.endswith(('lora_up', 'lora_down', 'gain')) for k in tensors)
    plain = nn.Sequential(nn.Linear(6, 12, bias=bias), nn.ReLU(), nn.Linear(12, 6, bias=bias))
    if adapter:
        adjust_linears(plain, AdjustmentSpec('ParallelAdapter', rank=2))
    plain.load_state_dict(tensors)
    x = torch.randn(5, 6)
    torch.testing.assert_close(plain(x), block(x), rtol=1e-4, atol=1e-4)


def test_half_precision_is_kept():
    tensors = {'a.weight': torch.randn(4, 4).bfloat16(), 'a.gain': torch.randn(4).bfloat16()}
    fold(tensors)
    assert tensors['a.weight'].dtype == torch.bfloat16


# --- window shifts


@pytest.mark.parametrize('shifts, order', [
    ([0, 1, 0, 1], [0, 1, 2, 3]), ([0, 0, 1, 1], [0, None, 1, 2, None, 3]),
    ([1], [None, 0]), ([], []),
])
def test_alternate(shifts, order):
    assert alternate([bool(s) for s in shifts]) == order
    for index, position in enumerate(order):
        assert position is None or index % 2 == shifts[position]


@pytest.mark.parametrize('base', [SWIN, DENSE_SWIN], ids=['arch', 'dense'])
def test_repeats_that_shift_otherwise_than_a_stock_swin(base, build):
    cfg = dict(base, growth=dict(order='interpolate', stages=(0, 1)), adjustment=ADAPTER)
    model = build(cfg)
    assert shifts_of(model.backbone.stages[0].blocks) == [False, False, True, True]
    assert misplaced_shifts(model.backbone, (112, 112)) == ([0, 1], [])
    # the map of the second stage is one window, which mmpretrain does not shift
    hides = base is SWIN
    assert misplaced_shifts(model.backbone, (56, 80)) == (([0], [1]) if hides else ([0, 1], []))

    wrong = make_deeper(cfg, model, unshare(model), which=-1)
    last = [out[-1] for out in (run(model, 112), run(wrong, 112))]
    assert not torch.allclose(*last, rtol=1e-3, atol=1e-4)  # so it is right to refuse

    result = unshare(model, empty_blocks=True)
    assert result.empty == 4 and list(result.depths.values()) == [6, 6]
    assert_same(model, make_deeper(cfg, model, result, which=-1), 112, exact=True)


@pytest.mark.parametrize('base', [VIT, SWIN], ids=['vit', 'swin'])
def test_no_block_is_put_where_none_is_needed(base, build):
    cfg = dict(base, growth=dict(order='stack', times=2), adjustment=None)
    model = build(cfg)
    result = unshare(model, empty_blocks=True)
    assert result.empty == 0 and result.depths == unshare(model).depths
    assert_same(model, make_deeper(cfg, model, result, which=-1), 64, exact=True)


def test_hidden_shifts_are_equal_at_that_size(build):
    cfg = dict(SWIN, growth=dict(order='interpolate', stages=(1, )), adjustment=None)
    model = build(cfg)
    assert misplaced_shifts(model.backbone, (56, 56)) == ([], [1])
    deeper = make_deeper(cfg, model, unshare(model), which=-1)
    assert_same(model, deeper, 56, exact=True)
    assert not torch.equal(run(model, 112)[-1], run(deeper, 112)[-1])


# --- refusals


def test_what_is_not_grown(build):
    with pytest.raises(CheckpointError, match='not grown'):
        unshare(nn.ModuleDict(dict(backbone=nn.Linear(2, 2))))


def test_other_backbones_are_refused():
    base = dict(type='mmpretrain.SwinTransformerV2', img_size=64, window_size=[4, 4, 4, 2],
                arch=dict(embed_dims=8, depths=[1, 1, 2, 1], num_heads=[1, 1, 2, 2],
                          extra_norm_every_n_blocks=0))
    model = Whole(dict(type='GrownBackbone', base=base, growth=dict(stages=(2, )),
                       adjustment=None))
    with pytest.raises(CheckpointError, match='SwinTransformerV2.*no part of a Swin or plain ViT'):
        unshare(model)
