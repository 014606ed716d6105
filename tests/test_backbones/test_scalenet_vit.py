"""ScaleNetViT against the stock ViTs and DeiT, literally repeated blocks, and bad input."""
import copy
import inspect
import warnings

import pytest
import torch
from mmengine.config import Config

from scalenet_mm import ScaleNetViT, load_pretrained
from scalenet_mm.errors import ConfigError, GrowthError
from scalenet_mm.growth import get_drop_path_rate

ARCH = dict(embed_dims=24, num_layers=3, num_heads=2, feedforward_channels=48)
DENSE = dict(img_size=48, embed_dims=24, num_layers=3, num_heads=2, mlp_ratio=2)
UNGROWN = dict(growth=None, adjustment=None)
SIZES = [(48, 48), (64, 32), (50, 70)]


def stock(package, **kwargs):
    warnings.simplefilter('ignore')
    if package == 'mmpretrain':
        from mmpretrain.models.backbones import VisionTransformer
        return VisionTransformer(**kwargs)
    from mmseg.models.backbones import VisionTransformer
    model = VisionTransformer(**kwargs)
    for module in model.modules():
        # mmcv's MultiheadAttention keeps a dict as default argument: a DETR that was built before,
        # in another test, has set the dropout in it for everybody
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.
    return model


@pytest.mark.parametrize('options', [
    dict(),
    dict(out_type='raw', out_indices=[0, 2]),
    dict(out_type='featmap', out_indices=[0, -1]),
    dict(out_type='avg_featmap'),
    dict(out_type='featmap', with_cls_token=False),
    dict(final_norm=False, qkv_bias=False),
    dict(pre_norm=True, interpolate_mode='bilinear'),
    dict(norm_cfg=dict(type='LN', eps=0.1)),
    dict(patch_cfg=dict(bias=False), patch_size=8),
], ids=['plain', 'raw', 'featmap', 'avg_featmap', 'no cls token', 'no final norm', 'pre_norm',
        'norm', 'patch_cfg'])
def test_equals_mmpretrain(options, randomise, image, assert_same_outputs):
    theirs = randomise(stock('mmpretrain', arch=ARCH, img_size=48, **copy.deepcopy(options)))
    ours = ScaleNetViT(ARCH, img_size=48, **options, **UNGROWN)
    assert set(ours.state_dict()) == set(theirs.state_dict())
    ours.load_state_dict(theirs.state_dict(), strict=True)
    for size in SIZES:
        x = image(2, 3, *size)
        for mode in (True, False):
            ours.train(mode), theirs.train(mode)
            assert_same_outputs(ours(x), theirs(x))


@pytest.mark.parametrize('options', [
    dict(),
    dict(out_indices=(0, 2), final_norm=True, patch_bias=True),
    dict(out_origin=True, output_cls_token=True),
    dict(with_cls_token=False, out_indices=1),
    dict(patch_norm=True, qkv_bias=False, act_cfg=dict(type='ReLU')),
    dict(norm_cfg=dict(type='LN', eps=0.1), interpolate_mode='bilinear', num_fcs=3),
], ids=['plain', 'final norm', 'origin and cls token', 'no cls token', 'patch norm', 'num_fcs'])
def test_equals_mmseg(options, randomise, image, assert_same_outputs):
    theirs = randomise(stock('mmseg', **DENSE, **options))
    ours = ScaleNetViT(**DENSE, **options, **UNGROWN)
    ours.load_state_dict(theirs.state_dict(), strict=True)  # its attention has other names
    for size in SIZES:
        x = image(2, 3, *size)
        for mode in (True, False):
            ours.train(mode), theirs.train(mode)
            assert_same_outputs(ours(x), theirs(x))


def test_gradients_equal_stock(randomise, image):
    theirs = randomise(stock('mmpretrain', arch=ARCH, img_size=48)).double()
    ours = ScaleNetViT(ARCH, img_size=48, **UNGROWN).double()
    ours.load_state_dict(theirs.state_dict())
    for model in (ours, theirs):
        out = model(image(2, 3, 64, 48).double())[0]
        (out * torch.linspace(-1, 1, out.numel()).view(out.shape)).sum().backward()
    expected = dict(theirs.named_parameters())
    for name, parameter in ours.named_parameters():
        torch.testing.assert_close(parameter.grad, expected[name].grad, msg=name)
        assert parameter.grad.abs().sum() > 0


