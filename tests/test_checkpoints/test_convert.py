"""The names of timm and of the official releases, and back."""
import pytest
import torch

from scalenet_mm import ScaleNetSwin, ScaleNetViT
from scalenet_mm.checkpoints.convert import convert_checkpoint
from scalenet_mm.checkpoints.keys import (
    find_format,
    from_mm_keys,
    from_unfold_order,
    is_derived,
    to_mm_keys,
    to_names_of,
    to_unfold_order,
)
from scalenet_mm.errors import CheckpointError

HEADS = {'swin': 'head.fc.', 'vit': 'head.layers.head.'}


def classifier(backbone, family, classes=5):
    state = {f'backbone.{k}': v for k, v in backbone.state_dict().items()}
    width = backbone.num_features[-1] if family == 'swin' else backbone.embed_dims
    generator = torch.Generator().manual_seed(9)
    state[f'{HEADS[family]}weight'] = torch.randn(classes, width, generator=generator)
    state[f'{HEADS[family]}bias'] = torch.randn(classes, generator=generator)
    return {'meta': {'dataset_meta': {'classes': tuple('abcde')}, 'cfg': 'x = 1'},
            'state_dict': state}


@pytest.fixture
def models(swin, vit):
    return dict(swin=swin, vit=vit)


def assert_equal(given, wanted):
    assert set(given) == set(wanted)
    for key, value in given.items():
        assert torch.equal(value, wanted[key]), key


@pytest.mark.parametrize('to', ['official', 'timm'])
@pytest.mark.parametrize('family', ['swin', 'vit'])
def test_there_and_back(family, to, models):
    checkpoint = classifier(models[family](), family)
    there = convert_checkpoint(checkpoint, 'file', to)
    assert there.source == 'OpenMMLab' and not there.lost
    back = convert_checkpoint(there.content, 'file', 'openmmlab')
    assert back.source == (to if family == 'swin' else 'official')
    assert_equal(back.content['state_dict'], checkpoint['state_dict'])


@pytest.mark.parametrize('family', ['swin', 'vit'])
def test_official_names_are_those_that_are_known(family, models, formats):
    """The formats of the tests are written by other code."""
    model = models[family]()
    state = model.state_dict()
    official = formats[family]['official'](state)['model']
    given = from_mm_keys({k: v for k, v in state.items() if not is_derived(k)}, family, 'official')
    assert_equal(given, {k: v for k, v in official.items()
                         if not is_derived(k) and not k.startswith('head.')})


def test_the_order_of_merged_patches_is_undone():
    for value in (torch.randn(6, 24), torch.randn(24)):
        assert torch.equal(from_unfold_order(to_unfold_order(value)), value)
        assert not torch.equal(from_unfold_order(value), value)


def test_mmseg_names_there_and_back(vit):
    state = vit().state_dict()
    theirs = to_names_of('mmseg', state)
    assert find_format(theirs, 'vit')[0] == 'mmseg'
    assert_equal(to_mm_keys(theirs, 'vit')[0], state)


@pytest.mark.parametrize('name, cls, arch, family', [
    ('deit_tiny_patch16_224', ScaleNetViT, 'deit-tiny', 'vit'),
    ('swin_tiny_patch4_window7_224', ScaleNetSwin, 'tiny', 'swin'),
])
def test_equals_timm(name, cls, arch, family, randomise, image):
    """Both ways, with the classifier: what is converted computes the same."""
    import timm
    ours = randomise(cls(arch, growth=None, adjustment=None)).eval()
    checkpoint = classifier(ours, family)
    theirs = timm.create_model(name, num_classes=5).eval()
    theirs.load_state_dict(convert_checkpoint(checkpoint, 'file', 'timm').content)
    x = image(224)[:1]
    with torch.no_grad():
        features, = ours(x)
        features = features.mean((2, 3)) if family == 'swin' else features
        head = HEADS[family]
        wanted = torch.nn.functional.linear(features, checkpoint['state_dict'][f'{head}weight'],
                                            checkpoint['state_dict'][f'{head}bias'])
        torch.testing.assert_close(theirs(x), wanted, rtol=1e-4, atol=1e-4 * wanted.abs().max())

    back = convert_checkpoint(theirs.state_dict(), 'file', 'openmmlab')
    assert_equal(back.content['state_dict'], checkpoint['state_dict'])


def test_mmpretrain_loads_what_was_converted_strictly(swin, formats):
    from mmengine.registry import MODELS
    official = formats['swin']['official'](swin().state_dict())
    converted = convert_checkpoint(official, 'file', 'openmmlab').content['state_dict']
    model = MODELS.build(dict(
        type='mmpretrain.ImageClassifier',
        backbone=dict(type='mmpretrain.SwinTransformer',
                      arch=dict(embed_dims=16, depths=(2, 2), num_heads=(2, 4)), img_size=56,
                      out_indices=(1, )),
        head=dict(type='mmpretrain.LinearClsHead', num_classes=5, in_channels=32)))
    model.load_state_dict(converted)


