"""Which pretrained block each block of a grown list uses."""
import copy
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from scalenet_mm.errors import GrowthError
from scalenet_mm.growth import GrowthSpec, LayerMap, grow, make_layer_map


@pytest.mark.parametrize('order, times, blocks, sources', [
    ('interpolate', 2, None, (0, 0, 1, 1, 2, 2, 3, 3)),
    ('interpolate', 3, (1, ), (0, 1, 1, 1, 2, 3)),
    ('interpolate', 2, (-1, 0), (0, 0, 1, 2, 3, 3)),
    ('stack', 2, None, (0, 1, 2, 3, 0, 1, 2, 3)),
    ('stack', 2, (0, 1, 3), (0, 1, 0, 1, 2, 3, 3)),
    ('stack', 3, (1, 2), (0, 1, 2, 1, 2, 1, 2, 3)),
    ('cyclic', 2, (0, 2), (0, 1, 2, 3, 0, 2)),
    ('cyclic', 3, (3, 1), (0, 1, 2, 3, 1, 3, 1, 3)),
    ('interpolate', 1, None, (0, 1, 2, 3)),
    ([0, 1, 0, 2, 3, 3], 2, None, (0, 1, 0, 2, 3, 3)),
    ('interpolate', (1, 3, 2, 1), None, (0, 1, 1, 1, 2, 2, 3)),
    ('interpolate', [3, 2], (1, 3), (0, 1, 1, 1, 2, 3, 3)),
    ('interpolate', (3, 2), (-1, 1), (0, 1, 1, 2, 3, 3, 3)),  # in the order of blocks
    ('stack', (2, 1, 3, 1), None, (0, 1, 2, 3, 0, 2, 2)),
    ('stack', (2, 1, 3), (0, 1, 3), (0, 1, 0, 2, 3, 3, 3)),
    ('cyclic', (2, 1, 3), (0, 1, 2), (0, 1, 2, 3, 0, 2, 2)),
    ('cyclic', (1, 1, 1, 1), None, (0, 1, 2, 3)),
    ('cyclic', (3, 2), (2, 0), (0, 1, 2, 3, 0, 2, 2)),  # in the order of blocks, too
])
def test_orders(order, times, blocks, sources):
    layer_map = make_layer_map(4, order, times, blocks)
    assert layer_map.sources == sources
    assert len(layer_map) == len(sources)
    assert layer_map.is_identity == (sources == (0, 1, 2, 3))


@pytest.mark.parametrize('depth, times', [(3, 2), (12, 2), (5, 4)])
def test_cyclic_is_equation_6(depth, times):
    # g(l') = ((l' - 1) mod L) + 1, counted from 1
    expected = tuple((position - 1) % depth for position in range(1, depth * times + 1))
    assert make_layer_map(depth, 'cyclic', times).sources == expected
    assert make_layer_map(depth, 'stack', times).sources == expected


def test_names_and_positions():
    layer_map = LayerMap([0, 1, 0, 2, 0, 1], 3)
    assert layer_map.names == ('0', '1', '0_r1', '2', '0_r2', '1_r1')
    assert layer_map.repeats == (0, 0, 1, 0, 2, 1)
    assert layer_map.shared == (True, True, True, False, True, True)
    assert layer_map.positions(0) == (0, 2, 4)
    assert [layer_map.last(source) for source in range(3)] == [4, 5, 3]
    # the last pretrained block stands for the end of the list
    assert [layer_map.output_position(source) for source in range(3)] == [4, 5, 5]


@st.composite
def requests(draw):
    depth = draw(st.integers(1, 9))
    blocks = draw(st.none() | st.lists(st.integers(-depth, depth - 1), min_size=1, max_size=depth))
    return (depth, draw(st.sampled_from(('interpolate', 'stack', 'cyclic'))),
            draw(st.integers(1, 4)), blocks)


@given(requests())
def test_properties_of_every_map(request):
    depth, order, times, blocks = request
    layer_map = make_layer_map(depth, order, times, blocks)
    selected = set(range(depth)) if blocks is None else {b % depth for b in blocks}
    for source in range(depth):
        positions = layer_map.positions(source)
        assert len(positions) == (times if source in selected else 1)
        assert positions[-1] == layer_map.last(source)
        assert [layer_map.repeats[p] for p in positions] == list(range(len(positions)))
        # the first instance is the original, under the base's own name
        assert layer_map.names[positions[0]] == str(source)
        assert all(layer_map.shared[p] == (len(positions) > 1) for p in positions)
    assert len(set(layer_map.names)) == len(layer_map)
    assert [int(name.split('_')[0]) for name in layer_map.names] == list(layer_map.sources)
    originals = [s for s, repeat in zip(layer_map.sources, layer_map.repeats) if repeat == 0]
    assert originals == list(range(depth))
    assert layer_map.output_position(depth - 1) == len(layer_map) - 1


