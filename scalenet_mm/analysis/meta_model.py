"""The model that a config describes, without data."""
from typing import Any, Optional

import torch
import torch.nn as nn
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from ..backbones import grow_backbone
from ..backbones.base import GrowableBackbone
from ..errors import ConfigError
from ..growth import apply_freezing, growth_of
from ..growth.grow import without_data
from ..utils.model_cfg import plain_cfg
from .quiet import quiet


def build_on_meta(cfg: Config) -> nn.Module:
    """Build a config's model on the device 'meta': nothing is computed, loaded or downloaded.

    Args:
        cfg (Config): A config of mmpretrain, mmdet or mmseg.

    Returns:
        nn.Module: The model, grown and frozen as its ``AdapterInjectionHook`` says, if it has one;
        of a ``DistilledClassifier`` the student.

    Raises:
        ConfigError: If the config has no model, or its toolbox is not installed.
        GrowthError: If growth or freezing does not fit the model.
    """
    from ..engine.preflight import check_toolbox  # which imports parts of this package itself
    if cfg.get('model') is None:
        raise ConfigError('the config has no model: name a config of a whole model')
    check_toolbox(cfg)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    with quiet():
        try:
            with torch.device('meta'):
                model = MODELS.build(plain_cfg(cfg.model))
        except (NotImplementedError, RuntimeError):
            # stock backbones read drop path rates off a tensor, which 'meta' does not have
            model = without_data(MODELS.build(plain_cfg(cfg.model)))
    hook = injection_hook(cfg)
    if hook is not None:
        grow_as_hook(model, hook, probe=False)
        if hook.get('freeze', 'paper') is not None:
            apply_freezing(model, hook.get('freeze', 'paper'))
    return model


def injection_hook(cfg: Config) -> Optional[dict]:
    """dict | None: A config's ``AdapterInjectionHook``."""
    for hook in cfg.get('custom_hooks') or []:
        kind = hook.get('type')  # a class, its name, or a name with the module's before it
        if getattr(kind, '__name__', str(kind)).split('.')[-1] == 'AdapterInjectionHook':
            return hook
    return None


def grow_as_hook(model: nn.Module, hook: dict, probe: bool = True) -> None:
    """Grow a stock model in place as the hook of its config would, without a Runner.

    A backbone that grows by its own arguments, or is grown already, is left as it is.

    Args:
        model (nn.Module): A classifier, detector or segmentor.
        hook (dict): Config of an ``AdapterInjectionHook``.
        probe (bool): See :func:`grow_backbone`. Defaults to True.

    Raises:
        GrowthError: If the backbone cannot be grown so.
    """
    backbone: Any = model.backbone
    if isinstance(backbone, GrowableBackbone) or any(True for _ in growth_of(backbone)):
        return
    growth, adjustment = (hook.get(key, 'paper') for key in ('growth', 'adjustment'))
    if growth is not None or adjustment is not None:
        grow_backbone(backbone, growth, adjustment, hook.get('targets'), probe)
