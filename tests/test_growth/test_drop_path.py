"""Stochastic depth of grown lists."""
import pytest
import torch.nn as nn
from growth_toys import make_blocks
from mmcv.cnn.bricks.drop import build_dropout
from torchvision.ops import StochasticDepth

from scalenet_mm.growth import get_drop_path_rate, grow, make_layer_map, set_drop_path_rates


def rates(blocks):
    return [block.drop_path.drop_prob for block in blocks]


def test_linear_over_the_grown_depth_in_execution_order():
    stages = [grow(make_blocks(1), make_layer_map(1)),
              grow(make_blocks(2), make_layer_map(2, 'stack'))]
    set_drop_path_rates(stages, 0.5)
    assert rates(stages[0]) + rates(stages[1]) == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5])


def test_a_repeat_owns_its_rate():
    blocks = grow(make_blocks(2), make_layer_map(2))
    blocks[1].drop_path.drop_prob = 0.7
    assert rates(blocks) == [0, 0.7, 0, 0]
    blocks[0].drop_path.drop_prob = 0.3
    assert rates(blocks) == [0.3, 0.7, 0, 0]


def test_reading_the_rate():
    block = make_blocks(1)[0]
    block.drop_path.drop_prob = 0.2
    assert get_drop_path_rate(block) == 0.2
    assert get_drop_path_rate(nn.Linear(2, 2)) is None
    assert get_drop_path_rate(nn.Dropout(0.5)) is None


@pytest.mark.parametrize('module, name', [
    (lambda: build_dropout(dict(type='DropPath', drop_prob=0.1)), 'drop_prob'),
    (lambda: StochasticDepth(0.1, 'row'), 'p'),
])
def test_drop_paths_of_others(module, name):
    blocks = nn.ModuleList([nn.Sequential(module()), nn.Sequential(nn.Dropout(0.1), module())])
    assert get_drop_path_rate(blocks[1]) == 0.1
    set_drop_path_rates([blocks], 0.4)
    assert getattr(blocks[0][0], name) == 0
    assert getattr(blocks[1][1], name) == pytest.approx(0.4)
    assert blocks[1][0].p == 0.1


def test_empty_stages():
    set_drop_path_rates([nn.ModuleList()], 0.5)
