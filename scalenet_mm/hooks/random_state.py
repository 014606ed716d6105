"""The states of all random number generators, of every process: mmengine saves none of them."""
import random
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from mmengine.dist import all_gather_object


def get_random_state() -> dict:
    """dict: The states of this process's generators, as tensors and plain numbers."""
    version, numbers, gauss = random.getstate()
    numpy_state: Any = np.random.get_state()
    kind, keys, position, has_gauss, cached = numpy_state
    state = dict(
        torch=torch.get_rng_state(),
        python=dict(version=version, numbers=torch.tensor(numbers), gauss=gauss),
        numpy=dict(kind=kind, keys=torch.from_numpy(keys.astype(np.int64)), position=position,
                   has_gauss=has_gauss, cached=cached))
    if torch.cuda.is_available():
        state['cuda'] = torch.cuda.get_rng_state()
    return state


def set_random_state(state: dict) -> None:
    """Set this process's generators.

    Args:
        state (dict): What :func:`get_random_state` gave. A GPU's state is left out where there is
            none.
    """
    torch.set_rng_state(state['torch'].cpu())
    python, kept = state['python'], state['numpy']
    random.setstate((python['version'], tuple(python['numbers'].tolist()), python['gauss']))
    np.random.set_state((kept['kind'], kept['keys'].cpu().numpy().astype(np.uint32),
                         kept['position'], kept['has_gauss'], kept['cached']))
    if 'cuda' in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state['cuda'].cpu())


def gather_random_states(state: dict) -> list:
    """Collect the states of all processes; to be called by all of them.

    Args:
        state (dict): This process's.

    Returns:
        list[dict]: One a process, in the order of ranks.
    """
    return all_gather_object(state)


class AdvancedIterator:
    """A data iterator that calls a function once it has skipped what was trained on already.

    A loop that counts iterations fetches, and throws away, all earlier batches when it resumes;
    that draws random numbers, after which the states have to be set.

    Args:
        iterator (Iterator): Gives batches.
        skip (int): How many of them are skipped, one or more.
        then (Callable): Called after the last of them was fetched.
    """

    def __init__(self, iterator, skip: int, then: Callable):
        self._iterator = iterator
        self._left = skip
        self._then = then

    def __iter__(self):
        return self

    def __next__(self):
        batch = next(self._iterator)
        self._left -= 1
        if self._left == 0:
            self._then()
        return batch

    def skip_iter(self, num_iters: int) -> None:
        """Fetch and throw away batches, as OneDL's loop asks for it.

        Its own iterator goes on in the sampler alone. That is faster, but leaves the random numbers
        of worker processes, and what transforms keep, where they were at the start.

        Args:
            num_iters (int): How many.
        """
        for _ in range(num_iters):
            next(self)
