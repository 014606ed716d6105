"""ScaleNetSwin against the stock Swins, literally repeated blocks, and bad input."""
import copy
import inspect
import warnings

import pytest
import torch
from mmengine.config import Config

from scalenet_mm import ScaleNetSwin
from scalenet_mm.backbones.swin_block import SwinBlock
from scalenet_mm.errors import ConfigError, GrowthError
from scalenet_mm.growth import get_drop_path_rate
from scalenet_mm.growth.fast_path import fast_paths

ARCH = dict(embed_dims=16, depths=(2, 2, 2), num_heads=(2, 2, 4))
DENSE = dict(**ARCH, strides=(4, 2, 2), out_indices=(0, 1, 2))
UNGROWN = dict(growth=None, adjustment=None)
SIZES = [(112, 112), (57, 130), (31, 44)]


def stock(package, **kwargs):
    warnings.simplefilter('ignore')
    if package == 'mmpretrain':
        from mmpretrain.models.backbones import SwinTransformer
    elif package == 'mmdet':
        from mmdet.models.backbones import SwinTransformer
    else:
        from mmseg.models.backbones import SwinTransformer
    return SwinTransformer(**kwargs)


def same_weights(ours, theirs, randomise):
    randomise(theirs)
    assert list(ours.state_dict()) and set(ours.state_dict()) == set(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict(), strict=True)
    return ours, theirs


@pytest.mark.parametrize('package', ['mmdet', 'mmseg'])
@pytest.mark.parametrize('options', [
    dict(),
    dict(out_indices=(2, )),
    dict(qkv_bias=False, qk_scale=0.3, mlp_ratio=2, patch_norm=False, window_size=5),
    dict(norm_cfg=dict(type='LN', eps=1e-2), act_cfg=dict(type='ReLU')),
], ids=['plain', 'last stage', 'sizes', 'norm and act'])
def test_equals_dense_stock(package, options, randomise, image, assert_same_outputs):
    options = {**DENSE, **options, 'drop_path_rate': 0.}
    ours, theirs = same_weights(
        ScaleNetSwin(**options, **UNGROWN), stock(package, **options), randomise)
    for size in SIZES:
        x = image(2, 3, *size)
        for mode in (True, False):
            ours.train(mode), theirs.train(mode)
            out = ours(x)
            assert_same_outputs(out, theirs(x))
            assert type(out) is type(theirs(x))


@pytest.mark.parametrize('options, sizes', [
    (dict(), [(112, 112), (120, 200)]),  # 112 and windows of 7: the last map is one window
    (dict(pad_small_map=True), SIZES),
    (dict(out_indices=(0, 2)), [(112, 112)]),
    (dict(out_indices=(0, 1, 2), out_after_downsample=True), [(112, 112)]),
    (dict(use_abs_pos_embed=True, img_size=112), [(112, 112), (116, 150)]),
    (dict(use_abs_pos_embed=True, img_size=112, interpolate_mode='bilinear'), [(116, 150)]),
    (dict(norm_cfg=None, window_size=5, pad_small_map=True), SIZES),
    (dict(norm_cfg=dict(type='LN', eps=0.1)), [(112, 112)]),
    (dict(patch_cfg=dict(norm_cfg=None)), [(112, 112)]),
], ids=['plain', 'padded', 'out_indices', 'after downsample', 'abs', 'abs bilinear', 'no norm',
        'norm', 'patch_cfg'])
def test_equals_mmpretrain(options, sizes, randomise, image, assert_same_outputs):
    options = dict(arch=ARCH, drop_path_rate=0., **{'out_indices': (2, ), **options})
    ours, theirs = same_weights(
        ScaleNetSwin(**options, **UNGROWN), stock('mmpretrain', **options), randomise)
    for size in sizes:
        x = image(2, 3, *size)
        for mode in (True, False):
            ours.train(mode), theirs.train(mode)
            assert_same_outputs(ours(x), theirs(x))
            assert isinstance(ours(x), tuple)


