"""Weights selected from a larger ViT, against the rule written out, and what does not fit."""
import pytest
import torch
from mmengine.registry import MODELS, WEIGHT_INITIALIZERS
from mmpretrain.models import ImageClassifier

from scalenet_mm import ScaleNetSwin, ScaleNetViT, fast_paths
from scalenet_mm.checkpoints.files import save_file
from scalenet_mm.checkpoints.keys import from_mm_keys
from scalenet_mm.checkpoints.resize import resize_pos_embed
from scalenet_mm.errors import CheckpointError, ConfigError
from scalenet_mm.learngene.linear_expansion import TLEGViT
from scalenet_mm.learngene.weight_selection import (
    WeightSelection,
    choose_layers,
    load_selected,
    select_tensor,
    select_weights,
    uniform_indices,
)

LARGE = dict(embed_dims=24, num_layers=6, num_heads=4, feedforward_channels=96)
SMALL = dict(embed_dims=12, num_layers=3, num_heads=2, feedforward_channels=48)
CLASSES = 5


def vit(arch, img_size=32, **kwargs):
    return dict(type='ScaleNetViT', arch=arch, img_size=img_size,
                **{**dict(growth=None, adjustment=None), **kwargs})


def classifier(arch, classes=CLASSES, init_cfg=None, hidden_dim=None, **kwargs):
    backbone = vit(arch, **kwargs)
    return ImageClassifier(
        backbone=backbone,
        head=dict(type='VisionTransformerClsHead', num_classes=classes, hidden_dim=hidden_dim,
                  in_channels=backbone['arch']['embed_dims'],
                  loss=dict(type='CrossEntropyLoss')),
        init_cfg=init_cfg)


@pytest.fixture(scope='module')
def large():
    generator = torch.Generator().manual_seed(0)
    model = classifier(LARGE)
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters()):
            parameter.copy_(torch.randn(parameter.shape, generator=generator))
    return model


@pytest.fixture(scope='module')
def files(large, tmp_path_factory):
    """The larger model as mmpretrain saves it, and with the names of DeiT's official files."""
    folder = tmp_path_factory.mktemp('large')
    paths = {name: str(folder / f'{name}.pth') for name in ('mm', 'official', 'headless')}
    state = large.state_dict()
    own = {k[len('backbone.'):]: v for k, v in state.items() if k.startswith('backbone.')}
    save_file(dict(state_dict=state), paths['mm'])
    official = from_mm_keys(own, 'vit', 'official')
    save_file(dict(model=official), paths['headless'])
    official.update({k.replace('layers.head.', ''): v for k, v in state.items()
                     if k.startswith('head.')})
    save_file(dict(model=official), paths['official'])
    return paths


def init(path, **kwargs):
    return dict(type='WeightSelection', checkpoint=path, **kwargs)


def built(arch=SMALL, **kwargs):
    model = classifier(arch, **kwargs)
    model.init_weights()
    return model


def every_second(state, small_names, blocks):
    """What a model of half the widths must get of some blocks: the rule, written out."""
    expected = {}
    for name in small_names:
        source = name
        if '.layers.' in name and name.startswith('backbone.'):
            block, rest = name[len('backbone.layers.'):].split('.', 1)
            source = f'backbone.layers.{blocks[int(block)]}.{rest}'
        value = state[source]
        if name.startswith('head.'):
            value = value[:, ::2] if value.ndim == 2 else value
        elif name.endswith('attn.qkv.weight'):
            value = torch.cat([part[::2, ::2] for part in value.chunk(3)])
        elif name.endswith('attn.qkv.bias'):
            value = torch.cat([part[::2] for part in value.chunk(3)])
        elif name.endswith(('pos_embed', 'cls_token')):
            value = value[:, :, ::2]
        elif value.ndim == 2:
            value = value[::2, ::2]
        else:
            value = value[::2]  # a bias, a norm, the patch embedding's filters
        expected[name] = value
    return expected


@pytest.mark.parametrize('fmt', ['mm', 'official'])
@pytest.mark.parametrize('layers, blocks', [('first', (0, 1, 2)), ('uniform', (0, 2, 4))])
def test_half_the_widths(fmt, layers, blocks, large, files):
    model = built(init_cfg=init(files[fmt], layers=layers))
    expected = every_second(large.state_dict(), model.state_dict(), blocks)
    assert len(expected) == len(model.state_dict()) == 6 + 3 * 12 + 2
    for name, value in model.state_dict().items():
        assert torch.equal(value, expected[name]), name


