"""Hours and memory of a config's training, from a short timing run."""
import argparse
import functools
import math
import resource
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import mean, median
from typing import Any, Optional

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.hooks import Hook
from mmengine.model import is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.registry import DATASETS, init_default_scope
from mmengine.runner import Runner
from torch.utils.data import DataLoader

from scalenet_mm.analysis import count_parameters, describe_device, synchronize
from scalenet_mm.engine.arguments import CfgOptionsAction
from scalenet_mm.engine.model_options import check_growth, check_model
from scalenet_mm.engine.options import load_config, merge_cfg_options
from scalenet_mm.engine.preflight import (
    check_data,
    check_devices,
    check_toolbox,
    find_missing_data,
)
from scalenet_mm.engine.scopes import get_scope, iter_datasets, type_name
from scalenet_mm.engine.synthetic import make_batch
from scalenet_mm.errors import ConfigError
from scalenet_mm.learngene.distilled_classifier import DistilledClassifier
from scalenet_mm.utils.model_cfg import is_distilled

#: Images that a training epoch has, by data set and a word of its ann_file or split, for use where
#: the data are not at hand. COCO: those with objects, which mmdet's configs filter for.
KNOWN_LENGTHS = (
    ('ImageNet', 'train', 1_281_167),
    ('ImageNet', 'val', 50_000),
    ('CocoDataset', 'train2017', 117_266),
    ('CocoDataset', 'val2017', 5_000),
    ('ADE20KDataset', 'training', 20_210),
    ('ADE20KDataset', 'validation', 2_000),
)
#: What runs during the timing; other hooks log, save and evaluate.
KEPT_HOOKS = ('AdapterInjectionHook', 'EMAHook')
PHASES = ('forward', 'backward', 'optimizer')


@dataclass
class Estimate:
    """What a training will take.

    Args:
        device (str): On what it was timed.
        source (str): What the batches are.
        gpus (int): Devices like this one.
        batch_size (int): Images of one of them in a step.
        iters (int): Steps that were timed.
        step_seconds (float): Median of a step, without waiting for data.
        shares (dict[str, float]): Of each phase in it; empty if they cannot be told apart.
        data_seconds (float, optional): Mean of the wait for data before a step (waits come in
            bursts when workers read ahead). None if the batches are made up. Defaults to None.
        steps (int): Steps of the training.
        steps_from (str): How that number came about.
        memory (int): Peak, in bytes.
        memory_kind (str): What that is the peak of.
        params (int): Parameters.
        trainable (int): Those that train.
        optimizer_bytes (int): Size of the optimizer's state.
        checkpoint_bytes (int): Size of a checkpoint with it.
        left_out (list[str]): What is not included.
    """
    device: str = ''
    source: str = ''
    gpus: int = 8
    batch_size: int = 0
    iters: int = 0
    step_seconds: float = 0.
    shares: dict = field(default_factory=dict)
    data_seconds: Optional[float] = None
    steps: int = 0
    steps_from: str = ''
    memory: int = 0
    memory_kind: str = ''
    params: int = 0
    trainable: int = 0
    optimizer_bytes: int = 0
    checkpoint_bytes: int = 0
    left_out: list = field(default_factory=list)

    @property
    def hours(self) -> float:
        """float: Of the training. What is read during a step is not waited for after it."""
        return self.steps * (self.step_seconds + (self.data_seconds or 0.)) / 3600

    def __str__(self):
        shares = ', '.join(f'{name} {share:.0%}' for name, share in self.shares.items())
        step = f'{self.step_seconds:.4g} s, median of {self.iters}' + (
            f' ({shares})' if shares else '')
        if self.data_seconds is not None:
            step += f'; then {self.data_seconds:.4g} s of waiting for data on average'
        lines = {
            'device': self.device,
            'batch': f'{self.batch_size} {self.source}',
            'step': step,
            'training': f'{self.hours:.3g} hours on {self.gpus} such device'
                        f'{"s" * (self.gpus > 1)}: {self.steps:,} steps ({self.steps_from})',
            'memory': f'{self.memory / 2**20:,.0f} MiB, {self.memory_kind}',
            'parameters': f'{self.params:,}, of which {self.trainable:,} train',
            'optimizer': f'{self.optimizer_bytes / 2**20:,.1f} MiB of state',
            'checkpoint': f'{self.checkpoint_bytes / 2**20:,.1f} MiB, with that state',
            'not included': '; '.join(self.left_out),
        }
        return '\n'.join(f'{name:<14}{text}' for name, text in lines.items())


