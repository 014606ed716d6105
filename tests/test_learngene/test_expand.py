"""Descendants of any depth."""
import os

import pytest
import torch
from gene_toys import (
    ARCH,
    CLASSES,
    STAGES,
    auxiliary_cfg,
    build,
    image,
    make_cfg,
    randomise,
    run_classifier,
    save_trained,
    tleg_cfg,
)
from mmengine.runner import load_checkpoint

from scalenet_mm import ScaleNetViT, load_pretrained
from scalenet_mm.checkpoints import load_file
from scalenet_mm.checkpoints.adapt import adapt_checkpoint
from scalenet_mm.checkpoints.files import save_file
from scalenet_mm.errors import CheckpointError, ConfigError, GrowthError
from scalenet_mm.growth import fast_paths
from scalenet_mm.learngene import (
    descendant_map,
    expand_checkpoint,
    expand_gene,
    expand_map,
    expand_state,
    extract_gene,
    read_gene,
)

ORDERS = [('front-mid-last', None), ('front-last-mid', None), ('random-assigned', 4),
          ('random-sorted', 4)]


def stock_cfg(depth, **backbone):
    arch = dict(ARCH, num_layers=depth)
    return make_cfg(**{**dict(type='VisionTransformer', arch=arch, img_size=32, patch_size=8),
                       **backbone})


def places(state):
    return [value.untyped_storage().data_ptr() for value in state.values()]


# --- the tensors ---------------------------------------------------------------------------------


@pytest.mark.parametrize('order, seed', ORDERS)
@pytest.mark.parametrize('depth', [1, 2, 3, 8, 48])
def test_each_block_is_that_of_its_stage(depth, order, seed, gene_file):
    gene = read_gene(gene_file)
    state = expand_state(gene, depth, order, seed)
    sources = descendant_map(3, depth, order, seed).sources
    assert len([k for k in state if k.endswith('.ln1.weight') and 'layers' in k]) == depth
    for index, source in enumerate(sources):
        for name, value in gene.block(source).items():
            assert torch.equal(state.pop(f'layers.{index}.{name}'), value)
    rest = {k: v for k, v in gene.backbone.items() if not k.startswith('layers.')}
    assert set(state) == set(rest) and all(torch.equal(state[k], rest[k]) for k in rest)


def test_descendants_share_nothing(gene_file, tmp_path):
    gene = read_gene(gene_file)
    checkpoint = expand_checkpoint(gene, 9)
    assert not set(places(checkpoint['state_dict'])) & set(places(gene.state))
    save_file(checkpoint, str(tmp_path / 'des.pth'))
    for state in (checkpoint['state_dict'], load_file(str(tmp_path / 'des.pth'))['state_dict']):
        assert len(set(places(state))) == len(state)
    # training one block leaves the others of its stage
    model = build(make_cfg(num_layers=9))
    model.load_state_dict(checkpoint['state_dict'], assign=True)
    optimizer = torch.optim.SGD(model.backbone.layers[4].parameters(), lr=1.)
    model(image()).square().sum().backward()
    optimizer.step()
    for name, value in model.state_dict().items():
        same = torch.equal(value, expand_checkpoint(gene, 9)['state_dict'][name])
        assert same == (not name.startswith('backbone.layers.4.')), name


@pytest.mark.parametrize('cfg', [make_cfg(num_layers=8), stock_cfg(8)])
def test_the_file_is_one_of_the_stock_model(cfg, gene_file, tmp_path):
    """mmpretrain's VisionTransformer and ours have its names, in their order."""
    gene = read_gene(gene_file)
    path = str(tmp_path / 'des.pth')
    save_file(expand_checkpoint(gene, 8), path)
    model = build(cfg)
    assert list(load_file(path)['state_dict']) == list(model.state_dict())
    load_checkpoint(model, path, strict=True)
    with fast_paths(False):
        logits = model.eval()(image())
    torch.testing.assert_close(
        logits, run_classifier(gene.state, (0, 0, 0, 1, 1, 1, 2, 2), image()), rtol=1e-4,
        atol=1e-5)


