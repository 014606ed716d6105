"""From the options of a command line to the config that the Runner is built from."""
import copy
import difflib
import inspect
import os
import os.path as osp
import sys
from importlib.util import find_spec
from typing import Any, Iterable, Iterator, List, Optional, Tuple

from mmengine.config import Config
from mmengine.runner import Runner

from scalenet_mm.checkpoints.base_files import add_base
from scalenet_mm.checkpoints.files import check_resumable, find_newest_whole
from scalenet_mm.engine.distributed import is_local_main
from scalenet_mm.engine.scopes import SCOPES, Scope, get_scope, type_name
from scalenet_mm.errors import ConfigError

try:
    from mmengine.runner import FlexibleRunner
except ImportError:  # mmengine < 0.8.4 with torch < 2.0
    FlexibleRunner = Runner

# Top-level keys that mean something although no Runner takes them as an argument.
TOOL_KEYS = ('activation_checkpointing', 'auto_scale_lr', 'compile', 'custom_imports',
             'efficient_conv_bn_eval', 'env_cfg', 'find_unused_parameters', 'model_wrapper_cfg',
             'runner_type', 'sync_bn', 'tta_model', 'tta_pipeline')

#: The backend that writes TensorBoard's files.
TENSORBOARD = 'TensorboardVisBackend'

DATALOADERS = ('train_dataloader', 'val_dataloader', 'test_dataloader')


def known_keys() -> List[str]:
    """The top-level config keys that a Runner or the tools read."""
    names = set(TOOL_KEYS)
    for runner in (Runner, FlexibleRunner):
        names.update(inspect.signature(runner.__init__).parameters)
    return sorted(names - {'self', 'cfg'})


def load_config(path: str) -> Config:
    """Read a config file.

    Args:
        path (str): The file.

    Returns:
        Config: The config, bases merged and ``custom_imports`` imported.

    Raises:
        ConfigError: If the file or one of its bases isn't there, isn't a config by its name, or
            imports what can't be imported.
    """
    if not osp.isfile(path):
        folder, name = osp.split(path)
        raise ConfigError(f'config: no such file: {path!r}' + _suggest_file(folder, name))
    if not path.endswith(('.py', '.json', '.yaml', '.yml')):
        raise ConfigError(f'config: {path!r} is no .py, .json, .yaml or .yml file')
    try:
        return Config.fromfile(path)
    except FileNotFoundError as error:
        raise ConfigError(
            f'config: {path!r} inherits from a file that is not there: {error}') from error
    except ImportError as error:
        reasons = _reasons_of(error)
        absent = _find_absent_toolbox(reasons)
        if absent is not None:
            raise ConfigError(
                f'config: {path!r} builds on {absent.name}, which is not installed: pip install '
                f'{absent.package}; `python tools/check_env.py` tells which versions work '
                'together') from error
        # mmengine's own says which imports were asked for; the others, what failed and why
        why = ': '.join(map(str, reasons[1:] or reasons))
        raise ConfigError(f'config: {path!r} imports what cannot be imported: {why}. Install it, '
                          'or correct custom_imports.imports') from error


def _reasons_of(error: Optional[BaseException]) -> List[ImportError]:
    """A failed import and the failed imports behind it, to the first one that failed."""
    reasons = []
    while isinstance(error, ImportError):
        reasons.append(error)
        error = error.__cause__ or error.__context__
    return reasons


def _find_absent_toolbox(reasons: List[ImportError]) -> Optional[Scope]:
    """The toolbox whose absence failed imports tell of, as a base or as a module."""
    for reason in reasons:
        for scope in SCOPES.values():
            # not of a module of it: then it is there, and of another version
            absent = isinstance(reason, ModuleNotFoundError) and reason.name == scope.name
            if absent or any(str(reason).startswith(f'{name} is not installed')
                             for name in scope.distributions):
                return scope
    return None


def _suggest_file(folder: str, name: str) -> str:
    try:
        names = os.listdir(folder or '.')
    except OSError:
        return ''
    near = difflib.get_close_matches(name, names, n=3, cutoff=0.75)
    return '; did you mean ' + ' or '.join(osp.join(folder, n) for n in near) + '?' if near else ''


def merge_cfg_options(cfg: Config, options: dict) -> None:
    """Merge ``--cfg-options`` into a config.

    Args:
        cfg (Config): The config, changed in place.
        options (dict): Values by dotted key.

    Raises:
        ConfigError: If a key starts a tree that nothing reads (a misspelt ``train_dataloder``),
            or doesn't fit the structure of the config.
    """
    known = known_keys()
    readable = sorted(set(known) | set(cfg.keys()))
    for option in options:
        top = option.split('.')[0]
        if top not in readable:
            near = difflib.get_close_matches(top, readable, n=1)
            hint = (f'; did you mean {near[0] + option[len(top):]}?' if near else
                    ', and it is no key of the Runner either')
            raise ConfigError(f'--cfg-options {option}: the config has no {top!r}{hint}')
    for option, value in options.items():
        if option in cfg and option not in known:
            _note_plain_variable(cfg, option, value)
    try:
        cfg.merge_from_dict(options)
    except (KeyError, TypeError, ValueError, IndexError) as error:
        text = error.args[0] if error.args else error
        wrong = [option for option in options if not _merges(cfg, {option: options[option]})]
        if '_delete_=True' in str(text) and wrong:  # mmengine's words are for config files
            parent = wrong[0].rpartition('.')[0]
            text = (f'{parent} is no dict in the config; to replace it by one, add '
                    f'{parent}._delete_=True')
        raise ConfigError(
            f'--cfg-options {" ".join(wrong or options)}: does not fit the config: {text}'
        ) from error


