"""Whole checkpoints brought to whole models."""
import copy
from pathlib import Path

import pytest
import torch
from mmengine.model import BaseModule
from mmengine.runner.checkpoint import _load_checkpoint_to_model

from scalenet_mm import grow_backbone
from scalenet_mm.checkpoints import LoadTracker, adapt_checkpoint
from scalenet_mm.errors import CheckpointError

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
GROWN = dict(growth=dict(), adjustment='paper')


@pytest.fixture
def classifier(vit, swin):
    from mmpretrain.models import ImageClassifier

    def make(family='vit', classes=5, seed=0, **kwargs):
        backbone = (vit if family == 'vit' else swin)(seed, **kwargs)
        width = 24 if family == 'vit' else 32
        neck = None if family == 'vit' else dict(type='GlobalAveragePooling')
        model = ImageClassifier(
            backbone=dict(type='mmpretrain.VisionTransformer', arch='deit-tiny'), neck=neck,
            head=dict(type='LinearClsHead', in_channels=width, num_classes=classes))
        model.backbone = backbone
        with torch.no_grad():
            model.head.fc.weight.normal_(generator=torch.Generator().manual_seed(seed))
        return model.eval()

    return make


def test_an_official_file_fills_backbone_and_head(classifier, formats, image):
    source = classifier()
    official = formats['vit']['official'](source.backbone.state_dict())
    official['model']['head.weight'] = source.head.fc.weight.detach().clone()
    official['model']['head.bias'] = source.head.fc.bias.detach().clone()
    model = classifier(seed=1, growth=dict(start='identity'))
    report = adapt_checkpoint(model, official, 'deit.pth')
    assert list(official) == ['state_dict']
    _load_checkpoint_to_model(model, official, strict=False)
    assert report.format == 'official' and not report.ignored
    assert 'of the head' not in report.initialised
    with torch.no_grad():
        # gains were drawn by the fixture; the start's are set here
        for name, parameter in model.named_parameters():
            if name.endswith('.gain'):
                parameter.fill_(0. if '_r1' in name else 1.)
        torch.testing.assert_close(model(image(48)), source(image(48)), rtol=0, atol=0)


@pytest.mark.parametrize('wrap', [lambda s: s, lambda s: {'state_dict': s, 'meta': {'epoch': 1}},
                                  lambda s: {f'module.{k}': v for k, v in s.items()}],
                         ids=['bare', 'mmengine', 'distributed'])
def test_own_checkpoints_pass_unchanged(wrap, classifier):
    source = classifier(growth=dict(), adjustment='paper')
    model = classifier(seed=1, growth=dict(), adjustment='paper')
    checkpoint = wrap(dict(source.state_dict()))
    for strict in (True, False):
        given = copy.copy(checkpoint)
        report = adapt_checkpoint(model, given, 'own.pth', strict=strict)
        assert not report.initialised and not report.resized and not report.ignored
        model.load_state_dict(given['state_dict'], strict=True)
        assert given.get('meta') == checkpoint.get('meta')
    assert torch.equal(model.head.fc.weight, source.head.fc.weight)


def test_other_classes_leave_the_head_out(classifier):
    model = classifier(classes=7)
    before = model.head.fc.weight.detach().clone()
    checkpoint = dict(state_dict=dict(classifier(classes=5, seed=1).state_dict()))
    report = adapt_checkpoint(model, checkpoint, 'five.pth')
    assert 'head.fc.weight' not in checkpoint['state_dict']
    assert report.resized == ['head.fc.weight (5, 24) -> (7, 24)', 'head.fc.bias (5,) -> (7,)']
    assert 'of another size, initialised anew: head.fc.weight (5, 24) -> (7, 24)' in str(report)
    model.load_state_dict(checkpoint['state_dict'], strict=False)
    assert torch.equal(model.head.fc.weight, before)


def test_resuming_is_strict(classifier):
    model = classifier(growth=dict(), adjustment='paper')
    base = dict(state_dict=dict(classifier().state_dict()))
    with pytest.raises(CheckpointError, match=r'base.pth cannot be resumed from: it lacks \d+ '
                       r'tensors of the model, such as backbone.layers.0\S+. Start from it by '
                       'load_from'):
        adapt_checkpoint(model, base, 'base.pth', strict=True)
    other = dict(state_dict=dict(classifier(classes=7).state_dict()))
    with pytest.raises(CheckpointError, match='lacks 2 tensors.*such as head.fc.weight'):
        adapt_checkpoint(classifier(), other, 'other.pth', strict=True)


def test_a_refused_checkpoint_is_not_touched(classifier):
    checkpoint = dict(state_dict=dict(classifier('swin').state_dict()), meta=dict(epoch=3))
    given = copy.copy(checkpoint)
    with pytest.raises(CheckpointError, match='swin.pth does not fit ScaleNetViT: the names are of '
                       'a swin'):
        adapt_checkpoint(classifier('vit'), given, 'swin.pth')
    assert given == checkpoint