def test_a_grown_model_is_refused_or_cut(vit):
    grown = vit(growth=dict(start='identity'), adjustment='paper')
    checkpoint = classifier(grown, 'vit')
    with pytest.raises(CheckpointError, match=r'file is grown.*repeats.*--part ungrown.*unshare'):
        convert_checkpoint(checkpoint, 'file', 'timm')
    cut = convert_checkpoint(checkpoint, 'file', 'timm', part='ungrown')
    assert set(cut.lost) == {'adapters, LoRA or gains', 'repeats'}
    base = convert_checkpoint(classifier(vit(), 'vit'), 'file', 'timm')
    assert set(cut.content) == set(base.content)
    lost = {key for keys in cut.lost.values() for key in keys}
    assert len(lost) == len(grown.state_dict()) - len(vit().state_dict())
    assert 'repeats' in str(cut)
    # what is grown has OpenMMLab's names
    kept = convert_checkpoint(checkpoint, 'file', 'openmmlab')
    assert_equal(kept.content['state_dict'], checkpoint['state_dict'])
    ungrown = convert_checkpoint(checkpoint, 'file', 'openmmlab', part='ungrown')
    assert_equal(convert_checkpoint(ungrown.content, 'file', 'timm').content, cut.content)


def test_new_blocks_are_left_out(swin):
    grown = swin(growth=dict(order=[0, 1, [0, 1], []], stages=(1, ), times=2))
    cut = convert_checkpoint({'state_dict': grown.state_dict()}, 'file', 'official', 'ungrown')
    assert {k.split('.')[3] for k in cut.lost['new blocks']} == {'new1', 'new2'}


def test_the_backbone_alone(vit):
    checkpoint = classifier(vit(), 'vit')
    alone = convert_checkpoint(checkpoint, 'file', 'openmmlab', backbone_only=True)
    assert_equal(alone.content['state_dict'], vit().state_dict())
    assert alone.lost == {'other parts of the model': [f'{HEADS["vit"]}weight',
                                                       f'{HEADS["vit"]}bias']}


def test_a_detector(swin, formats):
    """timm knows no norms of several outputs; nobody else a neck."""
    state = swin(out_indices=(0, 1)).state_dict()
    detector = {'state_dict': {**{f'backbone.{k}': v for k, v in state.items()},
                               'neck.conv.weight': torch.ones(3)}}
    timm = convert_checkpoint(detector, 'file', 'timm')
    assert timm.lost == {'norms of outputs': ['norm0.weight', 'norm0.bias'],
                         'other parts of the model': ['neck.conv.weight']}
    assert {k for k in timm.content if 'norm' in k.split('.')[0]} == {'norm.weight', 'norm.bias'}
    official = convert_checkpoint(detector, 'file', 'official').content['model']
    assert {'norm0.weight', 'norm1.weight'} <= set(official)
    kept = convert_checkpoint(detector, 'file', 'openmmlab').content['state_dict']
    assert 'neck.conv.weight' in kept
    first = swin(out_indices=(0, )).state_dict()  # no classifier's norm, though the only one
    assert 'norm0.weight' in convert_checkpoint(first, 'file', 'official').content['model']


def test_a_distilled_deit_keeps_both_heads(vit):
    checkpoint = classifier(vit(), 'vit')
    state = checkpoint['state_dict']
    state['backbone.dist_token'] = torch.ones(1, 1, 24)
    for part in ('weight', 'bias'):
        state[f'head.layers.head_dist.{part}'] = state[f'head.layers.head.{part}'] + 1
    timm = convert_checkpoint(checkpoint, 'file', 'timm').content
    assert {'dist_token', 'head.weight', 'head_dist.weight'} <= set(timm)
    assert_equal(convert_checkpoint(timm, 'file', 'openmmlab').content['state_dict'], state)


def test_what_describes_another_model_is_left_out(vit):
    content = convert_checkpoint(classifier(vit(), 'vit'), 'file', 'openmmlab').content
    assert content['meta'] == {'dataset_meta': {'classes': tuple('abcde')}}


@pytest.mark.parametrize('extra, name', [
    ('blocks.0.ls1.gamma', 'vit'), ('blocks.0.gamma_1', 'vit'),
    ('layers.0.blocks.0.attn.logit_scale', 'swin')])
def test_relatives_are_refused(extra, name, models, formats):
    state = formats[name]['official'](models[name]().state_dict())['model']
    state[extra] = torch.ones(3)
    with pytest.raises(CheckpointError, match=r'^file holds no plain .* is no part of one'):
        convert_checkpoint(state, 'file', 'openmmlab')


def test_what_is_no_transformer_is_refused():
    with pytest.raises(CheckpointError, match='^file holds no Swin and no ViT.*conv1.weight'):
        convert_checkpoint({'conv1.weight': torch.ones(2)}, 'file', 'timm')