def test_equals_timm(tmp_path, randomise, image, assert_same_outputs):
    from timm.models.vision_transformer import VisionTransformer
    theirs = randomise(VisionTransformer(
        img_size=48, embed_dim=24, depth=3, num_heads=2, mlp_ratio=2, num_classes=5)).eval()
    torch.save({'model': theirs.state_dict()}, tmp_path / 'deit.pth')
    ours = ScaleNetViT(ARCH, img_size=48, out_type='raw', **UNGROWN).eval()
    report = load_pretrained(ours, str(tmp_path / 'deit.pth'))
    assert report.format == 'official' and not report.initialised
    x = image(2, 3, 48, 48)
    assert_same_outputs(ours(x), theirs.forward_features(x))


def literal(model, sources):
    reference = ScaleNetViT(ARCH, img_size=48, out_type='raw', adjustment=None,
                            growth=dict(order=sources, share='none'))
    for position, source in enumerate(sources):
        block = reference.layers[position]
        state = model.layers[model.layer_maps[0].sources.index(source)].state_dict()
        block.load_state_dict(state)
        for norm in ('ln1', 'ln2'):
            getattr(block, norm).load_state_dict(
                getattr(model.layers[position], norm).state_dict())
    rest = {k: v for k, v in model.state_dict().items() if not k.startswith('layers.')}
    assert not reference.load_state_dict(rest, strict=False).unexpected_keys
    return reference


def forward_literally(model, sources, x):
    """The grown model written down: every block a stock-like computation on its source."""
    import torch.nn.functional as F
    tokens, _ = model.patch_embed(x)
    tokens = torch.cat((model.cls_token.expand(len(x), -1, -1), tokens), 1) + model.pos_embed
    state = model.state_dict()
    for position, source in enumerate(sources):
        instance = model.layer_maps[0].names[position]

        def norm(which, value):
            key = f'layers.{instance}.{which}'
            return F.layer_norm(value, (24, ), state[f'{key}.weight'], state[f'{key}.bias'], 1e-6)

        def linear(which, value):
            key = f'layers.{source}.{which}'
            out = value @ state[f'{key}.weight'].T + state[f'{key}.bias']
            own = f'layers.{instance}.{which}.adapter_'
            if own + 'down' in state:
                out = out + (value @ state[own + 'down'].T).relu() @ state[own + 'up'].T
            return out

        qkv = linear('attn.qkv', norm('ln1', tokens)).unflatten(-1, (3, 2, 12))
        query, key, value = qkv.permute(2, 0, 3, 1, 4)
        weights = (query @ key.transpose(-2, -1) * 12**-0.5).softmax(-1)
        attended = (weights @ value).transpose(1, 2).flatten(2)
        tokens = tokens + linear('attn.proj', attended)
        hidden = F.gelu(linear('ffn.layers.0.0', norm('ln2', tokens)))
        tokens = tokens + linear('ffn.layers.1', hidden)
    return F.layer_norm(tokens, (24, ), model.ln1.weight, model.ln1.bias, 1e-6)


@pytest.mark.parametrize('growth, sources', [
    ('paper', (0, 0, 1, 1, 2, 2)),
    (dict(order='stack'), (0, 1, 2, 0, 1, 2)),
    (dict(times=3, blocks=(1, )), (0, 1, 1, 1, 2)),
    (dict(order='cyclic', blocks=(0, 1)), (0, 1, 2, 0, 1)),
    (dict(order=(0, 2, 1, 2)), (0, 2, 1, 2)),
], ids=['paper', 'stack', 'one block', 'cyclic', 'list'])
def test_grown_equals_literally_repeated_blocks(growth, sources, randomise, image,
                                                assert_same_outputs):
    model = ScaleNetViT(ARCH, img_size=48, out_type='raw', growth=growth,
                        adjustment=dict(rank=4))
    randomise(model)  # adapters and the norms of repeats are drawn too
    x = image(2, 3, 48, 48)
    with torch.no_grad():
        assert_same_outputs(model(x), forward_literally(model, sources, x))


