"""Labels that are no classes, met in a batch: in training, validation and test."""
import shutil
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner
from mmengine.structures import PixelData
from PIL import Image

from scalenet_mm.errors import ConfigError, DataError
from scalenet_mm.hooks.class_check import check_classes, check_labels, labels_of_heads

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'


def batch(*values, **metainfo):
    from mmseg.structures import SegDataSample
    sample = SegDataSample(metainfo=dict(dict(seg_map_path='m.png', img_path='i.png'), **metainfo))
    sample.gt_sem_seg = PixelData(data=torch.tensor(values).view(1, 1, -1))
    return dict(inputs=[], data_samples=[SegDataSample(), sample])


class TestBatch:

    def test_sound(self):
        check_labels(batch(0, 2, 255), {(3, 255)})
        check_labels(batch(0, 2, 3), {(3, 3)})
        check_labels(batch(9), set())
        check_labels(dict(inputs=[]), {(3, 255)})
        check_labels(torch.zeros(1), {(3, 255)})

    @pytest.mark.parametrize('limit, values, words', (
        ((3, 255), (0, 7, 5, 255), 'm.png holds the label(s) 5, 7, but there are 3 classes, 0'),
        ((3, 2), (0, 3), 'label(s) 3'),
        ((3, None), (0, 255), 'label(s) 255'),
    ))
    def test_wrong(self, limit, values, words):
        with pytest.raises(DataError) as error:
            check_labels(batch(*values), {limit})
        assert words in str(error.value)
        # as in an augmented test
        with pytest.raises(DataError):
            check_labels(dict(data_samples=[batch(*values)['data_samples']]), {limit})

    def test_as_stored(self):
        with pytest.raises(DataError, match=r'label\(s\) 6, but there are 3 classes, 1 to 3'):
            check_labels(batch(5, reduce_zero_label=True), {(3, 255)})

    def test_without_a_path(self):
        with pytest.raises(DataError, match='label map of i.png'):
            check_labels(batch(5, seg_map_path=None), {(3, 255)})

    def test_heads_of_a_mask2former(self):
        model = torch.nn.Module()
        model.panoptic_head = torch.nn.Module()
        model.panoptic_head.num_classes = 80
        dataset = SimpleNamespace(metainfo=dict(classes=('a', 'b', 'c')))
        with pytest.raises(ConfigError, match='model.panoptic_head.num_classes=80'):
            check_classes(model, dataset)
        model.panoptic_head.num_classes = 3
        check_classes(model, dataset)

    def test_no_segmentor(self):
        assert labels_of_heads(torch.nn.Linear(1, 1)) == set()


@pytest.fixture
def cfg(digits, tmp_path, monkeypatch):
    """A small segmentor, and scenes that may be spoilt."""
    # every Runner logs its config; to lay the text out takes longer than these runs
    monkeypatch.setattr('mmengine.config.config.FormatCode', lambda code, **style: (code, True))
    root = shutil.copytree(digits / 'seg', tmp_path / 'seg')
    cfg = Config.fromfile(CONFIGS / 'quickstart/upernet_scalenet_swin-nano_digits.py')
    cfg.model.backbone.update(embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1))
    cfg.model.decode_head.update(in_channels=[8, 16, 32, 64], channels=8)
    cfg.model.data_preprocessor.size = (32, 32)
    for split in ('train', 'val', 'test'):
        loader = cfg[f'{split}_dataloader']
        loader.update(num_workers=0, persistent_workers=False, batch_size=2)
        loader.dataset.update(data_root=str(root), indices=2)
        for step in loader.dataset.pipeline:
            step.update({k: (32, 32) for k in ('scale', 'crop_size') if k in step})
    cfg.train_dataloader.sampler.shuffle = False
    cfg.train_cfg.update(max_iters=1, val_interval=1)
    cfg.update(work_dir=str(tmp_path / 'work'), param_scheduler=None)
    cfg.data_root = str(root)
    return cfg


def spoil(cfg, split, index=1):
    path = sorted(Path(cfg.data_root).glob(f'ann_dir/{split}/*.png'))[index]
    label_map = np.array(Image.open(path))
    label_map[:] = 77
    Image.fromarray(label_map).save(path)
    return str(path)


def test_sound(cfg):
    Runner.from_cfg(cfg).train()
    Runner.from_cfg(cfg).test()


def test_training(cfg):
    path = spoil(cfg, 'train')
    with pytest.raises(DataError, match=r'the label\(s\) 77, but there are 11 classes') as error:
        Runner.from_cfg(cfg).train()
    assert path in str(error.value)


def test_validation_and_test(cfg):
    path = spoil(cfg, 'val')
    for command in ('train', 'test'):
        with pytest.raises(DataError, match=r'holds the label\(s\) 77') as error:
            getattr(Runner.from_cfg(cfg), command)()
        assert path in str(error.value)
    # the metric's word counts, not the head's
    cfg.val_evaluator.ignore_index = cfg.test_evaluator.ignore_index = 77
    Runner.from_cfg(cfg).test()


def test_augmented_test(cfg):
    from scalenet_mm.engine.scopes import get_scope
    path = spoil(cfg, 'val')
    get_scope(cfg).enable_tta(cfg)
    with pytest.raises(DataError) as error:
        Runner.from_cfg(cfg).test()
    assert path in str(error.value)
