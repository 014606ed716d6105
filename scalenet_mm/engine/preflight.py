"""Checks that take no time, before anything that does: files, folders, devices, the toolbox."""
import os
import os.path as osp
import zipfile
from importlib.util import find_spec
from typing import Any, Iterator, List, NamedTuple, Optional, Tuple

import torch
from mmengine.config import Config
from mmengine.device import get_device
from mmengine.utils import is_abs

from scalenet_mm.checkpoints.delta import check_base_found
from scalenet_mm.checkpoints.files import check_whole, find_newest_whole
from scalenet_mm.engine.classification import (
    LAYOUT,
    check_classification,
    fill_in_split,
    preprocessor_of,
)
from scalenet_mm.engine.dense import iter_steps
from scalenet_mm.engine.detection import check_detection
from scalenet_mm.engine.model_options import check_growth, check_model, check_optimizer
from scalenet_mm.engine.scopes import (
    SCOPES,
    iter_dataloaders,
    iter_datasets,
    iter_metrics,
    type_name,
)
from scalenet_mm.engine.segmentation import check_segmentation
from scalenet_mm.errors import CheckpointError, ConfigError
from scalenet_mm.learngene.distillation_loss import check_weights
from scalenet_mm.learngene.learngene_init import check_learngene
from scalenet_mm.learngene.teacher import (
    NO_TEACHER,
    NO_WEIGHTS,
    check_size,
    pretrained_files,
    read_teacher_cfg,
)
from scalenet_mm.learngene.teacher_cache import check_teacher, read_manifest
from scalenet_mm.learngene.whole_init import WHOLE
from scalenet_mm.utils.model_cfg import is_distilled, student_cfg, student_key

# What knows the data sets of a toolbox.
CHECKS = dict(
    mmpretrain=check_classification, mmdet=check_detection, mmseg=check_segmentation)

# Data sets of mmpretrain that fetch their files into a folder which need not exist before.
SELF_DOWNLOADING = ('CIFAR10', 'CIFAR100', 'MNIST', 'FashionMNIST')


class Missing(NamedTuple):
    """A path that a config names and that isn't there.

    Args:
        key (str): The config key, like ``train_dataloader.dataset.ann_file``.
        value (str): What the config says.
        path (str): The absolute path it stands for.
        kind (str): ``'folder'`` or ``'file'``.
    """
    key: str
    value: str
    path: str
    kind: str


def is_local(path: Any, backend_args: Optional[dict] = None) -> bool:
    """Whether a path of a config is one of this machine's file system."""
    if backend_args and backend_args.get('backend', 'local') != 'local':
        return False
    return isinstance(path, str) and '://' not in path


def _missing(key: str, value: str, path: str, kind: str) -> Iterator[Missing]:
    there = osp.isdir(path) if kind == 'folder' else osp.exists(path)
    if not there:
        yield Missing(key, value, osp.abspath(path), kind)


def _join(root: Optional[str], path: str) -> str:
    return path if is_abs(path) or not root else osp.join(root, path)


def _missing_of_dataset(key: str, cfg: dict) -> Iterator[Missing]:
    if type_name(cfg) in SELF_DOWNLOADING and cfg.get('download', True):
        return
    backend_args = cfg.get('backend_args')
    root = cfg.get('data_root')
    root_is_there = True
    if root and is_local(root, backend_args):
        problems = list(_missing(f'{key}.data_root', root, root, 'folder'))
        yield from problems
        root_is_there = not problems
    elif root or (backend_args and not is_local('', backend_args)):
        # A remote root; absolute local paths beside it would be odd, and are left to the data set.
        return

    def below(name: str, value: Any, kind: str) -> Iterator[Missing]:
        if not value or not is_local(value, backend_args):
            return
        # What lies under a missing root is missing with it: one message is enough.
        if is_abs(value) or root_is_there:
            yield from _missing(f'{key}.{name}', value, _join(root, value), kind)

    ann_files = cfg.get('ann_file')
    if isinstance(ann_files, (list, tuple)):
        for i, ann_file in enumerate(ann_files):
            yield from below(f'ann_file.{i}', ann_file, 'file')
    else:
        yield from below('ann_file', ann_files, 'file')

    # Images are read by the pipeline, which may use a backend of its own.
    pipeline = cfg.get('pipeline')
    loader = pipeline[0] if isinstance(pipeline, (list, tuple)) and pipeline else None
    if isinstance(loader, dict) and not is_local('', loader.get('backend_args')):
        return
    prefixes = cfg.get('data_prefix')
    if isinstance(prefixes, dict):
        for name, prefix in prefixes.items():
            # mmdet's instance configs inherit it from panoptic ones, and read nothing there
            if name == 'seg' and type_name(cfg) == 'CocoDataset' and not any(
                    step.get('with_seg') for step in iter_steps(pipeline)):
                continue
            yield from below(f'data_prefix.{name}', prefix, 'folder')
    else:
        yield from below('data_prefix', prefixes, 'folder')


