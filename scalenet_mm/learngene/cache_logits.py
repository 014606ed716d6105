"""What ``tools/cache_teacher.py`` does: run a config's teacher over its training set."""
import copy
from typing import Iterator, Optional

import torch
from mmengine.config import Config
from mmengine.dataset import BaseDataset, pseudo_collate
from mmengine.registry import DATASETS, MODELS, init_default_scope
from torch.utils.data import DataLoader

from ..errors import ConfigError
from ..utils.model_cfg import is_distilled
from .teacher import fingerprint
from .teacher_cache import refuse_folder, write_cache


def cache_logits(cfg: Config,
                 out: str,
                 batch_size: int = 64,
                 workers: int = 2,
                 dtype: str = 'float16',
                 device: str = 'cpu',
                 force: bool = False,
                 every: int = 50,
                 say=print) -> dict:
    """Write the logits of a config's teacher for each image of its training set.

    The images are seen as a test shows them: through the pipeline of the test data set (or of the
    validation's, if there is none).

    Args:
        cfg (Config): The config of a ``DistilledClassifier``.
        out (str): The folder to write.
        batch_size (int): Images in a batch. Defaults to 64.
        workers (int): Processes that load images. Defaults to 2.
        dtype (str): 'float16' or 'float32'. Defaults to 'float16'.
        device (str): Where the teacher runs. Defaults to 'cpu'.
        force (bool): Whether to write over a cache. Defaults to False.
        every (int): Batches between two lines that say how far it is. Defaults to 50.
        say (Callable): Takes these lines. Defaults to print.

    Returns:
        dict: The manifest that was written.

    Raises:
        ConfigError: If the config has no teacher, the data set is wrapped, or the folder is there.
        CheckpointError: If the teacher's weights cannot be read.
    """
    model_cfg = cfg.get('model')
    if not is_distilled(model_cfg) or not model_cfg.get('teacher'):
        raise ConfigError('the config has no teacher: its model must be a DistilledClassifier that '
                          'names one')
    refuse_folder(out, force)
    if cfg.get('default_scope'):
        init_default_scope(cfg.default_scope)
    dataset = _build_dataset(cfg)
    model = _build_model(cfg)
    teacher, checkpoint, size = (
        model_cfg.get(key) for key in ('teacher', 'teacher_checkpoint', 'teacher_size'))
    classes = dataset.metainfo.get('classes')
    described = dict(
        type=type(dataset).__name__,
        classes=None if classes is None else [str(name) for name in classes],
        pipeline=[type(step).__name__ for step in dataset.pipeline.transforms])
    loader = DataLoader(dataset, batch_size, num_workers=workers, collate_fn=pseudo_collate)
    model.prepare_teacher()
    model.to(device)
    right = [0, 0]
    batches = _run(model, loader, every, say, right)
    known = fingerprint(teacher, checkpoint, size, model.data_preprocessor)
    manifest = write_cache(out, batches, len(dataset), known, described, dtype, force)
    if right[1]:
        say(f'the teacher is right for {right[0] / right[1]:.2%} of {right[1]} images')
    return manifest


def _build_dataset(cfg):
    loader = cfg.get('train_dataloader') or {}
    train = copy.deepcopy(loader.get('dataset'))
    if not isinstance(train, dict):
        raise ConfigError('the config has no train_dataloader.dataset')
    train['pipeline'] = _test_pipeline(cfg)
    if any(key in train for key in ('dataset', 'datasets')):
        raise ConfigError(f'train_dataloader.dataset is a {train.get("type")}, which wraps others; '
                          'a cache is made of a plain data set, whose samples have one index each')
    dataset = DATASETS.build(train)
    if not isinstance(dataset, BaseDataset):
        raise ConfigError(f'train_dataloader.dataset is a {type(dataset).__name__}, which gives '
                          'its samples no index; a cache needs a data set of mmpretrain')
    return dataset


def _test_pipeline(cfg) -> Optional[list]:
    for name in ('test', 'val'):
        loader = cfg.get(f'{name}_dataloader') or {}
        pipeline = (loader.get('dataset') or {}).get('pipeline')
        if pipeline:
            return copy.deepcopy(pipeline)
    raise ConfigError('the config has no pipeline of a test_dataloader or val_dataloader, by which '
                      'the teacher is to see the images')


def _build_model(cfg):
    model_cfg = copy.deepcopy(cfg.model)
    if cfg.get('data_preprocessor') is not None:  # as the Runner does
        model_cfg.setdefault('data_preprocessor', copy.deepcopy(cfg.data_preprocessor))
    model_cfg.pop('teacher_cache', None)
    if not model_cfg.get('alpha', 0.5):
        model_cfg['alpha'] = 0.5  # a teacher of weight 0 is not built
    return MODELS.build(model_cfg)


@torch.no_grad()
def _run(model, loader, every, say, right) -> Iterator:
    for number, batch in enumerate(loader, 1):
        data = model.data_preprocessor(batch, False)
        logits = model.teach(data['inputs'])
        samples = data['data_samples']
        labels = [sample.get('gt_label') for sample in samples]
        if all(label is not None and len(label) == 1 for label in labels):
            right[0] += int((logits.argmax(1) == torch.cat(labels).to(logits.device)).sum())
            right[1] += len(labels)
        yield logits, samples
        if number % every == 0:
            say(f'{number} of {len(loader)} batches')
