"""Blocks that share nothing: averages of pretrained blocks, and random ones."""
import copy
import pickle

import pytest
import torch
from growth_toys import make_blocks, run, tokens
from mmengine.runner.checkpoint import load_state_dict as mmengine_load_state_dict

from scalenet_mm.errors import GrowthError
from scalenet_mm.growth import (
    GrowthSpec,
    LayerMap,
    check_ties,
    grow,
    grow_stages,
    shared_parameters,
)
from scalenet_mm.growth.new_block import INIT_STD

ADAPTER = dict(type='ParallelAdapter', rank=2)


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def grown(order, depth=3, growth=None, adjustment=None, **kwargs):
    return grow(make_blocks(depth, **kwargs), LayerMap(order, depth), growth, adjustment)


def state_of(module):
    return {k: v.clone() for k, v in module.state_dict().items()}


def test_names_and_flags():
    layer_map = LayerMap([0, [], 1, 1, [0, 2], 2], 3)
    assert layer_map.names == ('0', 'new1', '1', '1_r1', 'new2', '2')
    assert layer_map.new == (False, True, False, False, True, False)
    assert layer_map.shared == (False, False, True, True, False, False)
    assert layer_map.sources == (0, (), 1, 1, ((0, 0.5), (2, 0.5)), 2)
    assert pickle.loads(pickle.dumps(layer_map)) == layer_map


@pytest.mark.parametrize('depth, position, template', [
    (6, 6, 4), (6, 7, 5), (6, 3, 5), (6, 0, 4), (1, 1, 0), (1, 2, 0), (2, 3, 1), (2, 2, 0)])
def test_the_template_has_the_positions_parity(depth, position, template):
    assert LayerMap(range(depth), depth).template(position) == template


@pytest.mark.parametrize('order, message', [
    ([0, 1, 2, [3]], 'names block 3, but there are 3 blocks'),
    ([0, 1, 2, [0, 'a']], "got 'a' at position 3"),
    ([0, 1, 2, [(0, 0.5), (1, 0.4)]], 'must sum to 1, those at position 3 .* sum to 0.9'),
    ([0, 1, 2, [(0, 0.5), 1]], r'list of block indices or of \(index, weight\) pairs'),
    ([0, 1, 2, [(0, True)]], r'pairs'),
    ([0, 1, 2, [1, 1]], 'more than once'),
    ([0, 1, [2]], r'never uses the pretrained block\(s\) \[2\]'),
])
def test_refusals(order, message):
    with pytest.raises(GrowthError, match=message):
        LayerMap(order, 3)


@pytest.mark.parametrize('entry, weights', [
    ([0, 2], {0: 0.5, 2: 0.5}), ([1], {1: 1.}), ([(0, 0.25), (1, 0.75)], {0: 0.25, 1: 0.75}),
    ([[0, 1.5], [2, -0.5]], {0: 1.5, 2: -0.5})])
def test_an_average_is_the_weighted_sum(entry, weights):
    blocks = grown([0, 1, 2, entry])
    for name, value in blocks[3].named_parameters():
        expected = sum(w * blocks[i].get_parameter(name) for i, w in weights.items())
        torch.testing.assert_close(value, expected)
    assert not shared_parameters(blocks)


@pytest.mark.parametrize('share', ['weights', 'all', 'none'])
def test_new_blocks_own_all_and_train_by_themselves(share):
    blocks = grown([0, 1, 1, 2, [], [0, 2]], growth=dict(share=share))
    for name in ('new1', 'new2'):
        own = {id(p) for p in blocks._modules[name].parameters()}
        assert len(own) == len(list(blocks[0].parameters()))
        others = {id(p) for n, b in blocks.named_children() if n != name for p in b.parameters()}
        assert not own & others
    run(blocks, tokens()).sum().backward()
    assert all(p.grad is not None for p in blocks.parameters())


def test_a_random_block_is_fresh():
    blocks = grown([0, 1, [], 2], dim=32)
    fresh = blocks[2]
    assert torch.equal(fresh.norm1.weight, torch.ones(32))
    assert torch.equal(fresh.norm2.bias, torch.zeros(32))
    assert torch.equal(fresh.mlp.fc1.bias, torch.zeros(128))
    assert fresh.mlp.fc1.weight.std().item() == pytest.approx(INIT_STD, rel=0.1)
    assert fresh.attn.table.std().item() == pytest.approx(INIT_STD, rel=0.5)
    assert torch.equal(fresh.attn.scale, blocks[0].attn.scale)


def test_seeded():
    first = grown([0, []], depth=1)
    torch.manual_seed(0)
    again = grown([0, []], depth=1)
    assert all(map(torch.equal, first.state_dict().values(), again.state_dict().values()))


def test_identity_start_silences_new_blocks():
    plain = make_blocks(2)
    x = tokens()
    expected = run(plain, x)
    blocks = grow(copy.deepcopy(plain), LayerMap([0, [], 1, [0, 1]], 2), dict(start='identity'))
    assert torch.equal(run(blocks, x), expected)
    assert not torch.equal(
        run(grow(copy.deepcopy(plain), LayerMap([0, [], 1], 2)), x), expected)


