"""Patch merging against mmcv's."""
import pytest
import torch
from mmcv.cnn.bricks.transformer import PatchMerging as Stock

from scalenet_mm.backbones.patch_merging import PatchMerging


@pytest.mark.parametrize('norm_cfg', [dict(type='LN'), None], ids=['norm', 'no norm'])
@pytest.mark.parametrize('size', [(4, 6), (5, 6), (4, 7), (1, 1), (9, 3)])
def test_equals_mmcv_bit_for_bit(size, norm_cfg, randomise, image):
    ours, theirs = PatchMerging(6, 10, norm_cfg=norm_cfg), Stock(6, 10, norm_cfg=norm_cfg)
    randomise(theirs)
    ours.load_state_dict(theirs.state_dict(), strict=True)
    results = []
    for module in (ours, theirs):
        x = image(2, size[0] * size[1], 6).requires_grad_()
        out, out_size = module(x, size)
        out.backward(image(*out.shape, seed=1))
        results.append((out_size, out, x.grad, *(p.grad for p in module.parameters())))
    assert results[0][0] == results[1][0] == ((size[0] + 1) // 2, (size[1] + 1) // 2)
    for got, expected in zip(results[0][1:], results[1][1:]):
        assert torch.equal(got, expected) and expected.any()
    assert len(results[0]) == len(results[1]) == (6 if norm_cfg else 4)
