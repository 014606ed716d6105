"""The hook with heads of mmdet and mmseg: final layers, other classes, frozen BatchNorm."""
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import Runner
from torch.nn.modules.batchnorm import _BatchNorm

from scalenet_mm import CheckpointError

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
FINAL = {'roi_head.bbox_head.fc_cls', 'roi_head.bbox_head.fc_reg'}


def detector_config(digits, tmp_path, name='scalenet_swin-nano', **backbone):
    cfg = Config.fromfile(CONFIGS / 'quickstart' / f'maskrcnn_{name}_digits.py')
    cfg.model.backbone.update(embed_dims=16, num_heads=(1, 1, 2, 2), **backbone)
    cfg.model.neck.in_channels = [16, 32, 64, 128]
    for split in ('train', 'val', 'test'):
        loader = cfg[f'{split}_dataloader']
        loader.update(num_workers=0, persistent_workers=False, batch_size=2)
        loader.dataset.data_root = f'{digits}/det/'
    for split in ('val', 'test'):
        cfg[f'{split}_evaluator'].ann_file = f'{digits}/det/annotations/val.json'
    # mmengine's own name is of the second: another test's run of the same second has the same log
    cfg.update(work_dir=str(tmp_path / 'work'), experiment_name=tmp_path.name,
               val_cfg=None, val_dataloader=None, val_evaluator=None, param_scheduler=None)
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=2)
    cfg.default_hooks.checkpoint = dict(type='CheckpointHook', by_epoch=False, interval=2)
    return cfg


def segmentor_config(digits, tmp_path, loop='IterBasedTrainLoop'):
    norm_cfg = dict(type='SyncBN', requires_grad=True)
    cfg = Config.fromfile(CONFIGS / 'quickstart' / '_base_' / 'digits_segmentation.py')
    cfg.train_dataloader.update(num_workers=0, persistent_workers=False, batch_size=2)
    cfg.train_dataloader.sampler = dict(type='InfiniteSampler', shuffle=False)
    cfg.train_dataloader.dataset.data_root = f'{digits}/seg/'
    if loop == 'EpochBasedTrainLoop':
        cfg.train_dataloader.sampler = dict(type='DefaultSampler', shuffle=False)
    cfg.update(
        default_scope='mmseg',
        work_dir=str(tmp_path / 'work'),
        val_cfg=None, val_dataloader=None, val_evaluator=None,
        test_cfg=None, test_dataloader=None, test_evaluator=None,
        custom_imports=dict(imports=['scalenet_mm']),
        custom_hooks=[dict(type='AdapterInjectionHook', require_loaded=False)],
        train_cfg=dict(type=loop, **(dict(max_iters=2) if loop.startswith('Iter')
                                     else dict(max_epochs=1))),
        optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-3)),
        model=dict(
            type='EncoderDecoder',
            data_preprocessor=dict(type='SegDataPreProcessor', size=(128, 128)),
            backbone=dict(
                type='SwinTransformer', embed_dims=16, depths=(1, 1, 2, 1),
                num_heads=(1, 1, 2, 2), window_size=4, out_indices=(0, 1, 2, 3)),
            decode_head=dict(
                type='UPerHead', in_channels=[16, 32, 64, 128], in_index=[0, 1, 2, 3],
                pool_scales=(1, 2), channels=16, num_classes=11, norm_cfg=norm_cfg,
                align_corners=False,
                loss_decode=dict(type='CrossEntropyLoss', loss_weight=1.0)),
            train_cfg=dict(), test_cfg=dict(mode='whole')))
    return cfg


@pytest.fixture
def base_file(digits, tmp_path):
    """Make the checkpoint of an ungrown detector with a number of classes."""

    def make(classes=10):
        cfg = detector_config(digits, tmp_path, 'swin-nano')
        cfg.model.roi_head.bbox_head.num_classes = classes
        cfg.model.roi_head.mask_head.num_classes = classes
        with DefaultScope.overwrite_default_scope('mmdet'):
            model = MODELS.build(cfg.model)
        model.init_weights()
        path = tmp_path / f'base{classes}.pth'
        torch.save(dict(state_dict=model.state_dict(), meta={}), path)
        return path

    return make


class Recorder(Hook):
    """Keep what the model was before the first iteration."""
    priority = 'LOWEST'

    def before_train(self, runner):
        self.before = {k: v.clone() for k, v in runner.model.state_dict().items()}


def train(cfg):
    runner, recorder = Runner.from_cfg(cfg), Recorder()
    runner.register_hook(recorder)
    runner.train()
    after = runner.model.state_dict()
    return runner, {k for k in after if not torch.equal(after[k], recorder.before[k])}


class TestMaskRCNN:

    def test_only_final_layers_and_increments_move(self, digits, tmp_path, base_file):
        cfg = detector_config(digits, tmp_path)
        cfg.load_from = str(base_file())
        runner, moved = train(cfg)
        outside = {k.rsplit('.', 1)[0] for k in moved if not k.startswith('backbone.')}
        assert outside == FINAL
        assert all('norm' in k or k.endswith(('adapter_down', 'adapter_up', 'gain'))
                   for k in moved if k.startswith('backbone.'))
        assert any('1_r1' in k and k.endswith('adapter_up') for k in moved)

    def test_other_classes_start_anew_and_say_so(self, digits, tmp_path, base_file):
        cfg = detector_config(digits, tmp_path)
        cfg.load_from = str(base_file(4))
        with pytest.raises(CheckpointError) as error:
            train(cfg)
        # the mask head's last layer would be random and frozen
        assert 'roi_head.mask_head.conv_logits' in str(error.value)
        assert r"dict(train=r'roi_head\.mask_head\.conv_logits')" in str(error.value)

        cfg.custom_hooks[0]['freeze'] = [
            cfg.custom_hooks[0]['freeze'], dict(train=r'roi_head.mask_head.conv_logits')]
        runner, moved = train(cfg)
        assert 'roi_head.mask_head.conv_logits.weight' in moved
        log = ''.join(path.read_text() for path in (tmp_path / 'work').rglob('*.log'))
        line = next(x for x in log.splitlines() if 'Loaded ' in x)
        assert 'initialised anew: roi_head.bbox_head.fc_cls.weight (5, 256) -> (11, 256)' in line

    def test_resume_continues(self, digits, tmp_path, base_file):
        cfg = detector_config(digits, tmp_path)
        cfg.load_from = str(base_file())
        first, _ = train(cfg)
        cfg.train_cfg.max_iters = 3
        cfg.resume = True
        cfg.load_from = str(tmp_path / 'work' / 'iter_2.pth')
        runner, _ = train(cfg)
        assert runner.iter == 3
        assert torch.equal(runner.model.state_dict()['neck.fpn_convs.0.conv.weight'],
                           first.model.state_dict()['neck.fpn_convs.0.conv.weight'])


class TestUPerNet:

    @pytest.mark.parametrize('loop', ['IterBasedTrainLoop', 'EpochBasedTrainLoop'])
    def test_frozen_batchnorm_keeps_its_statistics(self, digits, tmp_path, loop):
        cfg = segmentor_config(digits, tmp_path, loop)
        runner, moved = train(cfg)
        assert {k for k in moved if not k.startswith('backbone.')} == {
            'decode_head.conv_seg.weight', 'decode_head.conv_seg.bias'}
        norms = [m for m in runner.model.modules() if isinstance(m, _BatchNorm)]
        assert norms and all(int(m.num_batches_tracked) == 0 for m in norms)
