"""Timing in turns."""
import pytest
import torch

from scalenet_mm.analysis import describe_device, measure_latency, median_ratio


def test_calls_take_turns():
    order = []
    times = measure_latency(
        {'a': lambda: order.append('a'), 'b': lambda: order.append('b')}, rounds=3, warmup=2)
    assert order == ['a', 'b'] * 5
    assert list(times) == ['a', 'b'] and all(len(seconds) == 3 for seconds in times.values())
    assert min(times['a'] + times['b']) > 0


def test_a_slow_round_is_slow_for_both():
    assert median_ratio([2., 20., 2.2], [1., 10., 1.]) == pytest.approx(2.)


def test_the_cpu_is_described_with_its_threads():
    threads = torch.get_num_threads()
    assert describe_device('cpu').startswith(f'CPU, {threads} thread')
