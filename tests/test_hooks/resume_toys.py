"""Trainings that draw random numbers wherever they can, stopped and resumed."""
import copy
import os
import random
import re
from pathlib import Path

import numpy as np
import torch
from hook_toys import Images, classifier
from mmengine.config import Config
from mmengine.dist import get_rank
from mmengine.evaluator import BaseMetric
from mmengine.hooks import EMAHook, Hook
from mmengine.registry import (
    DATA_SAMPLERS,
    DATASETS,
    HOOKS,
    METRICS,
    MODELS,
    DefaultScope,
)
from test_detection_and_segmentation import detector_config, segmentor_config

from scalenet_mm import ScaleNetViT
from scalenet_mm.checkpoints.files import save_file
from scalenet_mm.hooks.random_state import get_random_state

STOP = 'RESUME_TOY_STOP'  # the environment's variable, see Stop
MEASURED = ('time', 'memory')  # the histories of the message hub that are no results

DATA_SAMPLERS.register_module(name='ResumeToyBatches', module=torch.utils.data.BatchSampler)


@DATASETS.register_module(name='ResumeToyImages')
class RandomImages(Images):
    """Images that every generator has a part in."""

    def __getitem__(self, index):
        item = super().__getitem__(index)
        noise = random.random() + np.random.rand() * torch.randn(item['inputs'].shape)
        return dict(item, inputs=item['inputs'] + noise)


@METRICS.register_module(name='ResumeToyScore')
class Score(BaseMetric):
    """The mean score of the first class: another one after every step."""

    def process(self, data_batch, data_samples):
        self.results += [float(sample['pred_score'][0]) for sample in data_samples]

    def compute_metrics(self, results):
        np.random.rand()
        return dict(score=float(np.mean(results)))


class Stopped(Exception):
    """What ends a training at once."""


@HOOKS.register_module(name='ResumeToyStop')
class Stop(Hook):
    """End the training before a stage, when a number of iterations is done.

    Args:
        iteration (int, optional): The number; None takes it from the environment, where
            ``RESUME_TOY_STOP`` may name one. Defaults to None.
        stage (str): 'train_iter', 'val' or 'val_end'. Defaults to 'train_iter'.
    """
    priority = 'HIGHEST'

    def __init__(self, iteration=None, stage='train_iter'):
        self.iteration = int(os.environ.get(STOP, -1)) if iteration is None else iteration
        self.stage = stage

    def before_train_iter(self, runner, batch_idx, data_batch=None):
        self._stop(runner, 'train_iter')

    def before_val(self, runner):
        self._stop(runner, 'val')

    def after_val(self, runner):
        self._stop(runner, 'val_end')

    def _stop(self, runner, stage):
        if runner.iter == self.iteration and stage == self.stage:
            raise Stopped


@HOOKS.register_module(name='ResumeToyKeep')
class Keep(Hook):
    """Save what each process ends with."""
    priority = 'LOWEST'

    def after_train(self, runner):
        torch.save(state_of(runner), f'{runner.work_dir}/end{get_rank()}.pth')


def state_of(runner):
    """dict: All that a training ends with."""
    model = getattr(runner.model, 'module', runner.model)
    state = dict(
        model=model.state_dict(),
        optimizer=runner.optim_wrapper.state_dict(),
        schedulers=[scheduler.state_dict() for scheduler in runner.param_schedulers or []],
        random=get_random_state(),
        scalars={name: [list(part) for part in buffer.data]
                 for name, buffer in runner.message_hub.log_scalars.items()
                 if not name.endswith(MEASURED)},
        files=sorted(re.sub('-[0-9a-f]{8}', '-hash', path.name)
                     for path in Path(runner.work_dir).glob('*_*.pth')),
        epoch=runner.epoch,
        iter=runner.iter)
    for hook in runner.hooks:
        if isinstance(hook, EMAHook):
            state['averaged'] = hook.ema_model.state_dict()
    return state


def ends(folder, name, processes):
    """list[dict]: What the processes of a run ended with."""
    states = [torch.load(folder / name / f'end{rank}.pth', weights_only=True)
              for rank in range(processes)]
    for state in states[1:]:
        del state['scalars'], state['files']  # the first process's matter
    return states


def differences(one, other, name=''):
    """list[str]: Where two states are not the same to the last bit."""
    if isinstance(one, torch.Tensor) and isinstance(other, torch.Tensor):
        same = one.dtype == other.dtype and torch.equal(one, other)
        return [] if same else [name]
    if type(one) is not type(other):
        return [name]
    if isinstance(one, dict):
        if one.keys() != other.keys():
            return [f'{name}: {sorted(one.keys() ^ other.keys(), key=str)}']
        return sum((differences(one[k], other[k], f'{name}.{k}') for k in one), [])
    if isinstance(one, (list, tuple)):
        if len(one) != len(other):
            return [f'{name}: {len(one)} and {len(other)}']
        return sum((differences(a, b, f'{name}.{i}')
                    for i, (a, b) in enumerate(zip(one, other))), [])
    return [] if one == other else [name]