def test_the_two_readings_of_small_maps_differ(randomise, image):
    x = image(1, 3, 112, 112)
    dense = randomise(ScaleNetSwin(**{**DENSE, 'out_indices': (2, )}, **UNGROWN)).eval()
    plain = randomise(ScaleNetSwin(ARCH, **UNGROWN)).eval()
    assert not torch.allclose(dense(x)[0], plain(x)[0], atol=1e-3)
    padded = randomise(ScaleNetSwin(ARCH, pad_small_map=True, **UNGROWN)).eval()
    assert torch.equal(dense(x)[0], padded(x)[0])


@pytest.mark.parametrize('fast', [True, False])
def test_gradients_equal_stock(fast, randomise, image):
    options = dict(**DENSE, drop_path_rate=0.)
    ours, theirs = same_weights(
        ScaleNetSwin(**options, **UNGROWN), stock('mmdet', **options), randomise)
    for model in (ours.double(), theirs.double()):
        with fast_paths(fast):
            outputs = model(image(2, 3, 57, 90).double())
        sum((out * torch.linspace(-1, 1, out.numel()).view(out.shape)).sum()
            for out in outputs).backward()
    expected = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].grad, msg=name)
        assert parameter.grad.abs().sum() > 0


@pytest.mark.parametrize('growth', ['paper', dict(start=dict(type='split', share=0.5))])
@pytest.mark.parametrize('dtype, tolerance', [
    (torch.float64, dict(rtol=1e-9, atol=1e-11)),
    (torch.float32, dict(rtol=1e-3, atol=1e-4)),
], ids=['float64', 'float32'])
def test_fast_equals_plain(dtype, tolerance, growth, randomise, image):
    model = randomise(ScaleNetSwin(**DENSE, drop_path_rate=0., growth=growth)).to(dtype)
    for name, parameter in model.named_parameters():
        parameter.requires_grad = 'norm' in name or 'adapter' in name or 'gain' in name
    found = []
    for fast in (True, False):
        model.zero_grad()
        with fast_paths(fast):
            outputs = model(image(2, 3, 57, 90).to(dtype))
        sum((out * torch.linspace(-1, 1, out.numel(), dtype=dtype).view(out.shape)).mean()
            for out in outputs).backward()
        found.append([*outputs, *(p.grad for p in model.parameters() if p.requires_grad)])
    for got, expected in zip(*found):
        assert expected.any()
        scale = expected.detach().abs().max()
        torch.testing.assert_close(got / scale, expected / scale, **tolerance)


def test_equals_timm(tmp_path, randomise, image, assert_same_outputs):
    import timm
    from timm.models.swin_transformer import SwinTransformer

    from scalenet_mm import load_pretrained
    assert timm
    theirs = randomise(SwinTransformer(
        img_size=112, embed_dim=16, depths=(2, 2, 2), num_heads=(2, 2, 4), num_classes=5,
        drop_path_rate=0.))
    torch.save(theirs.state_dict(), tmp_path / 'timm.pth')
    ours = ScaleNetSwin(ARCH, **UNGROWN)
    report = load_pretrained(ours, str(tmp_path / 'timm.pth'))
    assert report.format == 'timm' and not report.initialised
    x = image(2, 3, 112, 112)
    assert_same_outputs(ours.eval()(x)[0].permute(0, 2, 3, 1), theirs.eval().forward_features(x))


def literal(model, growth_map):
    """An ungrown model whose stages literally hold copies of a grown model's blocks."""
    reference = ScaleNetSwin(**{**DENSE, 'drop_path_rate': 0.}, **UNGROWN)
    reference.load_state_dict(
        {k: v for k, v in model.state_dict().items() if k in reference.state_dict()}, strict=True)
    for stage, sources in enumerate(growth_map):
        blocks = reference.stages[stage].blocks
        copies = [copy.deepcopy(blocks[source]) for source in sources]
        for position, block in enumerate(copies):
            grown = model.stages[stage].blocks[position]
            for norm in ('norm1', 'norm2'):
                getattr(block, norm).load_state_dict(getattr(grown, norm).state_dict())
        blocks._modules.clear()
        for position, block in enumerate(copies):
            blocks.add_module(str(position), block)
    return reference


