"""Whole checkpoints brought to whole models."""
import copy

import pytest
import torch
from mmengine.runner.checkpoint import _load_checkpoint_to_model

from scalenet_mm.checkpoints import adapt_checkpoint
from scalenet_mm.errors import CheckpointError


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

    from scalenet_mm import grow_backbone

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
    with pytest.raises(CheckpointError, match='fits the model in no tensor: it names conv.weight, '
                       'the model backbone'):
        adapt_checkpoint(model, {'conv.weight': torch.ones(1)}, 'resnet.pth')
