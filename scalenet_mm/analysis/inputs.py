"""From configs and checkpoints to the models that are measured."""
import copy
from dataclasses import dataclass
from typing import Optional

import torch
import torch.nn as nn
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import CheckpointLoader, set_random_seed

from ..checkpoints import adapt_checkpoint
from ..engine.model_options import GROWING, check_growth, check_model
from ..engine.preflight import check_checkpoint, check_toolbox
from ..engine.scopes import type_name
from ..errors import CheckpointError, ConfigError
from ..utils.model_cfg import plain_cfg, student_cfg, student_key
from .meta_model import grow_as_hook, injection_hook
from .quiet import quiet

#: Stands in the place of a checkpoint for a model with random weights.
RANDOM = 'random'


@dataclass
class ModelSource:
    """A model to be measured.

    Args:
        label (str): Its name in figures.
        cfg (Config): Its config.
        path (str): The config's file.
        checkpoint (str): File or URL of its weights, or ``'random'``.
    """
    label: str
    cfg: Config
    path: str
    checkpoint: str

    def describe(self) -> dict:
        """dict: What the numbers say of where the model comes from."""
        place = student_cfg(self.cfg.model).backbone
        if type_name(place) not in GROWING:
            place = injection_hook(self.cfg) or dict(growth=None, adjustment=None)
        return dict(
            label=self.label, config=self.path, checkpoint=self.checkpoint,
            growth=_plain(place.get('growth', 'paper')),
            adjustment=_plain(place.get('adjustment', 'paper')))

    def check(self) -> None:
        """Check what takes no time.

        Raises:
            ScaleNetError: If something is missing or can't be meant.
        """
        if not isinstance((student_cfg(self.cfg.get('model')) or {}).get('backbone'), dict):
            raise ConfigError(f'{self.path} has no {student_key(self.cfg.get("model"))}.backbone')
        check_growth(self.cfg)
        check_toolbox(self.cfg)
        check_model(self.cfg)
        if self.checkpoint != RANDOM:
            check_checkpoint(self.checkpoint, f'checkpoint of {self.label!r}')


def _plain(value):
    return value.to_dict() if hasattr(value, 'to_dict') else value


def load_model(source: ModelSource, device: str = 'cpu', seed: int = 0,
               needs_head: bool = False) -> nn.Module:
    """Build a model and load its weights, without a Runner.

    A stock backbone is grown as the config's AdapterInjectionHook would grow it. Checkpoints of
    any format are brought to the model's names, as the hook does, and refused if they are of
    another architecture. Pretrained weights that the config itself names are not loaded. Of a
    ``DistilledClassifier`` the student alone is built.

    Args:
        source (ModelSource): Config and checkpoint.
        device (str): Where the model goes. Defaults to 'cpu'.
        seed (int): Seed of random weights. Defaults to 0.
        needs_head (bool): Whether a checkpoint without the model's head is refused. Defaults to
            False.

    Returns:
        nn.Module: The model in eval mode. Its ``dataset_meta`` is what the checkpoint says of the
        data it was trained on, None if it says nothing.

    Raises:
        ScaleNetError: If the checkpoint does not fit.
    """
    cfg = source.cfg
    init_default_scope(cfg.get('default_scope') or 'mmengine')
    set_random_seed(seed)
    model_cfg = without_pretrained(plain_cfg(cfg.model))
    if cfg.get('data_preprocessor') is not None:  # as the Runner does
        model_cfg.setdefault('data_preprocessor', copy.deepcopy(cfg.data_preprocessor))
    model = MODELS.build(model_cfg)
    hook = injection_hook(cfg)
    if hook is not None:
        grow_as_hook(model, hook)
    with quiet():
        model.init_weights()
    if source.checkpoint != RANDOM:
        checkpoint = CheckpointLoader.load_checkpoint(source.checkpoint, map_location='cpu')
        report = adapt_checkpoint(model, checkpoint, source.checkpoint)
        lacking = [*report.resized, *report.initialised.get('of the head', [])]
        if lacking and needs_head:
            raise CheckpointError(
                f'{source.checkpoint} does not hold the head of {source.label!r}, without which '
                f'its results mean nothing: {len(lacking)} of its tensors are missing or of other '
                f'classes, such as {lacking[0]}. Name a checkpoint of the whole model (a tool that '
                'can do with a random head has the option --new-head)')
        model.load_state_dict(checkpoint['state_dict'], strict=False)
        model.dataset_meta = (checkpoint.get('meta') or {}).get('dataset_meta')
    return model.to(device).eval()


def without_pretrained(cfg):
    """Leave out, in place, all that would load weights when a model is initialised.

    Args:
        cfg (dict | list): A model's config.

    Returns:
        dict | list: ``cfg``.
    """
    if isinstance(cfg, dict):
        if isinstance(cfg.get('pretrained'), str):
            cfg['pretrained'] = None
        given = cfg.get('init_cfg')
        inits = [given] if isinstance(given, dict) else list(given or [])
        kept = [init for init in inits if type_name(init) not in ('Pretrained', 'PretrainedInit')]
        if len(kept) < len(inits):
            cfg['init_cfg'] = kept or None
        for value in cfg.values():
            without_pretrained(value)
    elif isinstance(cfg, (list, tuple)):
        for value in cfg:
            without_pretrained(value)
    return cfg


def without(cfg: Config, *options: str) -> Config:
    """Make a config that grows less.

    Args:
        cfg (Config): The config of a grown model.
        *options (str): ``'growth'``, ``'adjustment'`` or both.

    Returns:
        Config: A copy in which the backbone, and the hook if it is that which grows, are given
        None for them.

    Raises:
        ConfigError: If the config grows nothing.
    """
    cfg = copy.deepcopy(cfg)
    places = [student_cfg(cfg.model).backbone]
    if type_name(places[0]) not in GROWING:
        places = [hook for hook in [injection_hook(cfg)] if hook is not None]
    if not places or all(place.get(option, 'paper') is None for place in places
                         for option in ('growth', 'adjustment')):
        raise ConfigError('--pretrained compares the grown model of the config with the ungrown '
                          'one, but the config grows nothing: growth and adjustment of '
                          f'{student_key(cfg.model)}.backbone are None; name a config of a grown '
                          'model')
    for place in places:
        place.update(dict.fromkeys(options))
    return cfg


def pick_device(name: Optional[str]) -> str:
    """Choose the device.

    Args:
        name (str, optional): What the user asks for; a GPU if there is one if None.

    Returns:
        str: The device.

    Raises:
        ConfigError: If it is not there.
    """
    if name is None:
        return 'cuda' if torch.cuda.is_available() else 'cpu'
    try:
        torch.empty(0, device=name)
    except (RuntimeError, AssertionError) as error:
        raise ConfigError(f'--device {name}: {str(error).splitlines()[0]}') from None
    return name
