"""The identity start is the pretrained model to the bit: configs, a file, the Runner's loading.

The weights are drawn, in the layout of the official releases. If the environment variable
``SCALENET_DEIT_TINY`` names the official DeiT-Tiny file, that one is loaded, too, at full size.
"""
import os

import pytest
import torch
from imagenet_toys import ARCHS, narrow, official, read
from mmengine.runner import Runner

from scalenet_mm.growth import growth_of

REAL = os.environ.get('SCALENET_DEIT_TINY')
CASES = [pytest.param(arch, None, id=arch) for arch in ARCHS]
if REAL:
    CASES.append(pytest.param('deit-t', REAL, id='deit-t-official'))


def load(name, path, work_dir, small):
    """nn.Module: What a run of a config starts from, in eval mode."""
    cfg = narrow(read(name), name) if small else read(name)
    # no data: only the model and what is loaded into it
    for split in ('train', 'val', 'test'):
        for part in ('dataloader', 'cfg', 'evaluator'):
            cfg.pop(f'{split}_{part}', None)
    for key in ('optim_wrapper', 'param_scheduler', 'auto_scale_lr'):
        cfg.pop(key)
    cfg.update(load_from=str(path), work_dir=str(work_dir))
    runner = Runner.from_cfg(cfg)
    runner.load_or_resume()
    return runner.model.eval()


@pytest.mark.parametrize('arch, real', CASES)
def test_the_same_logits(arch, real, tmp_path):
    path = real
    if real is None:
        path = tmp_path / 'official.pth'
        torch.save(official(arch), path)
    plain, grown, paper = (load(f'{arch}{variant}', path, tmp_path / 'work', small=real is None)
                           for variant in ('-ungrown', '-identity', ''))
    images = torch.randn(4, 3, 224, 224, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        expected, logits, others = (
            model(images, mode='tensor') for model in (plain, grown, paper))

    assert all(m.is_identity for _, _, m in growth_of(plain.backbone))
    assert not all(m.is_identity for _, _, m in growth_of(grown.backbone))
    # weights that were loaded: the file's classifier is the model's
    weight = torch.load(path, weights_only=True)['model']['head.weight']
    head = grown.head.layers.head if arch.startswith('deit') else grown.head.fc
    assert torch.equal(head.weight, weight)
    # logits that tell images apart
    assert expected.shape == (4, 1000) and not torch.allclose(expected[0], expected[1])
    assert torch.equal(logits, expected)
    assert not torch.allclose(others, expected)