def test_a_backbone_alone_fills_the_backbone(classifier, swin):
    model = classifier('swin', seed=1)
    checkpoint = dict(swin(seed=2).state_dict())
    report = adapt_checkpoint(model, checkpoint, 'swin.pth')
    model.load_state_dict(checkpoint['state_dict'], strict=False)
    assert report.initialised['of the head'] == ['head.fc.weight', 'head.fc.bias']
    assert torch.equal(model.backbone.stages[0].blocks[0].ffn.layers[1].weight,
                       swin(seed=2).stages[0].blocks[0].ffn.layers[1].weight)


def test_a_stock_backbone_grown_in_place(randomise):
    """Its own class loads it; the comparison is the same."""
    from mmpretrain.models import ImageClassifier

    def make(grown):
        model = ImageClassifier(
            backbone=dict(type='VisionTransformer', img_size=48, arch=dict(
                embed_dims=24, num_layers=3, num_heads=2, feedforward_channels=48)),
            head=dict(type='VisionTransformerClsHead', in_channels=24, num_classes=3))
        if grown:
            grow_backbone(model.backbone)
        return randomise(model)

    checkpoint = dict(state_dict=dict(make(False).state_dict()))
    model = make(True)
    report = adapt_checkpoint(model, checkpoint, 'stock.pth')
    label = "norms of repeats (copies of their source's last instance)"
    assert len(report.initialised[label]) == 12
    _load_checkpoint_to_model(model, checkpoint, strict=False)
    for i in range(3):
        assert torch.equal(model.backbone.get_parameter(f'layers.{i}_r1.ln1.weight'),
                           checkpoint['state_dict'][f'backbone.layers.{i}.ln1.weight'])
    deeper = {k.replace('layers.2.', 'layers.3.'): v for k, v in make(False).state_dict().items()}
    with pytest.raises(CheckpointError, match=r'layers.2.\S+ is missing'):
        adapt_checkpoint(model, dict(state_dict=deeper), 'deeper.pth')
    with pytest.raises(CheckpointError, match='resnet.pth does not fit VisionTransformer: the '
                       'names are of no known backbone, not of a vit: they begin with conv.weight'):
        adapt_checkpoint(model, {'conv.weight': torch.ones(1)}, 'resnet.pth')


# --- derived tensors -----------------------------------------------------------------------------


@pytest.mark.parametrize('family', ['swin', 'vit'])
def test_the_averaged_model_finds_all_its_tensors(family, classifier):
    """mmengine's EMAHook swaps every tensor of its model with that of the checkpoint."""
    from mmengine.hooks import EMAHook
    from mmengine.model import ExponentialMovingAverage

    model = classifier(family, **GROWN)
    hook = EMAHook()
    averaged = ExponentialMovingAverage(model)
    checkpoint = dict(state_dict=model.state_dict(), ema_state_dict=averaged.state_dict())
    adapt_checkpoint(model, checkpoint, 'own.pth', strict=True)
    assert checkpoint['state_dict'].keys() == model.state_dict().keys()
    hook._swap_ema_state_dict(checkpoint)
    averaged.load_state_dict(checkpoint['ema_state_dict'])


def test_an_index_is_the_models_own_where_it_does_not_fit(classifier):
    key = 'backbone.stages.1.blocks.0.attn.w_msa.relative_position_index'
    model = classifier('swin', window_size=4, img_size=64)
    for state in (classifier('swin').state_dict(),
                  {k: v for k, v in classifier('swin').state_dict().items() if 'index' not in k}):
        checkpoint = dict(state_dict=state)
        adapt_checkpoint(model, checkpoint, 'seven.pth')
        assert torch.equal(checkpoint['state_dict'][key], model.state_dict()[key])
        model.load_state_dict(checkpoint['state_dict'], strict=True)


def test_versions_of_modules_are_kept(classifier):
    checkpoint = dict(state_dict=classifier('swin').state_dict())
    expected = checkpoint['state_dict']._metadata
    adapt_checkpoint(classifier('swin'), checkpoint, 'own.pth')
    assert checkpoint['state_dict']._metadata == expected


def test_a_head_alone_leaves_the_backbone(classifier):
    model = classifier('swin')
    state = {'head.fc.weight': torch.ones(5, 32), 'head.fc.bias': torch.ones(5)}
    for head in (state, {k.replace('.fc.', '.layers.head.'): v for k, v in state.items()}):
        checkpoint = dict(state_dict=dict(head))
        adapt_checkpoint(model, checkpoint, 'head.pth')
        assert set(checkpoint['state_dict']) == set(state)


