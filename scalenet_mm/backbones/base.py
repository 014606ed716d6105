"""What the two backbones have in common: constructor arguments, growth, loading, freezing."""
from collections.abc import Sequence
from typing import Optional

import torch
import torch.nn as nn
from mmengine.model import BaseModule

from ..checkpoints.backbone_state import adapt_backbone_state, check_backbone_state
from ..checkpoints.keys import name_as_classifier
from ..checkpoints.pretrained import load_pretrained
from ..errors import ConfigError
from ..growth import grow_stages, set_drop_path_rates, speed_up, ungrown_name
from ..growth.sharing import Tied

#: Stands for "not given" where None means something.
UNSET = object()


def only_given(**kwargs) -> dict:
    """dict: The arguments that were given."""
    return {name: value for name, value in kwargs.items() if value is not UNSET}


def refuse_mixed(name: str, wanted: str, given: dict, why: str) -> None:
    """Refuse arguments that belong to the other way of giving the architecture.

    Raises:
        ConfigError: If there are any.
    """
    if given:
        raise ConfigError(f'{name}: {", ".join(sorted(given))} cannot be given together with '
                          f'{wanted}: {why}')


def lookup_arch(arch, zoo: dict, keys: set, name: str) -> dict:
    """Resolve an architecture given by name or as a dict.

    Args:
        arch (str | dict): What the user gave.
        zoo (dict): Known architectures.
        keys (set[str]): What a dict must hold.
        name (str): The backbone, for the message.

    Returns:
        dict: The settings.

    Raises:
        ConfigError: If the name is unknown or the dict does not hold just those keys.
    """
    if isinstance(arch, str):
        if arch.lower() not in zoo:
            raise ConfigError(f'{name}: unknown arch {arch!r}; choose from {", ".join(zoo)}, or '
                              f'give a dict with {", ".join(sorted(keys))}')
        return zoo[arch.lower()]
    if not isinstance(arch, dict) or set(arch) != keys:
        raise ConfigError(f'{name}: arch must be a name or a dict with just the keys '
                          f'{", ".join(sorted(keys))}, got {arch!r}')
    return dict(arch)


