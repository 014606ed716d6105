"""Save checkpoints that hold what the training changed, and no more."""
from typing import Optional

import torch
from mmengine.dist import broadcast_object_list, is_main_process
from mmengine.hooks import CheckpointHook, Hook
from mmengine.registry import HOOKS

from ..checkpoints.base_files import BaseFile, find_base, open_base
from ..checkpoints.delta import (
    LEAST_USED,
    MERGED,
    describe_growth,
    find_origins,
    make_delta,
    used_part,
)
from ..errors import CheckpointError, ConfigError, ScaleNetError
from .adapter_injection_hook import unwrap
from .checkpoint_hook import SafeCheckpointHook, secure_checkpoints


@HOOKS.register_module()
class DeltaCheckpointHook(Hook):
    """Turn every checkpoint that a training saves into a delta.

    A delta holds the trained parameters and whatever else differs from the file that the training
    started from, its base, and names that file and its hash. It is loaded and resumed from as any
    checkpoint is, as long as the base is found (:func:`find_base`). It serves all the ways in
    which ``CheckpointHook`` saves: at intervals, the best, the last and published ones; with
    averaged weights (EMA) too. Those that a training resumes from keep the optimizer's state.

    Args:
        base (str, optional): The file that the training starts from: a path, URL or name of a
            model zoo. If None it is the base of the delta that is resumed from or that
            ``load_from`` names; else the file that ``load_from`` names; else that of the
            backbone's or the model's ``init_cfg``. Defaults to None.

    Raises:
        ConfigError: Before training, if there is no base, next to nothing of it stays as it is, or
            there are two of these hooks.
    """

    priority = 'LOWEST'  # after the hooks that add to a checkpoint or change it

    def __init__(self, base: Optional[str] = None):
        self._given = base
        self._merged = None  # the manifest of the delta that was loaded
        self._base: Optional[BaseFile] = None
        self._trained: list = []
        self._growth = None

    def before_run(self, runner) -> None:
        """Make published files deltas, too."""
        secure_checkpoints(runner)

    def after_load_checkpoint(self, runner, checkpoint) -> None:
        """Remember the base of a delta."""
        self._merged = (checkpoint.get('meta') or {}).get(MERGED)

    def before_train(self, runner) -> None:
        """Find the base, and say how much of it need not be saved."""
        if sum(isinstance(hook, DeltaCheckpointHook) for hook in runner.hooks) > 1:
            raise ConfigError('DeltaCheckpointHook: there are two of them; leave one')
        for hook in runner.hooks:
            if isinstance(hook, CheckpointHook) and hook.published_keys is not None \
                    and not isinstance(hook, SafeCheckpointHook):
                raise ConfigError(
                    f'DeltaCheckpointHook: {type(hook).__name__} publishes whole files; use '
                    "type='SafeCheckpointHook' (or 'CheckpointHook', which becomes it), or remove "
                    'published_keys')
        failed: list = [None]
        if is_main_process():
            try:
                self._open_base(runner)
            except ScaleNetError as error:  # all processes must hear of it
                failed[0] = error
        broadcast_object_list(failed)
        if failed[0] is not None:
            raise failed[0]

    def before_save_checkpoint(self, runner, checkpoint) -> None:
        """Leave out what the base gives."""
        if self._base is None:
            raise CheckpointError('DeltaCheckpointHook: there is no base before training begins')
        make_delta(checkpoint, self._base, self._trained, self._growth)

    def _open_base(self, runner):
        model = unwrap(runner.model)
        self._base = self._find_base(runner, model)
        self._trained = [name for name, p in model.named_parameters() if p.requires_grad]
        self._growth = describe_growth(model)
        state = model.state_dict()
        origins = find_origins(state, self._base, self._trained)
        if used_part(origins, self._base) < LEAST_USED:
            raise ConfigError(
                f'DeltaCheckpointHook: a delta to {self._base.path} would be no smaller: '
                f'{len(origins)} of the {len(state)} tensors of the model are there and do not '
                'train. Freeze something by the AdapterInjectionHook, name the right base, or '
                'remove the DeltaCheckpointHook')
        own = sum(value.numel() * value.element_size() for key, value in state.items()
                  if key not in origins and isinstance(value, torch.Tensor))
        whole = self._base.identity['bytes']
        runner.logger.info(
            f'DeltaCheckpointHook: the base is {self._base.source} (SHA-256 '
            f'{self._base.identity["sha256"]}); {len(origins)} of {len(state)} tensors are left '
            f'out, {own / 1e6:.1f} MB of weights are saved, {own / whole:.1%} of the base\'s size')

    def _find_base(self, runner, model):
        if self._given is not None:
            return open_base(self._given)
        loaded = str(runner._load_from or '')
        if self._merged is not None:
            try:
                return find_base(self._merged['base'], loaded or 'the checkpoint')
            except CheckpointError:
                # a delta that was made whole can do without its base, if it becomes one
                if runner._resume:
                    raise
        if loaded and not runner._resume:
            return open_base(loaded)
        for module in (model.backbone, model) if hasattr(model, 'backbone') else (model, ):
            cfgs = getattr(module, 'init_cfg', None) or []
            for cfg in [cfgs] if isinstance(cfgs, dict) else cfgs:
                if cfg.get('type') in ('Pretrained', 'PretrainedInit') and cfg.get('checkpoint'):
                    return open_base(cfg['checkpoint'])
        raise ConfigError(
            'DeltaCheckpointHook: the training starts from no file that deltas could refer to. '
            'Name it by load_from, by init_cfg of the backbone, or as base of the hook'
            + (', if you resume a training that saved whole checkpoints' if runner._resume else '')
            + '; a model that is trained from scratch has none: remove the hook')
