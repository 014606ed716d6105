"""Recognising formats and renaming."""
import pytest
import torch

from scalenet_mm.checkpoints.keys import (
    find_family,
    find_format,
    is_derived,
    names_alone,
    read_state_dict,
    split_backbone,
    to_mm_keys,
)
from scalenet_mm.errors import CheckpointError


@pytest.mark.parametrize('wrap', [
    lambda s: s, lambda s: {'model': s}, lambda s: {'state_dict': s},
    lambda s: {'state_dict': s, 'model': 'swin-tiny', 'epoch': 3},
    lambda s: {'model': s, 'optimizer': {}, 'state_dict': None},
    lambda s: {f'module.{k}': v for k, v in s.items()},
])
def test_read_state_dict(wrap):
    state = {'a.module.w': torch.ones(1), 'b': torch.ones(2)}
    given = wrap(state)
    read = read_state_dict(given, 'file')
    assert list(read) == list(state)
    assert read is not given and read is not state


@pytest.mark.parametrize('content, holds', [
    (3, 'int'), ({}, 'but '), ({'model': {}}, 'but model'), ({'w': 3}, 'but w'), (None, 'None'),
])
def test_no_state_dict(content, holds):
    with pytest.raises(CheckpointError, match=f'^file holds no state dict.*{holds}'):
        read_state_dict(content, 'file')


def test_split_backbone():
    state = dict.fromkeys(['backbone.a', 'neck.b', 'head.c'], 0)
    assert split_backbone(state) == ({'a': 0}, {'neck.b': 0, 'head.c': 0})
    assert split_backbone(state, 'neck') == ({'b': 0}, {'backbone.a': 0, 'head.c': 0})
    bare = dict.fromkeys(['blocks.0', 'head.weight', 'head_dist.bias', 'header'], 0)
    assert split_backbone(bare) == ({'blocks.0': 0, 'header': 0},
                                    {'head.weight': 0, 'head_dist.bias': 0})


def test_swin_conversion_undoes_the_official_order(swin, formats):
    state = {k: v for k, v in swin().state_dict().items()}
    official = formats['swin']['official'](state)['model']
    key = 'layers.0.downsample.reduction.weight'
    assert not torch.equal(official[key], state['stages.0.downsample.reduction.weight'])
    own, _ = split_backbone(official)
    renamed, what = to_mm_keys(own, 'swin')
    assert what == 'official'
    assert set(renamed) == {k for k in state if not is_derived(k)}
    for name, value in renamed.items():
        assert torch.equal(value, state[name]), name


def test_timm_counts_mergings_to_the_stage_behind(swin, formats):
    state = swin().state_dict()
    official, _ = split_backbone(formats['swin']['official'](state)['model'])
    timm = {k.replace('layers.0.downsample', 'layers.1.downsample'): v
            for k, v in official.items()}
    renamed, what = to_mm_keys(timm, 'swin')
    assert what == 'timm'
    for name, value in renamed.items():
        assert torch.equal(value, state[name]), name


@pytest.mark.parametrize('name, what', [
    ('official', 'official'), ('timm', 'official'), ('mmseg', 'mmseg'), ('backbone', 'OpenMMLab')
])
def test_vit_conversion(name, what, vit, formats):
    state = vit().state_dict()
    given = formats['vit'][name](state)
    own, _ = split_backbone(given.get('model', given))
    renamed, found = to_mm_keys(own, 'vit')
    assert found == what
    assert set(renamed) == set(state)
    for key, value in renamed.items():
        assert torch.equal(value, state[key]), key


def test_swin_and_vit_are_told_apart(swin, vit, formats):
    assert find_format(vit().state_dict(), 'swin') is None
    assert find_format(swin().state_dict(), 'vit') is None
    official = formats['swin']['official'](swin().state_dict())['model']
    assert find_format(official, 'vit') is None
    assert find_format(formats['vit']['timm'](vit().state_dict()), 'swin') is None


def test_grown_names_stay(vit):
    state = vit(growth=dict(start='identity'), adjustment='paper').state_dict()
    renamed, what = to_mm_keys(dict(state), 'vit')
    assert what == 'OpenMMLab' and list(renamed) == list(state)


@pytest.mark.parametrize('key, derived', [
    ('layers.0.blocks.1.attn_mask', True),
    ('stages.0.blocks.1.attn.w_msa.relative_position_index', True),
    ('bn.num_batches_tracked', True),
    ('stages.0.blocks.1.attn.w_msa.relative_position_bias_table', False),
])
def test_is_derived(key, derived):
    assert is_derived(key) is derived


def test_the_versions_of_modules_are_read():
    state = torch.nn.Sequential(torch.nn.BatchNorm1d(2)).state_dict()
    assert read_state_dict({'state_dict': state}, 'file')._metadata == state._metadata
    wrapped = torch.nn.ModuleDict(dict(module=torch.nn.Sequential(torch.nn.BatchNorm1d(2))))
    read = read_state_dict(wrapped.state_dict(), 'file')
    assert '0.weight' in read and read._metadata['0'] == {'version': 2}


def test_families_of_stock_backbones(vit, swin):
    from mmengine.registry import MODELS
    small = dict(embed_dims=24, num_layers=1, num_heads=2)
    expected = {
        ('vit', 'OpenMMLab'): dict(type='mmpretrain.VisionTransformer', arch='deit-tiny'),
        ('vit', 'mmseg'): dict(type='mmseg.VisionTransformer', **small),
        ('swin', 'OpenMMLab'): dict(type='mmseg.SwinTransformer'),
        None: dict(type='mmpretrain.SwinTransformerV2', arch='tiny'),
    }
    with torch.device('cpu'):
        for family, cfg in expected.items():
            assert find_family(MODELS.build(cfg)) == family
    assert find_family(vit()) == ('vit', 'OpenMMLab')
    assert find_family(swin()) == ('swin', 'OpenMMLab')
    assert find_family(torch.nn.Linear(2, 2)) is None


@pytest.mark.parametrize('names, alone', [
    (['module.blocks.0.attn.qkv.weight', 'head.weight'], ['blocks.0.attn.qkv.weight']),
    (['layer1.0.conv1.weight'], ['layer1.0.conv1.weight']),
    (['backbone.blocks.0.x', 'blocks.0.x'], []), (['module.backbone.blocks.0.x'], []),
    (['head.fc.weight', 'neck.convs.0.weight', 'roi_head.bbox_head.fc_cls.bias'], []),
])
def test_a_backbone_alone_is_told_from_heads(names, alone):
    assert names_alone(dict.fromkeys(names)) == alone