@given(st.lists(st.integers(0, 5), min_size=1))
def test_explicit_maps_hold_or_are_refused(sources):
    depth = max(sources) + 1
    if set(sources) == set(range(depth)):
        assert make_layer_map(depth, sources).sources == tuple(sources)
    else:
        with pytest.raises(GrowthError, match='never uses'):
            make_layer_map(depth, sources)


@pytest.mark.parametrize('arguments, message', [
    (dict(times=0), 'growth.times must be an integer >= 1'),
    (dict(times=-1), 'growth.times'),
    (dict(times=True), 'growth.times'),
    (dict(times=2.), 'growth.times'),
    (dict(times='2'), 'growth.times'),
    (dict(times=None), 'growth.times'),
    (dict(times=''), "growth.times must be .*got ''"),
    (dict(times=(2, 0, 1, 1)), r'growth.times must be an integer >= 1 .*got \(2, 0, 1, 1\)'),
    (dict(times=(2, True, 1, 1)), 'growth.times'),
    (dict(times=(2, 1.5, 1, 1)), 'growth.times'),
    (dict(times=()), 'growth.times is empty'),
    (dict(times=(2, 2, 2)), r'growth.times=\[2, 2, 2\] holds 3 numbers for 4 selected block'),
    (dict(times=(2, 2, 2), blocks=(0, -1)), 'holds 3 numbers for 2 selected block'),
    (dict(times=(2, 2), blocks=(0, 0, -4)), 'holds 2 numbers for 1 selected block'),
    (dict(order='interleave'), "growth.order must be one of .*'interleave'"),
    (dict(order=5), 'growth.order .*got 5'),
    (dict(order=None), 'growth.order'),
    (dict(order=[0, 1, 2, 4, 3]), 'names block 4, but there are 4 blocks: 0 to 3'),
    (dict(order=[0, 1, 2, 3, -1]), 'names block -1'),
    (dict(order=[0, 1, 2, True]), 'got True at position 3'),
    (dict(order=[0, 1, 2, 3.]), 'holds block indices'),
    (dict(order=[0, 1, 1, 3]), r'never uses the pretrained block\(s\) \[2\]'),
    (dict(order=[]), 'never uses'),
    (dict(blocks=[]), 'growth.blocks is empty'),
    (dict(blocks=[4]), 'growth.blocks names block 4, but there are 4 blocks: 0 to 3'),
    (dict(blocks=[-5]), 'growth.blocks names block -5'),
    (dict(blocks=[True]), 'growth.blocks must hold integers'),
    (dict(blocks=3), 'growth.blocks must be a list'),
    (dict(blocks='0'), 'growth.blocks must be a list'),
])
def test_refusals(arguments, message):
    with pytest.raises(GrowthError, match=message):
        make_layer_map(4, **arguments)


class TestStages:

    def maps(self, depths, **growth):
        return [m.sources for m in GrowthSpec(**growth).layer_maps(depths)]

    def test_only_the_named_stages_grow(self):
        assert self.maps((2, 2, 3), order='stack', stages=(-1, )) == [(0, 1), (0, 1),
                                                                      (0, 1, 2, 0, 1, 2)]
        assert self.maps((1, 2), times=3) == [(0, 0, 0), (0, 0, 0, 1, 1, 1)]

    def test_blocks_count_in_each_stage(self):
        assert self.maps((2, 3), blocks=(-1, )) == [(0, 1, 1), (0, 1, 2, 2)]

    def test_explicit_maps_go_with_the_stages_as_named(self):
        first, last = [0, 1, 0], [1, 0, 1]
        assert self.maps((2, 2, 2), order=[first, last], stages=(0, -1)) == [
            (0, 1, 0), (0, 1), (1, 0, 1)]
        assert self.maps((2, 2, 2), order=[last, first], stages=(-1, 0)) == [
            (0, 1, 0), (0, 1), (1, 0, 1)]
        assert self.maps((2, 2), order=[0, 1, 1], stages=(1, )) == [(0, 1), (0, 1, 1)]

    @pytest.mark.parametrize('growth, message', [
        (dict(stages=(3, )), 'growth.stages names stage 3, but there are 3 stages: 0 to 2'),
        (dict(stages=()), 'growth.stages is empty'),
        (dict(stages=1), 'growth.stages must be a list'),
        (dict(order=[0, 1, 1]), 'one list of block indices for each of the 3 grown stages'),
        (dict(order=[[0, 1], [0, 1]]), 'holds 2 lists of blocks for 3 grown'),
        (dict(order=[[0, 1], 5], stages=(0, 1)), 'growth.order'),
        (dict(blocks=(2, )), 'growth.blocks names block 2'),
    ])
    def test_refusals(self, growth, message):
        with pytest.raises(GrowthError, match=message):
            GrowthSpec(**growth).layer_maps((2, 2, 2))