def _merges(cfg: Config, options: dict) -> bool:
    try:
        copy.deepcopy(cfg).merge_from_dict(options)
    except (KeyError, TypeError, ValueError, IndexError):
        return False
    return True


def _note_plain_variable(cfg: Config, name: str, value: Any) -> None:
    # `data_root = ...; dataset = dict(data_root=data_root)`: once the file is read, the copies are
    # on their own, and an option that sets the variable changes nothing. A silent trap.
    old = cfg[name]
    copies = []
    if isinstance(old, str) and len(old) > 2 and value != old:
        copies = [key for key, leaf in _iter_leaves(cfg)
                  if key != name and isinstance(leaf, str) and leaf.startswith(old)]
    where = (': ' + ', '.join(copies)) if copies else ''
    print(
        f'note: --cfg-options {name}: a variable of the config file; keys that were computed from '
        f'it keep their values{where}. Set those keys themselves.',
        file=sys.stderr)


def _iter_leaves(cfg: Any, prefix: str = '') -> Iterator[Tuple[str, Any]]:
    items: Iterable = ()
    if isinstance(cfg, (dict, Config)):
        items = cfg.items()
    elif isinstance(cfg, (list, tuple)):
        items = enumerate(cfg)
    else:
        yield prefix, cfg
    for key, value in items:
        yield from _iter_leaves(value, f'{prefix}.{key}' if prefix else str(key))


def _set_work_dir(cfg: Config, args) -> None:
    if args.work_dir is not None:
        cfg.work_dir = args.work_dir
    elif cfg.get('work_dir') is None:
        stem = osp.splitext(osp.basename(args.config))[0]
        cfg.work_dir = osp.join('./work_dirs', stem)


def _set_dataloaders(cfg: Config, args, keys: Tuple[str, ...]) -> None:
    get_scope(cfg).set_dataloader_defaults(cfg, keys)
    for key in keys:
        if isinstance(cfg.get(key), dict):
            if args.no_pin_memory:
                cfg[key].pin_memory = False
            if getattr(args, 'no_persistent_workers', False):
                cfg[key].persistent_workers = False


def _drop_workers_options(cfg: Config, keys: Tuple[str, ...]) -> None:
    # torch refuses persistent_workers and prefetch_factor when there are no workers, so that
    # `train_dataloader.num_workers=0` alone would fail with most configs.
    for key in keys:
        loader: Any = cfg.get(key)
        if isinstance(loader, dict) and not loader.get('num_workers', 0):
            if loader.get('persistent_workers'):
                loader['persistent_workers'] = False
            loader.pop('prefetch_factor', None)


def build_train_cfg(cfg: Config, args) -> Config:
    """Apply the options of ``tools/train.py`` to a config.

    ``--cfg-options`` come after all other options but one: ``--resume`` decides by itself what is
    loaded, so that a command that sets ``load_from`` can be repeated with ``--resume`` added.

    Args:
        cfg (Config): The config, changed in place.
        args (argparse.Namespace): What :func:`parse_train_args` gave.

    Returns:
        Config: ``cfg``.

    Raises:
        ConfigError: If an option doesn't fit the config.
        CheckpointError: If the base is not there.
    """
    cfg.launcher = args.launcher
    if args.base is not None:
        add_base(args.base)
    _set_work_dir(cfg, args)
    if args.no_validate:
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
    if args.amp:
        _enable_amp(cfg)
    if args.delta:
        _save_deltas(cfg, args.base)
    if args.tensorboard:
        _log_to_tensorboard(cfg)
    if args.auto_scale_lr:
        cfg.auto_scale_lr = {**(cfg.get('auto_scale_lr') or {}), 'enable': True}
    _set_dataloaders(cfg, args, DATALOADERS)

    if args.cfg_options:
        merge_cfg_options(cfg, args.cfg_options)

    _check_tensorboard(cfg)
    _set_resume(cfg, args.resume)
    _drop_workers_options(cfg, DATALOADERS)
    scale = cfg.get('auto_scale_lr') or {}
    if scale.get('enable') and not scale.get('base_batch_size'):
        raise ConfigError(
            '--auto-scale-lr: the config has no auto_scale_lr.base_batch_size, the total batch '
            'size that its learning rate is meant for; give it, for example '
            '--cfg-options auto_scale_lr.base_batch_size=16')
    return cfg