class GrowableBackbone(BaseModule):
    """Base of the backbones that grow.

    A subclass builds its ungrown blocks, then calls :meth:`_grow`.

    Args:
        init_cfg (dict | list[dict], optional): Initialisation. ``dict(type='Pretrained',
            checkpoint=...)`` reads every format that :func:`load_pretrained` knows. Defaults to
            None.
        pretrained (str, optional): The older spelling of the same. Defaults to None.
    """
    #: 'swin' or 'vit': whose names the blocks have
    key_family: Optional[str] = None
    #: the paper's growth for this backbone (section IV-A)
    default_growth: dict = {}

    def __init__(self, init_cfg=None, pretrained=None):
        if pretrained is not None:
            if init_cfg is not None:
                raise ConfigError(f'{type(self).__name__}: give either init_cfg or pretrained, '
                                  'not both')
            init_cfg = dict(type='Pretrained', checkpoint=pretrained)
        super().__init__(init_cfg)

    @property
    def block_lists(self) -> list:
        """list[nn.ModuleList]: The lists of blocks that can grow, in order."""
        raise NotImplementedError

    def _grow(self, growth, adjustment, drop_path_rate):
        """Grow the blocks by what the user gave: 'paper', None, or a dict over the defaults."""
        if growth == 'paper':
            growth = {}
        if isinstance(growth, dict):
            growth = {**self.default_growth, **growth}
        if adjustment == 'paper':
            adjustment = {}
        self.growth, self.adjustment = growth, adjustment
        self.layer_maps = grow_stages(self.block_lists, growth, adjustment)
        speed_up(self)
        with torch.device('cpu'):  # the rates are numbers, also for a model built on 'meta'
            set_drop_path_rates(self.block_lists, drop_path_rate)
        self.train()  # frozen_stages must show before DDP and the optimizer look

    def init_weights(self):
        """Initialise, or load what ``init_cfg`` names.

        Adapters, LoRA and gains keep the values that growth gave them.
        """
        cfgs = [self.init_cfg] if isinstance(self.init_cfg, dict) else self.init_cfg or []
        pretrained = [c for c in cfgs if c['type'] in ('Pretrained', 'PretrainedInit')]
        if len(pretrained) < len(cfgs):
            kept, self.init_cfg = self.init_cfg, [c for c in cfgs if c not in pretrained]
            super().init_weights()
            self.init_cfg = kept
        elif not pretrained:
            self._draw_weights()
        for cfg in pretrained:
            load_pretrained(self, cfg['checkpoint'], prefix=cfg.get('prefix'))
        self._is_init = True

    def _draw_weights(self):
        """Truncated normal with standard deviation 0.02, as both papers' official code does."""
        for module in self.modules():
            if isinstance(module, Tied):
                continue
            if isinstance(module, nn.Linear):
                nn.init.trunc_normal_(module.weight, std=0.02)
                if module.bias is not None:
                    nn.init.zeros_(module.bias)
            elif isinstance(module, nn.LayerNorm):
                nn.init.ones_(module.weight)
                nn.init.zeros_(module.bias)
        for name, parameter in self.named_parameters():
            if name.endswith(('relative_position_bias_table', 'absolute_pos_embed', 'pos_embed',
                              'cls_token')):
                nn.init.trunc_normal_(parameter, std=0.02)

    def _load_from_state_dict(self, state_dict, prefix, local_metadata, *args, **kwargs):
        adapt_backbone_state(self, state_dict, prefix)
        check_backbone_state(self, state_dict, prefix, local_metadata)
        super()._load_from_state_dict(state_dict, prefix, local_metadata, *args, **kwargs)

    def _checkpoint_filter(self, state_dict, prefix, *args):
        """Read a file without prefixes; mmpretrain's ``ImageClassifier`` calls it on loading."""
        name_as_classifier(state_dict, prefix, self.key_family)

    def get_layer_depth(self, param_name: str, prefix: str = '') -> tuple:
        """Tell the depth of a parameter, for learning rates that decay from layer to layer.

        Depths are those of mmpretrain's stock class, which counts pretrained blocks: a repeat has
        its source's depth, for new blocks see :attr:`LayerMap.counts_as`.

        Args:
            param_name (str): The parameter's name.
            prefix (str): What stands before the backbone's own names; names without it belong to
                modules behind the backbone. Defaults to ''.

        Returns:
            tuple[int, int]: The depth, from 0 (the stem) to one less than the number of layers
            (what comes behind the blocks), and that number: the pretrained depth + 2.
        """
        num_layers = sum(layer_map.base_depth for layer_map in self.layer_maps) + 2
        if not param_name.startswith(prefix):
            return num_layers - 1, num_layers
        depth = self._depth_of(ungrown_name(self, param_name[len(prefix):]))
        return num_layers - 1 if depth is None else depth, num_layers

    def _depth_of(self, name: str) -> Optional[int]:
        """int | None: The depth of a parameter of the ungrown backbone; None behind its blocks."""
        raise NotImplementedError

    def _frozen_modules(self) -> list:
        """list[nn.Module]: What ``frozen_stages`` freezes."""
        raise NotImplementedError

    def _frozen_parameters(self) -> Sequence:
        """Sequence[nn.Parameter]: Single parameters that ``frozen_stages`` freezes."""
        return ()

    def train(self, mode=True):
        """Set the training mode; what ``frozen_stages`` names stays frozen, in eval mode."""
        super().train(mode)
        for module in self._frozen_modules():
            module.eval()
            for parameter in module.parameters():
                parameter.requires_grad = False
        for parameter in self._frozen_parameters():
            parameter.requires_grad = False
        return self
