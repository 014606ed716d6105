"""Accuracy right after growing, by start: rows, blocks left alone, what is kept between runs."""
import importlib.util
import json
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from scalenet_mm import CheckpointError, ConfigError

ROOT = Path(__file__).resolve().parents[2]
CONFIG = """\
_base_ = '{base}'
model = dict(
    backbone=dict(
        arch=dict(
            _delete_=True, embed_dims=16, num_layers=3, num_heads=2, feedforward_channels=64),
        img_size=32),
    head=dict(num_classes=4, in_channels=16))
test_pipeline = [
    dict(type='LoadImageFromFile'), dict(type='Resize', scale=32), dict(type='PackInputs')]
test_dataloader = dict(dataset=dict(data_root='nowhere', pipeline=test_pipeline))
"""


@pytest.fixture(scope='module')
def bench():
    spec = importlib.util.spec_from_file_location(
        'start_without_training', ROOT / 'benchmarks' / 'start_without_training.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope='module')
def project(tmp_path_factory):
    """Twelve images of four classes; a config of three blocks; weights that do not guess evenly."""
    folder = tmp_path_factory.mktemp('project')
    rng = np.random.default_rng(0)
    for name in 'abcd':
        (folder / 'images' / 'val' / name).mkdir(parents=True)
        for index in range(3):
            cv2.imwrite(str(folder / 'images' / 'val' / name / f'{index}.png'),
                        rng.integers(0, 255, (32, 32, 3), np.uint8))
    (folder / 'small.py').write_text(
        CONFIG.format(base=ROOT / 'configs' / 'scalenet_deit-t_20e_folder.py'))
    cfg = Config.fromfile(folder / 'small.py')
    cfg.model.backbone.update(growth=None, adjustment=None)
    torch.manual_seed(0)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(cfg.model)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.5)
    torch.save(dict(state_dict=model.state_dict()), folder / 'weights.pth')
    return folder


@pytest.fixture
def command(bench, project, tmp_path):
    """Parse a command line for the project."""
    return lambda *words: bench.parse_args(
        [str(project / 'small.py'), str(project / 'weights.pth'), '--data-root',
         str(project / 'images'), '--out', str(tmp_path / 'out.json'), *words])


def test_rows(bench, command, tmp_path, capsys):
    args = command('--shares', '0', '0.5', '--first-blocks', '0', '2')
    bench.run(args)
    top1 = json.loads((tmp_path / 'out.json').read_text())['top1']
    assert len(top1) == 7
    # nothing is repeated in effect: the pretrained model
    for name in ('identity start', 'split 0, first 0 alone', 'split 0, first 2 alone'):
        assert top1[name] == top1['ungrown']
    table = capsys.readouterr().out.split('left alone\n')[1].splitlines()
    assert table[0].split() == ['0', '2']
    assert [float(x) for x in table[2].split()] == pytest.approx(
        [0.5, top1['split 0.5, first 0 alone'], top1['split 0.5, first 2 alone']], abs=0.06)


def test_what_is_measured_is_kept(bench, command, tmp_path, monkeypatch):
    measured = []

    def measure(cfg, growth):
        measured.append((growth, cfg.test_dataloader.dataset.get('indices')))
        return 1.

    monkeypatch.setattr(bench, 'measure', measure)
    bench.run(command('--shares', '0.3', '--first-blocks', '0'))
    assert measured == [(None, None), (dict(start='identity'), None), (dict(start='paper'), None),
                        (dict(start=dict(type='split', share=0.3)), None)]
    del measured[:]
    bench.run(command('--shares', '0.3', '--first-blocks', '0', '1'))
    assert measured == [(dict(start=dict(type='split', share=0.3), blocks=[1, 2]), None)]
    del measured[:]
    bench.run(command('--shares', '0.3', '--first-blocks', '0', '--images', '5'))
    assert [images for _, images in measured] == [[0, 2, 4, 7, 9]] * 4


def test_a_variant_is_laid_over_the_growth_of_the_config(bench, command, monkeypatch):
    from mmengine.runner import Runner
    built = []

    def from_cfg(cfg):
        built.append(cfg.model.backbone)
        return type('Fake', (), dict(test=lambda self: {bench.METRIC: 1.}))()

    monkeypatch.setattr(Runner, 'from_cfg', from_cfg)
    cfg = bench.read_config(command('--cfg-options', 'model.backbone.growth.times=3'))
    rows = bench.variants(command('--shares', '0.2', '--first-blocks', '1'), bench.base_depth(cfg))
    for growth in rows.values():
        bench.measure(cfg, growth)
    assert list(rows) == ['ungrown', 'identity start', "paper's start", 'split 0.2, first 1 alone']
    assert built[0].growth is None and built[0].adjustment is None
    kept = dict(order='interpolate', times=3)
    assert [b.growth for b in built[1:]] == [
        dict(**kept, start='identity'), dict(**kept, start='paper'),
        dict(**kept, start=dict(type='split', share=0.2), blocks=[1, 2])]


def test_errors(bench, command, project):
    with pytest.raises(ConfigError, match='--first-blocks: there are 3 blocks'):
        bench.run(command('--first-blocks', '3'))
    with pytest.raises(ConfigError, match='--images: the set has 12 images, so 1 to 12, got 13'):
        bench.run(command('--images', '13'))
    with pytest.raises(CheckpointError, match='no such file'):
        args = command()
        args.checkpoint = 'missing.pth'
        bench.run(args)
    with pytest.raises(ConfigError, match='test_dataloader.dataset.data_root'):
        args = command()
        args.data_root = None
        bench.run(args)