def _missing_of_evaluator(evaluator: Any, key: str) -> Iterator[Missing]:
    for metric_key, metric in iter_metrics(evaluator, key):
        for name, kind in (('ann_file', 'file'), ('seg_prefix', 'folder')):
            value = metric.get(name)
            if value and is_local(value, metric.get('backend_args')):
                yield from _missing(f'{metric_key}.{name}', value, value, kind)


def find_missing_data(cfg: Config, splits: Tuple[str, ...]) -> List[Missing]:
    """Find the data paths of a config that aren't there.

    Args:
        cfg (Config): The config.
        splits (tuple[str]): Which of ``'train'``, ``'val'`` and ``'test'`` will be used.

    Returns:
        list[Missing]: What is missing, in the order of the config.
    """
    found: List[Missing] = []
    for split in splits:
        for loader_key, loader in iter_dataloaders(cfg, split):
            for key, dataset in iter_datasets(loader.get('dataset'), f'{loader_key}.dataset'):
                found.extend(_missing_of_dataset(key, fill_in_split(dataset)))
        found.extend(_missing_of_evaluator(cfg.get(f'{split}_evaluator'), f'{split}_evaluator'))
    return found


def check_data(cfg: Config, splits: Tuple[str, ...]) -> None:
    """Raise if data that a command will read isn't there.

    Args:
        cfg (Config): The config.
        splits (tuple[str]): Which of ``'train'``, ``'val'`` and ``'test'`` will be used.

    Raises:
        ConfigError: Names every missing path with its config key, in one message; or says what is
            wrong with the data.
        DataError: If a label map cannot be read or is none.
    """
    missing = find_missing_data(cfg, splits)
    if not missing:
        check = CHECKS.get(cfg.get('default_scope'))
        if check is not None and cfg.get('model'):
            check(cfg, splits)
        return
    lines = ['data that the config names is not there:']
    lines += [f'  {m.key}={m.value!r}: no such {m.kind}: {m.path}' for m in missing]
    fixes = ' '.join(f'{m.key}={m.kind.upper()}' for m in missing)
    lines.append(f'put it there (a link will do), or name the right place: --cfg-options {fixes}')
    if any(_is_split(cfg, m) for m in missing):
        lines.append(LAYOUT)
    raise ConfigError('\n'.join(lines))


def _is_split(cfg: Config, missing: Missing) -> bool:
    """Whether a path comes from the ``split`` of an ImageNet data set."""
    dataset = missing.key.rpartition('.')[0]
    return any(key == dataset and data.get('split')
               for split in ('train', 'val', 'test')
               for loader_key, loader in iter_dataloaders(cfg, split)
               for key, data in iter_datasets(loader.get('dataset'), f'{loader_key}.dataset'))


def check_checkpoint(path: Any, key: str) -> None:
    """Raise if a checkpoint isn't there, is damaged or is plainly not one.

    What is in it is checked where it is loaded.

    Args:
        path (str, optional): A local path or a URL (which is not looked at).
        key (str): The option or config key that names it.

    Raises:
        CheckpointError: If there is no such file, it is empty, cut off, damaged, or a web page, or
            the base of a delta is not found.
    """
    if not path or not is_local(path):
        return
    if not osp.isfile(path):
        folder = osp.dirname(path) or '.'
        names = sorted(os.listdir(folder)) if osp.isdir(folder) else []
        names = [name for name in names if name.endswith(('.pth', '.pt', '.safetensors'))]
        there = f'; checkpoints there: {", ".join(names[-5:])}' if names else ''
        raise CheckpointError(f'{key}: no such file: {path!r}{there}')
    with open(path, 'rb') as file:
        head = file.read(16)
    if not head:
        raise CheckpointError(f'{key}: {path!r} is empty; get it again')
    if head.startswith(b'PK') and not zipfile.is_zipfile(path):
        raise CheckpointError(
            f'{key}: {path!r} is cut off ({osp.getsize(path)} bytes, and the end of the archive is '
            'missing); get or save it again')
    if head.lstrip().startswith(b'<'):
        raise CheckpointError(f'{key}: {path!r} holds a web page, not a checkpoint; get it again')
    if head.startswith(b'version https:/'):
        raise CheckpointError(f'{key}: {path!r} is a Git LFS pointer, not the file; `git lfs pull`')
    try:
        check_whole(path)
        check_base_found(path)
    except CheckpointError as error:
        raise CheckpointError(f'{key}: {error}') from error


