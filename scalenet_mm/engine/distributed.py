"""Several processes without a GPU: gloo, DDP on the CPU, and what mmengine leaves to do for it."""
import datetime
import gc
import logging
import os
import subprocess
from typing import Any

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.logging import print_log
from mmengine.model import MMDistributedDataParallel, revert_sync_batchnorm
from mmengine.registry import MODEL_WRAPPERS
from torch import distributed as torch_dist
from torch import nn
from torch.nn.parallel import DistributedDataParallel

CPU_WRAPPER = 'scalenet_mm.engine.distributed.CPUDistributedDataParallel'


@MODEL_WRAPPERS.register_module()
class CPUDistributedDataParallel(MMDistributedDataParallel):
    """mmengine's DDP for a model on the CPU.

    It passes no device ids, and replaces SyncBN, which exists on GPUs only (DDP refuses a model
    that has it), by BatchNorm: every process then normalises by its own part of the batch. Frozen
    and evaluated layers are not affected by that.

    Args:
        module (nn.Module): The model.
        device_ids (list, optional): Ignored; the Runner passes the local rank. Defaults to None.
        **kwargs: Arguments of :class:`mmengine.model.MMDistributedDataParallel`.
    """

    def __init__(self, module: nn.Module, device_ids: Any = None, **kwargs):
        if any(isinstance(m, nn.SyncBatchNorm) or type(m).__name__ == 'SyncBatchNorm'
               for m in module.modules()):
            print_log(
                'SyncBN needs GPUs: its layers are BatchNorm in this run, with the statistics of '
                'each process\'s own samples.',
                logger='current',
                level=logging.WARNING)
            module = revert_sync_batchnorm(module)
        super().__init__(module, device_ids=None, **kwargs)


def _set_rank_variables(launcher: str) -> None:
    """Set the variables that torch reads, from those of the launcher."""
    env = os.environ
    if launcher == 'slurm':
        env['RANK'] = env['SLURM_PROCID']
        env['WORLD_SIZE'] = env['SLURM_NTASKS']
        if 'MASTER_ADDR' not in env:
            hosts = subprocess.run(
                ['scontrol', 'show', 'hostnames', env['SLURM_NODELIST']],
                capture_output=True,
                text=True,
                check=True)
            env['MASTER_ADDR'] = hosts.stdout.split()[0]
    elif launcher == 'mpi':
        env['RANK'] = env['OMPI_COMM_WORLD_RANK']
        env['WORLD_SIZE'] = env['OMPI_COMM_WORLD_SIZE']
        env.setdefault('MASTER_ADDR', '127.0.0.1')
    env.setdefault('MASTER_PORT', '29500')


def _share_cores() -> None:
    """Give each process of this machine its share of the cores, if the user set no number.

    torchrun and mmengine let each process have one thread, which is right where a GPU does the
    work; ``tools/dist_*.sh`` mark that the user has not chosen it.
    """
    if os.environ.get('SCALENET_AUTO_THREADS') != '1':
        return
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not Linux
        cores = os.cpu_count() or 1
    torch.set_num_threads(max(1, cores // int(os.environ.get('LOCAL_WORLD_SIZE', '1'))))


def setup_distributed(cfg: Config) -> None:
    """Make a config's launcher work on a machine without GPU.

    mmengine's ``init_dist`` calls CUDA for gloo too, and its DDP wrap passes device ids. On the CPU
    this starts the gloo process group itself, which the Runner then finds, and gives the config a
    ``model_wrapper_cfg`` for the CPU unless it has its own. On GPUs, and without a launcher, all is
    left to mmengine.

    Args:
        cfg (Config): The config, changed in place.
    """
    launcher = cfg.get('launcher') or 'none'
    on_cpu = get_device() == 'cpu'
    wrapper = cfg.get('model_wrapper_cfg')
    if not on_cpu or launcher == 'none':
        # From the dumped config of a run on the CPU.
        if wrapper and wrapper.get('type') == CPU_WRAPPER:
            cfg.model_wrapper_cfg = None
        return

    if not torch_dist.is_initialized():
        _set_rank_variables(launcher)
        _share_cores()
        dist_cfg = (cfg.get('env_cfg') or {}).get('dist_cfg') or {}
        options: Any = {}
        if dist_cfg.get('timeout') is not None:
            options['timeout'] = datetime.timedelta(seconds=dist_cfg['timeout'])
        torch_dist.init_process_group(backend='gloo', **options)

    if wrapper is None:
        cfg.model_wrapper_cfg = dict(
            type=CPU_WRAPPER,
            broadcast_buffers=False,
            find_unused_parameters=cfg.get('find_unused_parameters', False))
    elif issubclass(
            MODEL_WRAPPERS.get(wrapper.get('type', 'MMDistributedDataParallel')),
            DistributedDataParallel):
        # The Runner's default for DDP classes is the local rank, as a GPU's index.
        wrapper.setdefault('device_ids', None)


def is_local_main() -> bool:
    """Whether this is the first process of its machine."""
    return os.environ.get('LOCAL_RANK', '0') == '0'


def shutdown_distributed() -> None:
    """End the process group, if there is one.

    To be called when no model is in use any more.
    """
    if torch_dist.is_available() and torch_dist.is_initialized():
        # The Runner and its model sit in reference cycles, and DDP keeps gloo's threads alive;
        # threads that are left to the end of the interpreter abort it now and then.
        gc.collect()
        torch_dist.destroy_process_group()
