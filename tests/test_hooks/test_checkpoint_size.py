"""Whole checkpoints hold every tensor once, also where each key is copied as from a GPU."""
import mmengine.runner.runner as mmengine_runner
import pytest
import torch
import torch.nn as nn
from hook_toys import classifier
from mmengine.registry import MODELS

# wide enough that weights, and not names, make the size
VIT = dict(img_size=16, patch_size=4, arch=dict(
    embed_dims=192, num_layers=4, num_heads=4, feedforward_channels=768))
SWIN = dict(img_size=32, arch=dict(embed_dims=96, depths=(2, 2), num_heads=(2, 4)),
            window_size=4)
RANK = 2


def copy_each_key(monkeypatch):
    """Do what ``.cpu()`` does to tensors on a GPU: a copy of each key's, shared or not."""
    copy = mmengine_runner.weights_to_cpu

    def weights_to_cpu(state):
        return copy(type(state)((key, value.clone()) for key, value in state.items()))

    monkeypatch.setattr(mmengine_runner, 'weights_to_cpu', weights_to_cpu)


def config(backbone, **top):
    head = dict(type='VisionTransformerClsHead', num_classes=3, in_channels=192)
    if 'Swin' in backbone['type']:
        head = dict(type='LinearClsHead', num_classes=3, in_channels=192)
    cfg = classifier(backbone, train_cfg=dict(by_epoch=True, max_epochs=1), **top)
    cfg['model'].update(head=head)
    if 'Swin' in backbone['type']:
        cfg['model']['neck'] = dict(type='GlobalAveragePooling')
    if 'Swin' in backbone['type']:
        cfg['train_dataloader']['dataset']['size'] = 32
    cfg['default_hooks']['checkpoint'] = dict(type='CheckpointHook', save_optimizer=False)
    return cfg


def saved(make_runner, cfg, tmp_path):
    """Train; give what was saved, and the size of a file of its tensors alone."""
    make_runner(cfg).train()
    checkpoint = torch.load(tmp_path / 'work' / 'epoch_1.pth', weights_only=True)
    tensors = {k: v for k, v in checkpoint.items() if k.endswith('state_dict')}
    torch.save(tensors, tmp_path / 'tensors.pth')
    size = (tmp_path / 'tensors.pth').stat().st_size
    # the rest: the config, the histories of the log, random states
    assert size > (tmp_path / 'work' / 'epoch_1.pth').stat().st_size - 60_000
    return size, checkpoint


def size_without_growth(backbone, tmp_path):
    backbone = {**backbone, 'type': backbone['type'], 'growth': None, 'adjustment': None}
    model = MODELS.build(dict(type='mmpretrain.ImageClassifier', backbone=backbone, head=config(
        backbone)['model']['head']))
    path = tmp_path / 'base.pth'
    torch.save(dict(state_dict=model.state_dict()), path)
    return path.stat().st_size, {k for k in model.state_dict()}


@pytest.mark.parametrize('copied', [False, True], ids=['cpu', 'as from a GPU'])
@pytest.mark.parametrize('share', ['weights', 'all'])
@pytest.mark.parametrize('kind', ['ScaleNetViT', 'ScaleNetSwin'])
def test_base_and_increments(kind, share, copied, make_runner, tmp_path, monkeypatch):
    backbone = dict(type=kind, **(VIT if kind == 'ScaleNetViT' else SWIN))
    base, base_keys = size_without_growth(backbone, tmp_path)
    if copied:
        copy_each_key(monkeypatch)
    grown = {**backbone, 'growth': dict(share=share, stages=None, start='identity'),
             'adjustment': dict(rank=RANK)}
    size, checkpoint = saved(make_runner, config(grown), tmp_path)
    state = checkpoint['state_dict']
    increments = sum(v.nbytes for k, v in state.items() if k not in base_keys)
    assert any('_r1.' in k for k in state)
    assert size <= (base + increments) * 1.01


@pytest.mark.parametrize('copied', [False, True], ids=['cpu', 'as from a GPU'])
def test_averaged_weights_that_are_frozen_are_stored_once(copied, make_runner, tmp_path,
                                                          monkeypatch):
    backbone = dict(type='ScaleNetViT', **VIT, adjustment=dict(rank=RANK))
    base, base_keys = size_without_growth(dict(type='ScaleNetViT', **VIT), tmp_path)
    if copied:
        copy_each_key(monkeypatch)
    cfg = config(backbone)
    cfg['custom_hooks'].append(dict(type='EMAHook', momentum=0.5))
    size, checkpoint = saved(make_runner, cfg, tmp_path)
    state, averaged = checkpoint['state_dict'], checkpoint['ema_state_dict']
    assert {k.removeprefix('module.') for k in averaged} == {*state, 'steps'}
    trained = sum(v.nbytes for k, v in state.items()
                  if not torch.equal(v, averaged[f'module.{k}']))
    increments = sum(v.nbytes for k, v in state.items() if k not in base_keys)
    assert 0 < trained < base / 10
    assert size <= (base + increments + trained) * 1.01


def test_a_model_that_registers_a_module_twice(make_runner, tmp_path, monkeypatch):
    copy_each_key(monkeypatch)
    runner = make_runner(config(dict(type='ScaleNetViT', **VIT)))
    wide = nn.Linear(512, 512)
    runner.model.first, runner.model.second = wide, wide
    runner.train()
    state = torch.load(tmp_path / 'work' / 'epoch_1.pth', weights_only=True)['state_dict']
    assert state['first.weight'].data_ptr() == state['second.weight'].data_ptr()
    assert torch.equal(state['first.weight'], wide.weight)
