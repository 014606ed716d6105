"""The fused operations under DistributedDataParallel, in two processes."""
import copy

import pytest
import torch
import torch.distributed as dist
import torch.multiprocessing as mp
import torch.nn as nn
from torch.nn.parallel import DistributedDataParallel

from scalenet_mm import ScaleNetSwin, ScaleNetViT
from scalenet_mm.growth import apply_freezing, fused, products
from scalenet_mm.growth.fast_path import fast_paths


def make_model(name, with_cp):
    """A grown model whose repeats share weights, in float64, all parameters random."""
    torch.manual_seed(0)
    if name == 'vit':
        arch = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32)
        backbone = ScaleNetViT(arch=arch, img_size=16, patch_size=4, with_cp=with_cp)
    else:
        backbone = ScaleNetSwin(embed_dims=16, depths=(1, 2), num_heads=(1, 2), window_size=2,
                                with_cp=with_cp, drop_path_rate=0.)
    model = nn.Sequential()
    model.backbone = backbone
    for parameter in model.parameters():
        nn.init.normal_(parameter, std=.3)
    return model.double()


def loss_of(model, images):
    return sum(out.square().mean() for out in model(images))  # DDP waits for every parameter


def compute(rank, name, with_cp, frozen, folder):
    torch.set_num_threads(1)
    fused.SMALLEST = 1
    products.SMALLEST = 1
    dist.init_process_group('gloo', init_method=f'file://{folder}/store', rank=rank, world_size=2)
    model = make_model(name, with_cp)
    if frozen:
        apply_freezing(model, 'backbone-paper')
    calls = []
    for operation in (fused._FusedMLP, fused._FusedAffine):
        forward = operation.forward
        operation.forward = staticmethod(lambda *a, forward=forward: calls.append(1) or forward(*a))
    wrapped = DistributedDataParallel(model, broadcast_buffers=False)
    images = torch.randn(4, 3, 16, 16, dtype=torch.float64,
                         generator=torch.Generator().manual_seed(1))
    # gradients add up over two passes and are reduced in the second
    with wrapped.no_sync():
        (loss_of(wrapped, images[rank:rank + 1]) / 2).backward()
    (loss_of(wrapped, images[2 + rank:3 + rank]) / 2).backward()
    torch.save((len(calls), {n: p.grad for n, p in model.named_parameters()}),
               f'{folder}/{rank}.pth')
    dist.destroy_process_group()


@pytest.mark.parametrize('name, with_cp, frozen', [
    ('vit', False, True), ('vit', True, False), ('swin', False, False), ('swin', True, True)])
def test_two_processes_have_the_gradients_of_one(name, with_cp, frozen, tmp_path):
    mp.spawn(compute, (name, with_cp, frozen, str(tmp_path)), nprocs=2)
    model = make_model(name, with_cp)
    if frozen:
        apply_freezing(model, 'backbone-paper')
    images = torch.randn(4, 3, 16, 16, dtype=torch.float64,
                         generator=torch.Generator().manual_seed(1))
    with fast_paths(False):
        loss_of(model, images).backward()
    for rank in (0, 1):
        calls, grads = torch.load(tmp_path / f'{rank}.pth')
        assert calls
        for parameter_name, parameter in model.named_parameters():
            grad = grads[parameter_name]
            assert (grad is None) == (parameter.grad is None), parameter_name
            if grad is not None:
                assert torch.allclose(grad, parameter.grad, rtol=1e-9, atol=1e-12), parameter_name


def test_a_copy_shares_with_itself():
    """EMA and the like copy models: the fused operations read the copy's weights."""
    model = make_model('vit', False)
    images = torch.randn(2, 3, 16, 16, dtype=torch.float64)
    twin = copy.deepcopy(model)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.zero_()
        before = fused.SMALLEST
        fused.SMALLEST = 1
        try:
            assert twin(images)[-1].any() and not model(images)[-1].any()
        finally:
            fused.SMALLEST = before
