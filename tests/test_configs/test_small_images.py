"""Images smaller than a window or a patch, and of sizes that nothing divides, in whole models."""
import copy

import numpy as np
import pytest
import torch
from detection_toys import build as build_detector
from detection_toys import read as read_detector
from detection_toys import shrink
from imagenet_toys import CONFIGS
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.model import revert_sync_batchnorm
from mmengine.registry import init_default_scope
from mmengine.structures import PixelData
from segmentation_toys import build as build_segmentor
from segmentation_toys import narrow

# smaller than a patch of 16, than a window of 7 patches of 4, and neither's multiple
SIZES = ((5, 7), (20, 30), (33, 65))
ARCHS = ('swin-t', 'deit-t')


@pytest.fixture(scope='module', params=ARCHS)
def detector(request):
    torch.manual_seed(0)
    cfg = read_detector(f'maskrcnn_scalenet_{request.param}_in1k-pre_1x')
    model = build_detector(shrink(cfg))
    model.init_weights()
    return model


@pytest.mark.parametrize('size', SIZES)
def test_mask_rcnn(detector, size):
    from mmdet.testing import demo_mm_inputs
    init_default_scope('mmdet')
    data = demo_mm_inputs(2, [[3, *size]] * 2, num_classes=10, with_mask=True, use_box_type=True)
    detector.train()
    batch = detector.data_preprocessor(data, training=True)
    loss, _ = detector.parse_losses(detector.loss(batch['inputs'], batch['data_samples']))
    loss.backward()
    assert torch.isfinite(loss)

    detector.eval()
    with torch.no_grad():
        found = detector.test_step(data)
    assert [tuple(f.pred_instances.masks.shape[1:]) for f in found] == [size, size]


def read_segmentor(arch, **preprocessor):
    cfg = narrow(Config.fromfile(CONFIGS / f'upernet_scalenet_{arch}_8k_folder.py'), (64, 64))
    cfg.model.backbone.init_cfg = None
    cfg.model.data_preprocessor.update(preprocessor)
    return cfg


def segmentor_of(cfg):
    torch.manual_seed(0)
    model = revert_sync_batchnorm(build_segmentor(cfg))
    model.init_weights()
    return model


@pytest.fixture(scope='module', params=ARCHS)
def segmentor(request):
    return segmentor_of(read_segmentor(
        request.param, **(dict(test_cfg=dict(size_divisor=32)) if request.param[0] == 'd' else {})))


def scenes(size, count):
    from mmseg.structures import SegDataSample
    samples = []
    for _ in range(count):
        sample = SegDataSample(metainfo=dict(img_shape=size, ori_shape=size, img_path='a.jpg'))
        sample.gt_sem_seg = PixelData(data=torch.randint(0, 3, (1, *size)))
        samples.append(sample)
    return dict(inputs=[torch.randint(0, 255, (3, *size), dtype=torch.uint8) for _ in samples],
                data_samples=samples)


@pytest.mark.parametrize('size', SIZES)
def test_upernet(segmentor, size):
    segmentor.train()
    batch = segmentor.data_preprocessor(scenes(size, 2), training=True)
    assert batch['inputs'].shape[2:] == (64, 64) or max(size) > 64
    loss, _ = segmentor.parse_losses(segmentor.loss(batch['inputs'], batch['data_samples']))
    loss.backward()
    assert torch.isfinite(loss)

    segmentor.eval()
    with torch.no_grad():
        found, = segmentor.test_step(scenes(size, 1))
    assert found.pred_sem_seg.data.shape == (1, *size)


def test_upernet_behind_one_patch():
    """The one combination that fails: the check before training and testing refuses it."""
    model = segmentor_of(read_segmentor('deit-t')).eval()
    with torch.no_grad(), pytest.raises(RuntimeError, match='should be greater than 0'):
        model.test_step(scenes((16, 40), 1))
    with torch.no_grad():
        model.test_step(scenes((17, 40), 1))


@pytest.mark.parametrize('size', SIZES)
def test_a_crop_larger_than_the_image(size):
    """What the crop lacks is filled up with the ignored label."""
    init_default_scope('mmseg')
    cfg = read_segmentor('swin-t')
    pipeline = copy.deepcopy(cfg.train_dataloader.dataset.pipeline[2:])
    pipeline[0].update(scale=(99, 8), ratio_range=(1., 1.))
    pipeline[1].crop_size = (64, 64)
    results = Compose(pipeline)(dict(
        img=np.zeros((*size, 3), np.uint8), img_shape=size, ori_shape=size, img_path='a.jpg',
        gt_seg_map=np.zeros(size, np.uint8), seg_fields=['gt_seg_map']))
    preprocessor = build_segmentor(cfg).data_preprocessor
    batch = preprocessor(dict(inputs=[results['inputs']], data_samples=[results['data_samples']]),
                         training=True)
    labels = batch['data_samples'][0].gt_sem_seg.data
    assert batch['inputs'].shape[2:] == labels.shape[1:] == (64, 64)
    assert sorted(labels.unique().tolist()) == [0, 255]