class _Stopwatch(Hook):
    """Times steps and their phases; runs behind all other hooks."""

    priority = 'LOWEST'

    def __init__(self, warmup):
        self.warmup = warmup
        self.steps, self.waits, self.phases = [], [], {name: [] for name in PHASES}
        self._current = {}
        self._start = self._end = None

    def before_train(self, runner):
        wrapper = runner.optim_wrapper
        if isinstance(wrapper, OptimWrapper):
            for group in wrapper.optimizer.param_groups:
                group['lr'] = 0.  # the same work, and random weights cannot blow up
            for name, phase in (('backward', 'backward'), ('step', 'optimizer'),
                                ('zero_grad', 'optimizer')):
                setattr(wrapper, name, self._timed(getattr(wrapper, name), phase))
        if torch.cuda.is_available():
            torch.cuda.reset_peak_memory_stats()

    def _timed(self, call, phase):

        @functools.wraps(call)
        def run(*args, **kwargs):
            synchronize()
            start = time.perf_counter()
            result = call(*args, **kwargs)
            synchronize()
            self._current[phase] = self._current.get(phase, 0.) + time.perf_counter() - start
            return result

        return run

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        synchronize()
        self._current = {}
        self._start = time.perf_counter()
        if self._end is not None and runner.iter >= self.warmup:
            self.waits.append(self._start - self._end)

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None):
        synchronize()
        self._end = time.perf_counter()
        if runner.iter < self.warmup:
            return
        seconds = self._end - self._start
        self.steps.append(seconds)
        for name in PHASES[1:]:
            self.phases[name].append(self._current.get(name, 0.))
        self.phases['forward'].append(seconds - sum(self._current.values()))

    def shares(self):
        """dict[str, float]: Of each phase in all steps: with accumulation few have them all."""
        if not any(self.phases['backward']):
            return {}
        return {name: sum(times) / sum(self.steps) for name, times in self.phases.items()}

    def seconds(self):
        """float: Median of a step, the optimizer's work spread over steps that accumulate."""
        optimizer = self.phases['optimizer']
        rest = median(step - own for step, own in zip(self.steps, optimizer))
        return rest + (sum(optimizer) / len(optimizer) if 0. in optimizer else median(optimizer))


class _TimingRunner(Runner):
    """Trains from whatever weights the model is built with: nothing is read or downloaded."""

    def _init_model_weights(self):
        model = self.model.module if is_model_wrapper(self.model) else self.model
        if isinstance(model, DistilledClassifier):
            model.use_random_teacher()


def count_samples(cfg: Config) -> tuple:
    """Tell how many samples an epoch of a config's training has.

    Args:
        cfg (Config): The config.

    Returns:
        tuple[int, str]: The number, and where it is from.

    Raises:
        ConfigError: If the data are not there and their number is not known.
    """
    dataset = cfg.train_dataloader.dataset
    if not find_missing_data(cfg, ('train', )):
        init_default_scope(cfg.get('default_scope', 'mmengine'))
        return len(DATASETS.build(dataset)), 'samples'
    leaves = list(iter_datasets(dataset, 'train_dataloader.dataset'))
    total = 0
    for key, leaf in leaves:
        where = ' '.join(str(leaf.get(k)) for k in ('split', 'ann_file', 'data_prefix'))
        found = [n for name, word, n in KNOWN_LENGTHS
                 if name == type_name(leaf) and word in where]
        # a wrapper may repeat or choose
        if not found or 'indices' in leaf or type_name(dataset) not in (
                type_name(leaf), 'MultiImageMixDataset', 'ConcatDataset'):
            raise ConfigError(
                f'{key}: the data are not there, so how many samples an epoch has is not known '
                f'({type_name(dataset)}): give it by --samples, or name the right place of the '
                f'data: --cfg-options {key}.data_root=FOLDER')
        total += found[0]
    return total, 'samples, a known number: the data are not there'


def count_steps(cfg: Config, gpus: int, samples: Optional[int] = None) -> tuple:
    """Tell how many steps a config's training has.

    Args:
        cfg (Config): The config.
        gpus (int): Number of devices.
        samples (int, optional): Samples of an epoch; :func:`count_samples` if None. Defaults to
            None.

    Returns:
        tuple[int, str]: The number, and how it came about.

    Raises:
        ConfigError: If it cannot be told.
    """
    batch_size = cfg.train_dataloader.batch_size
    max_iters, max_epochs = cfg.train_cfg.get('max_iters'), cfg.train_cfg.get('max_epochs')
    if max_iters is not None:
        return max_iters, f'train_cfg.max_iters, with {gpus} x {batch_size} samples each'
    if max_epochs is None:
        raise ConfigError('train_cfg names neither max_epochs nor max_iters')
    where = 'samples, as given'
    if samples is None:
        samples, where = count_samples(cfg)
    steps = math.ceil(math.ceil(samples / gpus) / batch_size)
    return steps * max_epochs, (f'{max_epochs} epochs, {gpus} x {batch_size} at a time of '
                                f'{samples:,} {where}')