# --- stock backbones, grown in place -------------------------------------------------------------

STOCK = {
    'vit': lambda img_size=48: dict(
        type='mmpretrain.VisionTransformer', img_size=img_size, arch=dict(
            embed_dims=24, num_layers=3, num_heads=2, feedforward_channels=48)),
    'swin': lambda window_size=7: dict(
        type='mmpretrain.SwinTransformer', window_size=window_size, img_size=56,
        arch=dict(embed_dims=16, depths=(2, 2), num_heads=(2, 4)), out_indices=(1, )),
    'mmdet swin': lambda window_size=7: dict(
        type='mmdet.SwinTransformer', window_size=window_size, embed_dims=16, depths=(2, 2),
        num_heads=(2, 4), strides=(4, 2), out_indices=(0, 1)),
    'mmseg vit': lambda img_size=48: dict(
        type='mmseg.VisionTransformer', img_size=img_size, embed_dims=24, num_layers=3,
        num_heads=2, mlp_ratio=2, patch_bias=True, final_norm=True, norm_cfg=dict(
            type='LN', eps=1e-6)),
}


class Whole(BaseModule):

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone


@pytest.fixture
def stock(randomise):

    def make(name, grown=True, **kwargs):
        from mmengine.registry import MODELS
        backbone = MODELS.build(STOCK[name](**kwargs))
        randomise(backbone, 1)
        # mmseg's attention calls no layer that a gain could be on
        growth = None if name == 'mmseg vit' else dict(start='identity')
        return Whole(grow_backbone(backbone, growth=growth) if grown else backbone)

    return make


@pytest.mark.parametrize('name, fmt', [
    ('vit', 'official'), ('vit', 'timm'), ('vit', 'mmseg'), ('vit', 'backbone'),
    ('swin', 'official'), ('swin', 'old mmpretrain'), ('swin', 'detector'),
    ('mmdet swin', 'official'), ('mmdet swin', 'detector'),
    ('mmseg vit', 'official'), ('mmseg vit', 'backbone'), ('mmseg vit', 'segmentor')])
def test_a_stock_backbone_reads_every_format(name, fmt, stock, swin, vit, formats, image):
    family = name.split()[-1]
    source = dict(swin=swin, vit=vit)[family]()
    checkpoint = formats[family][fmt](source.state_dict())
    model = stock(name)
    report = adapt_checkpoint(model, checkpoint, 'file.pth')
    _load_checkpoint_to_model(model, checkpoint, strict=False)
    assert 'of the head' not in report.initialised
    model.eval()
    if name == 'mmseg vit':  # it returns maps
        source.out_type = 'featmap'
    if name != 'mmdet swin':  # it shifts the windows of small maps
        with torch.no_grad():
            torch.testing.assert_close(
                model.backbone(image(56 if family == 'swin' else 48))[-1],
                source(image(56 if family == 'swin' else 48))[-1])
    else:
        state = model.state_dict()
        assert all(torch.equal(v, state[f'backbone.{k}']) for k, v in source.state_dict().items())


@pytest.mark.parametrize('name, key, size', [
    ('vit', 'pos_embed', dict(img_size=64)), ('mmseg vit', 'pos_embed', dict(img_size=64)),
    ('mmseg vit', 'pos_embed', dict(img_size=(32, 80))),
    ('swin', 'stages.0.blocks.1.attn.w_msa.relative_position_bias_table', dict(window_size=4)),
    ('mmdet swin', 'stages.0.blocks.1.attn.w_msa.relative_position_bias_table',
     dict(window_size=4))])
def test_a_stock_backbone_of_another_size(name, key, size, stock, swin, vit):
    source = stock(name, grown=False)
    model = stock(name, **size)
    checkpoint = dict(state_dict=source.state_dict())
    adapt_checkpoint(model, checkpoint, 'file.pth')
    _load_checkpoint_to_model(model, checkpoint, strict=False)
    ours = dict(swin=swin, vit=vit)[name.split()[-1]](seed=3, **size)
    if name == 'mmseg vit':
        state = {k: v for k, v in vit().state_dict().items() if k != 'pos_embed'}
        ours.load_state_dict({**state, 'pos_embed': source.backbone.pos_embed})
    else:
        ours.load_state_dict({k: v for k, v in source.backbone.state_dict().items()
                              if 'index' not in k}, strict=False)
    assert torch.equal(model.backbone.get_parameter(key), ours.get_parameter(key))
    assert model.backbone.get_parameter(key).shape != source.backbone.get_parameter(key).shape


