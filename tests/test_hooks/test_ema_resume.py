"""Averaged weights survive resuming, with backbones that compute tensors for themselves."""
import pytest
import torch
from hook_toys import classifier
from mmengine.hooks import EMAHook

SMALL = dict(embed_dims=16, depths=(2, 2), num_heads=(2, 4))
BACKBONES = {
    'ScaleNetSwin': dict(type='ScaleNetSwin', arch=SMALL, img_size=16, pad_small_map=True),
    'stock Swin': dict(type='SwinTransformer', arch=SMALL, img_size=16, pad_small_map=True,
                       out_indices=(1, )),
    'ScaleNetViT': dict(type='ScaleNetViT', img_size=16, patch_size=4, arch=dict(
        embed_dims=16, num_layers=3, num_heads=2, feedforward_channels=64)),
}


@pytest.mark.parametrize('name', BACKBONES)
def test_ema_resumes(name, make_runner):

    def config(epochs, **top):
        cfg = classifier(backbone=BACKBONES[name], train_cfg=dict(
            by_epoch=True, max_epochs=epochs), **top)
        if 'Swin' in name:
            cfg['model'].update(
                neck=dict(type='GlobalAveragePooling'),
                head=dict(type='LinearClsHead', num_classes=3, in_channels=32))
        cfg['custom_hooks'].append(dict(type='EMAHook', momentum=0.5))
        return cfg

    def averaged(runner):
        hook, = (h for h in runner.hooks if isinstance(h, EMAHook))
        return hook.ema_model.state_dict()

    first = make_runner(config(1))
    first.train()
    saved = {k: v.clone() for k, v in averaged(first).items()}
    trained = {k: v.clone() for k, v in first.model.state_dict().items()}

    second = make_runner(config(1, resume=True))
    second.train()  # nothing is left to do
    assert second.epoch == 1
    for key, value in averaged(second).items():
        assert torch.equal(value, saved[key]), key
    for key, value in second.model.state_dict().items():
        assert torch.equal(value, trained[key]), key
    assert any(not torch.equal(trained[k], saved[f'module.{k}']) for k in trained)

    make_runner(config(2, resume=True)).train()
