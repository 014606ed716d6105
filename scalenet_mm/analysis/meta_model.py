"""The model that a config describes, without data."""
import copy

import torch
import torch.nn as nn
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from ..backbones import grow_backbone
from ..backbones.base import GrowableBackbone
from ..errors import ConfigError
from ..growth import apply_freezing, growth_of
from .flops import as_meta


def build_on_meta(cfg: Config) -> nn.Module:
    """Build a config's model on the device 'meta': nothing is computed, loaded or downloaded.

    Args:
        cfg (Config): A config of mmpretrain, mmdet or mmseg.

    Returns:
        nn.Module: The model, grown and frozen as its ``AdapterInjectionHook`` says, if it has one.

    Raises:
        ConfigError: If the config has no model.
        GrowthError: If growth or freezing does not fit the model.
    """
    if cfg.get('model') is None:
        raise ConfigError('the config has no model')
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    try:
        with torch.device('meta'):
            model = MODELS.build(copy.deepcopy(cfg.model))
    except (NotImplementedError, RuntimeError):
        # stock backbones read drop path rates off a tensor, which 'meta' does not have
        model = as_meta(MODELS.build(copy.deepcopy(cfg.model)))
    for hook in cfg.get('custom_hooks') or []:
        if hook.get('type') != 'AdapterInjectionHook':
            continue
        growth, adjustment = hook.get('growth', 'paper'), hook.get('adjustment', 'paper')
        stock = not isinstance(model.backbone, GrowableBackbone) and not any(
            True for _ in growth_of(model.backbone))
        if stock and not (growth is None and adjustment is None):
            grow_backbone(model.backbone, growth, adjustment, hook.get('targets'), probe=False)
        if hook.get('freeze', 'paper') is not None:
            apply_freezing(model, hook.get('freeze', 'paper'))
    return model
