"""Images that do not open, from the command line's side: one message, exit status 2."""
import multiprocessing

import cv2
import numpy as np
import pytest
from mmengine.config import Config

from scalenet_mm.engine import run_cli, test, train

test.__test__ = False


@pytest.fixture
def config(tmp_path, monkeypatch):
    """A small classifier, its data and a checkpoint of it."""
    monkeypatch.chdir(tmp_path)
    for split in ('train', 'val'):
        for name in ('a/0.png', 'a/1.png', 'b/0.png', 'b/1.png'):
            path = tmp_path / 'data' / split / name
            path.parent.mkdir(parents=True, exist_ok=True)
            cv2.imwrite(str(path), np.random.default_rng(0).integers(0, 255, (8, 8, 3), np.uint8))
    pipeline = [dict(type='LoadImageFromFile'), dict(type='PackInputs')]

    def loader(split):
        return dict(
            batch_size=2, num_workers=0, sampler=dict(type='DefaultSampler', shuffle=False),
            dataset=dict(type='CustomDataset', data_root='data', data_prefix=split,
                         pipeline=pipeline))

    Config(dict(
        default_scope='mmpretrain',
        model=dict(
            type='ImageClassifier',
            backbone=dict(
                type='ScaleNetViT', img_size=8, patch_size=4,
                arch=dict(embed_dims=8, num_layers=1, num_heads=1, feedforward_channels=8)),
            head=dict(type='VisionTransformerClsHead', num_classes=2, in_channels=8)),
        train_dataloader=loader('train'),
        val_dataloader=loader('val'),
        test_dataloader=loader('val'),
        val_evaluator=dict(type='Accuracy'),
        test_evaluator=dict(type='Accuracy'),
        train_cfg=dict(by_epoch=True, max_epochs=1),
        val_cfg=dict(),
        test_cfg=dict(),
        optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1)))).dump('c.py')
    return tmp_path


def call(command, capfd, *words):
    status = run_cli(lambda: command(['c.py', *words]))
    for worker in multiprocessing.active_children():
        worker.terminate()  # as the end of a process does; torch waits 5 seconds for each
    return status, capfd.readouterr().err


def errors(text):
    """What is printed from the error on; all of it is one line."""
    lines = text.splitlines()
    start = next(i for i, line in enumerate(lines) if line.startswith('error'))
    return lines[start:]


def test_a_loop_that_counts_iterations(config, capfd):
    """It starts its workers before any hook runs."""
    cfg = Config.fromfile('c.py')
    cfg.train_cfg = dict(by_epoch=False, max_iters=4, val_interval=4)
    cfg.train_dataloader.num_workers = 2
    cfg.train_dataloader.sampler.type = 'InfiniteSampler'
    cfg.dump('c.py')
    (config / 'data/train/a/1.png').write_bytes(b'some text')
    status, text = call(train, capfd)
    assert status == 2 and 'Traceback' not in text and 'data/train/a/1.png' in errors(text)[0]


@pytest.mark.needs_toolbox('mmpretrain')
@pytest.mark.parametrize('workers', (0, 2))
def test_train_and_test(config, capfd, workers):
    options = ['--cfg-options', *(f'{split}_dataloader.num_workers={workers}'
                                  for split in ('train', 'val', 'test'))]
    status, _ = call(train, capfd, '--work-dir', 'good', *options)
    assert status == 0
    saved = Config.fromfile('good/c.py')
    assert saved.train_dataloader.dataset.pipeline[0] == dict(type='LoadImageFromFile')

    (config / 'data/val/b/0.png').write_bytes(b'')
    # in the evaluation after an epoch, and in a test
    for command, words in ((train, ()), (test, ('good/epoch_1.pth', ))):
        status, text = call(command, capfd, *words, '--work-dir', 'bad', *options)
        assert status == 2 and 'Traceback' not in text
        assert len(errors(text)) == 1
        assert errors(text)[0].startswith('error: an image cannot be read: data/val/b/0.png is ')

    (config / 'data/train/a/1.png').write_bytes(b'some text')
    status, text = call(train, capfd, '--work-dir', 'bad', *options)
    assert status == 2 and 'Traceback' not in text
    assert len(errors(text)) == 1 and 'data/train/a/1.png is no image' in errors(text)[0]

    (config / 'data/val/b/0.png').write_bytes((config / 'data/val/a/0.png').read_bytes())
    status, text = call(train, capfd, '--work-dir', 'skip', *options,
                        'train_dataloader.dataset.pipeline.0.ignore_empty=True')
    assert status == 0
