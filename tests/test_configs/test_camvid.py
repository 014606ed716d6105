"""CamVid: what its configs change of the recipes, and that pixels of no class count nowhere."""
from copy import deepcopy
from pathlib import Path

import cv2
import mmseg.datasets  # noqa: F401  registers
import mmseg.evaluation  # noqa: F401
import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.structures import PixelData
from mmseg.registry import DATASETS, METRICS, MODELS

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
NAMES = ('swin-t', 'deit-t', 'deit-t-ungrown')
VOID = 11


@pytest.fixture(autouse=True)
def scope():
    with DefaultScope.overwrite_default_scope('mmseg'):  # whatever another test has left
        yield


def read(name):
    cfg = Config.fromfile(CONFIGS / f'upernet_scalenet_{name}_2k_camvid.py')
    cfg.model.backbone.init_cfg = None
    return cfg


@pytest.fixture
def scenes(tmp_path):
    """One image of 48 x 36 pixels in each split, its left half of no class."""
    label = np.tile(np.arange(36, dtype=np.uint8)[:, None] % 11, (1, 48))
    label[:, :24] = VOID
    for split in ('train', 'val'):
        for kind, suffix, array in (('img_dir', 'jpg', np.zeros((36, 48, 3), np.uint8)),
                                    ('ann_dir', 'png', label)):
            path = tmp_path / kind / split
            path.mkdir(parents=True)
            cv2.imwrite(str(path / f'a.{suffix}'), array)
    return tmp_path


def build_dataset(options, root):
    options = deepcopy(options)
    options.data_root = str(root)
    return DATASETS.build(options)


@pytest.mark.parametrize('name', NAMES)
def test_the_void_label_is_the_same_everywhere(name):
    cfg = read(name)
    crop = cfg.train_dataloader.dataset.pipeline[3]
    assert crop.type == 'RandomCrop' and crop.crop_size == cfg.model.data_preprocessor.size
    assert {cfg.model.decode_head.ignore_index, cfg.model.auxiliary_head.ignore_index,
            cfg.model.data_preprocessor.seg_pad_val, cfg.val_evaluator.ignore_index,
            cfg.test_evaluator.ignore_index, crop.ignore_index} == {VOID}
    for head in (cfg.model.decode_head, cfg.model.auxiliary_head):
        assert head.num_classes == len(cfg.val_dataloader.dataset.metainfo.classes) == 11


@pytest.mark.parametrize('name', NAMES)
def test_data_are_camvids_and_the_rest_is_the_recipes(name):
    cfg = read(name)
    recipe = Config.fromfile(
        CONFIGS / f'upernet_scalenet_{name.replace("-ungrown", "")}_in1k-pre_160k_ade20k.py')
    for loader in ('train_dataloader', 'val_dataloader', 'test_dataloader'):
        assert cfg[loader].dataset.type == 'BaseSegDataset'
        assert 'data/camvid' == cfg[loader].dataset.data_root
    assert cfg.custom_hooks == recipe.custom_hooks
    assert cfg.model.backbone.adjustment == recipe.model.backbone.adjustment
    assert cfg.model.decode_head.type == recipe.model.decode_head.type == 'UPerHead'
    if 'ungrown' in name:
        assert cfg.model.backbone.growth is None
    else:
        assert cfg.model.backbone.growth == dict(recipe.model.backbone.growth, start='identity')
    # as long as it is short: the schedule ends with it
    assert cfg.train_cfg.max_iters == 2000 and 'end' not in cfg.param_scheduler[-1]


@pytest.mark.parametrize('name', NAMES[:2])
def test_pixels_of_no_class_add_nothing_to_the_loss(name, scenes):
    """From the file to the loss of the real heads, where the batch is filled up, too."""
    torch.manual_seed(0)
    cfg = read(name)
    dataset = build_dataset(cfg.train_dataloader.dataset, scenes)
    dataset.pipeline.transforms[2].ratio_range = (0.05, 0.1)  # smaller than the crop
    item = dataset[0]
    batch = MODELS.build(cfg.model.data_preprocessor)(
        dict(inputs=[item['inputs']], data_samples=[item['data_samples']]), training=True)
    label = batch['data_samples'][0].gt_sem_seg.data
    assert label.shape == (1, *cfg.model.data_preprocessor.size)
    assert label[0, -1, -1] == VOID and 0 < (label != VOID).sum() < label.numel() / 2
    logits = torch.randn(1, 11, *label.shape[1:], requires_grad=True)
    for head in (cfg.model.decode_head, cfg.model.auxiliary_head):
        head.norm_cfg = dict(type='BN')
        losses = MODELS.build(head).loss_by_feat(logits, batch['data_samples'])
        grad, = torch.autograd.grad(losses['loss_ce'], logits)
        assert torch.equal(grad.abs().sum(1) > 0, label != VOID)


@pytest.mark.parametrize('wrong', [False, True])
def test_pixels_of_no_class_add_nothing_to_the_metric(scenes, wrong):
    cfg = read('deit-t')
    dataset = build_dataset(cfg.val_dataloader.dataset, scenes)
    sample = dataset[0]['data_samples']
    label = sample.gt_sem_seg.data[0]
    assert label.shape == (36, 48) and (label[:, :24] == VOID).all()
    # right in all pixels that have a class but the first row, if wrong
    prediction = label.clone()
    prediction[:, :24] = 5
    if wrong:
        prediction[0] = 1
    sample.pred_sem_seg = PixelData(data=prediction[None])
    metric = METRICS.build(cfg.val_evaluator)
    metric.dataset_meta = dataset.metainfo
    metric.process({}, [sample.to_dict()])
    scores = metric.evaluate(1)
    assert scores['aAcc'] == pytest.approx(100 * (35 / 36 if wrong else 1), abs=0.01)
    assert (scores['mIoU'] == 100) == (not wrong)
