"""Two processes on the CPU: the ranks must hold the same parameters, or DDP lost some."""
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope
from test_detection_and_segmentation import detector_config

ROOT = Path(__file__).resolve().parents[2]


def launch(cfg, tmp_path, processes):
    """Train a config by the launch script; return what each rank saved."""
    cfg.custom_imports = dict(imports=['scalenet_mm', 'hook_toys'])
    cfg.custom_hooks = [*cfg.custom_hooks, dict(type='HookToyDump')]
    cfg.work_dir = str(tmp_path / f'of{processes}')
    path = tmp_path / f'config{processes}.py'
    cfg.dump(path)
    command = [str(ROOT / 'tools' / 'dist_train.sh'), str(path), str(processes)]
    if processes == 1:
        command = [sys.executable, str(ROOT / 'tools' / 'train.py'), str(path)]
    done = start(command, tmp_path)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return [torch.load(tmp_path / f'of{processes}' / f'rank{r}.pth', weights_only=True)
            for r in range(processes)]


def start(command, folder, **variables):
    """Run a command in a folder, with the test's helper modules and no launcher's variables."""
    environment = {k: v for k, v in os.environ.items() if k not in (
        'NNODES', 'NODE_RANK', 'MASTER_ADDR', 'MASTER_PORT', 'PORT', 'LOCAL_RANK', 'RANK',
        'WORLD_SIZE')}
    return subprocess.run(
        command, cwd=folder, capture_output=True, text=True, timeout=500,
        env={**environment, 'PYTHON': sys.executable, 'PYTHONPATH': str(Path(__file__).parent),
             **variables})


def check(ranks):
    first, second = ranks
    assert first['wrapper'] == second['wrapper'] == 'CPUDistributedDataParallel'
    assert first['trains'] == second['trains']
    moved = {k for k in first['after'] if not torch.equal(first['before'][k], first['after'][k])}
    assert moved == set(first['trains']), moved ^ set(first['trains'])
    for key, value in first['after'].items():
        assert torch.equal(value, second['after'][key]), f'the ranks differ in {key}'
    return moved


@pytest.mark.parametrize('backbone', ['ScaleNetSwin', 'SwinTransformer'])
def test_ranks_agree_in_detection(digits, tmp_path, backbone):
    cfg = detector_config(digits, tmp_path)
    growth = dict(times=2, stages=(2, 3), start='identity')
    if backbone == 'ScaleNetSwin':
        cfg.model.backbone.growth = growth
    else:
        for name in ('growth', 'adjustment'):
            cfg.model.backbone.pop(name)
        cfg.model.backbone.type = backbone
        cfg.custom_hooks[0].growth = growth
    cfg.custom_hooks[0].require_loaded = False
    cfg.load_from = None
    cfg.train_cfg.max_iters = 4
    moved = check(launch(cfg, tmp_path, 2))
    assert any(k.endswith('_r1.ffn.layers.1.adapter_up') for k in moved)
    assert 'roi_head.bbox_head.fc_cls.weight' in moved


def test_two_processes_are_one_with_the_whole_batch(tmp_path):
    # no drop path, no augmentation: the same global batch must give the same steps
    cfg = Config(dict(
        default_scope='mmpretrain',
        model=dict(
            type='ImageClassifier',
            backbone=dict(
                type='ScaleNetViT', img_size=16, patch_size=4,
                arch=dict(embed_dims=16, num_layers=3, num_heads=2, feedforward_channels=64)),
            head=dict(type='VisionTransformerClsHead', num_classes=3, in_channels=16)),
        train_dataloader=dict(
            num_workers=0, batch_size=8, dataset=dict(type='HookToyImages', count=32),
            sampler=dict(type='DefaultSampler', shuffle=False)),
        train_cfg=dict(by_epoch=True, max_epochs=2),
        optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1, momentum=0.9)),
        custom_hooks=[dict(type='AdapterInjectionHook', require_loaded=False)]))
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(cfg.model)
    model.init_weights()
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'start.pth')
    cfg.load_from = str(tmp_path / 'start.pth')
    one, = launch(cfg.copy(), tmp_path, 1)
    cfg.train_dataloader.batch_size = 4
    two = launch(cfg, tmp_path, 2)
    check(two)
    for key, value in one['after'].items():
        torch.testing.assert_close(two[0]['after'][key], value, rtol=0, atol=1e-5)
    assert stored_tensors(tmp_path / 'of2') == stored_tensors(tmp_path / 'of1')


def stored_tensors(work_dir):
    """The names in a checkpoint, and the bytes that its tensors take."""
    state = torch.load(work_dir / 'epoch_2.pth', weights_only=True)['state_dict']
    storages = {v.untyped_storage().data_ptr(): v.untyped_storage().nbytes()
                for v in state.values()}
    return set(state), sum(storages.values())
