"""A model for inference from its config and its checkpoint."""
import copy
import inspect
import logging
import os
import os.path as osp
from collections.abc import Mapping
from typing import Any, Dict, Optional, Union

import torch
import torch.nn as nn
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.model.utils import revert_sync_batchnorm
from mmengine.registry import DATASETS, MODELS, DefaultScope
from mmengine.runner import CheckpointLoader

from ..analysis.inputs import without_pretrained
from ..analysis.meta_model import grow_as_hook, injection_hook
from ..analysis.quiet import quiet
from ..checkpoints import adapt_checkpoint, add_base
from ..engine.model_options import check_growth, check_model
from ..engine.options import load_config, merge_cfg_options
from ..engine.preflight import check_checkpoint, check_toolbox
from ..engine.scopes import SCOPES, iter_dataloaders, iter_datasets
from ..engine.stored_growth import apply_stored_growth
from ..errors import CheckpointError, ConfigError
from ..growth import speed_up
from ..utils.model_cfg import plain_cfg, student_cfg, student_key

#: What the models of a toolbox are for, and the class that they are of.
TASKS = dict(
    mmpretrain=('classification', 'BaseClassifier'),
    mmdet=('detection', 'BaseDetector'),
    mmseg=('segmentation', 'BaseSegmentor'))


def init_model(config: Union[str, os.PathLike, Config],
               checkpoint: Optional[str] = None,
               device: Optional[str] = None,
               base: Optional[str] = None,
               cfg_options: Optional[dict] = None) -> nn.Module:
    """Build a classifier, detector or segmentor for inference, and load its weights.

    A stock backbone is grown as the ``AdapterInjectionHook`` of the config says; where the config
    has none, as the hook did in the training that wrote the checkpoint, which tells it. Of a
    ``DistilledClassifier`` the student is built. Weights that the config itself names
    (``init_cfg``, ``load_from``) are not loaded. A checkpoint of a training with EMA holds the
    averaged weights under 'state_dict', so they are what is loaded.

    The model also serves mmdet's ``inference_detector``, mmseg's ``inference_model`` and
    mmpretrain's ``ImageClassificationInferencer``.

    Args:
        config (str | Path | Config): A config file, a name within a package such as
            ``'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py'``, or a config.
        checkpoint (str, optional): The weights: a file or URL of any format that the config's
            model can start from, whole or a delta. None leaves the weights random, with a
            warning. Defaults to None.
        device (str, optional): Where the model goes, such as 'cpu' or 'cuda:0'. None is the GPU
            if there is one that the model can use: detectors and segmentors need mmcv's ops built
            for it. Defaults to None.
        base (str, optional): Of a delta the base, its folder or its URL, where it is not found by
            itself. Defaults to None.
        cfg_options (dict, optional): Values by dotted key that replace those of the config.
            Defaults to None.

    Returns:
        nn.Module: The model in eval mode. ``model.cfg`` is its config, ``model.dataset_meta`` a
        dict with 'classes' (None where nobody names them) and 'palette'.

    Raises:
        ConfigError: If the config is not there, of no known task, or contradicts itself; or the
            device is not there.
        CheckpointError: If the checkpoint or a delta's base is not there, is damaged, of another
            architecture, or lacks the head.
        GrowthError: If growth does not fit the backbone.
    """
    cfg, name = read_config(config)
    if cfg_options:
        merge_cfg_options(cfg, cfg_options)
    task = task_of(cfg, name)
    check_growth(cfg)
    check_toolbox(cfg)
    check_model(cfg)
    device = choose_device(device, cfg.default_scope)
    content = None
    if checkpoint is not None:
        checkpoint = os.fspath(checkpoint)
        if base is not None:
            add_base(base)
        check_checkpoint(osp.expanduser(checkpoint), 'checkpoint')
        content = CheckpointLoader.load_checkpoint(osp.expanduser(checkpoint), map_location='cpu')
        if apply_stored_growth(cfg, checkpoint, content):
            print_log(f'the backbone is grown as {checkpoint} says: the config grows nothing',
                      logger='current')

    # weights that are drawn and then replaced leave the program's random numbers as they were
    drawn_apart = torch.random.fork_rng(devices=[], enabled=content is not None)
    with DefaultScope.overwrite_default_scope(cfg.default_scope), drawn_apart:
        model = _build(cfg, name, task)
        if content is None:
            with quiet():
                model.init_weights()
            print_log('no checkpoint: the weights are random, and results mean nothing',
                      logger='current', level=logging.WARNING)
        else:
            _load(model, content, checkpoint)
        meta = find_dataset_meta(cfg, content, _number_of_classes(model))
    model.dataset_meta = model._dataset_meta = meta
    # what the toolboxes' own functions for inference look for
    model.cfg = model._config = cfg
    model._metainfo = None
    return model.to(device).eval()


