"""Fixtures of the engine's tests: small configs of each scope, and an environment put back."""
import os

import pytest
from data_toys import LOOPS
from mmengine.config import Config


@pytest.fixture(autouse=True)
def clean_environment(monkeypatch):
    """Parsing a command line sets LOCAL_RANK; the launchers' variables must not leak in."""
    before = dict(os.environ)
    for name in ('LOCAL_RANK', 'RANK', 'WORLD_SIZE', 'SLURM_PROCID', 'SLURM_LOCALID',
                 'OMPI_COMM_WORLD_RANK', 'OMPI_COMM_WORLD_LOCAL_RANK', 'SCALENET_AUTO_THREADS'):
        os.environ.pop(name, None)
    yield
    os.environ.clear()
    os.environ.update(before)


def _loader(dataset, **kwargs):
    return dict(batch_size=2, num_workers=2, dataset=dataset, **kwargs)


def _config(scope, model, dataset, evaluator, **kwargs):
    return dict(
        default_scope=scope,
        model=model,
        train_dataloader=_loader(dataset),
        val_dataloader=_loader(dataset),
        test_dataloader=_loader(dataset),
        val_evaluator=evaluator,
        test_evaluator=evaluator,
        **LOOPS,
        **kwargs)


@pytest.fixture
def make_cfg():
    """Make the config of a scope: ``make_cfg('mmdet', load_from='x.pth')``."""

    def make(scope, **kwargs):
        load = dict(type='LoadImageFromFile', backend_args=None)
        if scope == 'mmpretrain':
            cfg = _config(
                scope,
                dict(type='ImageClassifier', head=dict(type='LinearClsHead', num_classes=3)),
                dict(type='CustomDataset', data_root='data/cls', data_prefix='train',
                     pipeline=[load, dict(type='PackInputs')]),
                dict(type='Accuracy'))
        elif scope == 'mmdet':
            cfg = _config(
                scope,
                dict(type='RetinaNet', bbox_head=dict(type='RetinaHead', num_classes=3)),
                dict(type='CocoDataset', data_root='data/det', ann_file='annotations/train.json',
                     data_prefix=dict(img='train/'), metainfo=dict(classes=('a', 'b', 'c')),
                     pipeline=[load, dict(type='PackDetInputs')]),
                dict(type='CocoMetric', ann_file='data/det/annotations/train.json'),
                auto_scale_lr=dict(enable=False, base_batch_size=16))
        elif scope == 'mmseg':
            cfg = _config(
                scope,
                dict(type='EncoderDecoder', decode_head=dict(type='FCNHead', num_classes=3)),
                dict(type='BaseSegDataset', data_root='data/seg',
                     data_prefix=dict(img_path='img_dir/train', seg_map_path='ann_dir/train'),
                     pipeline=[load, dict(type='LoadAnnotations'), dict(type='PackSegInputs')]),
                dict(type='IoUMetric', iou_metrics=['mIoU']),
                visualizer=dict(type='SegLocalVisualizer'),
                default_hooks=dict(visualization=dict(type='SegVisualizationHook')))
        else:
            raise AssertionError(scope)
        cfg.update(kwargs)
        return Config(cfg)

    return make
