"""Giving a stock config the growth that its checkpoint tells."""
import copy
from typing import Any, Optional

from mmengine.config import Config, ConfigDict

from scalenet_mm.analysis.meta_model import injection_hook
from scalenet_mm.checkpoints import read_checkpoint
from scalenet_mm.checkpoints.stored_growth import read_stored_growth
from scalenet_mm.engine.model_options import GROWING
from scalenet_mm.engine.scopes import type_name
from scalenet_mm.utils.model_cfg import student_cfg


def grows_nothing(cfg: Config) -> bool:
    """Whether a config's backbone is a stock one, and no hook of the config grows it."""
    backbone = (student_cfg(cfg.get('model')) or {}).get('backbone')
    return isinstance(backbone, dict) and type_name(backbone) not in GROWING \
        and injection_hook(cfg) is None


def apply_stored_growth(cfg: Config, path: str, checkpoint: Any = None) -> Optional[dict]:
    """Let a stock config grow its backbone as the checkpoint's training did by the hook.

    The config gets an ``AdapterInjectionHook`` with the options that the file tells. Of the file
    nothing else is taken, and nothing is run.

    Args:
        cfg (Config): A config; changed in place if it is a stock one and the file is of a stock
            backbone that was grown.
        path (str): The checkpoint: a file or URL.
        checkpoint (dict, optional): What it holds, if it was read already. Defaults to None.

    Returns:
        dict | None: The options; None if nothing was changed.

    Raises:
        CheckpointError: If the file cannot be read, or what it tells is no plain data.
    """
    if not grows_nothing(cfg):
        return None
    if checkpoint is None:
        checkpoint = read_checkpoint(path, mmap=True)
    growth = read_stored_growth(checkpoint, path)
    if growth is not None:
        # the hook itself: what it does beside growing (checks, fast paths) is then the same, too
        hook = ConfigDict(type='AdapterInjectionHook', freeze=None, **copy.deepcopy(growth))
        cfg.custom_hooks = [*(cfg.get('custom_hooks') or []), hook]
    return growth
