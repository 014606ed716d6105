"""The fine-tuning study: its runs, what it reports, and that a finished run is kept."""
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

from scalenet_mm import ConfigError, ScaleNetError

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope='module')
def bench():
    spec = importlib.util.spec_from_file_location(
        'finetune_starts', ROOT / 'benchmarks' / 'finetune_starts.py')
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look it up
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def images(tmp_path):
    """Twelve training and two validation images of each of two classes."""
    rng = np.random.default_rng(0)
    for split, count in (('train', 12), ('val', 2)):
        for name in ('cats', 'dogs'):
            path = tmp_path / 'data' / split / name
            path.mkdir(parents=True)
            for index in range(count):
                cv2.imwrite(str(path / f'{index:02}.jpg'),
                            rng.integers(0, 255, (40, 40, 3), np.uint8))
    return tmp_path / 'data'


@pytest.fixture
def command(bench, images, tmp_path):
    """Parse a command line for the images."""
    return lambda *words: bench.parse_args(
        ['--data-root', str(images), '--weights', str(tmp_path / 'deit.pth'), '--out',
         str(tmp_path / 'out'), '--size', '32', '--epochs', '1', *words])


def fake_training(bench, monkeypatch, scores):
    """Replace training by writing scores, in order."""
    done = []

    def train(self, config, options, work_dir):
        done.append((work_dir.name, options))
        path = work_dir / '20260101_000000' / 'vis_data' / 'scalars.json'
        path.parent.mkdir(parents=True)
        path.write_text('\n'.join(json.dumps(r) for r in [
            {'lr': 0.1, 'loss': 1.}, *({bench.METRIC: s} for s in scores[len(done) - 1])]))
        return 2., 1.

    monkeypatch.setattr(bench.Study, '_train', train)
    return done


def test_a_run_is_a_run_of_the_tool(bench, command, tmp_path):
    """From the command line to accuracy, with a real model; then nothing is left to do."""
    cfg = Config.fromfile(ROOT / 'configs' / 'scalenet_deit-t-ungrown_20e_folder.py')
    cfg.model.backbone.adjustment = None
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(cfg.model)
    model.init_weights()
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'deit.pth')
    args = command('--arms', 'paper', '--seeds', '3')
    bench.study(args)
    report = json.loads((tmp_path / 'out' / 'results.json').read_text())
    arm = report['arms']['paper']
    # adapters of 24 blocks, norms of 24 blocks and the last, and a head of two classes
    assert arm['trainable'] == 24 * 10 * 192 * 16 + (2 * 24 + 1) * 2 * 192 + 2 * 193
    run, = arm['runs']
    assert run['seed'] == 3 and run['validations'] == [run['top1']] and 0 <= run['top1'] <= 100
    assert run['cpu_minutes'] > 0.01
    work_dir = tmp_path / 'out' / f'paper_lr{arm["lr"]:g}_seed3'
    assert (work_dir / 'epoch_1.pth').is_file()
    assert 'adapters' in (work_dir / 'train.txt').read_text()
    written = json.loads((work_dir / 'result.json').read_text())['settings']['config']
    assert json.loads(written)['model']['head']['num_classes'] == 2
    assert len(next((tmp_path / 'out').glob('my_*.py')).read_text().splitlines()) == 5

    before = (work_dir / 'epoch_1.pth').stat().st_mtime_ns
    bench.study(args)
    assert (work_dir / 'epoch_1.pth').stat().st_mtime_ns == before


def test_table_and_resuming(bench, command, monkeypatch, capsys):
    done = fake_training(bench, monkeypatch, [[80., 70.], [90., 90.], [60., 60.], [50., 50.]])
    bench.study(command('--arms', 'identity', '--seeds', '0', '1'))
    row = [x for x in capsys.readouterr().out.splitlines() if x.startswith('grown, identity')][-1]
    assert row.split()[3:9] == ['80.0', '+-', '14.1', '85.0', '+-', '7.1']
    assert row.split()[-2:] == ['2.0', '1.0']
    assert len(done) == 2

    bench.study(command('--arms', 'identity', '--seeds', '0', '1'))
    assert len(done) == 2
    # other settings are another run, and so is another seed
    more = ('--cfg-options', 'custom_hooks.0.freeze=all', '--lr', '0.5')
    bench.study(command('--arms', 'identity', '--seeds', '0', '2', *more))
    assert len(done) == 4 and 'optim_wrapper.optimizer.lr=0.5' in done[-1][1]
    row = [x for x in capsys.readouterr().out.splitlines() if x.startswith('grown, identity')][-1]
    # all of the grown model, with a head of two classes
    assert row.split()[9:11] == [f'{6_463_912 + 2 * 192 * 24 - 998 * 193:,}', '0.5']


