"""The study on CamVid: its runs, what it reports, and that a finished run is kept."""
import importlib.util
import json
import sys
from pathlib import Path

import cv2
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from scalenet_mm import ConfigError

ROOT = Path(__file__).resolve().parents[2]
LOG = '''
+----------+-------+-------+
|  Class   |  IoU  |  Acc  |
+----------+-------+-------+
|   sky    | 11.25 | 12.0  |
+----------+-------+-------+
06/01 12:00:00 - mmengine - INFO - per class results:
06/01 12:00:00 - mmengine - INFO -
+------------+-------+-------+
|   Class    |  IoU  |  Acc  |
+------------+-------+-------+
|    sky     | {:<5} | 96.33 |
| stop sign  |  0.0  |  0.0  |
| bicyclist  |  nan  |  nan  |
+------------+-------+-------+
06/01 12:00:00 - mmengine - INFO - Iter(val) [101/101]    aAcc: 80.5900  mIoU: 34.8100
'''


@pytest.fixture(scope='module')
def bench():
    spec = importlib.util.spec_from_file_location(
        'camvid_starts', ROOT / 'benchmarks' / 'camvid_starts.py')
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def scenes(tmp_path):
    """Twelve training images, frames of two videos, and two validation images."""
    rng = np.random.default_rng(0)
    for split, names in (('train', [f'{video}_{i:03}' for video in 'ab' for i in range(6)]),
                         ('val', ['c_000', 'c_001'])):
        for kind in ('img_dir', 'ann_dir'):
            (tmp_path / 'camvid' / kind / split).mkdir(parents=True)
        for name in names:
            image, label = rng.integers(0, 255, (36, 48, 3)), rng.integers(0, 12, (36, 48))
            for kind, suffix, array in (('img_dir', 'jpg', image), ('ann_dir', 'png', label)):
                path = tmp_path / 'camvid' / kind / split / f'{name}.{suffix}'
                cv2.imwrite(str(path), array.astype(np.uint8))
    return tmp_path / 'camvid'


@pytest.fixture
def command(bench, scenes, tmp_path):
    """Parse a command line for the scenes."""
    return lambda *words: bench.parse_args(
        ['--data-root', str(scenes), '--weights', str(tmp_path / 'deit.pth'), '--out',
         str(tmp_path / 'out'), '--crop', '32', '--batch', '2', '--iters', '2', *words])


def fake_training(bench, monkeypatch, scores):
    """Replace training by writing scores, in order."""
    done = []

    def train(self, config, options, work_dir):
        done.append((work_dir.name, options))
        path = work_dir / '20260101_000000' / 'vis_data' / 'scalars.json'
        path.parent.mkdir(parents=True)
        path.write_text('\n'.join(json.dumps(r) for r in [
            {'lr': 0.1, 'loss': 1.},
            *({'mIoU': s, 'aAcc': s + 30} for s in scores[len(done) - 1])]))
        (work_dir / 'train.txt').write_text(LOG.format(scores[len(done) - 1][-1]))
        return 2., 1.

    monkeypatch.setattr(bench.Study, '_train', train)
    return done


def test_a_run_is_a_run_of_the_tool(bench, command, tmp_path):
    """From the command line to IoU, with a real model; then nothing is left to do."""
    cfg = Config.fromfile(ROOT / 'configs' / 'upernet_scalenet_deit-t-ungrown_2k_camvid.py')
    cfg.model.backbone.update(adjustment=None, init_cfg=None)
    with DefaultScope.overwrite_default_scope('mmseg'):
        torch.save(MODELS.build(cfg.model.backbone).state_dict(), tmp_path / 'deit.pth')
    args = command('--arms', 'identity', '--seeds', '3', '--cfg-options',
                   'val_dataloader.dataset.pipeline.1.scale=(64,48)',
                   'param_scheduler.0.end=1', 'param_scheduler.1.begin=1')
    bench.study(args)
    report = json.loads((tmp_path / 'out' / 'results.json').read_text())
    run, = report['arms']['identity']['runs']
    assert run['seed'] == 3 and run['validations'] == [run['mIoU']]
    assert list(run['classes']) == [
        'sky', 'building', 'pole', 'road', 'sidewalk', 'tree', 'sign', 'fence', 'car',
        'pedestrian', 'bicyclist']
    # the table has two decimals of each
    assert np.mean(list(run['classes'].values())) == pytest.approx(run['mIoU'], abs=0.02)
    assert run['cpu_minutes'] > 0.01

    checkpoint, = (tmp_path / 'out').glob('identity_lr*_seed3/iter_2.pth')
    before = checkpoint.stat().st_mtime_ns
    bench.study(args)
    assert checkpoint.stat().st_mtime_ns == before