def random_classifier(loop='epochs', growth='paper', **top):
    """A config of a tiny grown ViT with drop path, dropout, batch augments and random images.

    Args:
        loop (str): 'epochs': 4 of 3 iterations; 'iterations': 12.
        growth (str | dict): The backbone's.
        **top: Further keys of the config.
    """
    loader = dict(
        batch_size=4, num_workers=0, collate_fn=dict(type='default_collate'),
        dataset=dict(type='ResumeToyImages', count=12))
    shuffled = dict(type='DefaultSampler' if loop == 'epochs' else 'InfiniteSampler', shuffle=True)
    cfg = classifier(
        backbone=dict(
            type='ScaleNetViT', img_size=16, patch_size=4, drop_rate=0.1, drop_path_rate=0.3,
            growth=growth,
            arch=dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32)),
        train_dataloader=dict(loader, sampler=shuffled),
        val_dataloader=dict(loader, sampler=dict(type='DefaultSampler', shuffle=False)),
        val_evaluator=dict(type='ResumeToyScore'),
        val_cfg=dict(),
        train_cfg=(dict(by_epoch=True, max_epochs=4, val_interval=1) if loop == 'epochs' else
                   dict(by_epoch=False, max_iters=12, val_interval=3)),
        param_scheduler=[
            dict(type='LinearLR', start_factor=0.1, by_epoch=False, begin=0, end=4),
            dict(type='CosineAnnealingLR', T_max=8, by_epoch=False, begin=4, end=12)])
    cfg['model']['train_cfg'] = dict(
        augments=[dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.)])
    cfg['model']['data_preprocessor'] = dict(num_classes=3)
    cfg['model']['head']['loss'] = dict(type='CrossEntropyLoss', use_soft=True)
    cfg['custom_hooks'].append(dict(type='EMAHook', momentum=0.2))
    cfg['default_hooks']['checkpoint'] = dict(
        type='CheckpointHook', interval=1, by_epoch=loop == 'epochs', max_keep_ckpts=2,
        save_best='score', rule='greater')
    cfg['default_hooks']['logger'] = dict(type='LoggerHook', interval=1)
    cfg.update(top)
    return cfg


def pretrained_classifier(path, loop='epochs', delta=True):
    """:func:`random_classifier`, its backbone from a file, whose checkpoints may be deltas."""
    cfg = random_classifier(loop, load_from=str(path))
    plain = {k: v for k, v in cfg['model']['backbone'].items() if k != 'type'}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)  # the same in every process that writes it
        backbone = ScaleNetViT(**{**plain, 'growth': None, 'adjustment': None})
    save_file(dict(state_dict={f'backbone.{k}': v for k, v in backbone.state_dict().items()}),
              str(path))
    cfg['custom_hooks'][0]['require_loaded'] = True
    if delta:
        cfg['custom_hooks'].append(dict(type='DeltaCheckpointHook'))
    return cfg


def random_detector(digits, tmp_path, loop, delta=False):
    """A config of a tiny Mask R-CNN: 2 epochs of 2 iterations, or 3 iterations.

    Its checkpoints may be deltas to a file in ``tmp_path``.
    """
    cfg = detector_config(digits, tmp_path)
    cfg.model.backbone.drop_path_rate = 0.3
    cfg.train_dataloader.dataset.pipeline[-2:-1] = [
        dict(type='RandomFlip', prob=0.5), dict(type='PhotoMetricDistortion')]
    cfg.train_dataloader.dataset.indices = 4
    cfg = _shorten(cfg, loop)
    return _start_from_a_file(cfg, tmp_path / 'detector.pth') if delta else cfg


def random_segmentor(digits, tmp_path, loop, delta=False):
    """The same of a tiny UPerNet, whose BatchNorm is frozen."""
    cfg = segmentor_config(digits, tmp_path)
    cfg.train_dataloader.dataset.indices = 4
    cfg = _shorten(cfg, loop)
    return _start_from_a_file(cfg, tmp_path / 'segmentor.pth') if delta else cfg


def _start_from_a_file(cfg, path):
    """Let a training start from a file of the ungrown model, and save deltas to that."""
    plain = copy.deepcopy(cfg.model)
    if 'growth' in plain.backbone:
        plain.backbone.update(growth=None, adjustment=None)
    with torch.random.fork_rng(devices=[]), \
            DefaultScope.overwrite_default_scope(cfg.default_scope):
        torch.manual_seed(1)  # the same in every process that writes it
        model = MODELS.build(plain)
        model.init_weights()
        state = model.state_dict()
        for key, value in state.items():
            if key.endswith(('running_mean', 'running_var')):
                value.copy_(torch.rand_like(value) + 0.5)  # not what they are without the file
    save_file(dict(state_dict=state), str(path))
    cfg.load_from = str(path)
    cfg.custom_hooks[0].require_loaded = True
    cfg.custom_hooks.append(dict(type='DeltaCheckpointHook'))
    return cfg


def _shorten(cfg, loop):
    sampler = 'DefaultSampler' if loop == 'epochs' else 'InfiniteSampler'
    cfg.train_dataloader.sampler = dict(type=sampler, shuffle=True)
    cfg.train_cfg = (dict(type='EpochBasedTrainLoop', max_epochs=2) if loop == 'epochs' else
                     dict(type='IterBasedTrainLoop', max_iters=3))
    cfg.default_hooks = dict(
        checkpoint=dict(type='CheckpointHook', by_epoch=loop == 'epochs', interval=1))
    cfg.custom_hooks[0].require_loaded = False
    cfg.param_scheduler = [dict(type='PolyLR', eta_min=1e-4, begin=0, end=4, by_epoch=False)]
    cfg.custom_hooks.append(dict(type='EMAHook', momentum=0.2))
    cfg.update(randomness=dict(seed=0), load_from=None)
    return cfg


def write_config(cfg, folder):
    """Write a config that stops by the environment and keeps its end.

    Returns:
        str: The file.
    """
    cfg = Config(cfg)
    cfg.custom_imports = dict(imports=['scalenet_mm', 'resume_toys'])
    cfg.custom_hooks += [dict(type='ResumeToyStop'), dict(type='ResumeToyKeep')]
    cfg.dump(folder / 'config.py')
    return str(folder / 'config.py')