def test_a_change_in_a_base_is_another_setting(bench, tmp_path):
    study = sys.modules['_study']
    (tmp_path / 'base.py').write_text('rate = 1')
    (tmp_path / 'mine.py').write_text("_base_ = './base.py'")
    before = study.resolved(tmp_path / 'mine.py')
    assert study.resolved(tmp_path / 'mine.py') == before
    (tmp_path / 'base.py').write_text('rate = 2')
    assert study.resolved(tmp_path / 'mine.py') != before


def test_links_follow_the_images(bench, tmp_path):
    for name in ('a', 'b'):
        (tmp_path / f'{name}.jpg').write_text(name)
        sys.modules['_study'].link(tmp_path / f'{name}.jpg', tmp_path / 'there' / 'x.jpg')
        assert (tmp_path / 'there' / 'x.jpg').read_text() == name


def test_every_arm_is_what_it_says(bench, command, images, tmp_path):
    from scalenet_mm.engine.options import merge_cfg_options
    from scalenet_mm.growth import growth_of
    runs = bench.Study(command(), tmp_path / 'out', images)
    depths, counts = {}, {}
    for key, arm in bench.ARMS.items():
        config = runs.config(arm)
        assert len(config.read_text().splitlines()) == 5
        cfg = Config.fromfile(config)
        options = bench.as_values(runs.options(arm, seed=1, lr=0.5, validate_every=1))
        merge_cfg_options(cfg, options)
        assert cfg.optim_wrapper.optimizer.lr == 0.5 and cfg.randomness.seed == 1
        assert cfg.train_dataloader.dataset.pipeline[1].scale == 32
        assert cfg.val_dataloader.dataset.pipeline[2].crop_size == 32
        assert cfg.val_dataloader.dataset.data_root == str(images)
        with DefaultScope.overwrite_default_scope('mmpretrain'), torch.device('meta'):
            model = MODELS.build(cfg.model)
        depths[key] = len(model.backbone.layers)
        counts[key] = bench.count_trainable(config, arm.options)
        gains = any(n.endswith('.gain') for n, _ in model.named_parameters())
        assert gains == (key in ('identity', 'split', 'split4'))
        assert list(growth_of(model)) or key == 'everything'
    assert depths == dict(ungrown=12, paper=24, identity=24, split=24, everything=12, split4=21)
    # all of DeiT-Tiny but for a head of two classes
    assert counts['everything'] == 5_717_416 - 998 * 193
    assert counts['ungrown'] < counts['paper'] < counts['identity'] == counts['split']


def test_sweep_tests_on_training_images_that_it_does_not_train_on(bench, command, images,
                                                                 monkeypatch, capsys, tmp_path):
    done = fake_training(bench, monkeypatch, [[1.], [2.], [3.], [4.]])
    bench.sweep(command('--arms', 'everything', '--sweep'))
    assert 'lr 1e-05: 1.0, lr 3e-05: 2.0, lr 0.0001: 3.0, lr 0.0003: 4.0' in capsys.readouterr().out
    assert len(done) == 4
    folder = tmp_path / 'out' / 'sweep' / 'images'
    parts = {
        split: {p.resolve() for p in folder.glob(f'{split}/*/*')} for split in ('train', 'val')
    }
    assert len(parts['train']) == 20 and len(parts['val']) == 4
    assert parts['train'] | parts['val'] == set(images.glob('train/*/*'))


def test_errors(bench, command, images, tmp_path, monkeypatch):
    with pytest.raises(ConfigError, match='--data-root: .*nowhere.train is no folder'):
        bench.study(bench.parse_args(['--data-root', str(tmp_path / 'nowhere'), '--weights', 'x']))
    # there are no weights: the tool says so, and its message is passed on
    with pytest.raises(ScaleNetError, match=r'train.txt: error: load_from: no such file.*deit.pth'):
        bench.study(command('--arms', 'paper', '--seeds', '0'))
    assert not list((tmp_path / 'out').glob('*/result.json'))