@pytest.mark.parametrize('k', [1, 2, 3])
def test_it_computes_what_an_auxiliary_net_of_its_depth_would(k, aux, gene_file):
    """To the bit, at L = M k."""
    gene = read_gene(gene_file)
    net = build(auxiliary_cfg())
    net.backbone = ScaleNetViT(arch=ARCH, img_size=32, patch_size=8, adjustment=None,
                               growth=dict(times=k, share='all', depth=3 * k))
    net.load_state_dict(gene.state, strict=True)
    descendant = build(make_cfg(num_layers=3 * k))
    descendant.load_state_dict(expand_checkpoint(gene, 3 * k)['state_dict'], strict=True)
    with fast_paths(False), torch.no_grad():
        assert torch.equal(net.eval()(image()), descendant.eval()(image()))
        assert net(image()).abs().max() > 0.01


def test_the_depth_of_the_auxiliary_net_itself(aux, gene_file):
    """Stages 2, 3, 2 are not what 7 blocks are divided into; a map by hand is the trained net."""
    gene = read_gene(gene_file)
    assert expand_map(gene, 7).sources != (0, 0, 1, 1, 1, 2, 2)
    sources = [stage for stage, length in enumerate(STAGES) for _ in range(length)]
    state = {k: v for k, v in gene.state.items() if '.layers.' not in k}
    for index, source in enumerate(sources):
        state.update({f'backbone.layers.{index}.{k}': v for k, v in gene.block(source).items()})
    state.update({k: v for k, v in gene.state.items() if k.startswith('head.')})
    plain = build(make_cfg(num_layers=7))
    plain.load_state_dict(state, strict=True)
    with fast_paths(False), torch.no_grad():
        assert torch.equal(aux[1].eval()(image()), plain.eval()(image()))


# --- genes of other methods ----------------------------------------------------------------------


@pytest.fixture
def vanilla(tmp_path):
    path = str(tmp_path / 'plain.pth')
    save_trained(path, make_cfg(num_layers=5))
    return extract_gene(path, method='vanilla', last_blocks=2)


def test_vanilla_draws_what_the_gene_has_not(vanilla):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    state = expand_state(vanilla, 6, seed=0)
    assert torch.equal(torch.get_rng_state(), before)  # it leaves the run's own draws alone
    for index, block in ((4, 0), (5, 1)):
        for name, value in vanilla.block(block).items():
            assert torch.equal(state[f'layers.{index}.{name}'], value)
    for index in range(4):
        assert torch.equal(state[f'layers.{index}.ln1.weight'], torch.ones(24))
        assert not state[f'layers.{index}.ln2.bias'].any()
        assert not state[f'layers.{index}.attn.qkv.bias'].any()
    drawn = torch.cat([state[f'layers.{i}.{name}.weight'].flatten() for i in range(4)
                       for name in ('attn.qkv', 'attn.proj', 'ffn.layers.0.0', 'ffn.layers.1')])
    assert drawn.std().item() == pytest.approx(0.02, rel=0.03)
    assert abs(drawn.mean().item()) < 1e-3 and drawn.unique().numel() > 0.9 * drawn.numel()
    again = expand_state(vanilla, 6, seed=0)
    assert all(torch.equal(again[k], state[k]) for k in state)
    other = expand_state(vanilla, 6, seed=1)
    assert not torch.equal(other['layers.0.attn.qkv.weight'], state['layers.0.attn.qkv.weight'])
    # deeper ones begin with the same draws
    assert torch.equal(expand_state(vanilla, 9, seed=0)['layers.1.attn.proj.weight'],
                       state['layers.1.attn.proj.weight'])


def test_shallow_vanilla_descendants_draw_nothing(vanilla):
    state = expand_state(vanilla, 1)
    assert torch.equal(state['layers.0.ln1.bias'], vanilla.block(1)['ln1.bias'])
    with pytest.raises(GrowthError, match='4 of 6 blocks are not in .*plain.pth .*give a seed'):
        expand_state(vanilla, 6)


def test_linear_expansion(tmp_path):
    path = str(tmp_path / 'tleg.pth')
    net = save_trained(path, tleg_cfg(depth=4))
    gene = extract_gene(path)
    assert expand_map(gene, 4) is None
    model = build(make_cfg(num_layers=4))
    model.load_state_dict(expand_checkpoint(gene, 4)['state_dict'], strict=True)
    with fast_paths(False), torch.no_grad():
        assert torch.equal(net.eval()(image()), model.eval()(image()))
    state = expand_state(gene, 10)
    a, b = gene.block(0)['ln1.weight'], gene.block(1)['ln1.weight']
    torch.testing.assert_close(state['layers.5.ln1.weight'], a + 0.5 * b)


