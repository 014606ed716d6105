"""``tools/estimate.py``: hours and memory before the launch."""
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import MMLogger

from scalenet_mm import ConfigError, GrowthError
from scalenet_mm.engine import load_config
from scalenet_mm.engine.estimate import _Stopwatch, count_steps, estimate, run_estimate
from scalenet_mm.engine.synthetic import image_size, make_batch, number_of_classes

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / 'configs'
NOWHERE = 'nowhere/at/all'


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch):
    """One thread, and no data of a checkout that happens to have them."""
    monkeypatch.chdir('/')
    # what a Runner logs by is otherwise the current logger of the tests that follow
    monkeypatch.setattr(MMLogger, '_instance_dict', MMLogger._instance_dict.copy())
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def small_vit(**changes):
    """A classifier like the ImageNet configs' that takes no time."""
    cfg = load_config(str(CONFIGS / 'scalenet_deit-b_100e_imagenet.py'))
    cfg.model.backbone.arch = dict(
        embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32)
    cfg.model.head.in_channels = 16
    cfg.merge_from_dict(changes)
    return cfg


def test_classification():
    cfg = small_vit(**{'train_dataloader.batch_size': 2})
    result = estimate(cfg, gpus=4, iters=3, warmup=1, size=(32, 32))
    assert result.steps == 100 * -(-320_292 // 2) and '1,281,167' in result.steps_from
    assert result.hours == pytest.approx(result.steps * result.step_seconds / 3600)
    assert result.iters == 3 and result.step_seconds > 0
    assert set(result.shares) == {'forward', 'backward', 'optimizer'}
    assert sum(result.shares.values()) == pytest.approx(1.)
    assert min(result.shares.values()) > 0
    # adapters and norms of 4 blocks, the last norm, the last linear layer
    trainable = 4 * (2 * 16 * (16 + 32) + 4 * 16) + 2 * 16 + 17 * 1000
    assert result.trainable == trainable
    # AdamW: two moments of each, and a step count of each tensor
    assert 8 * trainable < result.optimizer_bytes < 8 * trainable + 200
    assert result.checkpoint_bytes == pytest.approx(
        4 * result.params + result.optimizer_bytes, abs=200)
    text = str(result)
    assert '2 made-up images of 32 x 32' in text and f'{trainable:,} train' in text
    assert 'growth of the process to its peak' in text
    assert 'not included  reading data; communication' in text


def test_detection():
    cfg = load_config(str(CONFIGS / 'quickstart/maskrcnn_scalenet_swin-nano_digits.py'))
    cfg.train_dataloader.batch_size = 1
    result = estimate(cfg, gpus=1, iters=1, warmup=1, samples=10, size=(64, 64))
    assert (result.params, result.trainable) == (3_783_722, 334_643)
    assert result.steps == 10 * cfg_epochs('maskrcnn_scalenet_swin-nano_digits.py')
    assert 'with 7 objects each' in str(result)


def cfg_epochs(name):
    return load_config(str(CONFIGS / 'quickstart' / name)).train_cfg.max_epochs


def test_segmentation():
    cfg = load_config(str(CONFIGS / 'quickstart/upernet_scalenet_swin-nano_digits.py'))
    cfg.train_dataloader.batch_size = 2
    result = estimate(cfg, gpus=1, iters=1, warmup=0)
    assert result.steps == 1000 and 'max_iters' in result.steps_from
    assert '2 made-up images of 128 x 128' in str(result)
    assert 'communication' not in str(result)


def test_accumulation_spreads_the_optimizers_work():
    cfg = small_vit(**{'train_dataloader.batch_size': 1})
    cfg.optim_wrapper.accumulative_counts = 2
    result = estimate(cfg, iters=4, warmup=2, size=(32, 32))
    assert 0 < result.shares['optimizer'] < 1 and result.step_seconds > 0
    watch = _Stopwatch(warmup=0)
    watch.steps = [1., 1., 1., 1.8]
    watch.phases = dict(forward=[0.4] * 4, backward=[0.6] * 4, optimizer=[0., 0., 0., 0.8])
    assert watch.seconds() == pytest.approx(1.2)
    assert watch.shares()['optimizer'] == pytest.approx(0.8 / 4.8)


def test_real_data(tmp_path):
    from PIL import Image
    for i in range(3):
        folder = tmp_path / 'train' / f'class{i % 2}'
        folder.mkdir(parents=True, exist_ok=True)
        Image.new('RGB', (40, 40), (i, i, i)).save(folder / f'{i}.png')
    cfg = small_vit(**{'train_dataloader.batch_size': 2, 'train_dataloader.num_workers': 0,
                       'train_dataloader.persistent_workers': False})
    cfg.model.head.num_classes = 2
    cfg.model.data_preprocessor = dict(num_classes=2)
    cfg.model.train_cfg = None
    cfg.train_dataloader.dataset = dict(
        type='CustomDataset', data_root=str(tmp_path), data_prefix='train',
        pipeline=[dict(type='LoadImageFromFile'), dict(type='Resize', scale=(32, 32)),
                  dict(type='PackInputs')])
    result = estimate(cfg, gpus=1, iters=2, warmup=1, use_data=True)
    assert result.data_seconds > 0 and 'waiting for data' in str(result)
    assert result.hours == pytest.approx(
        200 * (result.step_seconds + result.data_seconds) / 3600)
    assert result.steps == 100 * 2 and '3 samples' in result.steps_from
    assert 'reading data' not in str(result)


def test_nothing_is_read_or_left(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    cfg = small_vit(**{'train_dataloader.batch_size': 1})
    cfg.load_from = f'{NOWHERE}.pth'
    cfg.model.backbone.init_cfg = dict(type='Pretrained', checkpoint=f'{NOWHERE}.pth')
    estimate(cfg, iters=1, warmup=0, size=(32, 32))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize('name, size, classes', [
    ('scalenet_swin-t_100e_imagenet.py', (224, 224), 1000),
    ('maskrcnn_scalenet_swin-t_1x_coco.py', (800, 1067), 80),
    ('quickstart/maskrcnn_scalenet_swin-nano_digits.py', (96, 128), 10),
    ('quickstart/upernet_scalenet_swin-nano_digits.py', (128, 128), 11),
])
def test_sizes_and_classes(name, size, classes):
    cfg = load_config(str(CONFIGS / name))
    assert image_size(cfg) == size and number_of_classes(cfg) == classes


def loader(**dataset):
    return Config(dict(
        default_scope='mmdet', train_cfg=dict(max_epochs=2),
        train_dataloader=dict(batch_size=2, dataset=dict(data_root=NOWHERE, **dataset))))


@pytest.mark.parametrize('dataset, samples', [
    (dict(type='CocoDataset', ann_file='annotations/instances_train2017.json'), 117_266),
    (dict(type='ADE20KDataset', data_prefix=dict(img_path='images/training')), 20_210),
    (dict(type='ImageNet', split='val'), 50_000),
])
def test_known_lengths(dataset, samples):
    steps, text = count_steps(loader(**dataset), 8)
    assert steps == 2 * -(-(-(-samples // 8)) // 2) and f'{samples:,}' in text


@pytest.mark.parametrize('dataset', [
    dict(type='CocoDataset', ann_file='mine.json'), dict(type='CustomDataset')])
def test_unknown_lengths(dataset):
    with pytest.raises(ConfigError, match=r'--samples.*data_root'):
        count_steps(loader(**dataset), 8)


def test_a_wrapper_that_repeats_is_not_guessed_at():
    cfg = loader(type='ImageNet', split='train')
    cfg.train_dataloader.dataset = dict(type='RepeatDataset', times=2,
                                        dataset=cfg.train_dataloader.dataset)
    with pytest.raises(ConfigError, match='RepeatDataset'):
        count_steps(cfg, 1)


def test_what_cannot_be_estimated():
    with pytest.raises(ConfigError, match='no train_cfg'):
        estimate(Config(dict(model=dict(), train_dataloader=dict(batch_size=1))))
    with pytest.raises(ConfigError, match='--gpus must be at least 1'):
        estimate(small_vit(), gpus=0)
    with pytest.raises(GrowthError, match='tims'):
        estimate(small_vit(**{'model.backbone.growth': dict(tims=2)}))
    with pytest.raises(ConfigError, match='data that the config names'):
        estimate(small_vit(), use_data=True)
    with pytest.raises(ConfigError, match='neither max_epochs nor max_iters'):
        cfg = loader(type='ImageNet', split='train')
        cfg.train_cfg = dict(type='Mine')
        count_steps(cfg, 1)
    with pytest.raises(ConfigError, match='--size'):
        image_size(loader(type='CocoDataset', pipeline=[dict(type='LoadImageFromFile')]))
    with pytest.raises(ConfigError, match='num_classes'):
        number_of_classes(Config(dict(model=dict(bbox_head=dict(type='Mine')))))
    with pytest.raises(ConfigError, match='made up for'):
        make_batch(Config(dict(default_scope='mmpose')), 1)


def test_command_line(capsys):
    run_estimate([str(CONFIGS / 'quickstart/scalenet_vit-nano_digits.py'), '--gpus', '1',
                  '--iters', '1', '--batch-size', '2', '--samples', '100', '--size', '32', '32',
                  '--cfg-options', 'train_cfg.max_epochs=3'])
    out = capsys.readouterr().out
    assert '150 steps (3 epochs, 1 x 2 at a time of 100 samples, as given)' in out
    assert '335,050' in out


def test_errors_are_one_line():
    done = subprocess.run([sys.executable, str(ROOT / 'tools/estimate.py'), 'nope.py'],
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and done.stdout == ''
    assert done.stderr.startswith("error: config: no such file: 'nope.py'")