def test_gradient_of_a_shared_tensor_is_the_sum_over_its_uses(randomise, image):
    sources = (0, 0, 1, 1, 2, 2)
    model = ScaleNetViT(ARCH, img_size=48, out_type='raw', adjustment=None).double()
    randomise(model)
    reference = literal(model, sources).double()
    for net in (model, reference):
        net(image(1, 3, 48, 48).double())[0].pow(2).sum().backward()
    for name in ('attn.qkv.weight', 'attn.proj.bias', 'ffn.layers.0.0.weight',
                 'ffn.layers.1.bias'):
        for source in range(3):
            uses = [reference.layers[i].get_parameter(name).grad
                    for i in (2 * source, 2 * source + 1)]
            assert uses[1].abs().sum() > 0
            torch.testing.assert_close(
                model.get_parameter(f'layers.{source}.{name}').grad, uses[0] + uses[1])


def test_identity_start_is_exact(randomise, image):
    plain = randomise(ScaleNetViT(ARCH, img_size=48, **UNGROWN)).eval()
    x = image(1, 3, 64, 48)
    for order in ('interpolate', 'stack'):
        grown = ScaleNetViT(ARCH, img_size=48, growth=dict(order=order, start='identity'))
        grown.load_state_dict(plain.state_dict(), strict=True)
        assert torch.equal(grown.eval()(x)[0], plain(x)[0])


def test_out_indices_name_pretrained_blocks(randomise, image):
    plain = randomise(ScaleNetViT(ARCH, img_size=48, out_type='raw', out_indices=[0, 1, -1],
                                  **UNGROWN)).eval()
    grown = ScaleNetViT(ARCH, img_size=48, out_type='raw', out_indices=[0, 1, -1],
                        growth=dict(start='identity')).eval()
    assert grown.out_indices == (1, 3, 5)
    grown.load_state_dict(plain.state_dict())
    x = image(1, 3, 48, 48)
    assert all(map(torch.equal, grown(x), plain(x)))
    stacked = ScaleNetViT(ARCH, img_size=48, growth=dict(order='stack'))
    assert stacked.out_indices == (5, )


@pytest.mark.parametrize('growth, depth', [(None, 3), ('paper', 6), (dict(times=3), 9)])
def test_drop_path_rises_over_the_grown_depth(growth, depth):
    model = ScaleNetViT(ARCH, img_size=48, growth=growth, drop_path_rate=0.5)
    rates = [get_drop_path_rate(block) for block in model.layers]
    assert rates == pytest.approx(torch.linspace(0, 0.5, depth).tolist())
    assert [b.attn.out_drop.drop_prob for b in model.layers] == rates
    assert [b.ffn.dropout_layer.drop_prob for b in model.layers] == rates


def test_checkpointing_gives_the_same_gradients(randomise, image):
    grads = []
    for with_cp in (False, True):
        model = randomise(ScaleNetViT(ARCH, img_size=48, with_cp=with_cp)).train()
        for name, parameter in model.named_parameters():
            parameter.requires_grad = 'adapter' in name
        model(image(1, 3, 48, 48))[0].pow(2).sum().backward()
        grads.append({n: p.grad for n, p in model.named_parameters() if p.requires_grad})
    assert grads[0]
    for name, grad in grads[0].items():
        torch.testing.assert_close(grad, grads[1][name], rtol=1e-4, atol=1e-4)
        assert grad.abs().sum() > 0


@pytest.mark.parametrize('dtype', [torch.float64, torch.bfloat16])
def test_other_precisions(dtype, randomise, image, assert_same_outputs):
    model = randomise(ScaleNetViT(ARCH, img_size=48)).eval()
    expected = model(image(1, 3, 64, 48))
    outputs = model.to(dtype)(image(1, 3, 64, 48).to(dtype))
    assert all(out.dtype == dtype for out in outputs)
    loose = dict(rtol=0.1, atol=0.25) if dtype is torch.bfloat16 else dict()
    assert_same_outputs([out.float() for out in outputs], expected, **loose)


# --- configs and arguments -----------------------------------------------------------------------