@given(st.lists(st.integers(1, 5), min_size=1, max_size=8))
def test_stages_of_any_lengths(lengths):
    layer_map = make_layer_map(len(lengths), 'interpolate', lengths)
    assert layer_map.sources == tuple(s for s, n in enumerate(lengths) for _ in range(n))
    for order in ('stack', 'cyclic'):
        other = make_layer_map(len(lengths), order, lengths)
        assert sorted(other.sources) == list(layer_map.sources)


class TestDepth:

    def test_a_depth_that_agrees(self):
        spec = GrowthSpec(times=(3, 3, 4, 3, 3), depth=16)
        assert len(spec.layer_maps((5, ))[0]) == 16
        assert GrowthSpec(times=2, stages=(-1, ), depth=6).layer_maps((2, 3))[0].is_identity
        assert GrowthSpec(times=2, depth=10).layer_maps((2, 3))
        assert GrowthSpec(order=[0, 1, 0], depth=3).layer_maps((2, ))

    @pytest.mark.parametrize('growth, depths, message', [
        (dict(times=(3, 3, 4, 3, 2), depth=16), (5, ),
         r'growth.times=\[3, 3, 4, 3, 2\] sums to 15, .*growth.depth=16: change the list, or give '
         'depth=15'),
        (dict(times=2, depth=16), (5, ), '5 blocks and growth.times=2 make 10 .*growth.depth=16'),
        (dict(order=[0, 1, 1], depth=4), (2, ), 'growth.order makes 3 .*growth.depth=4'),
        (dict(times=(3, 4), blocks=(0, 1), depth=7), (3, ), 'sums to 7, which makes 8'),
    ])
    def test_one_that_does_not(self, growth, depths, message):
        with pytest.raises(GrowthError, match=message):
            GrowthSpec(**growth).layer_maps(depths)

    @pytest.mark.parametrize('depth', [0, -1, 2., True, '16'])
    def test_none_at_all(self, depth):
        with pytest.raises(GrowthError, match='growth.depth must be an integer >= 1 or None'):
            GrowthSpec(depth=depth)

    def test_times_are_checked_without_a_model(self):
        with pytest.raises(GrowthError, match='growth.times'):
            GrowthSpec(times=(3, 0))


class TestPartialMaps:

    def test_blocks_may_be_left_out(self):
        layer_map = LayerMap((1, [], 1), 3, partial=True)
        assert layer_map.unused == (0, 2)
        assert layer_map.new == (False, True, False) and layer_map.last(1) == 2
        with pytest.raises(GrowthError, match='leaves out block 2'):
            layer_map.last(2)
        with pytest.raises(GrowthError, match='names block 3'):
            LayerMap((3, ), 3, partial=True)

    def test_nothing_grows_by_one(self):
        blocks = torch.nn.ModuleList(torch.nn.Linear(2, 2) for _ in range(3))
        with pytest.raises(GrowthError, match=r'leaves out its block\(s\) \[0\]: growth removes'):
            grow(blocks, LayerMap((1, 2, 2), 3, partial=True))
        assert len(blocks) == 3 and type(blocks) is torch.nn.ModuleList


def test_maps_copy_and_pickle():
    layer_map = make_layer_map(3)
    assert layer_map.names  # a cached value travels or is made again
    for other in (copy.deepcopy(layer_map), pickle.loads(pickle.dumps(layer_map))):
        assert other == layer_map and other.names == layer_map.names
