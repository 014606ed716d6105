"""Classes made at run time."""
import copy
import pickle

import pytest
import torch
import torch.nn as nn
from growth_toys import Block, Mlp, make_blocks, run, tokens

from scalenet_mm.growth import grow, make_layer_map
from scalenet_mm.growth.derived import Derived, change_class, derive_class


class Loud(Derived):
    prefix = 'Loud'

    def forward(self, x):
        return super().forward(x) + 1


class Quiet(Derived):
    prefix = 'Quiet'


def test_a_changed_module_keeps_its_class_and_state():
    module, x = Mlp(4, 8), torch.randn(2, 4)
    expected = module(x)
    state = dict(module.state_dict())
    change_class(module, Loud)
    assert isinstance(module, Mlp) and isinstance(module, Loud)
    assert type(module).__name__ == 'LoudMlp' and type(module).__module__ == Mlp.__module__
    assert torch.equal(module(x), expected + 1)
    assert all(torch.equal(v, state[k]) for k, v in module.state_dict().items())


def test_one_class_for_one_recipe():
    assert derive_class(Mlp, Loud, ()) is derive_class(Mlp, Loud, ())
    assert derive_class(Mlp, Loud, ()) is not derive_class(Mlp, Loud, ('fc1', ))
    first, second = Mlp(4, 8), Mlp(4, 8)
    change_class(first, Loud)
    change_class(second, Loud)
    assert type(first) is type(second)


@pytest.mark.parametrize('again', [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m)),
                                   lambda m: pickle.loads(pickle.dumps(m, protocol=2)), copy.copy])
def test_copies_and_pickles_are_of_the_same_class(again):
    module, x = Mlp(4, 8), torch.randn(2, 4)
    change_class(module, Loud)
    change_class(module, Quiet)
    other = again(module)
    assert type(other) is type(module) and type(other).__name__ == 'QuietLoudMlp'
    assert torch.equal(other(x), module(x))


def test_layers_of_behaviour_on_a_grown_list():
    """A repeat's linear is tied and adjusted at once, its block tied and repeated."""
    blocks = grow(make_blocks(2), make_layer_map(2), adjustment={})
    repeat = blocks[1]
    assert [type(m).__name__ for m in (repeat, repeat.mlp.fc1)] == ['RepeatedTiedBlock',
                                                                   'AdjustedTiedLinear']
    assert isinstance(repeat, Block) and isinstance(repeat.mlp.fc1, nn.Linear)
    x = tokens()
    for other in (copy.deepcopy(blocks), pickle.loads(pickle.dumps(blocks))):
        assert [type(m) for m in other.modules()] == [type(m) for m in blocks.modules()]
        assert torch.equal(run(other, x), run(blocks, x))
        assert other[1].mlp.fc1.weight is other[0].mlp.fc1.weight