@pytest.mark.parametrize('growth, growth_map', [
    (dict(), [(0, 1), (0, 1), (0, 1, 0, 1)]),
    (dict(order='interpolate', stages=None), [(0, 0, 1, 1)] * 3),
    (dict(stages=(0, 2), times=3), [(0, 1, 0, 1, 0, 1), (0, 1), (0, 1, 0, 1, 0, 1)]),
    (dict(stages=(1, ), blocks=(1, ), times=2), [(0, 1), (0, 1, 1), (0, 1)]),
    (dict(stages=(1, ), order=(0, 1, 1, 0)), [(0, 1), (0, 1, 1, 0), (0, 1)]),
], ids=['paper', 'interpolate', 'three times', 'one block', 'list'])
def test_grown_equals_literally_repeated_blocks(growth, growth_map, randomise, image,
                                                assert_same_outputs):
    model = randomise(ScaleNetSwin(**DENSE, drop_path_rate=0., growth=growth, adjustment=None))
    reference = literal(model, growth_map)
    for size in SIZES[:2]:
        assert_same_outputs(model(image(1, 3, *size)), reference(image(1, 3, *size)))


def test_gradient_of_a_shared_tensor_is_the_sum_over_its_uses(randomise, image):
    model = randomise(ScaleNetSwin(**DENSE, drop_path_rate=0., adjustment=None)).double()
    reference = literal(model, [(0, 1), (0, 1), (0, 1, 0, 1)]).double()
    for net in (model, reference):
        net(image(1, 3, 64, 64).double())[-1].pow(2).sum().backward()
    theirs = dict(reference.named_parameters())
    for name in ('attn.w_msa.relative_position_bias_table', 'attn.w_msa.qkv.weight',
                 'attn.w_msa.proj.bias', 'ffn.layers.0.0.weight', 'ffn.layers.1.weight'):
        for source in (0, 1):
            shared = model.get_parameter(f'stages.2.blocks.{source}.{name}').grad
            uses = [theirs[f'stages.2.blocks.{i}.{name}'].grad for i in (source, source + 2)]
            torch.testing.assert_close(shared, uses[0] + uses[1])
            assert uses[1].abs().sum() > 0


def test_adapters_start_as_nothing(randomise, image):
    plain = randomise(ScaleNetSwin(**DENSE, growth=None, adjustment=None)).eval()
    adapted = ScaleNetSwin(**DENSE, growth=None).eval()
    adapted.load_state_dict(plain.state_dict(), strict=False)
    x = image(1, 3, 64, 64)
    assert all(map(torch.equal, plain(x), adapted(x)))


def test_identity_start_is_exact(randomise, image):
    plain = randomise(ScaleNetSwin(**DENSE, **UNGROWN)).eval()
    grown = ScaleNetSwin(**DENSE, growth=dict(start='identity', stages=None)).eval()
    grown.load_state_dict(plain.state_dict(), strict=True)
    x = image(1, 3, 57, 90)
    assert all(map(torch.equal, plain(x), grown(x)))


def test_a_repeat_keeps_the_shift_of_its_source():
    model = ScaleNetSwin(**DENSE, growth=dict(order='interpolate', stages=None))
    for stage in model.stages:
        assert [b.attn.shift_size for b in stage.blocks] == [0, 0, 3, 3]


@pytest.mark.parametrize('growth, depth', [(None, 6), ('paper', 8), (dict(stages=None), 12)])
def test_drop_path_rises_over_the_grown_depth(growth, depth):
    model = ScaleNetSwin(**DENSE, growth=growth, drop_path_rate=0.3)
    blocks = [block for stage in model.stages for block in stage.blocks]
    rates = [get_drop_path_rate(block) for block in blocks]
    assert rates == pytest.approx(torch.linspace(0, 0.3, depth).tolist())
    # both branches of a block
    assert [b.attn.drop.drop_prob for b in blocks] == rates
    assert [b.ffn.dropout_layer.drop_prob for b in blocks] == rates


def test_drop_path_of_ungrown_equals_stock():
    ours = ScaleNetSwin(**DENSE, **UNGROWN, drop_path_rate=0.2)
    theirs = stock('mmdet', **DENSE, drop_path_rate=0.2)
    for a, b in zip(ours.stages, theirs.stages):
        assert [x.attn.drop.drop_prob for x in a.blocks] == pytest.approx(
            [x.attn.drop.drop_prob for x in b.blocks])