# --- config --------------------------------------------------------------------------------------


def read_config(config: Union[str, os.PathLike, Config]) -> tuple:
    """Read a config for inference.

    Args:
        config (str | Path | Config): See :func:`init_model`.

    Returns:
        tuple[Config, str]: A config that may be changed, and what to call it in messages.

    Raises:
        ConfigError: If it is not there or cannot be read.
    """
    if isinstance(config, Config):
        return copy.deepcopy(config), config.filename or 'the config'
    if not isinstance(config, (str, os.PathLike)):
        raise ConfigError('config must be a file, a name like '
                          "'mmdet::retinanet/retinanet_r50_fpn_1x_coco.py', or a Config, got "
                          f'{type(config).__name__}')
    name = os.fspath(config)
    if '::' not in name:
        return load_config(osp.expanduser(name)), name
    try:
        path, _ = Config._get_cfg_path(name, '')
    except ImportError as error:
        raise ConfigError(f'config {name!r}: {error}') from None
    except (AssertionError, ValueError, OSError, KeyError) as error:
        text = ' '.join(str(error).split()) or type(error).__name__
        raise ConfigError(f'config {name!r} is not found in that package: {text}') from None
    return load_config(path), name


def task_of(cfg: Config, name: str = 'the config') -> str:
    """Tell what a config's model is for.

    Args:
        cfg (Config): The config.
        name (str): Its name, for messages. Defaults to 'the config'.

    Returns:
        str: 'classification', 'detection' or 'segmentation'.

    Raises:
        ConfigError: If it has no model, or is for something else.
    """
    if not isinstance(cfg.get('model'), Mapping):
        raise ConfigError(f'{name} has no model')
    scope = cfg.get('default_scope')
    if scope not in TASKS:
        raise ConfigError(f'{name} has default_scope={scope!r}: inference is for configs of '
                          f'{", ".join(SCOPES)}')
    return TASKS[scope][0]


def _build(cfg, name, task):
    """nn.Module: The config's model, grown, with the weights that it is built with."""
    if not isinstance(student_cfg(cfg.model).get('backbone'), Mapping):
        raise ConfigError(f'{name} has no {student_key(cfg.model)}.backbone: inference is for '
                          'classifiers, detectors and segmentors that have one')
    model_cfg = without_pretrained(plain_cfg(cfg.model))
    if cfg.get('data_preprocessor') is not None:  # as the Runner does
        model_cfg.setdefault('data_preprocessor', copy.deepcopy(cfg.data_preprocessor))
    with quiet():
        model = MODELS.build(model_cfg)
    wanted = TASKS[cfg.default_scope][1]
    if not any(cls.__name__ == wanted for cls in type(model).__mro__):
        raise ConfigError(f'{name} builds a {type(model).__name__}, which is no model for {task} '
                          f'(no {wanted} of {cfg.default_scope})')
    hook = injection_hook(cfg)
    if hook is not None:
        grow_as_hook(model, hook)
        speed_up(model)  # as the hook does: the same rounding as in a test
    return revert_sync_batchnorm(model)  # it needs several processes on GPUs


def _load(model, content, name):
    """Load a checkpoint into a model that it must fill."""
    report = adapt_checkpoint(model, content, name)
    lacking = report.lacking
    if lacking:
        raise CheckpointError(
            f'{name} does not hold the head of this model, without which its results mean '
            f'nothing: {len(lacking)} of its tensors are missing or of other classes, such as '
            f'{lacking[0]}. Name a checkpoint of the whole model, or the config that it was '
            'trained by')
    report.initialised.pop('of the head', None)  # of auxiliary ones, which serve training alone
    if any(report.initialised.values()):
        with quiet():
            model.init_weights()
        fresh = ', '.join(f'{len(keys)} {what}' for what, keys in report.initialised.items())
        print_log(f'{name} is not of the grown model; as in a new one are: {fresh}',
                  logger='current', level=logging.WARNING)
    model.load_state_dict(content['state_dict'], strict=False)


# --- classes -------------------------------------------------------------------------------------