def test_orders_that_have_no_meaning(vanilla, tmp_path):
    save_trained(tmp_path / 'tleg.pth', tleg_cfg())
    for gene, how in ((vanilla, 'placed last'), (extract_gene(str(tmp_path / 'tleg.pth')),
                                                 'expanded linearly')):
        with pytest.raises(GrowthError, match=f"order='front-last-mid' has no meaning .*{how}"):
            expand_state(gene, 6, 'front-last-mid', 0)


# --- the checkpoint ------------------------------------------------------------------------------


def test_what_the_checkpoint_says(gene_file):
    checkpoint = expand_checkpoint(read_gene(gene_file), 4, 'random-sorted', 7)
    said = checkpoint['meta']['descendant']
    assert {k: said[k] for k in ('gene', 'method', 'depth', 'order', 'seed', 'stages')} == dict(
        gene='gene.pth', method='sws', depth=4, order='random-sorted', seed=7,
        stages=list(STAGES))
    assert tuple(checkpoint['meta']['dataset_meta']['classes']) == CLASSES


def test_heads(gene_file):
    gene = read_gene(gene_file)
    for kwargs in ({}, dict(num_classes=5)):
        state = expand_checkpoint(gene, 2, **kwargs)['state_dict']
        assert torch.equal(state['head.layers.head.bias'], gene.state['head.layers.head.bias'])
    without = expand_checkpoint(gene, 2, head=False)
    assert not any(k.startswith('head') for k in without['state_dict'])
    assert 'dataset_meta' not in without['meta']
    new = expand_checkpoint(gene, 2, head=False, num_classes=7)['state_dict']
    model = build(make_cfg(num_layers=2, num_classes=7))
    model.load_state_dict(new, strict=True)
    # as mmpretrain's own head starts
    model.head.init_weights()
    assert torch.equal(new['head.layers.head.weight'], model.head.layers.head.weight)
    assert torch.equal(new['head.layers.head.bias'], model.head.layers.head.bias)


@pytest.mark.parametrize('request_, error, message', [
    (dict(depth=0), GrowthError, 'depth of a descendant must be an integer >= 1, got 0'),
    (dict(depth=-3), GrowthError, 'depth of a descendant .*got -3'),
    (dict(depth=2.), GrowthError, 'depth of a descendant .*got 2.0'),
    (dict(depth=3, order='cyclic'), GrowthError, "order must be one of .*'cyclic'"),
    (dict(depth=3, order='random-assigned'), GrowthError, 'draws at random: give a seed'),
    (dict(depth=3, num_classes=7), ConfigError,
     'gene.pth has a head of 5 classes, and num_classes is 7: .*head=False, --no-head'),
    (dict(depth=3, num_classes=0, head=False), ConfigError, 'num_classes must be an integer >= 1'),
])
def test_requests_that_cannot_be(request_, error, message, gene_file):
    with pytest.raises(error, match=message):
        expand_checkpoint(read_gene(gene_file), **request_)


# --- models --------------------------------------------------------------------------------------


@pytest.mark.parametrize('cfg', [make_cfg(num_layers=8), stock_cfg(8)])
def test_a_classifier_in_place(cfg, gene_file):
    gene = read_gene(gene_file)
    model = randomise(build(cfg), seed=5)
    report = expand_gene(gene, model, 'front-last-mid')
    state = model.state_dict()
    expected = expand_checkpoint(gene, 8, 'front-last-mid')['state_dict']
    assert all(torch.equal(state[k], expected[k]) for k in state)
    assert len(report.matched) == len(state) and not report.ignored


def test_a_backbone_in_place(gene_file):
    gene = read_gene(gene_file)
    backbone = randomise(build(make_cfg(num_layers=2))).backbone
    expand_gene(gene, backbone)
    expected = expand_state(gene, 2)
    assert all(torch.equal(v, expected[k]) for k, v in backbone.state_dict().items())


