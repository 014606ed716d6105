"""Weight initialisers that fill a whole model, and keep mmengine from drawing it anew."""
import inspect
import logging

import torch.nn as nn
from mmengine.logging import print_log
from mmengine.model import update_init_info

from ..backbones.base import GrowableBackbone
from ..errors import ConfigError

#: Types of init_cfg that fill a whole model.
WHOLE = ('Learngene', 'Pretrained', 'PretrainedInit', 'WeightSelection')


class WholeInit:
    """Base of the initialisers of a backbone, or of a classifier with its backbone and head.

    mmengine initialises a module by its ``init_cfg`` first and by those of its children
    afterwards, so a classifier's would be lost: what is filled here is marked as initialised.

    A subclass fills the model in :meth:`fill`.

    Args:
        checkpoint (str): The file that the values come from.
        head (bool): Whether a classifier's head is filled, too.

    Raises:
        ConfigError: If an argument is none that can be.
    """

    def __init__(self, checkpoint: str, head: bool):
        of = f'init_cfg of type {type(self).__name__!r}'
        if not isinstance(checkpoint, str) or not checkpoint:
            raise ConfigError(f'{of}: checkpoint must name a file, got {checkpoint!r}')
        if not isinstance(head, bool):
            raise ConfigError(f'{of}: head must be True or False, got {head!r}')
        self.checkpoint, self.head = checkpoint, head

    def fill(self, module: nn.Module) -> None:
        """Fill a backbone or classifier."""
        raise NotImplementedError

    def __call__(self, module: nn.Module) -> None:
        """Initialise a classifier or backbone, and keep mmengine from doing it again.

        Raises:
            ConfigError: If it is neither, or another init_cfg would fill it, too.
        """
        backbone = getattr(module, 'backbone', module)
        kind = type(self).__name__
        if not isinstance(backbone, GrowableBackbone) and backbone is module:
            raise ConfigError(
                f'init_cfg of type {kind!r} belongs to an image classifier or a ScaleNetViT, and '
                f'not to a {type(module).__name__}: put it into model.init_cfg')
        self._refuse_others(module, 'backbone' if backbone is module else 'model', 1)
        if backbone is not module:
            self._refuse_others(backbone, 'backbone', 0)
        self.fill(module)
        filled = {'backbone': backbone}
        if backbone is not module and self.head:
            filled['head'] = module.head
        for name, part in filled.items():
            part.is_init = True
            if part is not module:
                self._name_lost(part, name)
        if hasattr(module, '_params_init_info'):
            update_init_info(module, init_info=f'{kind}: from {self.checkpoint}')

    def _name_lost(self, part, name):
        """Say in the log that a part's own init_cfg, if somebody gave it one, has no effect."""
        own = getattr(part, 'init_cfg', None)
        parameter = inspect.signature(type(part).__init__).parameters.get('init_cfg')
        if own and (parameter is None or own != parameter.default):
            kinds = [cfg.get('type') for cfg in ([own] if isinstance(own, dict) else own)]
            kinds = ', '.join(getattr(kind, '__name__', str(kind)) for kind in kinds)
            print_log(f'the init_cfg of the {name} ({kinds}) has no effect: that of the model, of '
                      f'type {type(self).__name__!r}, fills all of it', logger='current',
                      level=logging.WARNING)

    def _refuse_others(self, module, name, allowed):
        """Refuse an init_cfg that would write over this one, or be written over by it."""
        cfgs = getattr(module, 'init_cfg', None) or []
        cfgs = [cfgs] if isinstance(cfgs, dict) else list(cfgs)
        kinds = [getattr(cfg['type'], '__name__', str(cfg['type'])).split('.')[-1] for cfg in cfgs]
        own = type(self).__name__
        whole = [kind for kind in kinds if kind in WHOLE]
        if len(whole) > allowed:
            other = next((kind for kind in whole if kind != own), own)
            where = 'too' if allowed else 'beside that of the model'
            raise ConfigError(f'the init_cfg of the {name} names other weights {where}, of type '
                              f'{other!r}: one of the two would be lost. Keep one')
        if allowed and kinds and kinds[-1] != own:
            raise ConfigError(f'the init_cfg of the {name}: {kinds[-1]!r} comes after {own!r} and '
                              'would write over it: put it before, or leave it out')