def check_toolbox(cfg: Config) -> None:
    """Raise if the toolbox that a config is for isn't installed.

    Raises:
        ConfigError: Names the toolbox and how to get it.
    """
    scope = SCOPES.get(cfg.get('default_scope'))
    if scope is not None and find_spec(scope.name) is None:
        raise ConfigError(
            f'the config is for {scope.name} (default_scope={scope.name!r}), which is not '
            f'installed: pip install {scope.package}; `python tools/check_env.py` tells '
            'which versions work together')


def check_devices(cfg: Config) -> None:
    """Raise if the machine can't run what the config and the launcher ask for.

    Raises:
        ConfigError: If the launcher's variables are not set, if there are fewer GPUs than
            processes, or if mixed precision is asked for without a GPU.
    """
    launcher = cfg.get('launcher') or 'none'
    marks = dict(pytorch='RANK', slurm='SLURM_PROCID', mpi='OMPI_COMM_WORLD_RANK')
    if launcher in marks and marks[launcher] not in os.environ:
        script = 'tools/slurm_*.sh' if launcher == 'slurm' else 'tools/dist_*.sh'
        raise ConfigError(
            f'--launcher {launcher}: the environment variable {marks[launcher]} is not set, so '
            f'this process was not started by that launcher; use {script}, or leave --launcher out '
            'for a single process')
    if launcher != 'none' and torch.cuda.is_available():
        local_rank = int(os.environ.get('LOCAL_RANK', 0))
        if local_rank >= torch.cuda.device_count():
            raise ConfigError(
                f'more processes on this machine than GPUs: local rank {local_rank}, '
                f'{torch.cuda.device_count()} GPU(s); start fewer processes, or set '
                'CUDA_VISIBLE_DEVICES=-1 to run on the CPU')
    wrapper = cfg.get('optim_wrapper')
    if type_name(wrapper) == 'AmpOptimWrapper' and get_device() in ('cpu', 'mps'):
        raise ConfigError(
            'mixed precision (--amp, or optim_wrapper.type=AmpOptimWrapper) needs a GPU, and there '
            'is none')


def _check_work_dir(cfg: Config) -> None:
    if osp.exists(cfg.work_dir) and not osp.isdir(cfg.work_dir):
        raise ConfigError(f'work_dir: {cfg.work_dir!r} is a file; name a folder by --work-dir')


def _check_pretrained(model: dict, key: str = 'model') -> None:
    """Check the local files that the model or its backbone are to start from."""
    init_cfgs = model.get('init_cfg')
    for init_cfg in [init_cfgs] if isinstance(init_cfgs, dict) else init_cfgs or []:
        if isinstance(init_cfg, dict) and type_name(init_cfg) in WHOLE:
            check_checkpoint(init_cfg.get('checkpoint'), f'{key}.init_cfg.checkpoint')
    for part in ('student', 'backbone', 'base'):
        if isinstance(model.get(part), dict):
            _check_pretrained(model[part], f'{key}.{part}')


def _check_teacher(cfg: Config) -> None:
    """Check the numbers of a distillation, and that its teacher is there and of its classes."""
    model = cfg.model
    if not is_distilled(model):
        return
    check_weights(model.get('alpha', 0.5), model.get('tau', 1.))
    check_size(model.get('teacher_size'))
    if model.get('alpha', 0.5) == 0:
        return
    given: Any = [model.get(key) for key in ('teacher', 'teacher_checkpoint', 'teacher_size')]
    if given[0] is None:
        raise ConfigError(NO_TEACHER)
    cache = model.get('teacher_cache')
    if cache is not None:
        manifest = read_manifest(cache)
        check_teacher(cache, manifest, given[0], given[1], given[2], preprocessor_of(cfg)[1])
        _check_classes_of_teacher(
            model, manifest['shape'][1], f'model.teacher_cache: {cache} holds logits of')
        return
    check_checkpoint(given[1], 'model.teacher_checkpoint')
    if isinstance(given[0], torch.nn.Module):
        return
    name = f'model.teacher={given[0]!r}: its model' if isinstance(given[0], str) \
        else 'model.teacher'
    teacher = read_teacher_cfg(given[0])
    _check_pretrained(teacher, name)
    if given[1] is None and not pretrained_files(teacher):
        raise ConfigError(NO_WEIGHTS)
    _check_classes_of_teacher(model, _classes_of(teacher), f'{name}.head has')


