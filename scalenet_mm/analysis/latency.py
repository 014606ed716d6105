"""Latency of models beside each other, in one run."""
import time
from collections.abc import Callable
from statistics import median

import torch


def measure_latency(calls: dict, rounds: int = 10, warmup: int = 2) -> dict:
    """Time several calls in turns, so that whatever else the machine does meets all alike.

    Args:
        calls (dict[str, Callable]): What to time, by name; takes no argument.
        rounds (int): How often each is timed. Defaults to 10.
        warmup (int): How often each is called before. Defaults to 2.

    Returns:
        dict[str, list[float]]: Seconds of each round, by name. Where there is a GPU, a call ends
        when the GPU is done with it.
    """
    times: dict = {name: [] for name in calls}
    for i in range(warmup + rounds):
        for name, call in calls.items():
            seconds = timed(call)
            if i >= warmup:
                times[name].append(seconds)
    return times


def timed(call: Callable) -> float:
    """float: Seconds that a call takes, on the GPU too."""
    synchronize()
    start = time.perf_counter()
    call()
    synchronize()
    return time.perf_counter() - start


def synchronize() -> None:
    """Wait until the GPU, if there is one, has done all that it was asked for."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def median_ratio(times: list, reference: list) -> float:
    """Median of the ratios of one round's times: slow rounds are slow for both.

    Args:
        times (list[float]): Seconds of each round.
        reference (list[float]): Those of the one that is compared with.

    Returns:
        float: The ratio.
    """
    return median(a / b for a, b in zip(times, reference))


def describe_device(device: str) -> str:
    """str: The device and what of it is used."""
    if device == 'cuda':
        return torch.cuda.get_device_name()
    return f'CPU, {torch.get_num_threads()} thread{"s" * (torch.get_num_threads() > 1)}'
