"""Grow, freeze and check a model before it trains."""
import copy
import functools
import gc
from collections.abc import Sequence
from contextlib import contextmanager
from typing import Any, Optional, Union

import torch.nn as nn
import torch.utils.checkpoint as cp
from mmengine.dist import is_main_process
from mmengine.hooks import Hook
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.optim import OptimWrapper
from mmengine.registry import HOOKS
from mmengine.runner import find_latest_checkpoint

from ..analysis import parameter_table
from ..backbones.base import GrowableBackbone
from ..backbones.grown_backbone import grow_backbone
from ..checkpoints.adapt import adapt_checkpoint
from ..checkpoints.tracker import LoadTracker
from ..errors import CheckpointError, ConfigError
from ..growth import (
    adjusted_linears,
    apply_freezing,
    check_ties,
    frozen_batchnorms,
    growth_of,
    speed_up,
)
from ..optim import check_layer_decay
from ..utils.model_cfg import student_cfg, student_key
from .checkpoint_hook import secure_checkpoints
from .class_check import check_classes, check_labels, labels_of_heads, labels_of_metrics


@HOOKS.register_module()
class AdapterInjectionHook(Hook):
    """Grow a stock model, freeze by rules, and check that all is as it should be.

    In the ``custom_hooks`` of a stock config of mmpretrain, mmdet or mmseg it grows and adapts
    the backbone. With a backbone that is grown already (``ScaleNetSwin``, ``ScaleNetViT``,
    ``GrownBackbone``) it only freezes and checks.

    It runs before all other hooks, and after a change wraps the model for distributed training
    anew and rebuilds optimizer and schedulers: a parameter that changes behind DDP's back is never
    reduced, and the processes drift apart in silence. What it did to a stock backbone is written
    into the config (as ``GrownBackbone``), which is saved beside and within checkpoints.

    It also

    - brings a checkpoint of any format to the model's names, says in one line what matched, and
      refuses one of another architecture;
    - refuses a frozen parameter that came from no file, a data set whose classes are not the
      head's, and label maps with labels that are no classes;
    - keeps BatchNorms with frozen parameters in eval mode;
    - makes checkpoints safe, see :class:`SafeCheckpointHook`;
    - turns mmengine's ``activation_checkpointing`` on without reentrant autograd, with which
      adapters behind a frozen input would get no gradient.

    Args:
        targets (str | Sequence[str], optional): Which lists of blocks of a stock backbone to
            grow, see :func:`find_block_lists`; all that are found if None. Defaults to None.
        growth (str | dict | None): What to repeat in a stock backbone, see
            :func:`grow_backbone`. Defaults to 'paper'.
        adjustment (str | dict | None): What each of its blocks gets, see :func:`grow_backbone`.
            Defaults to 'paper'.
        freeze (str | dict | Sequence | None): What trains, see :func:`resolve_rules`; None leaves
            everything as it is. Defaults to 'paper'.
        require_loaded (bool): Whether a frozen parameter that came from no file is an error.
            Defaults to True.

    Raises:
        ConfigError: If options contradict the model.
        GrowthError: If growth or freezing does not fit the model.
    """

    priority = 'HIGHEST'

    def __init__(self,
                 targets: Union[str, Sequence, None] = None,
                 growth: Union[str, dict, None] = 'paper',
                 adjustment: Union[str, dict, None] = 'paper',
                 freeze: Union[str, dict, Sequence, None] = 'paper',
                 require_loaded: bool = True):
        self.targets = targets
        self.growth = growth
        self.adjustment = adjustment
        self.freeze = freeze
        self.require_loaded = require_loaded
        self._trains = False
        self._tracker: Optional[LoadTracker] = None
        self._batchnorms: list = []
        self._labels: set = set()
        self._activation_checkpointing = None

    def before_run(self, runner) -> None:
        """Grow, freeze, wrap and rebuild; and check what needs no weights."""
        _check_runner(runner)
        secure_checkpoints(runner)
        model: Any = unwrap(runner.model)
        if not isinstance(getattr(model, 'backbone', None), nn.Module):
            raise ConfigError(f'AdapterInjectionHook: {type(model).__name__} has no backbone; the '
                              'hook serves classifiers, detectors and segmentors that have one')
        self._trains = isinstance(runner.optim_wrapper, OptimWrapper)
        for dataset in _datasets(runner, self._trains):
            check_classes(model, dataset)
        checkpointed = runner.cfg.get('activation_checkpointing') if self._trains else None
        if checkpointed is not None:
            _find_modules(model, checkpointed)

        # once a model: before_run comes with train, val and test
        prepared = getattr(model, '_scalenet_prepared', False)
        if not prepared:
            self._inject(runner, model)
            speed_up(model)  # the heads too: nothing changes but the rounding
            lines = [] if self.freeze is None else apply_freezing(model, self.freeze)
            check_ties(model)
            model._scalenet_prepared = True
            self._rewrap(runner)
            for line in lines:
                runner.logger.info(f'AdapterInjectionHook: {line}')
            runner.logger.info(parameter_table(model))
        if self._tracker is None or self._tracker.model is not model:
            self._tracker = LoadTracker(model)
        if self._trains:
            _check_frozen_stages(model, _backbone_key(runner))
            self._rebuild_optimizer(runner, model)
            # taken over, see _turn_on_activation_checkpointing
            self._activation_checkpointing = checkpointed
            if checkpointed is not None:
                runner.cfg['activation_checkpointing'] = None

    def after_load_checkpoint(self, runner, checkpoint) -> None:
        """Bring the checkpoint to the model's names, or refuse it."""
        name = runner._load_from
        if name is None and runner._resume:
            name = find_latest_checkpoint(runner.work_dir)
        name = str(name or 'the checkpoint')
        report = adapt_checkpoint(
            unwrap(runner.model), checkpoint, name, strict=bool(runner._resume))
        lacking = report.lacking
        if lacking and not self._trains:
            raise CheckpointError(
                f'{name} does not hold the head that is to be tested: {len(lacking)} of its '
                f'tensors are missing or of other classes, such as {lacking[0]}')

    def before_train(self, runner) -> None:
        """Check what was loaded; the weights are final now."""
        model = unwrap(runner.model)
        assert self._tracker is not None  # before_run made it
        self._tracker.stop()
        if self.require_loaded:
            self._tracker.check_frozen(model)
        self._batchnorms = frozen_batchnorms(model)
        self._labels = labels_of_heads(model)
        if self._activation_checkpointing is not None:
            runner.cfg['activation_checkpointing'] = self._activation_checkpointing
            _turn_on_activation_checkpointing(model, self._activation_checkpointing)

    def before_train_iter(self, runner, batch_idx, data_batch=None) -> None:
        """Keep frozen BatchNorms in eval mode: both kinds of loop set the mode before this."""
        for module in self._batchnorms:
            module.eval()
        check_labels(data_batch, self._labels)

    def before_val_iter(self, runner, batch_idx, data_batch=None) -> None:
        """Check the labels that are to be counted."""
        check_labels(data_batch, labels_of_metrics(getattr(runner.val_loop, 'evaluator', None)))

    def before_test_iter(self, runner, batch_idx, data_batch=None) -> None:
        """Check the labels that are to be counted."""
        check_labels(data_batch, labels_of_metrics(getattr(runner.test_loop, 'evaluator', None)))

    def _inject(self, runner, model):
        backbone = model.backbone
        key = _backbone_key(runner)
        grown = isinstance(backbone, GrowableBackbone) or any(True for _ in growth_of(backbone))
        if isinstance(backbone, GrowableBackbone):
            given = {'targets': (self.targets, None), 'growth': (self.growth, 'paper'),
                     'adjustment': (self.adjustment, 'paper')}
            wrong = [name for name, (value, default) in given.items() if value != default]
            if wrong:
                raise ConfigError(
                    f'AdapterInjectionHook: {", ".join(wrong)} cannot be given for a '
                    f'{type(backbone).__name__}, which grows by its own arguments: set them in '
                    f'{key}')
        if grown:
            given = dict(growth=self.growth, adjustment=self.adjustment, targets=self.targets)
            paper = dict(growth='paper', adjustment='paper', targets=None)
            if given not in (paper, getattr(backbone, 'grown_by', paper)):
                raise ConfigError(
                    f'AdapterInjectionHook: the backbone was grown by {backbone.grown_by}, which '
                    f'is not what the hook says: {given}. Change {key}, too, or start from the '
                    'stock config')
            return
        # None is what the hook's user asks to leave the blocks alone
        if self.growth is None and self.adjustment is None:
            return
        grow_backbone(backbone, self.growth, self.adjustment, self.targets)
        self._write_config(runner)

    def _write_config(self, runner):
        cfg = runner.cfg.get('model')
        cfg = student_cfg(cfg.get('module', cfg)) if cfg is not None else None
        if cfg is None or 'backbone' not in cfg:
            return
        base = cfg['backbone']
        cfg['backbone'] = dict(
            type='GrownBackbone',
            base=base,
            growth=copy.deepcopy(self.growth),
            adjustment=copy.deepcopy(self.adjustment),
            targets=copy.deepcopy(self.targets))
        imports = runner.cfg.get('custom_imports') or dict(imports=[])
        names = imports.get('imports', [])
        names = [names] if isinstance(names, str) else list(names)
        if 'scalenet_mm' not in names:
            imports['imports'] = [*names, 'scalenet_mm']
            runner.cfg['custom_imports'] = imports
        if is_main_process():
            runner.dump_config()

    @staticmethod
    def _rewrap(runner):
        """Wrap for distributed training anew: DDP looks at parameters only when it is made."""
        if not is_model_wrapper(runner.model):
            return
        inner = runner.model.module
        wrapper_cfg = copy.deepcopy(runner.cfg.get('model_wrapper_cfg'))
        runner.model = None
        gc.collect()  # the old reducer's autograd hooks go with it
        runner.model = runner.wrap_model(wrapper_cfg, inner)

    @staticmethod
    def _rebuild_optimizer(runner, model):
        """Rebuild optimizer and schedulers for the parameters that train now."""
        if runner.cfg.get('optim_wrapper') is None:
            raise ConfigError('AdapterInjectionHook: the Runner was built without a config, so '
                              'the optimizer cannot be rebuilt for the changed model; build it by '
                              'Runner.from_cfg')
        grown = any(not layer_map.is_identity for *_, layer_map in growth_of(model.backbone))
        check_layer_decay(runner.cfg.optim_wrapper, type(model.backbone).__name__, grown)
        with _frozen_in_one_line(runner.logger):
            runner.optim_wrapper = runner.build_optim_wrapper(runner.cfg.optim_wrapper)
        _exempt_gains_from_decay(runner.optim_wrapper.optimizer, model)
        # not built, as scale_lr demands
        runner.param_schedulers = copy.deepcopy(runner.cfg.get('param_scheduler'))
        runner.scale_lr(runner.optim_wrapper, runner.auto_scale_lr)
        if runner.param_schedulers is not None:
            runner.param_schedulers = runner.build_param_scheduler(runner.param_schedulers)