def _save_deltas(cfg: Config, base) -> None:
    hooks = list(cfg.get('custom_hooks') or [])
    if 'DeltaCheckpointHook' in map(type_name, hooks):
        return
    hook = dict(type='DeltaCheckpointHook')
    if base is not None and not osp.isdir(osp.expanduser(base)):
        hook['base'] = osp.expanduser(base)
    cfg.custom_hooks = [*hooks, hook]


def _log_to_tensorboard(cfg: Config) -> None:
    # mmengine's own default, where a config has none
    visualizer = cfg.get('visualizer') or dict(
        type='Visualizer', vis_backends=[dict(type='LocalVisBackend')])
    backends = list(visualizer.get('vis_backends') or [])
    if TENSORBOARD not in map(type_name, backends):
        backends.append(dict(type=TENSORBOARD))
    cfg.visualizer = {**visualizer, 'vis_backends': backends}
    hooks = list(cfg.get('custom_hooks') or [])
    if 'GradientNormHook' not in map(type_name, hooks):
        cfg.custom_hooks = [*hooks, dict(type='GradientNormHook')]


def _check_tensorboard(cfg: Config) -> None:
    # mmengine finds out when the model is built
    backends = (cfg.get('visualizer') or {}).get('vis_backends') or []
    if TENSORBOARD in map(type_name, backends) and find_spec('tensorboard') is None:
        raise ConfigError('tensorboard is not installed, and the config, or --tensorboard, logs to '
                          'it: pip install tensorboard, or remove the TensorboardVisBackend from '
                          'visualizer.vis_backends')


def _enable_amp(cfg: Config) -> None:
    wrapper = cfg.get('optim_wrapper')
    if wrapper is None:
        raise ConfigError('--amp: the config has no optim_wrapper')
    kind = type_name(wrapper) or 'OptimWrapper'
    if kind not in ('OptimWrapper', 'AmpOptimWrapper'):
        raise ConfigError(
            f'--amp: it replaces an optim_wrapper of type OptimWrapper, but the config has {kind}')
    wrapper.type = 'AmpOptimWrapper'
    wrapper.setdefault('loss_scale', 'dynamic')


def _set_resume(cfg: Config, resume) -> None:
    if resume is None:
        return
    if resume != 'auto':
        cfg.resume, cfg.load_from = True, resume
        lacking = check_resumable(resume) if osp.isfile(resume) else []
        if lacking and is_local_main():
            print(f'note: --resume {resume}: it holds no {" and no ".join(lacking)}, which start '
                  'anew (a file saved as the best, or an extracted delta, is to start from: '
                  'load_from)', file=sys.stderr)
        return
    # mmengine would forget load_from even if there is nothing to resume from, and train from
    # random weights; a job that is always started with --resume must start from its pretrained
    # weights the first time.
    say = print if is_local_main() else (lambda line: None)
    latest = find_newest_whole(cfg.work_dir, say)
    cfg.resume = latest is not None
    if latest:
        cfg.load_from = latest


def build_test_cfg(cfg: Config, args) -> Config:
    """Apply the options of ``tools/test.py`` to a config, ``--cfg-options`` last.

    The checkpoint of the command line is the one that is tested, whatever they say.

    All but ``--tta`` and ``--out``, which change its structure: :func:`wrap_test_cfg` applies them.

    Args:
        cfg (Config): The config, changed in place.
        args (argparse.Namespace): What :func:`parse_test_args` gave.

    Returns:
        Config: ``cfg``.

    Raises:
        ConfigError: If an option doesn't fit the config.
        CheckpointError: If the base is not there.
    """
    cfg.launcher = args.launcher
    if args.base is not None:
        add_base(args.base)
    _set_work_dir(cfg, args)
    if args.amp:
        cfg.test_cfg = {**(cfg.get('test_cfg') or {}), 'fp16': True}
    if args.show or args.show_dir:
        get_scope(cfg).enable_visualization(cfg, args)
    _set_dataloaders(cfg, args, ('test_dataloader',))

    if args.cfg_options:
        merge_cfg_options(cfg, args.cfg_options)
    # not to be overridden: options taken over from a training command may name where it started
    cfg.load_from, cfg.resume = args.checkpoint, False

    _drop_workers_options(cfg, ('test_dataloader',))
    for key in ('test_dataloader', 'test_cfg', 'test_evaluator'):
        if cfg.get(key) is None:
            raise ConfigError(f'the config has no {key}: there is nothing to test')
    return cfg


def wrap_test_cfg(cfg: Config, args) -> Config:
    """Apply ``--tta``, which wraps the model, and ``--out``, which adds a metric.

    They come after ``--cfg-options`` and after the checks of the data, so that ``model.`` and
    ``test_evaluator.`` mean what the config file calls so, in options and in messages.

    Args:
        cfg (Config): What :func:`build_test_cfg` gave, changed in place.
        args (argparse.Namespace): What :func:`parse_test_args` gave.

    Returns:
        Config: ``cfg``.

    Raises:
        ConfigError: If the model can't be augmented, or the predictions not be saved so.
    """
    scope = get_scope(cfg)
    if args.out and args.out_item != 'metrics':
        scope.dump(cfg, args.out)
    if args.tta:
        scope.enable_tta(cfg)
    return cfg
