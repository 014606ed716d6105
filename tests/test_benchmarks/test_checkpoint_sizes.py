"""The table of file sizes is one of real files."""
import importlib.util
import re
from pathlib import Path

import pytest
from mmengine.registry import DefaultScope

ROOT = Path(__file__).resolve().parents[2]
CONFIG = """\
_base_ = '{base}'
model = dict(
    backbone=dict(arch=dict(
        _delete_=True, embed_dims=96, num_layers=3, num_heads=2, feedforward_channels=384),
        img_size=32, growth=dict(start='identity'), adjustment=dict(rank=2)),
    head=dict(num_classes=4, in_channels=96))
"""


@pytest.fixture
def bench():
    spec = importlib.util.spec_from_file_location(
        'checkpoint_sizes', ROOT / 'benchmarks' / 'checkpoint_sizes.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    DefaultScope._instance_dict.clear()


def test_table(bench, tmp_path, capsys):
    config = tmp_path / 'tiny.py'
    config.write_text(CONFIG.format(base=ROOT / 'configs/scalenet_deit-t_100e_imagenet.py'))
    bench.main([str(config), '--onnx'])
    rows = re.findall(r'^  (\S.*?)  +([\d,]+)', capsys.readouterr().out, re.M)
    sizes = {what: int(size.replace(',', '')) for what, size in rows}
    assert 1 < sizes['whole, without optimizer'] / sizes['base'] < 1.2
    for what in ('classifier frozen', 'classifier trains'):
        delta = sizes[f'delta, {what}']
        assert delta < sizes['base'] / 5
        assert 2 * delta < sizes[f'delta, {what}, with AdamW']
        assert sizes[f'delta, {what}, safetensors'] < delta
    assert sizes['delta, classifier frozen'] < sizes['delta, classifier trains']
    for ending in ('onnx', 'pt2'):
        assert sizes[f'ungrown .{ending}'] < sizes[f'grown .{ending}']