@contextmanager
def _frozen_in_one_line(logger):
    """Make one line of the warnings that mmengine's constructor of optimizers gives."""
    frozen = 0

    def keep(record):
        nonlocal frozen
        skipped = record.getMessage().endswith('is skipped since its requires_grad=False')
        frozen += skipped
        return not skipped

    logger.addFilter(keep)
    try:
        yield
    finally:
        logger.removeFilter(keep)
    if frozen:
        logger.info(f'{frozen} frozen tensors are left out of the optimizer')


def _check_runner(runner):
    """Refuse what cannot be grown safely."""
    if type(runner.model).__name__ == 'MMFullyShardedDataParallel':
        raise ConfigError('AdapterInjectionHook: the model is wrapped in FSDP, which splits the '
                          'tensors that repeats share. Use DDP, the default: remove '
                          'model_wrapper_cfg')
    if not hasattr(runner, 'wrap_model'):
        raise ConfigError(f'AdapterInjectionHook: {type(runner).__name__} leaves wrapping to a '
                          'strategy, which the hook cannot redo; use the Runner, the default: '
                          'remove runner_type')


def _datasets(runner, trains):
    """Yield the data sets of the loops that are built: those that this run uses."""
    if trains:
        yield runner.train_dataloader.dataset
    for loop in (runner._val_loop, runner._test_loop):
        dataloader = getattr(loop, 'dataloader', None)
        if dataloader is not None and not isinstance(loop, dict):
            yield dataloader.dataset