def estimate(cfg: Config,
             gpus: int = 8,
             iters: int = 10,
             warmup: int = 3,
             samples: Optional[int] = None,
             size: Optional[Sequence] = None,
             use_data: bool = False) -> Estimate:
    """Time a few training steps of a config and say what all of them will take.

    The model, its optimizer and its freezing are the config's; its weights are random, and
    nothing is loaded, downloaded or kept.

    Args:
        cfg (Config): The config; changed.
        gpus (int): Devices that will train. Defaults to 8.
        iters (int): Steps to time. Defaults to 10.
        warmup (int): Steps before them. Defaults to 3.
        samples (int, optional): Samples of an epoch; found out if None. Defaults to None.
        size (Sequence[int], optional): Height and width of made-up images; the config's if None.
            Defaults to None.
        use_data (bool): Whether to read the config's data instead of making batches up. Defaults
            to False.

    Returns:
        Estimate: The result.

    Raises:
        ScaleNetError: If the config cannot train here, or the length of its training is not known.
    """
    for key in ('model', 'train_dataloader', 'train_cfg', 'optim_wrapper'):
        if cfg.get(key) is None:
            raise ConfigError(f'the config has no {key}: there is nothing to train')
    for name, number in (('--gpus', gpus), ('--iters', iters), ('--samples', samples),
                         ('--batch-size', cfg.train_dataloader.get('batch_size'))):
        if number is not None and number < 1:
            raise ConfigError(f'{name} must be at least 1, got {number}')
    check_growth(cfg)
    check_toolbox(cfg)
    check_model(cfg)
    cfg.launcher = 'none'
    check_devices(cfg)
    if use_data:
        check_data(cfg, ('train', ))
    steps, steps_from = count_steps(cfg, gpus, samples)

    batch_size = cfg.train_dataloader.batch_size
    loader: Any = None
    source = 'images of the data, as the config reads them'
    if use_data:
        get_scope(cfg).set_dataloader_defaults(cfg, ('train_dataloader', ))
    else:
        batch, source = make_batch(cfg, batch_size, size)
        batches: Any = [batch] * (warmup + iters)
        loader = DataLoader(batches, batch_size=None, collate_fn=_as_it_is)
    before = _resident_bytes()
    left_out = _left_out(cfg, gpus, use_data)
    with tempfile.TemporaryDirectory() as folder:
        runner = _build_runner(cfg, folder, warmup + iters)
        if loader is not None:
            runner._train_dataloader = loader  # the Runner takes a DataLoader as well
        watch = _Stopwatch(warmup)
        runner.register_hook(watch)
        runner.train()

    model = runner.model.module if is_model_wrapper(runner.model) else runner.model
    count = count_parameters(model)
    optimizer_bytes = _bytes_of(runner.optim_wrapper.state_dict())
    on_gpu = get_device() == 'cuda'
    return Estimate(
        device=describe_device('cuda' if on_gpu else 'cpu'),
        source=source,
        gpus=gpus,
        batch_size=batch_size,
        iters=len(watch.steps),
        step_seconds=watch.seconds(),
        shares=watch.shares(),
        data_seconds=mean(watch.waits) if use_data and watch.waits else None,
        steps=steps,
        steps_from=steps_from,
        memory=torch.cuda.max_memory_allocated() if on_gpu else
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 - before,
        memory_kind='the most that torch had allocated on the GPU' if on_gpu else
        'growth of the process to its peak (there is no GPU)',
        params=count.total,
        trainable=count.trainable,
        optimizer_bytes=optimizer_bytes,
        checkpoint_bytes=_bytes_of(model.state_dict()) + optimizer_bytes,
        left_out=left_out)


