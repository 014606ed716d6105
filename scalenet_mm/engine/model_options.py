"""Names and values in a model's config that can't be meant, found before a folder is made."""
import difflib
import inspect
from copy import deepcopy
from typing import Any, Iterator, Optional, Tuple

import torch
from mmengine.config import Config
from mmengine.registry import HOOKS, MODELS, Registry

from scalenet_mm.analysis.meta_model import injection_hook
from scalenet_mm.backbones.base import GrowableBackbone
from scalenet_mm.engine.scopes import type_name
from scalenet_mm.errors import ConfigError, ScaleNetError
from scalenet_mm.growth import AdjustmentSpec, GrowthSpec
from scalenet_mm.growth.freezing import PRESETS, resolve_rules
from scalenet_mm.optim import check_layer_decay
from scalenet_mm.utils.model_cfg import is_distilled, student_cfg, student_key

#: What takes growth options in a config.
GROWING = ('ScaleNetSwin', 'ScaleNetViT', 'GrownBackbone', 'AdapterInjectionHook')


def check_growth(cfg: Config) -> None:
    """Check the options of growth, adjustment and freezing, wherever a config has them.

    Args:
        cfg (Config): The config with all options applied.

    Raises:
        GrowthError: If an option is unknown or has a value that no model could take.
    """
    for _, place, _ in _places(cfg):
        if type_name(place) not in GROWING:
            continue
        for key, spec in (('growth', GrowthSpec), ('adjustment', AdjustmentSpec)):
            if isinstance(place.get(key), dict):
                spec.from_cfg(place[key])
        freeze = place.get('freeze')
        for item in [freeze] if isinstance(freeze, str) else freeze or ():
            if isinstance(item, str) and item not in PRESETS:
                resolve_rules(item, ())  # says so


def check_model(cfg: Config) -> None:
    """Check names and values of the model, its backbone and this package's hooks.

    A backbone that grows is built without memory (on the 'meta' device), as what its blocks can't
    take shows only there. The toolbox must be installed.

    Args:
        cfg (Config): The config with all options applied.

    Raises:
        ConfigError: If a type or one of its arguments is unknown, or an argument can't be honoured.
        GrowthError: If growth or adjustment does not fit the backbone.
    """
    scope = cfg.get('default_scope') or 'mmengine'
    for key, place, registry in _places(cfg):
        with registry.switch_scope_and_registry(scope) as registry:
            _check_arguments(key, place, registry, scope)
    with MODELS.switch_scope_and_registry(scope) as registry:
        _check_grown(cfg, registry)


def check_optimizer(cfg: Config) -> None:
    """Check a constructor for layer-wise learning rates against the backbone.

    Args:
        cfg (Config): The config with all options applied.

    Raises:
        ConfigError: If it cannot read the names of this backbone, or lacks its rate.
    """
    backbone = (student_cfg(cfg.get('model')) or {}).get('backbone')
    if not isinstance(backbone, dict):
        return
    hook = _injection(cfg) or dict(growth=None)
    growing = backbone if type_name(backbone) in GROWING else hook
    base = backbone.get('base') if type_name(backbone) == 'GrownBackbone' else backbone
    with MODELS.switch_scope_and_registry(cfg.get('default_scope') or 'mmengine') as registry:
        target = _look_up(base or {}, registry)
    name = getattr(target, '__name__', type_name(base))
    check_layer_decay(cfg.get('optim_wrapper'), name, growing.get('growth', 'paper') is not None)


def _places(cfg: Config) -> Iterator[Tuple[str, dict, Registry]]:
    """Yield config key, config and registry of what is checked."""
    model = cfg.get('model') or {}
    yield 'model', model, MODELS
    top = student_key(model)
    if is_distilled(model):
        for name in ('student', 'teacher'):
            if isinstance(model.get(name), dict):
                yield f'model.{name}', model[name], MODELS
        model = student_cfg(model)
    for key in (f'{top}.backbone', f'{top}.backbone.base'):
        model = model.get(key.split('.')[-1])
        if not isinstance(model, dict):
            break
        yield key, model, MODELS
    for i, hook in enumerate(cfg.get('custom_hooks') or []):
        if type_name(hook) in GROWING:
            yield f'custom_hooks.{i}', hook, HOOKS


