"""Several processes on the CPU: the group, the wrapper, SyncBN."""
import os
import socket

import pytest
import torch
from mmengine.config import Config
from mmengine.model import is_model_wrapper
from mmengine.registry import MODEL_WRAPPERS
from torch import distributed as torch_dist
from torch import nn

from scalenet_mm.engine import distributed
from scalenet_mm.engine.distributed import (
    CPU_WRAPPER,
    CPUDistributedDataParallel,
    setup_distributed,
    shutdown_distributed,
)

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason='for machines without GPU')


@pytest.fixture
def one_rank():
    """The variables of a launch of one process; the group is ended afterwards."""
    with socket.socket() as probe:
        probe.bind(('127.0.0.1', 0))
        port = probe.getsockname()[1]
    os.environ.update(RANK='0', WORLD_SIZE='1', LOCAL_RANK='0', LOCAL_WORLD_SIZE='1',
                      MASTER_ADDR='127.0.0.1', MASTER_PORT=str(port))
    threads = torch.get_num_threads()
    yield
    torch.set_num_threads(threads)
    shutdown_distributed()


def test_no_launcher():
    cfg = Config(dict(launcher='none'))
    setup_distributed(cfg)
    assert not torch_dist.is_initialized() and cfg.get('model_wrapper_cfg') is None


def test_gloo_group_and_wrapper(one_rank):
    cfg = Config(dict(launcher='pytorch', find_unused_parameters=True))
    setup_distributed(cfg)
    assert torch_dist.get_backend() == 'gloo'
    assert cfg.model_wrapper_cfg == dict(
        type=CPU_WRAPPER, broadcast_buffers=False, find_unused_parameters=True)
    # as the Runner builds it: by its dotted name, with the local rank as device
    model = MODEL_WRAPPERS.build(
        cfg.model_wrapper_cfg, default_args=dict(module=nn.Linear(2, 2), device_ids=[0]))
    assert type(model) is CPUDistributedDataParallel and is_model_wrapper(model)
    assert not model.device_ids
    shutdown_distributed()
    assert not torch_dist.is_initialized()


def test_the_config_s_own_wrapper(one_rank):
    own = dict(type='MMDistributedDataParallel', static_graph=True)
    cfg = Config(dict(launcher='pytorch', model_wrapper_cfg=own))
    setup_distributed(cfg)
    assert cfg.model_wrapper_cfg == dict(**own, device_ids=None)


def test_slurm_variables(one_rank):
    for name in ('RANK', 'WORLD_SIZE'):
        os.environ['SLURM_' + dict(RANK='PROCID', WORLD_SIZE='NTASKS')[name]] = os.environ.pop(name)
    setup_distributed(Config(dict(launcher='slurm')))
    assert torch_dist.get_world_size() == 1


def test_dumped_config_of_a_cpu_run_on_gpus(monkeypatch):
    monkeypatch.setattr(distributed, 'get_device', lambda: 'cuda')
    cfg = Config(dict(launcher='pytorch', model_wrapper_cfg=dict(type=CPU_WRAPPER)))
    setup_distributed(cfg)
    assert cfg.model_wrapper_cfg is None and not torch_dist.is_initialized()


def test_sync_bn_becomes_bn(one_rank):
    setup_distributed(Config(dict(launcher='pytorch')))
    norm = nn.SyncBatchNorm(3)
    nn.init.uniform_(norm.weight)
    norm.running_mean += 2
    for p in norm.parameters():
        p.requires_grad_(False)
    model = CPUDistributedDataParallel(nn.Sequential(nn.Linear(3, 3), norm), device_ids=[0])
    reverted = model.module[1]
    assert not isinstance(reverted, nn.SyncBatchNorm)
    # the same parameters and statistics, frozen as before; vectors and maps alike
    assert reverted.weight is norm.weight and reverted.running_mean is norm.running_mean
    assert not reverted.weight.requires_grad
    model(torch.rand(4, 3))
    reverted(torch.rand(4, 3, 2, 2))


@pytest.mark.parametrize('auto, expected', (('1', 3), ('', None)))
def test_cores_are_shared(one_rank, monkeypatch, auto, expected):
    os.environ.update(LOCAL_WORLD_SIZE='2', SCALENET_AUTO_THREADS=auto)
    monkeypatch.setattr(os, 'sched_getaffinity', lambda pid: set(range(6)), raising=False)
    before = torch.get_num_threads()
    setup_distributed(Config(dict(launcher='pytorch')))
    assert torch.get_num_threads() == (expected or before)