@pytest.mark.parametrize('path', [
    'mmpretrain::deit/deit-small_4xb256_in1k.py',
    'mmseg::vit/vit_deit-b16-ln_mln_upernet_8xb2-160k_ade20k-512x512.py',
    'mmseg::vit/vit_deit-s16_upernet_8xb2-80k_ade20k-512x512.py',
])
def test_takes_the_arguments_of_stock_configs(path, tmp_path):
    config = tmp_path / 'config.py'
    config.write_text(
        f'_base_ = {path!r}\n'
        "model = dict(pretrained=None, backbone=dict(type='ScaleNetViT', init_cfg=None))\n")
    cfg = Config.fromfile(config).model.backbone
    assert cfg.pop('type') == 'ScaleNetViT'
    cfg.pop('_scope_', None)
    with torch.device('meta'):
        model = ScaleNetViT(**cfg)
    assert len(model.layers) == 24
    if path.startswith('mmseg'):
        # UPerNet takes blocks 2, 5, 8, 11, here their repeats
        assert model.out_indices == (5, 11, 17, 23)


@pytest.mark.parametrize('package', ['mmpretrain', 'mmseg'])
def test_knows_every_argument_of_the_stock_class(package):
    theirs = inspect.signature(type(stock(package)).__init__).parameters
    assert set(theirs) <= set(inspect.signature(ScaleNetViT.__init__).parameters)


def test_a_depth_beside_the_architecture():
    arch = dict(embed_dims=192, num_layers=5, num_heads=3, feedforward_channels=768)
    plain = dict(growth=None, adjustment=None)
    with torch.device('meta'):
        named = ScaleNetViT(arch='deit-tiny', num_layers=5, **plain)
        for other in (dict(arch=arch), dict(arch=dict(arch, num_layers=2), num_layers=5),
                      dict(arch={k: v for k, v in arch.items() if k != 'num_layers'},
                           num_layers=5)):
            same = ScaleNetViT(**other, **plain)
            assert {k: v.shape for k, v in same.state_dict().items()} == {
                k: v.shape for k, v in named.state_dict().items()}
        # mmpretrain's meaning, not mmseg's
        assert named.by_arch and named.layers[0].ln1.eps == 1e-6 and named.num_layers == 5
        assert ScaleNetViT.arch_zoo['deit-tiny']['num_layers'] == 12
        assert len(ScaleNetViT(arch='deit-tiny', num_layers=5).layers) == 10


@pytest.mark.parametrize('kwargs, message', [
    (dict(arch='deit-tiny', num_heads=3), 'num_heads cannot be given together with arch'),
    (dict(arch='deit-tiny', num_layers=0), 'num_layers must be an integer >= 1, got 0'),
    (dict(arch='deit-tiny', num_layers=2.), 'num_layers must be an integer >= 1, got 2.0'),
    (dict(arch=ARCH, num_layers=True), 'num_layers must be an integer >= 1, got True'),
    (dict(arch=ARCH, num_layers=2, out_indices=2), 'pretrained blocks from 0 to 1, got 2'),
    (dict(embed_dims=24, out_type='raw'), 'out_type cannot be given together with embed_dims'),
    (dict(num_layers=3, frozen_stages=1), 'frozen_stages cannot be given together'),
    (dict(arch='deit-giant'), "unknown arch 'deit-giant'.*deit-tiny, deit-small, deit-base"),
    (dict(arch=dict(embed_dims=24)), 'just the keys embed_dims, feedforward_channels'),
    (dict(arch=ARCH, out_indices=3), 'pretrained blocks from 0 to 2, got 3'),
    (dict(arch=ARCH, out_indices=[-4]), 'pretrained blocks from 0 to 2'),
    (dict(arch=ARCH, out_indices='last'), 'out_indices must name pretrained blocks'),
    (dict(arch=ARCH, out_type='logits'), "out_type must be one of.*got 'logits'"),
    (dict(arch=ARCH, with_cls_token=False), 'class token cannot be returned'),
    (dict(**DENSE, with_cls_token=False, output_cls_token=True), 'class token cannot be'),
    (dict(arch=ARCH, layer_scale_init_value=1e-5), 'layer_scale_init_value cannot be honoured'),
    (dict(arch=ARCH, layer_cfgs=dict(num_fcs=3)), 'layer_cfgs cannot be honoured'),
    (dict(**DENSE, frozen_exclude=['pos_embed']), 'frozen_exclude cannot be honoured'),
    (dict(**DENSE, pre_norm=True), 'pre_norm cannot be honoured'),
    (dict(embed_dims=24, num_heads=2, num_layers=3, pre_norm=True),
     'pre_norm cannot be honoured'),
    (dict(arch=dict(ARCH, num_heads=5)), 'embed_dims 24 is not divisible by num_heads 5'),
])
def test_refuses_what_it_cannot_honour(kwargs, message):
    with pytest.raises(ConfigError, match=message):
        ScaleNetViT(**kwargs)