def _look_up(place: dict, registry: Registry) -> Any:
    kind = place.get('type')
    return registry.get(kind) if isinstance(kind, str) else kind


def _check_arguments(key: str, place: dict, registry: Registry, scope: str) -> None:
    """Refuse a type that is not registered, and arguments that it does not take."""
    if place.get('type') is None:
        return
    target = _look_up(place, registry)
    if target is None:
        names = set(registry.module_dict)
        while registry.parent is not None:
            registry = registry.parent
            names |= set(registry.module_dict)
        where = f' in {scope}' if scope != 'mmengine' else ' (the config has no default_scope)'
        raise ConfigError(f'{key}.type={place["type"]!r} is not registered{where}' +
                          _suggest(place['type'], names))
    try:
        parameters = inspect.signature(target).parameters
    except (TypeError, ValueError):
        return
    if any(p.kind is p.VAR_KEYWORD for p in parameters.values()):
        return
    taken = [name for name in parameters if name != 'self']
    # what mmengine takes for itself, the latter of hooks
    unknown = [name for name in place if name not in (*taken, 'type', '_scope_', 'priority')]
    if unknown:
        near = _suggest(unknown[0], taken)
        if is_distilled(place) and unknown[0] in ('backbone', 'neck', 'head', 'train_cfg'):
            near = f'; it is one of its student: {key}.student.{unknown[0]}'
        raise ConfigError(
            f'{key}: {getattr(target, "__name__", target)} has no argument '
            f'{", ".join(map(repr, unknown))}{near} (it takes {", ".join(taken)})')


def _suggest(word: str, names: Any) -> str:
    near = difflib.get_close_matches(word, sorted(names), n=1)
    return f'; did you mean {near[0]!r}?' if near else ''


def _check_grown(cfg: Config, registry: Registry) -> None:
    """Build the backbone on 'meta', grown as its own arguments or the hook's say."""
    backbone = (student_cfg(cfg.get('model')) or {}).get('backbone')
    if not isinstance(backbone, dict):
        return
    built, key = backbone, f'{student_key(cfg.model)}.backbone'
    target = _look_up(backbone, registry)
    if type_name(backbone) != 'GrownBackbone' and not (
            inspect.isclass(target) and issubclass(target, GrowableBackbone)):
        hook = _injection(cfg)
        if hook is None:
            return
        built = dict(hook, type='GrownBackbone', base=backbone)
    for name in ('drop_path_rate', 'drop_rate', 'attn_drop_rate'):
        rate = backbone.get(name, 0) if built is backbone else 0
        if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0 <= rate < 1:
            raise ConfigError(f'{key}.{name} must be a number in [0, 1), got {rate!r}')
    try:
        with torch.device('meta'):
            registry.get(built['type'])(**deepcopy(
                {k: v for k, v in built.items() if k not in ('type', '_scope_')}))
    except ScaleNetError as error:
        if built is backbone:
            raise type(error)(f'{key}: {error}') from None
        raise type(error)(f'custom_hooks: AdapterInjectionHook: {error}') from None
    except Exception:  # on 'meta' alone, perhaps; the Runner builds it again and shows it
        return


def _injection(cfg: Config) -> Optional[dict]:
    """dict | None: What the config's AdapterInjectionHook does to a stock backbone."""
    hook = injection_hook(cfg)
    if hook is None:
        return None
    given = {k: hook.get(k, default) for k, default in (
        ('growth', 'paper'), ('adjustment', 'paper'), ('targets', None))}
    return given if any(given[k] is not None for k in ('growth', 'adjustment')) else None
