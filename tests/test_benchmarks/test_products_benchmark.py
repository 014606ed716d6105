"""The table of products."""
import importlib.util
from pathlib import Path

import torch

from scalenet_mm.growth import products

FILE = Path(__file__).resolve().parents[2] / 'benchmarks' / 'products.py'
spec = importlib.util.spec_from_file_location('products_benchmark', FILE)
benchmark = importlib.util.module_from_spec(spec)
spec.loader.exec_module(benchmark)


def test_each_call_is_computed_by_its_library(monkeypatch):
    calls, function = [], torch.ops.mkldnn._linear_pointwise
    monkeypatch.setattr(torch.ops.mkldnn, '_linear_pointwise',
                        lambda *args: calls.append(args) or function(*args))
    found = benchmark.make_calls(1024, 32, 64)
    assert len(found) == 6
    for (_, library), call in found.items():
        calls.clear()
        call()
        assert bool(calls) == (library == 'onednn')
    assert products._choice == 'auto'


def test_the_rows():
    rows = list(benchmark.measure([('a layer', 1024, 32, 64)], rounds=2))
    assert [name for _, name, *_ in rows] == ['forward', "input's gradient", "weight's gradient"]
    for _, _, native, onednn, ratio in rows:
        assert native > 0 and onednn > 0 and ratio > 0


def test_the_table(monkeypatch, capsys):
    monkeypatch.setattr(benchmark, 'SHAPES', benchmark.SHAPES[5:6])
    benchmark.main(['--rounds', '1'])
    lines = capsys.readouterr().out.splitlines()
    assert 'the rule takes' in lines[0] and len(lines) == 2 + 3