def test_without_the_head(gene_file):
    gene = read_gene(gene_file)
    model = randomise(build(make_cfg(num_layers=2, num_classes=7)), seed=5)
    before = model.head.layers.head.weight.clone()
    expand_gene(gene, model, head=False)
    assert torch.equal(model.head.layers.head.weight, before)
    assert torch.equal(model.backbone.cls_token, gene.backbone['cls_token'])


def test_a_head_of_another_kind(gene_file):
    """A linear head has other names for the same two tensors."""
    gene = read_gene(gene_file)
    head = dict(type='LinearClsHead', num_classes=5, in_channels=24)
    model = build(make_cfg(num_layers=2, head=head))
    expand_gene(gene, model)
    assert torch.equal(model.head.fc.bias, gene.state['head.layers.head.bias'])


def test_growth_on_top(gene_file, tmp_path):
    """A descendant that ScaleNet grows is as if it were grown from the descendant's file."""
    gene = read_gene(gene_file)
    kwargs = dict(arch=ARCH, num_layers=4, img_size=32, patch_size=8)
    growth = dict(growth=dict(times=2), adjustment=dict(rank=4))
    save_file(expand_checkpoint(gene, 4), str(tmp_path / 'des.pth'))
    torch.manual_seed(0)
    from_file = ScaleNetViT(**kwargs, **growth)
    load_pretrained(from_file, str(tmp_path / 'des.pth'))
    torch.manual_seed(0)
    grown = ScaleNetViT(**kwargs, **growth)
    expand_gene(gene, grown)
    expected = from_file.state_dict()
    assert all(torch.equal(v, expected[k]) for k, v in grown.state_dict().items())
    assert torch.equal(grown.layers[1].ln1.weight, gene.block(0)['ln1.weight'])
    assert grown.layers[1].ln1.weight is not grown.layers[0].ln1.weight
    assert not grown.layers[1].ffn.layers[1].adapter_up.any()


def test_an_auxiliary_net_goes_on(gene_file):
    """A gene starts another auxiliary net, of other stages even."""
    gene = read_gene(gene_file)
    backbone = ScaleNetViT(arch=ARCH, img_size=32, patch_size=8, adjustment=None,
                           growth=dict(times=(1, 4, 1), share='all'))
    expand_gene(gene, backbone)
    assert all(torch.equal(v, gene.backbone[k]) for k, v in backbone.state_dict().items())


def test_another_image_size(gene_file, tmp_path):
    """Position embeddings are resized as for any other file."""
    gene = read_gene(gene_file)
    kwargs = dict(arch=ARCH, num_layers=4, patch_size=8, growth=None, adjustment=None)
    save_file(expand_checkpoint(gene, 4), str(tmp_path / 'des.pth'))
    loaded, expanded = ScaleNetViT(img_size=48, **kwargs), ScaleNetViT(img_size=48, **kwargs)
    load_pretrained(loaded, str(tmp_path / 'des.pth'))
    expand_gene(gene, expanded)
    assert expanded.pos_embed.shape == (1, 37, 24)
    assert torch.equal(expanded.pos_embed, loaded.pos_embed)
    assert torch.equal(expanded.pos_embed[:, 0], gene.backbone['pos_embed'][:, 0])


@pytest.mark.parametrize('change, message', [
    (dict(arch=dict(ARCH, embed_dims=48)), r'its width \(embed_dims\) is 24, that of the .* 48'),
    (dict(arch=dict(ARCH, num_heads=4)), 'num_heads is 2, that of the backbone 4'),
    (dict(arch=dict(ARCH, feedforward_channels=96)), 'feedforward_channels.* is 48, .* 96'),
    (dict(patch_size=16), 'patch_size is 8x8, that of the backbone 16x16'),
    (dict(in_channels=1), 'in_channels is 3, that of the backbone 1'),
    (dict(with_cls_token=False, out_type='avg_featmap'), 'with_cls_token is True, .* False'),
    (dict(qkv_bias=False), 'qkv_bias is True, that of the backbone False'),
    (dict(pre_norm=True), 'pre_norm is False'),
])
def test_other_architectures(change, message, gene_file):
    backbone = randomise(ScaleNetViT(**{**dict(
        arch=ARCH, num_layers=4, img_size=32, patch_size=8, growth=None, adjustment=None),
        **change}))
    before = {k: v.clone() for k, v in backbone.state_dict().items()}
    with pytest.raises(CheckpointError, match=f'gene.pth is the learngene of another .*{message}'):
        expand_gene(read_gene(gene_file), backbone)
    assert all(torch.equal(v, before[k]) for k, v in backbone.state_dict().items())