def test_a_split_has_nothing_to_share_out():
    split = dict(start=dict(type='split', share=0.5))
    message = "a split divides .*use 'paper' or 'identity'"
    blocks = make_blocks(2)
    with pytest.raises(GrowthError, match=message):
        grow(blocks, LayerMap([0, 1, []], 2), split)
    with pytest.raises(GrowthError, match=message):
        grow_stages([blocks], dict(order=[0, 1, [0, 1]], **split))
    assert list(blocks._modules) == ['0', '1'] and type(blocks[0]).__name__ == 'Block'


@pytest.mark.parametrize('scope, adjusted', [('all', True), ('shared', False)])
def test_adjustment(scope, adjusted):
    blocks = grown([0, 1, 2, []], adjustment=dict(**ADAPTER, scope=scope))
    assert ('new1.mlp.fc1.adapter_up' in dict(blocks.named_parameters())) == adjusted


@pytest.mark.parametrize('load', [
    lambda m, s: m.load_state_dict(s, strict=False),
    lambda m, s: mmengine_load_state_dict(m, s, strict=False)])
def test_loading_an_ungrown_file_averages_anew(load):
    blocks = grown([0, 1, 2, [], [(0, 0.25), (2, 0.75)]], adjustment=ADAPTER)
    fresh = state_of(blocks._modules['new1'])
    file = state_of(make_blocks(3))
    load(blocks, dict(file))
    for name, value in blocks._modules['new2'].named_parameters():
        if 'adapter' not in name:
            torch.testing.assert_close(value, 0.25 * file[f'0.{name}'] + 0.75 * file[f'2.{name}'])
    # random blocks stay as they were drawn, and count as missing: nothing of them was loaded
    assert all(map(torch.equal, fresh.values(), blocks._modules['new1'].state_dict().values()))
    missing = blocks.load_state_dict(dict(file), strict=False).missing_keys
    assert sorted(missing) == sorted(f'new1.{n}' for n, _ in
                                     blocks._modules['new1'].named_parameters()
                                     if 'adapter' not in n)


def test_a_computed_buffer_does_not_stand_for_a_block():
    file = state_of(make_blocks(3))
    file['new1.attn.scale'] = file['0_r1.attn.scale'] = file['0.attn.scale']
    blocks = grown([0, 0, 1, 2, [1]], growth=dict(share='none'))
    blocks.load_state_dict(file)
    for name in ('new1', '0_r1'):
        source = '1' if name == 'new1' else '0'
        for key, value in blocks._modules[name].named_parameters():
            assert torch.equal(value, file[f'{source}.{key}'])


def test_new_blocks_do_not_take_each_others_values():
    """Growing further: a file that holds the first of two new blocks of the same kind."""
    file = state_of(grown([0, 1, [], [0, 1]], depth=2))
    blocks = grown([0, 1, [], [0, 1], [], [0, 1]], depth=2)
    drawn = state_of(blocks._modules['new3'])
    missing = blocks.load_state_dict(dict(file), strict=False).missing_keys
    assert {key.split('.')[0] for key in missing} == {'new3'}
    for key, value in blocks._modules['new3'].named_parameters():
        assert torch.equal(value, drawn[key])
        torch.testing.assert_close(blocks._modules['new4'].get_parameter(key),
                                   (file[f'0.{key}'] + file[f'1.{key}']) / 2)


def test_averages_load_strictly():
    file = state_of(make_blocks(3))
    blocks = grown([0, 1, 2, [0, 1]], adjustment=ADAPTER)
    blocks.load_state_dict(dict(file))  # raises on a missing key
    assert torch.equal(blocks._modules['new1'].attn.scale, file['0.attn.scale'])


def test_round_trip():
    blocks = grown([0, 1, 1, 2, [], [0, 2]], adjustment=ADAPTER)
    x = tokens()
    expected = run(blocks, x)
    other = grown([0, 1, 1, 2, [], [0, 2]], adjustment=ADAPTER)
    other.load_state_dict(blocks.state_dict())
    assert torch.equal(run(other, x), expected)
    for twin in (copy.deepcopy(blocks), pickle.loads(pickle.dumps(blocks))):
        check_ties(twin)
        assert torch.equal(run(twin, x), expected)


def test_half_precision_is_averaged_in_float32():
    plain = make_blocks(2).half()
    blocks = grow(plain, LayerMap([0, 1, [0, 1]], 2))
    value = blocks[2].mlp.fc1.weight
    assert value.dtype == torch.float16
    expected = (blocks[0].mlp.fc1.weight.float() + blocks[1].mlp.fc1.weight.float()) / 2
    assert torch.equal(value, expected.half())


def test_blocks_of_other_shapes_are_refused_and_nothing_changes():
    blocks = make_blocks(2)
    blocks[1].mlp = type(blocks[1].mlp)(8, 64)
    with pytest.raises(GrowthError, match=r'blocks 0 and 1 cannot be averaged: mlp\.fc'):
        grow(blocks, LayerMap([0, 1, [0, 1]], 2))
    assert list(blocks._modules) == ['0', '1']
    assert type(blocks[0]).__name__ == 'Block'


def test_lists_in_order_by_stage():
    maps = GrowthSpec(order=[0, 1, [0, 1]], stages=(1, )).layer_maps([2, 2])
    assert [m.names for m in maps] == [('0', '1'), ('0', '1', 'new1')]
    maps = GrowthSpec(order=[[0, 1, []], [0, 1]], stages=(1, 0)).layer_maps([2, 2])
    assert [m.names for m in maps] == [('0', '1'), ('0', '1', 'new1')]