def test_checkpointing_gives_the_same_gradients(randomise, image):
    grads = []
    for with_cp in (False, True):
        model = randomise(ScaleNetSwin(**DENSE, drop_path_rate=0., with_cp=with_cp)).train()
        assert any(block.with_cp for block in model.modules()
                   if isinstance(block, SwinBlock)) == with_cp
        # the input needs no gradient, and nothing before the first adapter trains
        for name, parameter in model.named_parameters():
            parameter.requires_grad = 'adapter' in name
        sum(out.pow(2).sum() for out in model(image(1, 3, 64, 64))).backward()
        grads.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad})
    assert grads[0]
    for name, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[1][name], rtol=1e-4, atol=1e-4)
        assert grad.abs().sum() > 0


@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16])
def test_other_precisions(dtype, randomise, image, assert_same_outputs):
    model = randomise(ScaleNetSwin(**DENSE)).eval()
    expected = model(image(1, 3, 64, 64))
    outputs = model.to(dtype)(image(1, 3, 64, 64).to(dtype))
    assert all(out.dtype == dtype for out in outputs)
    loose = dict(rtol=0.1, atol=0.25) if dtype is torch.bfloat16 else dict()
    assert_same_outputs([out.float() for out in outputs], expected, **loose)


# --- configs and arguments -----------------------------------------------------------------------


@pytest.mark.parametrize('path', [
    'mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py',
    'mmseg::swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py',
    'mmpretrain::swin_transformer/swin-tiny_16xb64_in1k.py',
])
def test_takes_the_arguments_of_stock_configs(path, tmp_path):
    """A user writes the stock config as base, and another type."""
    config = tmp_path / 'config.py'
    config.write_text(
        f'_base_ = {path!r}\n'
        "model = dict(backbone=dict(type='ScaleNetSwin', init_cfg=None))\n")
    cfg = Config.fromfile(config).model.backbone
    assert cfg.pop('type') == 'ScaleNetSwin'
    cfg.pop('_scope_', None)
    with torch.device('meta'):
        model = ScaleNetSwin(**cfg)
    assert model.depths == (2, 2, 6, 2)
    assert len(model.stages[3].blocks) == 4


@pytest.mark.parametrize('package', ['mmpretrain', 'mmdet', 'mmseg'])
def test_knows_every_argument_of_the_stock_class(package):
    theirs = inspect.signature(type(stock(package)).__init__).parameters
    ours = inspect.signature(ScaleNetSwin.__init__).parameters
    assert set(theirs) <= set(ours)


@pytest.mark.parametrize('kwargs, message', [
    (dict(arch='tiny', embed_dims=96), 'embed_dims cannot be given together with arch'),
    (dict(arch='tiny', mlp_ratio=4, qkv_bias=True),
     'mlp_ratio, qkv_bias cannot be given together with arch'),
    (dict(embed_dims=16, pad_small_map=True),
     'pad_small_map cannot be given together with embed_dims.*use arch'),
    (dict(depths=(2, 2, 2, 2), img_size=64), 'img_size cannot be given together'),
    (dict(arch='huge'), "unknown arch 'huge'.*tiny, small, base, large"),
    (dict(arch=dict(embed_dims=16)), 'just the keys depths, embed_dims, num_heads'),
    (dict(arch=7), 'arch must be a name or a dict'),
    (dict(arch=ARCH, out_indices=(3, )), r'stages from 0 to 2, got \(3,\)'),
    (dict(arch=ARCH, out_indices=(-1, )), 'stages from 0 to 2'),
    (dict(arch=ARCH, out_indices=2), 'out_indices must be a list'),
    (dict(arch=ARCH, out_indices='12'), "out_indices must be a list of stages.*got 12"),
    (dict(arch=ARCH, stage_cfgs=[dict()]), 'stage_cfgs cannot be honoured'),
    (dict(**ARCH, strides=(4, 2, 4)), r'strides must be.*\(4, 2, 2\).*got \(4, 2, 4\)'),
    (dict(embed_dims=16, depths=(2, 2), num_heads=(2, )),
     'depths names 2 stages, num_heads 1'),
    (dict(arch=dict(ARCH, num_heads=(3, 2, 4))), 'embed_dims 16 is not divisible by num_heads 3'),
    (dict(arch=ARCH, window_size=0), 'window_size must be an integer, got 0'),
    (dict(arch=ARCH, window_size=3.5), 'window_size must be an integer, got 3.5'),
    (dict(arch=ARCH, pretrained='a', init_cfg=dict(type='Pretrained', checkpoint='b')),
     'either init_cfg or pretrained'),
])
def test_refuses_what_it_cannot_honour(kwargs, message):
    with pytest.raises(ConfigError, match=message):
        ScaleNetSwin(**kwargs)