def _build_runner(cfg, work_dir, iters):
    """_TimingRunner: Of the config, for a few steps, with nothing that logs, saves or loads."""
    cfg.work_dir = work_dir
    if _reads_teacher(cfg):
        cfg.model.alpha = 0  # made-up images are not in the cache
    cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=iters, val_interval=iters + 1)
    for name in ('val', 'test'):
        for key in ('cfg', 'dataloader', 'evaluator'):
            cfg[f'{name}_{key}'] = None
    cfg.param_scheduler = cfg.load_from = cfg.visualizer = None
    cfg.auto_scale_lr = None
    cfg.resume = False
    cfg.log_level = 'ERROR'
    cfg.experiment_name = None
    cfg.default_hooks = dict.fromkeys(
        ('timer', 'logger', 'param_scheduler', 'checkpoint', 'sampler_seed'))
    hooks = [hook for hook in cfg.get('custom_hooks') or [] if type_name(hook) in KEPT_HOOKS]
    for hook in hooks:
        if type_name(hook) == 'AdapterInjectionHook':
            hook['require_loaded'] = False
    cfg.custom_hooks = hooks
    return _TimingRunner.from_cfg(cfg)


def _as_it_is(batch):
    return batch


def _resident_bytes():
    with open('/proc/self/statm') as file:
        return int(file.read().split()[1]) * resource.getpagesize()


def _bytes_of(state):
    """int: Size of all tensors in nested dicts and lists."""
    if isinstance(state, torch.Tensor):
        return state.numel() * state.element_size()
    if isinstance(state, dict):
        return sum(map(_bytes_of, state.values()))
    if isinstance(state, (list, tuple)):
        return sum(map(_bytes_of, state))
    return 0


def _reads_teacher(cfg):
    """bool: Whether a distillation takes the teacher's logits from the disk."""
    return is_distilled(cfg.model) and cfg.model.get('teacher_cache') is not None


def _left_out(cfg, gpus, use_data):
    parts = [] if use_data else ['reading data']
    if _reads_teacher(cfg):
        parts.append("reading the teacher's logits")
    if gpus > 1:
        parts.append('communication and the gradient buckets of DDP')
    parts += ['validation', 'saving', 'the start']
    if cfg.get('compile'):
        parts.append('the gain of torch.compile beyond its first steps')
    return parts


def parse_args(argv: Optional[Sequence] = None) -> argparse.Namespace:
    """Parse the command line of ``tools/estimate.py``.

    Args:
        argv (Sequence[str], optional): The words after the program's name. Defaults to None,
            which means ``sys.argv[1:]``.

    Returns:
        argparse.Namespace: The options.
    """
    parser = argparse.ArgumentParser(
        prog='tools/estimate.py',
        description='Hours and memory of a training before it is launched, from a few steps on '
        'made-up images.\nNothing is loaded, downloaded or kept.',
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='example:\n  python tools/estimate.py '
        'configs/maskrcnn_scalenet_swin-t_1x_coco.py --gpus 8')
    parser.add_argument('config', help='the config file')
    parser.add_argument(
        '--gpus', type=int, default=8, metavar='N', help='that will train. Default: 8')
    parser.add_argument(
        '--iters', type=int, default=10, metavar='N', help='steps to time. Default: 10')
    parser.add_argument(
        '--batch-size', type=int, metavar='N', help='of one GPU. Default: the config\'s')
    parser.add_argument(
        '--samples', type=int, metavar='N',
        help='of an epoch. Default: counted if the data are there, else what is known of '
        'ImageNet, COCO and ADE20K')
    parser.add_argument(
        '--size', type=int, nargs=2, metavar=('HEIGHT', 'WIDTH'),
        help='of the made-up images. Default: what the config\'s pipeline makes')
    parser.add_argument(
        '--data', action='store_true',
        help='read the config\'s data, and time that too; they must be there')
    parser.add_argument(
        '--cfg-options', nargs='+', action=CfgOptionsAction, metavar='KEY=VALUE',
        help='settings that replace those of the config')
    return parser.parse_args(argv)


def run_estimate(argv: Optional[Sequence] = None) -> None:
    """Estimate, as the command line says, and print it.

    Args:
        argv (Sequence[str], optional): The words after the program's name. Defaults to None,
            which means ``sys.argv[1:]``.

    Raises:
        ScaleNetError: If it cannot be estimated.
    """
    args = parse_args(argv)
    cfg = load_config(args.config)
    if args.batch_size is not None and cfg.get('train_dataloader') is not None:
        cfg.train_dataloader.batch_size = args.batch_size
    if args.cfg_options:
        merge_cfg_options(cfg, args.cfg_options)
    print(estimate(cfg, args.gpus, args.iters, samples=args.samples, size=args.size,
                   use_data=args.data))
