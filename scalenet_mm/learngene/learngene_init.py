"""Initialisation from a learngene, named in a config."""
from collections.abc import Iterator, Mapping
from typing import Optional

import torch.nn as nn
from mmengine.registry import WEIGHT_INITIALIZERS

from ..checkpoints.safe import is_url
from ..errors import CheckpointError, ConfigError
from ..utils.model_cfg import student_cfg, student_key
from .expand import expand_gene, expand_map, refuse_other_classes
from .gene import build_backbone, check_fits, layer_map_of, read_gene
from .stage_map import ORDERS, check_order
from .whole_init import WholeInit


@WEIGHT_INITIALIZERS.register_module()
class Learngene(WholeInit):
    """Initialise a model of any depth from a learngene.

    It stands in a config as ``init_cfg=dict(type='Learngene', checkpoint='gene.pth')``, of an image
    classifier or of its :class:`ScaleNetViT` alone. The depth is that of the model; it gets what
    ``tools/learngene.py expand`` writes, to the bit.

    Args:
        checkpoint (str): The learngene's file: a path or URL.
        order (str): One of :data:`ORDERS`, see :func:`descendant_map`. Defaults to
            'front-mid-last'.
        seed (int, optional): Seed of what is drawn. Defaults to None.
        head (bool): Whether a classifier's head is initialised, too. Defaults to True.

    Raises:
        ConfigError: If an argument is none that can be.
        GrowthError: If the order is unknown, or is random and has no seed.
    """

    def __init__(self,
                 checkpoint: str,
                 order: str = ORDERS[0],
                 seed: Optional[int] = None,
                 head: bool = True):
        super().__init__(checkpoint, head)
        check_order(order, seed)
        self.order, self.seed = order, seed

    def fill(self, module: nn.Module) -> None:
        """Fill a backbone or classifier, see :func:`expand_gene`."""
        expand_gene(read_gene(self.checkpoint), module, self.order, self.seed, self.head)


def check_learngene(cfg: Mapping) -> None:
    """Check the learngene that a config's model starts from, before anything is built with data.

    Args:
        cfg (Config): The config with all options applied.

    Raises:
        ConfigError: If an argument can't be meant.
        CheckpointError: If the file is no learngene, damaged, or of another architecture or number
            of classes than the model.
        GrowthError: If the order, seed or depth does not go with it.
    """
    for key, init_cfg in _learngenes(cfg):
        given = {k: v for k, v in init_cfg.items() if k not in ('type', '_scope_')}
        try:
            init = Learngene(**given)
        except TypeError:
            raise ConfigError(f"{key}: type 'Learngene' takes checkpoint, order, seed and head, "
                              f'got {", ".join(given)}') from None
        except (ConfigError, CheckpointError) as error:
            raise type(error)(f'{key}: {error}') from None
        if is_url(init.checkpoint):
            continue  # downloaded and checked where it is loaded
        gene = read_gene(init.checkpoint)
        backbone = build_backbone(cfg, 'the config')
        check_fits(gene, backbone)
        expand_map(gene, layer_map_of(backbone).base_depth, init.order, init.seed)
        head = student_cfg(cfg['model']).get('head')
        if init.head and not key.endswith('backbone.init_cfg') and isinstance(head, Mapping) \
                and head.get('num_classes') is not None:
            refuse_other_classes(gene, head['num_classes'])


def _learngenes(cfg) -> Iterator:
    """Yield config key and value of every init_cfg of type Learngene."""
    model = cfg.get('model') or {}
    top, student = student_key(model), student_cfg(model)
    places = [(top, student), (f'{top}.backbone', student.get('backbone'))]
    if student is not model:  # handed to its student
        places.append(('model', model))
    for key, place in places:
        init_cfgs = place.get('init_cfg') if isinstance(place, Mapping) else None
        for init_cfg in [init_cfgs] if isinstance(init_cfgs, Mapping) else init_cfgs or ():
            kind = init_cfg.get('type') if isinstance(init_cfg, Mapping) else None
            if getattr(kind, '__name__', str(kind)).split('.')[-1] == 'Learngene':
                yield f'{key}.init_cfg', init_cfg
