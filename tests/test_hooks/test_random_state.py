"""The states of the generators, as a checkpoint holds them."""
import random

import numpy as np
import pytest
import torch

from scalenet_mm.checkpoints.files import save_file
from scalenet_mm.checkpoints.safe import load_file
from scalenet_mm.hooks.random_state import (
    AdvancedIterator,
    gather_random_states,
    get_random_state,
    set_random_state,
)

DRAWS = dict(
    torch=lambda: torch.randn(3).tolist(),
    torch_layers=lambda: torch.nn.functional.dropout(torch.ones(50)).tolist(),
    numpy=lambda: np.random.rand(),
    numpy_normal=lambda: np.random.randn(),
    numpy_permutation=lambda: np.random.permutation(50).tolist(),
    python=lambda: random.random(),
    python_normal=lambda: random.gauss(0, 1),
    python_shuffle=lambda: random.sample(range(50), 50))


def draw():
    return {name: draw() for name, draw in DRAWS.items()}


@pytest.fixture(autouse=True)
def keep_random_state():
    state = get_random_state()
    yield
    set_random_state(state)


# normal numbers come in pairs: the second of a pair is part of the state
@pytest.mark.parametrize('drawn', [0, 1, 2, 3])
def test_goes_on_from_a_file(drawn, tmp_path):
    for _ in range(drawn):
        draw()
    save_file(dict(random_states=[get_random_state()]), str(tmp_path / 'file.pth'))
    wanted = [draw(), draw()]
    for seeding in (torch.manual_seed, np.random.seed, random.seed):
        seeding(5)
    assert draw() != wanted[0]
    set_random_state(load_file(str(tmp_path / 'file.pth'))['random_states'][0])
    assert [draw(), draw()] == wanted


@pytest.mark.parametrize('name', DRAWS)
def test_getting_and_setting_draws_nothing(name):
    state = get_random_state()
    first = DRAWS[name]()
    set_random_state(state)
    get_random_state()
    assert DRAWS[name]() == first


def test_gpu_state(monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr(torch.cuda, 'get_rng_state', lambda: torch.tensor([7]))
    state = get_random_state()
    set_on_gpu = []
    monkeypatch.setattr(torch.cuda, 'set_rng_state', set_on_gpu.append)
    set_random_state(state)
    assert set_on_gpu == [state['cuda']]
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    set_random_state(state)
    assert len(set_on_gpu) == 1


def test_of_one_process():
    state = get_random_state()
    assert gather_random_states(state) == [state]


@pytest.mark.parametrize('skip', [1, 3, 5])
def test_advanced_iterator(skip):
    calls = []

    def numbers():
        for number in range(5):
            calls.append(number)
            yield number

    iterator = AdvancedIterator(numbers(), skip, lambda: calls.append('then'))
    assert iter(iterator) is iterator
    assert list(iterator) == list(range(5))
    assert calls == [*range(skip), 'then', *range(skip, 5)]


@pytest.mark.parametrize('skip', [1, 4])
def test_advanced_iterator_that_is_told_to_skip(skip):
    """OneDL's loop leaves the skipping to the iterator."""
    calls = []
    iterator = AdvancedIterator(iter(range(5)), skip, lambda: calls.append('then'))
    iterator.skip_iter(skip)
    assert calls == ['then']
    assert list(iterator) == list(range(skip, 5))