def find_dataset_meta(cfg: Config, checkpoint: Any, number: Optional[int] = None) -> dict:
    """Find the names and colours of classes.

    Names are those of the checkpoint, else of the config's test data set, else of its class;
    those that are not as many as the model has classes are passed over. Colours are the config's
    before the checkpoint's, as in mmdet.

    Args:
        cfg (Config): The config.
        checkpoint (Any): What the checkpoint holds; None without one.
        number (int, optional): How many classes the model has, if it tells. Defaults to None.

    Returns:
        dict: 'classes' (tuple[str] | None) and 'palette' (list | str).
    """
    stored = checkpoint.get('meta') if isinstance(checkpoint, Mapping) else None
    stored = stored if isinstance(stored, Mapping) else {}
    of_file = stored.get('dataset_meta')
    of_file = {str(k).lower(): v for k, v in of_file.items()} \
        if isinstance(of_file, Mapping) else {}
    if 'CLASSES' in stored:  # files of the generation before
        of_file.setdefault('classes', stored['CLASSES'])
        of_file.setdefault('palette', stored.get('PALETTE'))
    of_config, of_class = _metainfo_of_data(cfg)
    found: Dict[str, Any] = {}
    for key, order in (('classes', (of_file, of_config, of_class)),
                       ('palette', (of_config, of_file, of_class))):
        for source in order:
            value = source.get(key)
            # a text: of classes a file of their names, of a data set that is not here
            if not isinstance(value, (list, tuple) if key == 'classes' else (list, tuple, str)):
                continue
            names = found.get('classes')
            wanted = number if key == 'classes' else names and len(names)
            if len(value) and (
                    isinstance(value, str) or wanted is None or len(value) == wanted):
                found[key] = value
                break
    classes = found.get('classes')
    return dict(classes=tuple(map(str, classes)) if classes is not None else None,
                palette=found.get('palette', 'random'))


def _metainfo_of_data(cfg):
    """tuple[dict, dict]: What the config's test data says of its classes, and what its class."""
    for loader_key, loader in iter_dataloaders(cfg, 'test'):
        for _, dataset in iter_datasets(loader.get('dataset'), loader_key):
            own = dataset.get('metainfo')
            own = {str(k).lower(): v for k, v in own.items()} if isinstance(own, Mapping) else {}
            if isinstance(dataset.get('classes'), (list, tuple)):  # mmpretrain's way
                own.setdefault('classes', dataset['classes'])
            kind = dataset.get('type')
            with DATASETS.switch_scope_and_registry(cfg.get('default_scope')) as registry:
                kind = registry.get(kind) if isinstance(kind, str) else kind
            theirs = getattr(kind, 'METAINFO', None) if inspect.isclass(kind) else None
            return own, {str(k).lower(): v for k, v in (theirs or {}).items()}
    return {}, {}


def _number_of_classes(model):
    """int | None: How many classes a model tells apart, if its head tells."""
    for path in ('head', 'decode_head', 'bbox_head', 'roi_head.bbox_head', 'panoptic_head'):
        part = model
        for name in path.split('.'):
            part = getattr(part, name, None)
        if isinstance(part, nn.ModuleList) and len(part):
            part = part[-1]
        number = getattr(part, 'num_classes', None)
        if isinstance(number, int):
            return number
    return None


# --- device --------------------------------------------------------------------------------------


def choose_device(name: Optional[str], scope: str) -> str:
    """Choose the device.

    Args:
        name (str, optional): What the user asks for; None for a GPU where the model can use one.
        scope (str): The config's toolbox.

    Returns:
        str: The device.

    Raises:
        ConfigError: If it is not there.
    """
    if name is not None:
        try:
            torch.empty(0, device=name)
        except (RuntimeError, AssertionError) as error:
            raise ConfigError(f'device {str(name)!r}: {str(error).splitlines()[0]}') from None
        if torch.device(name).type == 'meta':
            raise ConfigError("device 'meta' computes nothing: name another")
        return str(name)
    if not torch.cuda.is_available():
        return 'cpu'
    if scope != 'mmpretrain' and not _ops_run_on_gpus():
        print_log('there is a GPU, but the ops of mmcv were built for the CPU only: the model runs '
                  'on the CPU (`python tools/check_env.py` tells how to build them)',
                  logger='current', level=logging.WARNING)
        return 'cpu'
    return 'cuda'


def _ops_run_on_gpus():
    """Whether mmcv's ops were built with CUDA."""
    try:
        from mmcv.ops import get_compiling_cuda_version
        return get_compiling_cuda_version() not in ('', 'not available')
    except (ImportError, OSError, RuntimeError):
        return False