def _classes_of(model: dict) -> Optional[int]:
    head = model.get('head')
    return head.get('num_classes') if isinstance(head, dict) else None


def _check_classes_of_teacher(model: dict, number: Optional[int], what: str) -> None:
    classes = _classes_of(student_cfg(model))
    if None not in (classes, number) and classes != number:
        raise ConfigError(
            f'{what} {number} classes, but {student_key(model)}.head.num_classes={classes}; they '
            'must be the same ones')


def _check_schedule(cfg: Config) -> None:
    """Refuse a scheduler that would begin behind the end of a training made shorter."""
    schedulers = cfg.get('param_scheduler') or []
    for i, scheduler in enumerate([schedulers] if isinstance(schedulers, dict) else schedulers):
        if not isinstance(scheduler, dict):
            continue
        by_epoch = scheduler.get('by_epoch', True)
        name = 'max_epochs' if by_epoch else 'max_iters'
        begin, last = scheduler.get('begin', 0), cfg.train_cfg.get(name)
        end = scheduler.get('end', last)
        if not all(isinstance(n, int) for n in (begin, end)) or begin < end:
            continue
        key = 'param_scheduler' + ('' if isinstance(schedulers, dict) else f'.{i}')
        raise ConfigError(
            f'{key}: {type_name(scheduler)} begins at {"epoch" if by_epoch else "iteration"} '
            f'{begin} and ends at {end}'
            f'{"" if "end" in scheduler else f", where training ends (train_cfg.{name})"}: set '
            f'--cfg-options {key}.begin=0, or train longer')


def check_train(cfg: Config) -> None:
    """Everything that can be known to fail before training starts. Writes nothing.

    Args:
        cfg (Config): The config with all options applied.

    Raises:
        ConfigError: If data, a device or the toolbox is missing.
        CheckpointError: If ``load_from``, or the checkpoint to resume from, can't be used.
        GrowthError: If growth options can't be meant.
    """
    if cfg.get('model') is None:
        raise ConfigError('the config has no model: name a config of a whole model')
    for key in ('train_dataloader', 'train_cfg', 'optim_wrapper'):
        if cfg.get(key) is None:
            raise ConfigError(f'the config has no {key}: there is nothing to train')
    check_growth(cfg)
    check_toolbox(cfg)
    check_model(cfg)
    check_optimizer(cfg)
    _check_schedule(cfg)
    _check_pretrained(cfg.model)
    check_learngene(cfg)
    _check_teacher(cfg)
    for i, hook in enumerate(cfg.get('custom_hooks') or []):
        if isinstance(hook, dict) and type_name(hook) == 'DeltaCheckpointHook':
            check_checkpoint(hook.get('base'), f'custom_hooks.{i}.base')
    check_devices(cfg)
    _check_work_dir(cfg)
    if cfg.get('resume') and cfg.get('load_from') is None:
        find_newest_whole(cfg.work_dir, lambda line: None)  # it is said when it is loaded
    else:
        check_checkpoint(cfg.get('load_from'), '--resume' if cfg.get('resume') else 'load_from')
    validates = cfg.get('val_cfg') is not None
    check_data(cfg, ('train', 'val') if validates else ('train', ))


def check_test(cfg: Config) -> None:
    """Everything that can be known to fail before a test starts. Writes nothing.

    Args:
        cfg (Config): The config with all options applied.

    Raises:
        ConfigError: If data, a device or the toolbox is missing.
        CheckpointError: If the checkpoint can't be used.
    """
    if cfg.get('model') is None:
        raise ConfigError('the config has no model: name a config of a whole model')
    check_growth(cfg)
    check_toolbox(cfg)
    check_model(cfg)
    check_devices(cfg)
    _check_work_dir(cfg)
    check_checkpoint(cfg.get('load_from'), 'checkpoint')
    check_data(cfg, ('test', ))
