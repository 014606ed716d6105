"""Which block of a learngene each block of a descendant starts from."""
import collections

import pytest
from hypothesis import given
from hypothesis import strategies as st

from scalenet_mm.errors import GrowthError
from scalenet_mm.learngene import ORDERS, descendant_map, last_blocks_map, stage_lengths

FRONT, LAST = 'front-mid-last', 'front-last-mid'
#: By hand: depth, then the lengths of the stages in both orders.
BY_HAND = {
    3: {
        1: ((1, 0, 0), (1, 0, 0)),
        2: ((1, 1, 0), (1, 0, 1)),
        3: ((1, 1, 1), (1, 1, 1)),
        4: ((2, 1, 1), (2, 1, 1)),
        5: ((2, 2, 1), (2, 1, 2)),
        6: ((2, 2, 2), (2, 2, 2)),
        7: ((3, 2, 2), (3, 2, 2)),
    },
    5: {
        1: ((1, 0, 0, 0, 0), (1, 0, 0, 0, 0)),
        2: ((1, 1, 0, 0, 0), (1, 0, 0, 0, 1)),
        3: ((1, 1, 1, 0, 0), (1, 1, 0, 0, 1)),
        4: ((1, 1, 1, 1, 0), (1, 1, 0, 1, 1)),
        5: ((1, 1, 1, 1, 1), (1, 1, 1, 1, 1)),
        6: ((2, 1, 1, 1, 1), (2, 1, 1, 1, 1)),
        7: ((2, 2, 1, 1, 1), (2, 1, 1, 1, 2)),
        8: ((2, 2, 2, 1, 1), (2, 2, 1, 1, 2)),
        9: ((2, 2, 2, 2, 1), (2, 2, 1, 2, 2)),
        12: ((3, 3, 2, 2, 2), (3, 2, 2, 2, 3)),
        15: ((3, 3, 3, 3, 3), (3, 3, 3, 3, 3)),
        16: ((4, 3, 3, 3, 3), (4, 3, 3, 3, 3)),
    },
    6: {8: ((2, 2, 1, 1, 1, 1), (2, 1, 1, 1, 1, 2)), 10: ((2, 2, 2, 2, 1, 1), (2, 2, 1, 1, 2, 2))},
    1: {4: ((4, ), (4, ))},
}


@pytest.mark.parametrize('stages, depth', [(m, d) for m, table in BY_HAND.items() for d in table])
def test_by_hand(stages, depth):
    assert stage_lengths(stages, depth) == BY_HAND[stages][depth][0]  # the paper's default
    assert stage_lengths(stages, depth, FRONT) == BY_HAND[stages][depth][0]
    assert stage_lengths(stages, depth, LAST) == BY_HAND[stages][depth][1]


def test_figure_3():
    """A descendant of 5 blocks from 3 learngenes; and what the official code names for 12."""
    assert descendant_map(5, 12).sources == (0, 0, 0, 1, 1, 1, 2, 2, 3, 3, 4, 4)
    assert descendant_map(3, 5).sources == (0, 0, 1, 1, 2)
    assert descendant_map(3, 5, LAST).sources == (0, 0, 1, 2, 2)


@given(st.integers(1, 12), st.integers(1, 48), st.sampled_from((FRONT, LAST)))
def test_properties_of_cyclic_maps(stages, depth, order):
    lengths = stage_lengths(stages, depth, order)
    assert len(lengths) == stages and sum(lengths) == depth
    assert max(lengths) - min(lengths) <= 1 and min(lengths) >= 0
    assert lengths[0] == max(lengths)  # both orders begin at the front
    layer_map = descendant_map(stages, depth, order)
    assert len(layer_map) == depth and layer_map.base_depth == stages and layer_map.partial
    assert list(layer_map.sources) == sorted(layer_map.sources)
    assert tuple(layer_map.sources.count(s) for s in range(stages)) == lengths
    assert descendant_map(stages, depth, order, seed=3) == layer_map  # nothing is drawn
    if depth < stages:
        assert set(lengths) == {0, 1}


