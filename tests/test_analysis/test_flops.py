"""Multiply-accumulates: torch's counter, mmengine's, and the formula, against each other."""
import functools
from pathlib import Path

import pytest
import timm
import torch
import torch.nn as nn
import torch.nn.functional as F
from mmengine.analysis import ActivationAnalyzer, FlopAnalyzer, complexity_analysis
from mmengine.hub import get_config
from mmengine.registry import MODELS, init_default_scope

from scalenet_mm import ConfigError
from scalenet_mm.analysis import build_on_meta, count_flops, register_flop_handlers
from scalenet_mm.analysis.flops import SDPA
from scalenet_mm.analysis.shapes import ShapesOnly
from scalenet_mm.engine import load_config
from scalenet_mm.growth.grow import without_data

ROOT = Path(__file__).resolve().parents[2]

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


# --- whole detectors and segmentors -----------------------------------------------------------


def sample_of(height, width):
    from mmdet.structures import DetDataSample
    size = (height, width)
    return DetDataSample(metainfo=dict(
        img_shape=size, ori_shape=size, pad_shape=size, batch_input_shape=size,
        scale_factor=(1., 1.)))


def detector_by_mmengine(config, regions):
    """A small detector's products, counted while it really runs, as mmdet's get_flops does."""
    pytest.importorskip('mmdet')
    cfg = load_config(str(ROOT / 'configs/quickstart' / config))
    init_default_scope('mmdet')
    if regions:
        # so many come out of the RPN, and mmdet's tensor mode makes 100 masks at most
        cfg.model.test_cfg.rpn.update(max_per_img=regions, nms=dict(type='nms', iou_threshold=1.))
        cfg.model.test_cfg.rcnn.max_per_img = min(regions, 100)
    torch.manual_seed(0)
    model = MODELS.build(cfg.model).eval()
    runs = model.forward
    model.forward = functools.partial(runs, data_samples=[sample_of(64, 96)])
    total, _ = by_mmengine(model, (3, 64, 96))
    del model.forward
    return model, total


@pytest.mark.parametrize('config, regions', [
    ('maskrcnn_scalenet_swin-nano_digits.py', 40), ('maskrcnn_swin-nano_digits.py', 120)])
def test_a_two_stage_detector_as_mmengine_counts_it(config, regions):
    model, total = detector_by_mmengine(config, regions)
    assert count_flops(model, (3, 64, 96)) == total
    assert model.roi_head.with_mask


def test_masks_are_of_what_is_found(monkeypatch):
    """The box head counts on what the RPN lets pass, the mask head on what comes out."""
    pytest.importorskip('mmdet')
    cfg = load_config(str(ROOT / 'configs/quickstart/maskrcnn_swin-nano_digits.py'))
    counts = {}
    for regions, found in ((50, 10), (60, 10), (50, 20)):
        cfg.model.test_cfg.rpn.max_per_img = regions
        cfg.model.test_cfg.rcnn.max_per_img = found
        counts[regions, found] = count_flops(build_on_meta(cfg), (3, 64, 64))
    # 64 channels of 7 x 7, two linear layers of 256, 11 classes and 40 box values
    box = 64 * 49 * 256 + 256 * 256 + 256 * (11 + 40)
    # two convolutions on 14 x 14, one that doubles it, and 10 masks of 28 x 28
    mask = 14**2 * 2 * 9 * 64 * 64 + 14**2 * 4 * 64 * 64 + 28**2 * 64 * 10
    assert counts[60, 10] - counts[50, 10] == 10 * box
    assert counts[50, 20] - counts[50, 10] == 10 * mask


@pytest.mark.parametrize('config, size, published', [
    ('mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py', (800, 1280), 267),
    ('mmdet::swin/mask-rcnn_swin-s-p4-w7_fpn_amp-ms-crop-3x_coco.py', (800, 1280), 359),
    ('mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', (800, 1280), 239),
    ('mmseg::swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py',
     (512, 2048), 945),
])
def test_stock_detectors_and_segmentors_have_their_published_flops(config, size, published):
    pytest.importorskip(config.split(':')[0])
    ours = count_flops(build_on_meta(get_config(config)), (3, *size)) / 1e9
    assert abs(ours - published) < 1


def test_heads_that_read_sizes_from_tensors():
    """Deformable attention runs without data; one more layer of the encoder costs its share."""
    pytest.importorskip('mmdet')
    cfg = get_config('mmdet::dino/dino-4scale_r50_8xb2-12e_coco.py')
    cfg.model.num_queries = 50
    cfg.model.decoder.num_layers = cfg.model.encoder.num_layers = 1
    one = count_flops(build_on_meta(cfg), (3, 64, 96))
    cfg.model.encoder.num_layers = 2
    two = count_flops(build_on_meta(cfg), (3, 64, 96))
    tokens = 8 * 12 + 4 * 6 + 2 * 3 + 1 * 2
    # value, output, offsets (8 heads, 4 levels, 4 points, x and y), their weights; and the MLP
    layer = 256 * (2 * 256 + 256 + 128) + 2 * 256 * 2048
    assert two - one == tokens * layer


def test_shapes_only():
    with ShapesOnly(), torch.no_grad():
        values = torch.empty(3, 5, device='meta')
        assert values.nonzero().shape == (0, 2)
        assert [x.shape for x in values.nonzero(as_tuple=True)] == [(0, ), (0, )]
        sizes = torch._shape_as_tensor(values).to(values.device)
        assert sizes.tolist() == [3, 5]  # a number that can be read
        assert (values / sizes[1]).shape == (3, 5)
        assert (values * torch.ones(5)).device.type == 'meta'
        with pytest.raises((RuntimeError, NotImplementedError)):
            values.sum().item()
    assert torch.tensor([0., 2.]).nonzero().tolist() == [[1]]