@pytest.mark.parametrize('fmt', ['mm', 'official'])
def test_same_sizes_are_the_larger_model_to_the_bit(fmt, large, files):
    model = built(LARGE, init_cfg=init(files[fmt]))
    for name, value in model.state_dict().items():
        assert torch.equal(value, large.state_dict()[name]), name
    x = torch.randn(2, 3, 32, 32)
    with fast_paths(False):
        assert torch.equal(model(x)[0], large(x)[0])


def test_widths_that_do_not_divide(large, files):
    arch = dict(embed_dims=10, num_layers=2, num_heads=2, feedforward_channels=36)
    state, own = built(arch, init_cfg=init(files['mm'])).state_dict(), large.state_dict()
    channels, hidden = [i * 24 // 10 for i in range(10)], [i * 96 // 36 for i in range(36)]
    assert channels == [0, 2, 4, 7, 9, 12, 14, 16, 19, 21]
    for block in range(2):
        at = f'backbone.layers.{block}.'
        # query, key and value each by the same channels as what they are multiplied with
        rows = [part * 24 + c for part in range(3) for c in channels]
        assert torch.equal(state[at + 'attn.qkv.weight'],
                           own[at + 'attn.qkv.weight'][rows][:, channels])
        assert torch.equal(state[at + 'ffn.layers.0.0.weight'],
                           own[at + 'ffn.layers.0.0.weight'][hidden][:, channels])
        assert torch.equal(state[at + 'ffn.layers.1.weight'],
                           own[at + 'ffn.layers.1.weight'][channels][:, hidden])
        assert torch.equal(state[at + 'ln2.weight'], own[at + 'ln2.weight'][channels])
    assert torch.equal(state['head.layers.head.weight'],
                       own['head.layers.head.weight'][:, channels])


def test_position_embeddings_are_resized_before_channels_are_chosen(large, files):
    model = built(init_cfg=init(files['mm']), img_size=64)
    resized = resize_pos_embed(large.backbone.pos_embed, (2, 2), (4, 4), 'bicubic', 1)
    assert model.backbone.pos_embed.shape == (1, 17, 12)
    torch.testing.assert_close(model.backbone.pos_embed, resized[:, :, ::2])
    assert torch.equal(model.backbone.pos_embed[:, 0], large.backbone.pos_embed[:, 0, ::2])


@pytest.mark.parametrize('name', ['official', 'headless'])
def test_without_the_head(name, large, files):
    model = built(init_cfg=init(files[name], head=False), classes=3)
    assert model.head.layers.head.weight.shape == (3, 12)
    assert (model.head.layers.head.weight == 0).all()  # as mmpretrain's heads start
    assert torch.equal(model.backbone.ln1.weight, large.backbone.ln1.weight[::2])


def test_backbone_alone(large, files):
    by_config = MODELS.build(vit(SMALL, init_cfg=init(files['official'])))
    by_config.init_weights()
    by_call = MODELS.build(vit(SMALL))
    load_selected(by_call, files['mm'])
    # the backbone of a classifier, whose head starts as ever
    part = classifier(SMALL)
    part.backbone.init_cfg = init(files['mm'])
    part.init_weights()
    assert (part.head.layers.head.weight == 0).all()
    expected = every_second(large.state_dict(),
                            [f'backbone.{n}' for n in by_call.state_dict()], (0, 1, 2))
    for backbone in (by_config, by_call, part.backbone):
        for key, value in backbone.state_dict().items():
            assert torch.equal(value, expected[f'backbone.{key}']), key


def test_norm_of_an_output_that_the_file_has_not(large, files):
    model = built(init_cfg=init(files['mm'], head=False), out_type='avg_featmap')
    assert (model.backbone.ln2.weight == 1).all() and (model.backbone.ln2.bias == 0).all()
    assert torch.equal(model.backbone.ln1.weight, large.backbone.ln1.weight[::2])


def test_norm_of_an_output_that_the_model_has_not(large, files):
    model = built(init_cfg=init(files['mm'], head=False), final_norm=False)
    assert not hasattr(model.backbone, 'ln1')
    assert torch.equal(model.backbone.cls_token, large.backbone.cls_token[:, :, ::2])


def test_prefix(large, tmp_path):
    path = str(tmp_path / 'pair.pth')
    save_file({**{f'online.{k}': v for k, v in large.backbone.state_dict().items()},
               **{f'target.{k}': v + 1 for k, v in large.backbone.state_dict().items()}}, path)
    model = built(init_cfg=init(path, head=False, prefix='target'))
    assert torch.equal(model.backbone.cls_token, large.backbone.cls_token[:, :, ::2] + 1)


def test_stock_backbone_in_a_classifier(large, files):
    model = ImageClassifier(
        backbone=dict(type='mmpretrain.VisionTransformer', arch=SMALL, img_size=32),
        head=dict(type='VisionTransformerClsHead', num_classes=CLASSES, in_channels=12),
        init_cfg=init(files['mm']))
    model.init_weights()  # its own init_weights would draw position embeddings and MLPs
    expected = every_second(large.state_dict(), model.state_dict(), (0, 1, 2))
    for name, value in model.state_dict().items():
        assert torch.equal(value, expected[name]), name


def test_what_was_selected_is_the_models_own(large, files):
    selected = select_weights(large.backbone.state_dict(), large.backbone)
    assert all(torch.equal(v, large.backbone.state_dict()[k]) for k, v in selected.items())
    model = built(LARGE, init_cfg=init(files['mm']))
    model.backbone.cls_token.data.zero_()
    again = built(LARGE, init_cfg=init(files['mm']))
    assert torch.equal(again.backbone.cls_token, large.backbone.cls_token)


def test_says_what_it_chose(files, monkeypatch):
    said = []
    monkeypatch.setattr('scalenet_mm.learngene.weight_selection.print_log',
                        lambda message, **kwargs: said.append(message))
    load_selected(classifier(SMALL), files['official'], layers='uniform')
    load_selected(classifier(SMALL), files['mm'], head=False)
    assert said == [
        f'Selected weights of {files["official"]} (official): blocks 0, 2, 4 of 6; width 12 of 24; '
        'head selected',
        f'Selected weights of {files["mm"]} (OpenMMLab): blocks 0, 1, 2 of 6; width 12 of 24; head '
        'as it was'
    ]


def test_mmengines_log_tells_where_values_come_from(files, monkeypatch):
    told = {}

    def collect(self):
        told.update((n, self._params_init_info[p]['init_info']) for n, p in self.named_parameters())

    monkeypatch.setattr(ImageClassifier, '_dump_init_info', collect)
    model = built(init_cfg=init(files['mm']))
    assert set(told) == {name for name, _ in model.named_parameters()}
    assert set(told.values()) == {f'WeightSelection: from {files["mm"]}'}


def test_precision_is_the_models(files):
    model = classifier(SMALL).bfloat16()
    load_selected(model, files['mm'])
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16}