def test_table_and_resuming(bench, command, monkeypatch, capsys):
    done = fake_training(bench, monkeypatch, [[10., 40.], [50.], [30.]])
    bench.study(command('--arms', 'paper', '--seeds', '0', '1'))
    lines = capsys.readouterr().out.splitlines()
    row = [x for x in lines if x.startswith("grown, paper's start")][-1].split()
    assert row[3:9] == ['45.0', '+-', '7.1', '75.0', '+-', '7.1']
    assert row[-2:] == ['2.0', '1.0'] and len(done) == 2
    assert [x.split() for x in lines[-3:]] == [
        ['sky', '45.0'], ['stop', 'sign', '0.0'], ['bicyclist', 'nan']]

    bench.study(command('--arms', 'paper', '--seeds', '0', '1'))
    assert len(done) == 2
    bench.study(command('--arms', 'paper', '--seeds', '0', '--lr', '0.5'))
    assert len(done) == 3 and 'optim_wrapper.optimizer.lr=0.5' in done[-1][1]


def test_classes_are_those_of_the_last_table(bench):
    ious = bench.class_ious(LOG.format(90.99))
    assert ious.pop('bicyclist') != ious['sky']  # nan
    assert ious == {'sky': 90.99, 'stop sign': 0.}
    assert bench.class_ious('no table') == {}


def test_every_arm_is_what_it_says(bench, command, scenes, tmp_path):
    from scalenet_mm.engine.options import merge_cfg_options
    runs = bench.Study(command(), tmp_path / 'out', scenes)
    trainable = {}
    for key, arm in bench.ARMS.items():
        cfg = Config.fromfile(runs.config(arm))
        options = sys.modules['_study'].as_values(runs.options(arm, 1, 0.5, 2))
        merge_cfg_options(cfg, options)
        assert cfg.optim_wrapper.optimizer.lr == 0.5 and cfg.randomness.seed == 1
        assert cfg.train_dataloader.dataset.pipeline[3].crop_size == (32, 32)
        assert cfg.model.data_preprocessor.size == (32, 32)
        assert cfg.val_dataloader.dataset.data_root == str(scenes)
        growth = cfg.model.backbone.growth
        assert (growth and growth.start) == dict(ungrown=None).get(key, key)
        trainable[key] = sys.modules['_study'].count_trainable(runs.config(arm), arm.options)
    # a repeat has an adapter at each of its four linear layers and two norms; two gains but for
    # the paper's start
    repeats = 12 * (10 * 192 * 16 + 2 * 2 * 192)
    assert trainable['paper'] - trainable['ungrown'] == repeats
    assert trainable['identity'] - trainable['paper'] == 24 * 2 * 192


def test_sweep_tests_on_the_end_of_each_training_video(bench, command, scenes, monkeypatch,
                                                       capsys, tmp_path):
    fake_training(bench, monkeypatch, [[1.], [2.], [3.]])
    bench.sweep(command('--arms', 'ungrown', '--sweep'))
    assert 'lr 0.0003: 1.0, lr 0.001: 2.0, lr 0.003: 3.0' in capsys.readouterr().out
    folder = tmp_path / 'out' / 'sweep' / 'images'
    assert sorted(p.name for p in folder.glob('img_dir/val/*')) == ['a_005.jpg', 'b_005.jpg']
    assert len(list(folder.glob('img_dir/train/*'))) == 10
    for image in folder.glob('img_dir/*/*'):
        label = folder / 'ann_dir' / image.parent.name / f'{image.stem}.png'
        assert label.resolve() == scenes / 'ann_dir' / 'train' / label.name
        assert image.resolve() == scenes / 'img_dir' / 'train' / image.name


def test_no_images(bench, tmp_path):
    args = bench.parse_args(['--data-root', str(tmp_path), '--weights', 'x'])
    for function in (bench.study, bench.sweep):
        with pytest.raises(ConfigError, match=r'--data-root: .* has no img_dir/train/\*.jpg'):
            function(args)
