"""Samples of a config's data set to measure on: the same ones for every model, in every run."""
import copy
import functools
import os
import random

import numpy as np
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS, FUNCTIONS
from mmengine.runner import set_random_seed
from torch.utils.data import DataLoader, Dataset

from ..engine.preflight import check_data
from ..engine.scopes import get_scope, iter_datasets, type_name
from ..errors import ConfigError

SPLITS = ('train', 'val', 'test')


class Unreadable:
    """Stands for a sample, or a batch, that could not be made.

    A data loader's worker would wrap an error that it raises in its own traceback.

    Args:
        message (str): What is wrong.
    """

    def __init__(self, message):
        self.message = message


class SeededDataset(Dataset):
    """A data set whose random augmentations depend on the seed and the sample alone.

    Args:
        dataset (Dataset): A data set of one of the toolboxes.
        seed (int): The seed.
    """

    def __init__(self, dataset, seed):
        self.dataset = dataset
        self.seed = seed

    def __len__(self):
        return len(self.dataset)

    def __getitem__(self, index):
        seed = (self.seed * 1_000_003 + index) % 2**32
        random.seed(seed)
        np.random.seed(seed)
        torch.manual_seed(seed)
        try:
            sample = self.dataset[index]
        except Exception as error:  # of whatever reads or transforms it
            return Unreadable(f'{self._name(index)} cannot be loaded: {type(error).__name__}: '
                              f'{error}')
        if sample is None:
            return Unreadable(f'{self._name(index)} cannot be loaded')
        return sample

    def _name(self, index):
        try:
            path = self.dataset.get_data_info(index)['img_path']
        except Exception:  # not all data sets tell
            path = ''
        return f'sample {index} of the data set' + (f' ({path})' if path else '')


class Collate:
    """A collate function that lets what can't be read through.

    Args:
        function (Callable): The config's.
    """

    def __init__(self, function):
        self.function = function

    def __call__(self, samples):
        """Collate, or hand on the first sample that could not be read."""
        for sample in samples:
            if isinstance(sample, Unreadable):
                return sample
        try:
            return self.function(samples)
        except (RuntimeError, TypeError) as error:
            return Unreadable(f'the samples of a batch do not fit together, perhaps since their '
                              f'sizes differ ({error}); let the pipeline crop or resize them to '
                              'one size, or use --batch-size 1')


class SampleBatches:
    """Batches of randomly drawn samples; every iteration gives the same ones.

    Args:
        cfg (Config): The config whose data loader is used.
        split (str): ``'train'``, ``'val'`` or ``'test'``.
        num_samples (int): Number of samples; all that there are if there are fewer.
        batch_size (int): Images in a batch.
        seed (int): Seed of the choice of samples and of random augmentations. Defaults to 0.
        workers (int, optional): Processes that load them; the config's number if None, but not
            more than there are cores. Defaults to None.
        drop_last (bool): Whether to leave out what fills no batch. Defaults to False.
        with_labels (bool): Whether the samples' labels are used. Where a pipeline for evaluation
            loads them after it resized the image (mmdet, mmseg), they are loaded before it
            then, so that they fit the image. Defaults to False.

    Raises:
        ConfigError: If the config has no such loader, data is missing, or the data set is empty
            or too small.
    """

    def __init__(self, cfg, split, num_samples, batch_size, seed=0, workers=None,
                 drop_last=False, with_labels=False):
        check_samples(cfg, split, num_samples, batch_size, with_labels)
        cfg = copy.deepcopy(cfg)
        key = f'{split}_dataloader'
        get_scope(cfg).set_dataloader_defaults(cfg, (key, ))
        loader = cfg[key]
        if with_labels:
            for _, dataset in iter_datasets(loader.dataset, f'{key}.dataset'):
                if dataset.get('pipeline'):
                    dataset['pipeline'] = annotations_first(dataset['pipeline'])
        self.dataset = DATASETS.build(loader.dataset)
        if hasattr(self.dataset, 'full_init'):
            self.dataset.full_init()
        if len(self.dataset) == 0:
            raise ConfigError(f'{key}: the data set is empty: check dataset (ann_file, '
                              'data_prefix, filter_cfg)')
        collate = dict(loader.get('collate_fn') or dict(type='pseudo_collate'))
        function = collate.pop('type')
        function = FUNCTIONS.get(function) if isinstance(function, str) else function
        self.collate = Collate(functools.partial(function, **collate))

        order = np.random.RandomState(seed).permutation(len(self.dataset))[:num_samples]
        if drop_last:
            order = order[:len(order) // batch_size * batch_size]
            if len(order) == 0:
                raise ConfigError(f'{key}: {len(self.dataset)} sample(s) fill no batch of '
                                  f'{batch_size}; use a smaller --batch-size')
        self.indices = order.tolist()
        self.batch_size = batch_size
        self.seed = seed
        if workers is None:  # a config's number is for a machine that trains
            workers = min(loader.get('num_workers', 0), count_cores())
        self.workers = workers

    @property
    def num_samples(self) -> int:
        """int: How many samples there are."""
        return len(self.indices)

    def __len__(self):
        return -(-len(self.indices) // self.batch_size)

    def __iter__(self):
        loader = iter(
            DataLoader(
                SeededDataset(self.dataset, self.seed),
                batch_size=self.batch_size,
                sampler=self.indices,
                num_workers=self.workers,
                collate_fn=self.collate))
        for i in range(len(self)):
            batch = next(loader)
            if isinstance(batch, Unreadable):
                raise ConfigError(batch.message)
            set_random_seed(self.seed + i)  # models draw as well: mmdet samples proposals
            yield batch


def count_cores() -> int:
    """int: The processor cores that this process may use."""
    if hasattr(os, 'sched_getaffinity'):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def check_samples(cfg: Config, split: str, num_samples: int, batch_size: int,
                  with_labels: bool = False) -> None:
    """Check, without reading any, that samples can be had.

    Raises:
        ConfigError: If the config has no loader for the split, its data is not there, a number is
            less than 1, or labels that are used can't fit a classifier's head.
    """
    key = f'{split}_dataloader'
    if not isinstance(cfg.get(key), dict):
        there = [s for s in SPLITS if isinstance(cfg.get(f'{s}_dataloader'), dict)]
        raise ConfigError(f'--split {split}: the config has no {key}'
                          + (f'; it has one for {", ".join(there)}' if there else ''))
    for option, number in (('--num-samples', num_samples), ('--batch-size', batch_size)):
        if number < 1:
            raise ConfigError(f'{option} must be 1 or more, got {number}')
    used = [key, 'default_scope'] + ['model', 'data_preprocessor'] * with_labels
    # without evaluators, whose files are not used
    check_data(Config({name: cfg[name] for name in used if cfg.get(name) is not None}), (split, ))


def annotations_first(pipeline: list) -> list:
    """Load annotations right after the image, before anything changes its size.

    Args:
        pipeline (list[dict]): A pipeline.

    Returns:
        list[dict]: The same steps, those that load annotations moved.
    """
    names = [type_name(step) for step in pipeline]
    loads = [step for step, name in zip(pipeline, names)
             if name.startswith('Load') and name.endswith('Annotations')]
    rest = [step for step in pipeline if not any(step is load for load in loads)]
    images = [i for i, step in enumerate(rest) if type_name(step).startswith('LoadImage')]
    if not images or not loads:
        return pipeline
    return [*rest[:images[0] + 1], *loads, *rest[images[0] + 1:]]