# --- the rules -----------------------------------------------------------------------------------


@pytest.mark.parametrize('size, wanted, expected', [
    (8, 4, [0, 2, 4, 6]), (9, 3, [0, 3, 6]), (5, 5, [0, 1, 2, 3, 4]), (10, 4, [0, 2, 5, 7]),
    (7, 6, [0, 1, 2, 3, 4, 5]), (3, 1, [0]),
])
def test_uniform_indices(size, wanted, expected):
    assert uniform_indices(size, wanted).tolist() == expected


@pytest.mark.parametrize('layers, expected', [('first', (0, 1, 2, 3)), ('uniform', (0, 3, 6, 9))])
def test_choose_layers(layers, expected):
    assert choose_layers(12, 4, layers) == expected
    assert choose_layers(4, 4, layers) == (0, 1, 2, 3)


def test_select_tensor():
    tensor = torch.arange(24.).reshape(4, 6)
    assert select_tensor(tensor, (2, 3)).tolist() == [[0, 2, 4], [12, 14, 16]]
    assert select_tensor(tensor, (4, 2), dims=(1, )).tolist() == [[0, 3], [6, 9], [12, 15],
                                                                  [18, 21]]
    with pytest.raises(CheckpointError, match=r'\(4, 6\) in the file and \(2, 6\).*dimension 0'):
        select_tensor(tensor, (2, 6), dims=(1, ))
    with pytest.raises(CheckpointError, match='at least as wide'):
        select_tensor(tensor, (4, 7))
    with pytest.raises(CheckpointError, match='number of dimensions'):
        select_tensor(tensor, (4, ))


# --- what does not fit ---------------------------------------------------------------------------


@pytest.mark.parametrize('change, text', [
    (dict(arch=dict(SMALL, num_layers=7)), r'it has 6 block\(s\) and the model 7.*num_layers'),
    (dict(arch=dict(SMALL, embed_dims=48)), 'cls_token: .*at least as wide'),
    (dict(arch=dict(SMALL, feedforward_channels=100)), r'layers.0.ffn.*\(96.*\(100'),
    (dict(patch_size=8), 'patch_embed.projection.weight: .*must agree in dimension 2'),
    (dict(in_channels=1), 'patch_embed.projection.weight: .*must agree in dimension 1'),
    (dict(pre_norm=True), 'has no pre_norm.weight, from which pre_norm.weight'),
    (dict(qkv_bias=False), r'its layers.0.attn.qkv.bias has no place'),
    (dict(out_type='avg_featmap', with_cls_token=False), 'its cls_token has no place'),
])
def test_another_kind_of_model(change, text, files):
    model = classifier(**{**dict(arch=SMALL), **change})
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=f'no weights can be selected from .*{text}'):
        load_selected(model, files['mm'], head=False)
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