@given(st.integers(2, 12), st.integers(1, 47))
def test_one_block_more_goes_to_one_stage(stages, depth):
    """What the next depth gets, goes to the next stage of the order, in turns."""
    turns = {FRONT: list(range(stages)), LAST: []}
    front, back = 0, stages - 1
    while front <= back:  # 1, M, 2, M - 1, ...
        turns[LAST] += [front] if front == back else [front, back]
        front, back = front + 1, back - 1
    for order, stage_of_turn in turns.items():
        before, after = stage_lengths(stages, depth, order), stage_lengths(stages, depth + 1, order)
        gained = [stage for stage in range(stages) if after[stage] != before[stage]]
        assert gained == [stage_of_turn[depth % stages]]
        assert after[gained[0]] == before[gained[0]] + 1


@given(st.integers(1, 9), st.integers(1, 48), st.integers(-5, 2**40))
def test_properties_of_random_maps(stages, depth, seed):
    drawn = descendant_map(stages, depth, 'random-assigned', seed)
    assert len(drawn) == depth and set(drawn.sources) <= set(range(stages))
    assert drawn == descendant_map(stages, depth, 'random-assigned', seed)
    in_order = descendant_map(stages, depth, 'random-sorted', seed)
    assert list(in_order.sources) == sorted(drawn.sources)


def test_draws_are_these_in_every_version():
    """A descendant that a paper reports can be made again years later."""
    assert descendant_map(5, 12, 'random-assigned', 0).sources == (4, 3, 2, 1, 2, 2, 3, 1, 2, 2, 4,
                                                                   2)
    assert descendant_map(5, 12, 'random-assigned', 1).sources != descendant_map(
        5, 12, 'random-assigned', 0).sources


def test_draws_are_uniform():
    counts = collections.Counter(
        source for seed in range(100)
        for source in descendant_map(4, 40, 'random-assigned', seed).sources)
    # 4000 draws: a standard deviation of 27
    assert set(counts) == {0, 1, 2, 3} and all(abs(n - 1000) < 140 for n in counts.values())


@pytest.mark.parametrize('blocks, depth, sources', [
    (3, 5, ((), (), 0, 1, 2)), (3, 3, (0, 1, 2)), (3, 2, (1, 2)), (1, 2, ((), 0)), (4, 1, (3, )),
])
def test_last_blocks(blocks, depth, sources):
    layer_map = last_blocks_map(blocks, depth)
    assert layer_map.sources == sources and layer_map.base_depth == blocks


@pytest.mark.parametrize('call', [
    lambda n: stage_lengths(3, n), lambda n: descendant_map(3, n),
    lambda n: descendant_map(3, n, 'random-assigned', 0), lambda n: last_blocks_map(3, n),
])
@pytest.mark.parametrize('depth', [0, -1, 2.5, 3., True, '9', None])
def test_depths_that_cannot_be(call, depth):
    with pytest.raises(GrowthError, match='depth of a descendant must be an integer >= 1, got'):
        call(depth)


@pytest.mark.parametrize('call, message', [
    (lambda: stage_lengths(0, 3), 'number of stages must be an integer >= 1, got 0'),
    (lambda: descendant_map(0, 3, 'random-assigned', 0), 'number of stages'),
    (lambda: last_blocks_map(0, 3), "learngene's blocks must be an integer"),
    (lambda: descendant_map(3, 3, 'mid-front-last'), "order must be one of .*'mid-front-last'"),
    (lambda: descendant_map(3, 3, None), 'order must be one of .*got None'),
    (lambda: stage_lengths(3, 3, 'random-sorted'), 'to divide blocks among stages'),
    (lambda: descendant_map(3, 3, 'random-assigned'), 'draws at random: give a seed'),
    (lambda: descendant_map(3, 3, 'random-sorted', None), 'draws at random: give a seed'),
    (lambda: descendant_map(3, 3, 'random-sorted', 1.5), 'seed must be an integer, got 1.5'),
    (lambda: descendant_map(3, 3, seed=True), 'seed must be an integer, got True'),
])
def test_refusals(call, message):
    with pytest.raises(GrowthError, match=message):
        call()


def test_the_orders_have_names():
    assert ORDERS == (FRONT, LAST, 'random-assigned', 'random-sorted')