@pytest.mark.parametrize('kwargs, message', [
    (dict(growth=dict(stages=(3, ))), 'growth.stages names stage 3, but there are 3'),
    (dict(growth=dict(blocks=(2, ))), 'growth.blocks names block 2, but there are 2'),
    (dict(growth=dict(times=0)), 'growth.times must be an integer >= 1'),
    (dict(growth=dict(repeat=2)), "growth has no option 'repeat'; the options are order, times"),
    (dict(growth='double'), "growth must be a dict or None, got 'double'"),
    (dict(adjustment=dict(rank=0)), 'adjustment.rank must be an integer >= 1'),
    (dict(adjustment=dict(width=4)), "adjustment has no option 'width'"),
    (dict(adjustment=dict(type='Adapter')), 'adjustment.type must be one of'),
    (dict(adjustment='lora'), "adjustment must be a dict or None, got 'lora'"),
])
def test_refuses_wrong_growth(kwargs, message):
    with pytest.raises(GrowthError, match=message):
        ScaleNetSwin(ARCH, **kwargs)


# --- freezing and modes --------------------------------------------------------------------------


def frozen(model):
    return {n for n, p in model.named_parameters() if not p.requires_grad}


@pytest.mark.parametrize('stages', [-1, 0, 1, 2])
def test_frozen_stages_of_mmdet(stages):
    options = dict(**DENSE, frozen_stages=stages)
    theirs = stock('mmdet', **options)
    theirs.train()
    ours = ScaleNetSwin(**options, **UNGROWN)
    assert frozen(ours) == frozen(theirs)  # already before DDP sees the model
    ours.train()
    assert frozen(ours) == frozen(theirs)
    eval_mode = {n for n, m in theirs.named_modules() if n and not m.training}
    common = {n for n, m in ours.named_modules()} & {n for n, m in theirs.named_modules()}
    assert {n for n, m in ours.named_modules() if not m.training} >= eval_mode & common
    grown = ScaleNetSwin(**options, growth=dict(stages=None))
    prefixes = tuple(f'stages.{i}.' for i in range(stages))
    for name, parameter in grown.named_parameters():
        if name.startswith('stages.'):
            assert parameter.requires_grad != name.startswith(prefixes), name


@pytest.mark.parametrize('stages', [-1, 0, 1, 2])
def test_frozen_stages_of_mmpretrain(stages):
    options = dict(arch=ARCH, frozen_stages=stages, out_indices=(0, 1, 2))
    theirs = stock('mmpretrain', **options)
    theirs.train()
    ours = ScaleNetSwin(**options, **UNGROWN).train()
    assert frozen(ours) == frozen(theirs)
    ours.eval().train()
    assert frozen(ours) == frozen(theirs)
    assert ours.stages[0].training == (stages < 0)


def test_eval_returns_the_model():
    model = ScaleNetSwin(ARCH)
    assert model.eval() is model and model.train() is model


# --- initialisation ------------------------------------------------------------------------------


def check_start(model):
    """After every way of initialising, adjustments are what growth made them."""
    seen = set()
    for name, parameter in model.named_parameters():
        kind = name.rsplit('.', 1)[-1]
        seen.add(kind)
        if kind == 'adapter_up':
            assert not parameter.any(), name
        elif kind == 'adapter_down':
            assert parameter.std() > 0.01, name
        elif kind == 'gain':
            assert set(parameter.tolist()) == {0. if '_r1' in name else 1.}, name
    assert {'adapter_up', 'adapter_down', 'gain'} <= seen


def test_init_weights_keeps_the_start():
    model = ScaleNetSwin(ARCH, growth=dict(start='identity'))
    qkv = model.stages[0].blocks[0].attn.w_msa.qkv
    before = qkv.weight.clone()
    model.init_weights()
    assert not torch.equal(before, qkv.weight)
    assert qkv.weight.std().item() == pytest.approx(0.02, rel=0.2)
    assert not qkv.bias.any()
    check_start(model)


