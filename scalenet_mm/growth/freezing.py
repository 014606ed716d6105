"""What trains: an ordered list of rules over parameter names, and named presets of such rules."""
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Optional, Union

import torch.nn as nn

from ..errors import GrowthError
from .adjustment import kinds_of
from .sharing import is_batch_norm, is_norm

KINDS = ('adapter', 'gain', 'norm', 'weight')


@dataclass(frozen=True)
class FreezeRule:
    """One rule: parameters whose names match train, or do not.

    Args:
        pattern (str): Regular expression, matched at the start of a parameter's name.
        train (bool): Whether those parameters train.
        kinds (tuple[str], optional): Only parameters of these kinds: ``'adapter'`` (LoRA too),
            ``'gain'``, ``'norm'`` (layer and group norm), ``'weight'`` (all the rest). Defaults
            to None, all kinds.
    """
    pattern: str
    train: bool
    kinds: Optional[tuple] = None

    def __post_init__(self):
        try:
            re.compile(self.pattern)
        except re.error as error:
            raise GrowthError(f'freeze: {self.pattern!r} is no regular expression: '
                              f'{error}') from None
        unknown = set(self.kinds or ()) - set(KINDS)
        if unknown:
            raise GrowthError(f'freeze: unknown kind {sorted(unknown)}; the kinds are {KINDS}')

    def matches(self, name: str, kind: str) -> bool:
        """Whether the rule speaks of a parameter."""
        return (self.kinds is None or kind in self.kinds) and re.match(self.pattern,
                                                                       name) is not None

    def __str__(self):
        kinds = f' ({", ".join(self.kinds)})' if self.kinds else ''
        return f'{"train" if self.train else "freeze"} {self.pattern}{kinds}'


#: Adapters, gains and norms of the backbone train, the rest of it does not (eq. 10).
_BACKBONE_PAPER = (
    FreezeRule(r'backbone\.', False),
    FreezeRule(r'backbone\.', True, ('adapter', 'gain', 'norm')),
)
_HEAD_FROZEN = FreezeRule(r'(?!backbone\.)', False)

_CONV_SEG = (r'(decode|auxiliary)_head\.(\d+\.)?conv_seg\.', )  # of nearly all heads of mmseg
#: The last classification and regression layers of each head that the recipes use.
HEADS = {
    'mask-rcnn': (r'roi_head\.bbox_head\.(fc_cls|fc_reg)\.', ),  # Faster R-CNN's, too
    'cascade-mask-rcnn': (r'roi_head\.bbox_head\.\d+\.(fc_cls|fc_reg)\.', ),
    'retinanet': (r'bbox_head\.(retina_cls|retina_reg)\.', ),
    # the last of the three linear layers that regress a box, or make the embedding of a mask
    'dino': (r'bbox_head\.cls_branches\.\d+\.', r'bbox_head\.reg_branches\.\d+\.4\.'),
    'mask2former': (r'(panoptic|decode)_head\.cls_embed\.',
                    r'(panoptic|decode)_head\.mask_embed\.4\.'),
    'upernet': _CONV_SEG,
    'segformer': _CONV_SEG,
    'linear-cls': (r'head\.fc\.', ),  # mmpretrain's classifiers
    'vit-cls': (r'head\.layers\.head(_dist)?\.', ),  # of ViT and DeiT
}
#: All of them, for the presets that find out which head there is.
FINAL_LAYERS = tuple(dict.fromkeys(p for patterns in HEADS.values() for p in patterns))
_RPN = (r'rpn_head\.(rpn_cls|rpn_reg)\.', )
_MASK = (r'roi_head\.mask_head\.(\d+\.)?conv_logits\.', )

#: name -> (rules, what trains besides: groups of which each must find at least one in the model)
PRESETS = {
    'backbone-paper': (_BACKBONE_PAPER, ()),
    'final-layers': ((_HEAD_FROZEN, ), (FINAL_LAYERS, )),
    'final-layers+rpn': ((_HEAD_FROZEN, ), (FINAL_LAYERS, _RPN)),
    'final-layers+rpn+mask': ((_HEAD_FROZEN, ), (FINAL_LAYERS, _RPN, _MASK)),
    'paper': ((*_BACKBONE_PAPER, _HEAD_FROZEN), (FINAL_LAYERS, )),
    'paper-strict': ((*_BACKBONE_PAPER, _HEAD_FROZEN), ()),
    'all': ((FreezeRule(r'', True), ), ()),
    # 'paper' for one head, each of whose final layers must be there
    **{name: ((*_BACKBONE_PAPER, _HEAD_FROZEN), tuple((p, ) for p in patterns))
       for name, patterns in HEADS.items()},
}