def test_a_backbone_of_a_segmentor(gene_file):
    """It has mmseg's arguments, several outputs and no final norm."""
    gene = read_gene(gene_file)
    backbone = ScaleNetViT(
        embed_dims=24, num_layers=6, num_heads=2, mlp_ratio=2, img_size=32, patch_size=8,
        patch_bias=True, out_indices=(2, 5), growth=None, adjustment=None)
    expand_gene(gene, backbone)
    state, expected = backbone.state_dict(), expand_state(gene, 6)
    assert set(expected) - set(state) == {'ln1.weight', 'ln1.bias'}
    assert all(torch.equal(v, expected[k]) for k, v in state.items())
    # but a norm that the learngene lacks would stay as it was drawn
    gene.arch['final_norm'] = False
    with pytest.raises(CheckpointError, match='final_norm is False, that of the backbone True'):
        expand_gene(gene, build(make_cfg(num_layers=4)))


def test_models_that_are_no_vit(gene_file):
    from scalenet_mm import ScaleNetSwin
    swin = dict(embed_dims=16, depths=(2, 2), num_heads=(2, 4))
    for model in (ScaleNetSwin(arch=swin, img_size=56, growth=None, adjustment=None),
                  torch.nn.Linear(2, 2)):
        with pytest.raises(CheckpointError, match='the learngene of a plain ViT'):
            expand_gene(read_gene(gene_file), model)


@pytest.mark.parametrize('num_classes, head, message', [
    (7, None, 'gene.pth has a head of 5 classes, and the model one of 7: set head=False'),
    (5, dict(type='VisionTransformerClsHead', num_classes=5, in_channels=24, hidden_dim=8),
     'has another head than the model: it holds .*set head=False'),
])
def test_other_heads(num_classes, head, message, gene_file):
    model = randomise(build(make_cfg(num_classes, num_layers=2, head=head)))
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=message):
        expand_gene(read_gene(gene_file), model)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


# --- a gene that is taken for an ordinary file ---------------------------------------------------


def test_ordinary_loading_of_a_gene(gene_file):
    """Of its own depth it is an ordinary file; of another one it would be a part of the model."""
    model = build(auxiliary_cfg())
    load_checkpoint(model, gene_file, strict=True)
    backbone = ScaleNetViT(arch=ARCH, num_layers=3, img_size=32, patch_size=8, growth=None)
    load_pretrained(backbone, gene_file)
    load_checkpoint(build(stock_cfg(3)), gene_file, strict=True)
    load_checkpoint(build(stock_cfg(3, img_size=48)), gene_file, strict=True)  # it resizes
    pretrained = dict(type='Pretrained', checkpoint=gene_file)
    message = "gene.pth is a learngene of 3 blocks, and the backbone has {}: .*type='Learngene'"
    for depth in (2, 6):
        for load in (
                lambda d: load_pretrained(ScaleNetViT(
                    arch=ARCH, num_layers=d, img_size=32, patch_size=8), gene_file),
                lambda d: build(make_cfg(num_layers=d, init_cfg=pretrained)).init_weights(),
                lambda d: load_checkpoint(build(make_cfg(num_layers=d)), gene_file),
                lambda d: load_checkpoint(build(stock_cfg(d)), gene_file),
                # as the AdapterInjectionHook and the analysis do
                lambda d: adapt_checkpoint(build(make_cfg(num_layers=d)), load_file(gene_file),
                                           gene_file)):
            with pytest.raises(CheckpointError, match=message.format(depth)):
                load(depth)


def test_ordinary_loading_of_a_linear_gene(tmp_path):
    from scalenet_mm.learngene import save_gene
    save_trained(tmp_path / 'tleg.pth', tleg_cfg())
    path = str(tmp_path / 'gene.pth')
    save_gene(extract_gene(str(tmp_path / 'tleg.pth')), path)
    load_checkpoint(build(tleg_cfg()), path, strict=True)
    with pytest.raises(CheckpointError, match='two sets of weights that are expanded linearly'):
        load_checkpoint(build(make_cfg(num_layers=2)), path)
    assert os.path.exists(path)