@pytest.mark.parametrize('kwargs, message', [
    (dict(growth=dict(stages=(1, ))), 'growth.stages names stage 1, but there is one stage'),
    (dict(growth=dict(blocks=(3, ))), 'growth.blocks names block 3, but there are 3'),
    (dict(growth=dict(start='half')), "growth.start must be 'paper', 'identity'"),
    (dict(adjustment=dict(rank=2.5)), 'adjustment.rank must be an integer'),
])
def test_refuses_wrong_growth(kwargs, message):
    with pytest.raises(GrowthError, match=message):
        ScaleNetViT(ARCH, **kwargs)


def frozen(model):
    return {n for n, p in model.named_parameters() if not p.requires_grad}


@pytest.mark.parametrize('stages', [-1, 0, 1, 3])
def test_frozen_stages_of_mmpretrain(stages):
    options = dict(arch=ARCH, img_size=48, frozen_stages=stages)
    ours = ScaleNetViT(**options, **UNGROWN)
    assert frozen(ours) == frozen(stock('mmpretrain', **options))
    ours.eval().train()
    assert frozen(ours) == frozen(stock('mmpretrain', **options))
    grown = ScaleNetViT(**options)
    expected = [source >= stages for source in (0, 0, 1, 1, 2, 2)]
    assert [b.ln1.weight.requires_grad for b in grown.layers] == expected
    assert [b.training for b in grown.train().layers] == expected


def test_eval_returns_the_model():
    model = ScaleNetViT(ARCH, img_size=48)
    assert model.eval() is model and model.train() is model


@pytest.mark.parametrize('adjustment', ['paper', dict(type='LoRA', rank=2)])
def test_init_weights_keeps_the_start(adjustment):
    model = ScaleNetViT(ARCH, img_size=48, growth=dict(start='identity'), adjustment=adjustment)
    own = {n: p.clone() for n, p in model.named_parameters()
           if n.endswith(('_up', '_down', 'gain'))}
    model.init_weights()
    assert len(own) > 12
    for name, value in own.items():
        assert torch.equal(model.get_parameter(name), value)
        assert not (name.endswith('_up') and value.any())
    assert model.layers[0].attn.qkv.weight.std().item() == pytest.approx(0.02, rel=0.2)
    assert model.pos_embed.std().item() == pytest.approx(0.02, rel=0.2)


def test_init_weights_from_a_file(tmp_path, randomise, image):
    source = randomise(ScaleNetViT(ARCH, img_size=48, **UNGROWN)).eval()
    torch.save(source.state_dict(), tmp_path / 'vit.pth')
    model = ScaleNetViT(ARCH, img_size=48, growth=dict(start='identity'), init_cfg=dict(
        type='Pretrained', checkpoint=str(tmp_path / 'vit.pth')))
    model.init_weights()
    x = image(1, 3, 48, 48)
    assert torch.equal(model.eval()(x)[0], source(x)[0])


def test_complexity_counts_tensors_once_and_blocks_each_time():
    from mmengine.analysis import get_model_complexity_info

    def complexity(model):
        info = get_model_complexity_info(model.eval(), (3, 48, 48), show_table=False,
                                         show_arch=False)
        assert info['params'] == sum(p.numel() for p in model.parameters())
        return info['flops']

    literal_flops = complexity(ScaleNetViT(dict(ARCH, num_layers=6), img_size=48, **UNGROWN))
    assert complexity(ScaleNetViT(ARCH, img_size=48, adjustment=None)) == literal_flops
    adapted = complexity(ScaleNetViT(ARCH, img_size=48, adjustment=dict(rank=4)))
    products = 6 * 10 * (24 + 48 + 24 + 48) * 4  # blocks, tokens, widths, rank
    assert products <= adapted - literal_flops <= products + 6 * 10 * 2 * 4 * 2