def test_a_patch_bias_that_the_stock_class_lacks_is_named(stock, vit, formats, monkeypatch):
    cfg = STOCK['mmseg vit']()
    monkeypatch.setitem(STOCK, 'mmseg vit', lambda: dict(cfg, patch_bias=False))
    with pytest.raises(CheckpointError, match=r'patch_embed.projection.bias has no place in the '
                       r'model \(patch_bias=True makes one\)'):
        adapt_checkpoint(stock('mmseg vit'), formats['vit']['official'](vit().state_dict()), 'x')


def test_a_stock_distilled_backbone_reads_its_own_kind(randomise, vit, formats):
    from mmengine.registry import MODELS
    cfg = dict(STOCK['vit'](), type='mmpretrain.DistilledVisionTransformer')
    model = Whole(grow_backbone(randomise(MODELS.build(cfg))))
    state = formats['vit']['timm'](vit().state_dict())
    state.update(dist_token=torch.ones(1, 1, 24), pos_embed=torch.ones(1, 18, 24))
    adapt_checkpoint(model, state, 'distilled.pth')
    # a grid of 3 x 3 in the model, 4 x 4 in the file, and two tokens
    assert state['state_dict']['backbone.pos_embed'].shape == (1, 11, 24)
    with pytest.raises(CheckpointError, match='distilled DeiT'):
        adapt_checkpoint(Whole(vit()), {'dist_token': state['state_dict']['backbone.dist_token'],
                                        **formats['vit']['timm'](vit().state_dict())}, 'x')


# --- a trained detector --------------------------------------------------------------------------


@pytest.mark.parametrize('extra', [True, False], ids=['with index', 'without index'])
def test_the_published_mask_rcnn(extra):
    """mmdet's 3x detectors, written by mmdet 2.x, fill the paper's detection config."""
    from mmengine.config import Config
    from mmengine.registry import MODELS, DefaultScope
    cfg = Config.fromfile(CONFIGS / 'maskrcnn_scalenet_swin-t_1x_coco.py')
    stock = Config.fromfile(CONFIGS / 'maskrcnn_scalenet_swin-t_1x_coco.py').model
    stock.backbone = dict(
        type='SwinTransformer', embed_dims=96, depths=[2, 2, 6, 2], num_heads=[3, 6, 12, 24])
    with DefaultScope.overwrite_default_scope('mmdet'):
        trained, model = MODELS.build(stock).state_dict(), MODELS.build(cfg.model)
    if not extra:
        trained = {k: v for k, v in trained.items() if 'relative_position_index' not in k}
    assert 'backbone.norm3.weight' in trained
    checkpoint = dict(meta=dict(mmdet_version='2.11.0', epoch=36), state_dict=dict(trained))
    report = adapt_checkpoint(model, checkpoint, 'mask_rcnn_swin.pth')
    assert report.format == 'OpenMMLab' and not report.resized and not report.ignored
    assert not set(trained) - set(checkpoint['state_dict'])
    assert set(report.initialised) == {"norms of repeats (copies of their source's last instance)",
                                       'adapters, LoRA or gains'}
    assert set(report.matched) >= {k for k in trained if 'num_batches' not in k}


@pytest.mark.parametrize('order, lacking', [([0, 1, 2, []], 'layers.new1'),
                                            ([0, 1, 2, [0, 2]], None)])
def test_new_blocks_are_averages_or_not_loaded(order, lacking, classifier, formats):
    source = classifier()
    model = classifier(seed=1, growth=dict(order=order, share='none'))
    tracker = LoadTracker(model)
    official = formats['vit']['official'](source.backbone.state_dict())
    official['model']['head.weight'] = source.head.fc.weight.detach().clone()
    official['model']['head.bias'] = source.head.fc.bias.detach().clone()
    report = adapt_checkpoint(model, official, 'deit.pth')
    assert '12 of new blocks (averages or random)' in str(report)
    _load_checkpoint_to_model(model, official, strict=False)
    model.requires_grad_(False)
    if lacking:  # random blocks that would stay so
        with pytest.raises(CheckpointError, match=rf'12 parameters are frozen .*{lacking}'):
            tracker.check_frozen(model)
        return
    tracker.check_frozen(model)
    layers, new = source.backbone.layers, model.backbone.layers[3]
    torch.testing.assert_close(
        new.attn.qkv.weight, (layers[0].attn.qkv.weight + layers[2].attn.qkv.weight) / 2)


def test_a_part_of_a_new_block_is_an_error(classifier):
    model = classifier(growth=dict(order=[0, 1, 2, []]))
    state = dict(model.state_dict())
    adapt_checkpoint(classifier(growth=dict(order=[0, 1, 2, []])), {'state_dict': dict(state)},
                     'whole.pth', strict=True)
    del state['backbone.layers.new1.attn.qkv.weight']
    with pytest.raises(CheckpointError, match='other tensors of that new block'):
        adapt_checkpoint(model, {'state_dict': state}, 'part.pth')
