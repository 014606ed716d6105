"""A file that does not fit is an error on mmengine's and the toolboxes' own ways of loading too."""
import pytest
import torch
from mmengine.model import BaseModule
from mmengine.runner.checkpoint import load_checkpoint, load_state_dict

from scalenet_mm import CheckpointError

GROWN = dict(growth=dict(), adjustment='paper')


class Detector(BaseModule):
    """A backbone with something beside it."""

    def __init__(self, backbone, init_cfg=None):
        super().__init__(init_cfg)
        self.backbone = backbone
        self.bbox_head = torch.nn.Linear(2, 3)


@pytest.fixture
def save(tmp_path):

    def save(content):
        torch.save(content, tmp_path / 'file.pth')
        return str(tmp_path / 'file.pth')

    return save


def make_classifier(backbone, width, head='LinearClsHead', **kwargs):
    from mmpretrain.models import ImageClassifier
    return ImageClassifier(
        backbone=backbone, head=dict(type=head, in_channels=width, num_classes=5), **kwargs)


@pytest.mark.parametrize('family, width, head', [('vit', 24, 'VisionTransformerClsHead'),
                                                 ('swin', 32, 'LinearClsHead')])
@pytest.mark.parametrize('grown', [False, True], ids=['ungrown', 'grown'])
def test_a_classifier_reads_official_files(family, width, head, grown, vit, swin, formats, save):
    make = dict(vit=vit, swin=swin)[family]
    source = make()
    official = formats[family]['official'](source.state_dict())
    official['model']['head.weight'] = torch.randn(5, width)
    path = save(official)
    for kwargs in (dict(pretrained=path),
                   dict(init_cfg=dict(type='Pretrained', checkpoint=path))):
        model = make_classifier(make(seed=1, **(GROWN if grown else {})), width, head, **kwargs)
        model.init_weights()
        state = model.state_dict()
        for key, value in source.state_dict().items():
            assert torch.equal(state[f'backbone.{key}'], value), key
        linear = model.head.fc if family == 'swin' else model.head.layers.head
        assert torch.equal(linear.weight, official['model']['head.weight'])


def test_a_backbone_alone_in_a_whole_model(vit, formats, save):
    """mmengine gives the backbone an empty state dict, and a WARNING to the user."""
    for content in (formats['vit']['official'](vit().state_dict()), dict(vit().state_dict()),
                    {'conv1.weight': torch.ones(2), 'layer1.0.conv1.weight': torch.ones(2)}):
        path = save(content)
        with pytest.raises(CheckpointError, match=r'holds a backbone alone.*nothing whose name '
                           r"begins with 'backbone.'.*the backbone's init_cfg=dict\(.*"
                           'AdapterInjectionHook'):
            load_checkpoint(Detector(vit()), path)
        with pytest.raises(CheckpointError, match='holds a backbone alone'):
            Detector(vit(), dict(type='Pretrained', checkpoint=path)).init_weights()


@pytest.mark.parametrize('grown', [{}, GROWN], ids=['ungrown', 'grown'])
def test_whole_files_load(grown, vit, save):
    source, model = Detector(vit()), Detector(vit(seed=1, **grown))
    load_checkpoint(model, save({'state_dict': source.state_dict(), 'meta': {}}))
    assert torch.equal(model.backbone.pos_embed, source.backbone.pos_embed)
    load_checkpoint(model.backbone, save({'model': source.backbone.state_dict()}))


def test_a_head_beside_a_lone_backbone(vit, formats, save):
    source, model = vit(), vit(seed=1)
    load_checkpoint(model, save(formats['vit']['official'](source.state_dict())))
    assert torch.equal(model.pos_embed, source.pos_embed)


def test_a_head_alone_is_a_part(vit, save):
    head = {'bbox_head.weight': torch.ones(3, 2), 'bbox_head.bias': torch.ones(3)}
    model = Detector(vit())
    before = model.backbone.pos_embed.clone()
    load_checkpoint(model, save({'state_dict': head}))
    assert torch.equal(model.bbox_head.bias, head['bbox_head.bias'])
    assert torch.equal(model.backbone.pos_embed, before)


@pytest.mark.parametrize('arch, message', [
    (dict(num_layers=4), r'layers.3.\S+ has no place'),
    (dict(num_layers=2), r'layers.2.\S+ is missing'),
    (dict(feedforward_channels=24), r'has shape \(24, 24\), the model wants \(48, 24\)'),
])
def test_another_architecture(arch, message, vit, save):
    arch = dict(dict(embed_dims=24, num_layers=3, num_heads=2, feedforward_channels=48), **arch)
    path = save({'state_dict': Detector(vit(arch=arch)).state_dict()})
    with pytest.raises(CheckpointError, match=f'another architecture or growth.*{message}'):
        load_checkpoint(Detector(vit()), path)


def test_a_grown_file_in_an_ungrown_model(vit, save):
    path = save({'state_dict': Detector(vit(**GROWN)).state_dict()})
    with pytest.raises(CheckpointError, match='has no place in the model'):
        load_checkpoint(Detector(vit()), path)


def test_foreign_names_under_the_prefix(vit):
    state = {'backbone.conv1.weight': torch.ones(2)}
    for load in (load_state_dict, torch.nn.Module.load_state_dict):
        with pytest.raises(CheckpointError, match='fits the model in no tensor: it names '
                           'conv1.weight'):
            load(Detector(vit()), state, strict=False)


def test_a_part_is_enough_without_a_file(vit):
    model = Detector(vit())
    state = {'backbone.cls_token': torch.ones(1, 1, 24)}
    model.load_state_dict(state, strict=False)
    load_state_dict(model, state)
    assert torch.equal(model.backbone.cls_token, state['backbone.cls_token'])
    with pytest.raises(RuntimeError, match='Missing key'):
        model.load_state_dict(state)