def test_init_weights_from_a_file(tmp_path, randomise, image):
    source = randomise(ScaleNetSwin(ARCH, **UNGROWN))
    torch.save(source.state_dict(), tmp_path / 'swin.pth')
    model = ScaleNetSwin(ARCH, growth=dict(start='identity'), init_cfg=dict(
        type='Pretrained', checkpoint=str(tmp_path / 'swin.pth')))
    model.init_weights()
    check_start(model)
    x = image(1, 3, 112, 112)
    assert torch.equal(model.eval()(x)[0], source.eval()(x)[0])
    old_spelling = ScaleNetSwin(ARCH, growth=dict(start='identity'),
                                pretrained=str(tmp_path / 'swin.pth'))
    old_spelling.init_weights()
    assert torch.equal(old_spelling.eval()(x)[0], source.eval()(x)[0])


@pytest.mark.parametrize('backbone', [
    dict(type='ScaleNetSwin', arch=ARCH, growth=dict(start='identity')),
    dict(type='ScaleNetViT', img_size=32, growth=dict(start='identity'),
         arch=dict(embed_dims=32, num_layers=2, num_heads=2, feedforward_channels=64)),
], ids=['swin', 'vit'])
def test_init_of_a_stock_classifier_keeps_the_start(backbone):
    from mmpretrain.registry import MODELS
    model = MODELS.build(dict(
        type='ImageClassifier',
        backbone=backbone,
        head=dict(type='LinearClsHead', in_channels=64, num_classes=4),
        init_cfg=[
            dict(type='TruncNormal', layer='Linear', std=0.02, bias=0.),
            dict(type='Constant', layer='LayerNorm', val=1., bias=0.)
        ]))
    model.init_weights()
    check_start(model.backbone)


# --- parameters and FLOPs ------------------------------------------------------------------------


def complexity(model):
    from mmengine.analysis import get_model_complexity_info
    info = get_model_complexity_info(model.eval(), (3, 112, 112), show_table=False,
                                     show_arch=False)
    return info['flops'], info['params']


def test_complexity_counts_tensors_once_and_blocks_each_time():
    base_flops, base_params = complexity(ScaleNetSwin(ARCH, **UNGROWN))
    deep = dict(ARCH, depths=(2, 2, 4))
    literal_flops, _ = complexity(ScaleNetSwin(deep, **UNGROWN))
    model = ScaleNetSwin(ARCH, adjustment=None)
    flops, params = complexity(model)
    assert params == sum(p.numel() for p in model.parameters())
    assert params == base_params + 2 * 4 * 64  # two repeats' norms
    assert flops == literal_flops > base_flops

    adapted = ScaleNetSwin(ARCH)
    flops, params = complexity(adapted)
    assert params == sum(p.numel() for p in adapted.parameters())
    # two products for each of fc1 and fc2, rank 16, on 28^2, 14^2 and 7^2 tokens
    products = sum(blocks * tokens * 10 * width * 16
                   for blocks, tokens, width in ((2, 784, 16), (2, 196, 32), (4, 49, 64)))
    activations = sum(blocks * tokens * 2 * 16
                      for blocks, tokens in ((2, 784), (2, 196), (4, 49)))
    assert products <= flops - literal_flops <= products + 2 * activations


@pytest.mark.parametrize('order, shifted', [
    ([0, 1, 2, 3, [], [0, 1]], [False, True] * 3),  # windows go on taking turns
    ([0, 1, 2, 3, 0], [False, True, False, True, False]),
    ([0, [0, 1], 1, 2, 3], [False, True, True, False, True]),
])
def test_windows_of_new_blocks(order, shifted):
    model = ScaleNetSwin(
        dict(embed_dims=16, depths=(4, 4), num_heads=(2, 2)), img_size=56, adjustment=None,
        growth=dict(order=order, stages=(0, ), share='none'))
    assert [block.attn.shift_size > 0 for block in model.stages[0].blocks] == shifted
    model(torch.randn(1, 3, 56, 56))[0].sum().backward()
    assert all(p.grad is not None for name, p in model.named_parameters() if 'norm' not in name)