def resolve_rules(freeze: Union[str, dict, Sequence], names: Sequence) -> list:
    """Turn what a config says under ``freeze`` into a list of rules.

    Args:
        freeze (str | dict | Sequence): Names of presets and rules, in order. A rule is
            ``dict(train=pattern)`` or ``dict(freeze=pattern)``, with ``kind=`` a kind or a list of
            kinds if it speaks only of those.
        names (Sequence[str]): Names of the model's parameters.

    Returns:
        list[FreezeRule]: The rules; the last one that matches a parameter decides.

    Raises:
        GrowthError: If a preset is unknown, a rule malformed, or a preset finds none of its
            final layers in the model.
    """
    items = [freeze] if isinstance(freeze, (str, dict, FreezeRule)) else freeze
    if not isinstance(items, Sequence) or not items:
        raise GrowthError(f'freeze must be a preset, a rule, or a list of those, got {freeze!r}')
    rules = []
    for item in items:
        if isinstance(item, FreezeRule):
            rules.append(item)
        elif isinstance(item, str):
            if item not in PRESETS:
                raise GrowthError(f'freeze: unknown preset {item!r}; the presets are '
                                  f'{", ".join(PRESETS)}, and a pattern is written '
                                  "dict(train='...') or dict(freeze='...')")
            fixed, groups = PRESETS[item]
            rules += fixed
            for group in groups:
                found = [p for p in group if any(re.match(p, name) for name in names)]
                if not found:
                    raise _unknown_head(item, group, names)
                rules += [FreezeRule(p, True) for p in found]
        else:
            rules.append(_rule_from_dict(item))
    return rules


def _unknown_head(preset, group, names):
    """GrowthError: What a preset did not find in a model, and what would fit."""
    what = 'none of the final layers of this model' if group is FINAL_LAYERS else \
        f'{group[0]!r}, which this model does not have'
    fit = [head for head, patterns in HEADS.items()
           if all(any(re.match(p, name) for name in names) for p in patterns)]
    fit = f'Presets for its head: {", ".join(fit)}. Or name' if fit else 'Name'
    return GrowthError(
        f"freeze: preset {preset!r} knows {what}. {fit} the layers that train: "
        "freeze=['backbone-paper', dict(freeze=r'(?!backbone\\.)'), dict(train='...')]")


def _rule_from_dict(item):
    item = dict(item) if isinstance(item, dict) else {'?': item}
    actions = [key for key in ('train', 'freeze') if key in item]
    if len(actions) != 1 or set(item) - {'train', 'freeze', 'kind'} \
            or not isinstance(item[actions[0]], str):
        raise GrowthError("freeze: a rule is dict(train='pattern') or dict(freeze='pattern'), "
                          f"with an optional kind='...', got {item}")
    kinds = item.get('kind')
    kinds = (kinds, ) if isinstance(kinds, str) else kinds
    if kinds is not None and not isinstance(kinds, (list, tuple)):
        raise GrowthError(f'freeze: kind must be one of {KINDS} or a list of those, got {kinds!r}')
    kinds = kinds and tuple(kinds)
    return FreezeRule(item[actions[0]], actions[0] == 'train', kinds)


def apply_freezing(model: nn.Module, freeze: Union[str, dict, Sequence]) -> list:
    """Set ``requires_grad`` of every parameter that a rule matches, in place.

    A parameter that no rule matches is left as it is.

    Args:
        model (nn.Module): The whole model, unwrapped.
        freeze (str | dict | Sequence): See :func:`resolve_rules`.

    Returns:
        list[str]: One line a rule: what it says and how many parameter tensors it matches.

    Raises:
        GrowthError: If a rule is malformed or matches no parameter; then nothing is changed.
    """
    kinds = kinds_of(model, is_norm)
    parameters = dict(model.named_parameters())
    kinds = {name: kind for name, kind in kinds.items() if name in parameters}
    decided, lines = {}, []
    for rule in resolve_rules(freeze, list(parameters)):
        matched = [name for name, kind in kinds.items() if rule.matches(name, kind)]
        if not matched:
            top = sorted({name.split('.')[0] for name in parameters})
            raise GrowthError(f"freeze: the rule '{rule}' matches no parameter of the model, whose "
                              f'parts are {", ".join(top)}')
        decided.update(dict.fromkeys(matched, rule.train))
        lines.append(f'{rule}: {len(matched)} tensors')
    for name, train in decided.items():
        parameters[name].requires_grad_(train)
    return lines


def frozen_batchnorms(model: nn.Module) -> list:
    """Find BatchNorms (SyncBN too) that belong to frozen weights.

    Those weights were trained with their running statistics, so these must be kept: in eval mode.

    Args:
        model (nn.Module): The whole model.

    Returns:
        list[nn.Module]: Those whose affine parameters are frozen; one without any belongs to the
        smallest part of the model around it that has parameters.
    """
    frozen = []
    for name, module in model.named_modules():
        if not is_batch_norm(module):
            continue
        owner = module
        while name and not any(True for _ in owner.parameters()):
            name = name.rpartition('.')[0]
            owner = model.get_submodule(name)
        parameters = list(owner.parameters())
        if parameters and not any(p.requires_grad for p in parameters):
            frozen.append(module)
    return frozen


def final_module_names(model: nn.Module, outside: str = 'backbone.') -> list:
    """list[str]: Modules outside of the backbone that own parameters which train.

    Where everything in a part trains, the part's name stands for it.
    """
    names: dict = {}
    for name, parameter in model.named_parameters():
        if not name.startswith(outside):
            names.setdefault(name.split('.')[0], []).append((name, parameter.requires_grad))
    trained = []
    for part, parameters in names.items():
        if all(train for _, train in parameters):
            trained.append(part)
        else:
            trained += dict.fromkeys(n.rsplit('.', 1)[0] for n, train in parameters if train)
    return trained