@pytest.mark.parametrize('name, change, text', [
    ('mm', dict(classes=7), '5 classes and the model 7.*head=False'),
    ('headless', dict(), 'has no head.layers.head.weight: give head=False'),
    ('mm', dict(hidden_dim=8), 'has no head.layers.pre_logits.weight: give head=False'),
])
def test_another_head(name, change, text, files):
    model = classifier(SMALL, **change)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    with pytest.raises(CheckpointError, match=text):
        load_selected(model, files[name])
    assert all(torch.equal(v, before[k]) for k, v in model.state_dict().items())


def test_another_grid_that_is_none(large, tmp_path):
    state = dict(large.state_dict())
    for shape, text in (((1, 7, 24), 'position embeddings of shape'),
                        ((24, ), r'shape \(24,\) in the file .* number of dimensions')):
        state['backbone.pos_embed'] = torch.zeros(shape)
        save_file(dict(state_dict=state), str(tmp_path / 'odd.pth'))
        with pytest.raises(CheckpointError, match=f'pos_embed: {text}'):
            load_selected(classifier(SMALL), str(tmp_path / 'odd.pth'))


def test_files_of_other_kinds(large, tmp_path):
    grown = ScaleNetViT(LARGE, img_size=32)
    swin = ScaleNetSwin(embed_dims=12, depths=(1, 1), num_heads=(1, 2), out_indices=(0, ),
                        growth=None, adjustment=None)
    for model, text in ((grown, 'of a grown model: it holds .*adapters'), (swin, 'of a swin')):
        path = str(tmp_path / 'other.pth')
        save_file(dict(state_dict=model.state_dict()), path)
        with pytest.raises(CheckpointError, match=text):
            load_selected(classifier(SMALL), path)


def test_only_for_plain_vits(files):
    tleg = TLEGViT({k: v for k, v in SMALL.items() if k != 'num_layers'}, depth=2, img_size=32)
    grown = ScaleNetViT(SMALL, img_size=32, growth=dict(times=2, share='all'), adjustment=None)
    adapted = ScaleNetViT(SMALL, img_size=32, growth=None)
    swin = ScaleNetSwin(embed_dims=12, depths=(1, 1), num_heads=(1, 2), out_indices=(0, ),
                        growth=None, adjustment=None)
    for model, text in ((tleg, 'for a TLEGViT'), (swin, 'for a ScaleNetSwin'),
                        (grown, 'growth=None'), (adapted, 'growth=None')):
        for call in (lambda: load_selected(model, files['mm']),
                     lambda: load_selected(model, 'absent.pth'),  # told before anything is read
                     lambda: select_weights({}, model)):
            with pytest.raises(ConfigError, match=text):
                call()


@pytest.mark.parametrize('kwargs, text', [
    (dict(checkpoint=''), 'must name a file'),
    (dict(checkpoint=None), 'must name a file'),
    (dict(checkpoint='a.pth', layers='last'), "'first', 'uniform'.*'last'"),
    (dict(checkpoint='a.pth', head='no'), "head must be True or False, got 'no'"),
])
def test_arguments(kwargs, text):
    with pytest.raises(ConfigError, match=text):
        WeightSelection(**kwargs)


def test_is_registered():
    assert WEIGHT_INITIALIZERS.get('WeightSelection') is WeightSelection


def test_other_initialisations_are_refused(files):
    own = init(files['mm'])
    constant = dict(type='Constant', layer='LayerNorm', val=3.)
    for cfg, backbone_cfg, text in (
        ([own, dict(type='Pretrained', checkpoint='b.pth')], None, "other weights too.*Pretrained"),
        (own, dict(type='Pretrained', checkpoint='b.pth'), "beside that of the model.*Pretrained"),
        (own, own, 'beside that of the model'),
        ([own, constant], None, "'Constant' comes after 'WeightSelection'"),
    ):
        model = classifier(SMALL, init_cfg=cfg)
        model.backbone.init_cfg = backbone_cfg
        with pytest.raises(ConfigError, match=text):
            model.init_weights()
    model = classifier(SMALL, init_cfg=[constant, own])
    model.init_weights()
    assert not (model.backbone.ln1.weight == 3).any()


def test_belongs_to_a_model(files):
    head = MODELS.build(dict(type='mmpretrain.VisionTransformerClsHead', num_classes=5,
                             in_channels=12, init_cfg=init(files['mm'])))
    with pytest.raises(ConfigError, match='not to a VisionTransformerClsHead'):
        head.init_weights()
