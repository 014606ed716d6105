"""The backbone that a checkpoint's own config describes, checked before it is built.

A config that a user names is a program that the user trusts. One that comes out of a file is none:
mmengine imports and calls whatever a ``type`` names, also ``os.system``. So only what is known to
be a part of a plain ViT is built from it, and nothing is looked up in a registry to find out.
"""
import re
from collections.abc import Mapping
from typing import Any

from ..errors import ConfigError
from ..utils.model_cfg import student_cfg

#: Where types may be looked up; mmengine imports a scope's package.
SCOPES = ('mmengine', 'mmpretrain', 'mmdet', 'mmseg')
#: What a learngene is taken from.
BACKBONES = ('ScaleNetViT', 'TLEGViT', 'VisionTransformer')
#: The one that has another in it.
GROWN = 'GrownBackbone'
#: What a ViT's config may name as 'type', 'conv_type' and the like.
TYPES = frozenset((
    'LN', 'LN2d', 'GN', 'BN', 'BN1d', 'BN2d', 'SyncBN', 'IN', 'IN1d', 'IN2d',
    'GELU', 'QuickGELU', 'ReLU', 'ReLU6', 'LeakyReLU', 'PReLU', 'ELU', 'SiLU', 'Swish', 'HSwish',
    'HSigmoid', 'Sigmoid', 'Tanh', 'Conv', 'Conv1d', 'Conv2d', 'Conv2dAdaptivePadding',
    'FFN', 'Dropout', 'DropPath', 'zero', 'reflect', 'replicate'))
#: What the text of other options may be.
WORDS = frozenset(('corner', 'same', 'valid', 'zeros', 'reflect', 'replicate', 'circular', 'tanh',
                   'none', 'all'))
_OPTIONS = {'ffn_type': ('origin', 'swiglu', 'swiglu_fused')}
#: Options of a backbone whose text only this package reads, or that a class looks up in a table.
_OWN = ('growth', 'adjustment', 'targets')
_NAMES = ('arch', 'out_type', 'interpolate_mode', 'patch_pad')
_NAME = re.compile(r'[\w-]{1,64}')
#: What loads weights. They come from the checkpoint itself.
_WEIGHTS = ('init_cfg', 'pretrained')


def check_stored(cfg: Mapping, where: str) -> dict:
    """Take of a checkpoint's own config what its backbone is built from, and nothing else.

    Args:
        cfg (dict): The config, as :func:`read_stored_config` gives it.
        where (str): What to call it in messages.

    Returns:
        dict: A config with the backbone's, without initialisers, under 'model', and the
        'default_scope'.

    Raises:
        ConfigError: If it names anything that is no known part of a plain ViT.
    """
    scope = cfg.get('default_scope') or 'mmengine'
    if scope not in SCOPES:
        raise _refusal(where, 'default_scope', scope)
    model = cfg.get('model')
    if not isinstance(model, Mapping) or not model:
        raise ConfigError(f'{where} has no model')
    model = student_cfg(model)
    if not isinstance(model.get('backbone'), Mapping):
        raise ConfigError(f'{where}: the model {model.get("type")!r} has no backbone, so it is no '
                          'classifier that a learngene could be taken from')
    backbone = _check_backbone(model['backbone'], (*BACKBONES, GROWN), 'model.backbone', where)
    return dict(model=dict(backbone=backbone), default_scope=scope)


def _check_backbone(backbone, kinds, key, where):
    """dict: A backbone's config, if all of it is known."""
    if _bare(backbone.get('type')) not in kinds:
        raise _refusal(where, f'{key}.type', backbone.get('type'))
    grown = _bare(backbone['type']) == GROWN
    checked = {}
    for name, value in backbone.items():
        place = f'{key}.{name}'
        if name == 'type' or name in _OWN:
            checked[name] = value
        elif grown and name == 'base':
            if not isinstance(value, Mapping):
                raise _refusal(where, place, value)
            checked[name] = _check_backbone(value, BACKBONES, place, where)
        elif name in _NAMES and isinstance(value, str):
            if not _NAME.fullmatch(value):
                raise _refusal(where, place, value)
            checked[name] = value
        elif name not in _WEIGHTS:
            checked[name] = _check(value, name, place, where)
    return checked


def _check(value, name, place, where):
    """Any: A copy of a value, without initialisers, if all of the text in it is known."""
    if isinstance(value, Mapping):
        return {key: _check(item, key, f'{place}.{key}', where) for key, item in value.items()
                if key not in _WEIGHTS}
    if isinstance(value, (list, tuple)):
        return type(value)(_check(item, name, place, where) for item in value)
    if value is None or isinstance(value, (bool, int, float)):
        return value
    if not isinstance(value, str):
        raise _refusal(where, place, value)
    if name == '_scope_':
        known = value in SCOPES
    elif name in _OPTIONS:
        known = value in _OPTIONS[name]
    elif isinstance(name, str) and name.endswith('type'):
        known = _bare(value) in TYPES
    else:
        known = value in WORDS
    if not known:
        raise _refusal(where, place, value)
    return value


def _bare(name: Any):
    """str | None: The name of a type without its scope; None if the scope is unknown."""
    if not isinstance(name, str):
        return None
    scope, _, bare = name.rpartition('.')
    return bare if not scope or scope in SCOPES else None


def _refusal(where, place, value):
    text = repr(value)
    text = text if len(text) <= 60 else f'{text[:57]}...'
    return ConfigError(f'{where} has {place}={text}, and from the config that a file brings along '
                       'only known parts of plain ViTs are built. If you trust it, give it by '
                       '--config')
