"""Parameter counts and the table."""
import pytest
import timm
import torch
import torch.nn as nn

from scalenet_mm.analysis import ParameterCount, count_parameters, parameter_table
from scalenet_mm.growth import apply_freezing, grow, grow_stages, make_layer_map

DIM = 192
BASE = 5_717_416
BLOCK = 12 * DIM**2 + 9 * DIM + 4 * DIM  # weights, biases, norms
NORMS = 4 * DIM  # of one block
SHARED = BLOCK - NORMS  # what a repeat uses of its source
ADAPTERS = 10 * DIM * 16
GAINS = 2 * DIM


def deit(growth=None, adjustment=None):
    with torch.device('meta'):
        model = timm.create_model('deit_tiny_patch16_224')
        grow_stages([model.blocks], growth, adjustment)
    return model


class Classifier(nn.Module):

    def __init__(self, backbone):
        super().__init__()
        self.backbone = backbone
        self.neck = nn.Linear(2, 3)
        self.head = nn.ModuleDict(dict(fc=nn.Linear(3, 4)))


@pytest.mark.parametrize('growth, adjustment, expected', [
    (None, None, dict()),
    (None, {}, dict(adapters=12 * ADAPTERS)),
    ({}, {}, dict(shared=12 * SHARED, adapters=24 * ADAPTERS, repeats=12 * NORMS)),
    (dict(blocks=(0, 1), times=3), dict(scope='shared'),
     dict(shared=2 * SHARED, adapters=6 * ADAPTERS, repeats=4 * NORMS)),
    (dict(blocks=(3, ), start='identity'), None,
     dict(shared=SHARED, gains=2 * GAINS, repeats=NORMS)),
    (dict(blocks=(-1, ), share='none'), {}, dict(adapters=13 * ADAPTERS, repeats=BLOCK)),
    (dict(share='all'), dict(type='LoRA', rank=8),
     dict(shared=12 * BLOCK, adapters=24 * 16 * DIM * 8)),
])
def test_counts_by_hand(growth, adjustment, expected):
    added = sum(n for name, n in expected.items() if name != 'shared')
    assert count_parameters(deit(growth, adjustment)) == ParameterCount(
        total=BASE + added, added=added, trainable=BASE + added, **expected)


def test_ungrown_models_and_frozen_parts():
    model = Classifier(nn.Linear(2, 2))
    model.neck.requires_grad_(False)
    assert count_parameters(model) == ParameterCount(total=6 + 9 + 16, trainable=6 + 16)


def test_a_list_at_the_top():
    with torch.device('meta'):
        blocks = timm.create_model('deit_tiny_patch16_224').blocks
    grow(blocks, make_layer_map(12))
    assert count_parameters(blocks).repeats == 12 * NORMS


def test_a_tensor_in_two_places_counts_once():
    model = nn.ModuleDict(dict(a=nn.Linear(2, 2, bias=False), b=nn.Linear(2, 2, bias=False)))
    model['b'].weight = model['a'].weight
    assert count_parameters(model).total == 4


def rows(table):
    """The numbers of the table's rows."""
    return {line.split()[0]: [int(n.replace(',', '')) for n in line.split()[1:]]
            for line in table.splitlines() if line.startswith(('  backbone ', '  model '))}


def test_table():
    model = Classifier(deit(dict(start='identity'), {}))
    apply_freezing(model, ['paper'])
    table = parameter_table(model)
    adapters, gains, repeats = 24 * ADAPTERS, 24 * GAINS, 12 * NORMS
    added = adapters + gains + repeats
    norms = 12 * NORMS + 2 * DIM  # of the originals, and the last one
    assert rows(table) == {
        'backbone': [BASE + added, 12 * SHARED, added, adapters, gains, repeats, added + norms],
        'model': [BASE + added + 25, 12 * SHARED, added, adapters, gains, repeats,
                  added + norms + 16],
    }
    assert '12 -> 24   0 0_r1 1 1_r1 2 2_r1 ... 10_r1 11 11_r1' in table
    assert 'backbone.blocks' in table
    assert table.endswith('training outside of the backbone: head')


def test_table_of_a_short_list_and_of_nothing():
    blocks = grow(nn.ModuleList([nn.Linear(2, 2), nn.Linear(2, 2)]), make_layer_map(2, 'stack'))
    table = parameter_table(nn.Sequential(blocks))
    assert '2 -> 4   0 1 0_r1 1_r1' in table and rows(table) == {'model': [12, 12, 0, 0, 0, 0, 12]}
    table = parameter_table(nn.Linear(2, 2))
    assert 'none' in table and rows(table) == {'model': [6, 0, 0, 0, 0, 0, 6]}
    model = Classifier(nn.Linear(2, 2)).requires_grad_(False)
    assert parameter_table(model).endswith('training outside of the backbone: nothing')