def _backbone_key(runner):
    """str: The config key of the backbone, for messages."""
    return f'{student_key(runner.cfg.get("model"))}.backbone'


def _check_frozen_stages(model, key):
    """Refuse a model that freezes again, in ``train()``, what the rules let train."""
    training = model.training
    before = {n: p.requires_grad for n, p in model.named_parameters()}
    model.train()
    changed = [n for n, p in model.named_parameters() if p.requires_grad != before[n]]
    model.train(training)
    if changed:
        raise ConfigError(
            f'AdapterInjectionHook: freeze lets {len(changed)} parameters train, such as '
            f'{changed[0]}, that the model freezes by itself: set frozen_stages=-1 in {key}, and '
            'let the rules say what is frozen')


def _exempt_gains_from_decay(optimizer, model):
    """Give gains groups of their own: decay would pull them, and so the base model, to zero."""
    gains = {id(linear.gain) for _, linear in adjusted_linears(model) if hasattr(linear, 'gain')}
    for group in list(optimizer.param_groups):
        exempt = [p for p in group['params'] if id(p) in gains]
        if not exempt or not group.get('weight_decay'):
            continue
        rest = [p for p in group['params'] if id(p) not in gains]
        if not rest:
            group['weight_decay'] = 0.
            continue
        group['params'] = rest
        optimizer.add_param_group({**group, 'params': exempt, 'weight_decay': 0.})


def unwrap(model: Any) -> nn.Module:
    """nn.Module: The model without its wrappers for distributed training and augmented tests."""
    while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
        model = model.module
    return model


def _find_modules(model, names):
    """list[nn.Module]: The modules that ``activation_checkpointing`` names."""
    modules = []
    for name in [names] if isinstance(names, str) else names:
        try:
            modules.append(model.get_submodule(name))
        except AttributeError:
            raise ConfigError(f'activation_checkpointing: the model has no {name!r}') from None
    return modules


def _turn_on_activation_checkpointing(model, names):
    """What mmengine does for ``activation_checkpointing``, without reentrant autograd."""
    for module in _find_modules(model, names):
        module.forward = functools.partial(cp.checkpoint, module.forward, use_reentrant=False)
