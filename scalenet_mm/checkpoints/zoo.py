"""Where the models are that mmengine knows by name."""
import os.path as osp
from typing import Optional

from mmengine.runner import checkpoint as _mmengine

from ..errors import CheckpointError


def zoo_address(filename: str) -> Optional[str]:
    """Look up a model of torchvision's or OpenMMLab's.

    Args:
        filename (str): Such as 'torchvision://resnet50', 'open-mmlab://...' or 'mmcls://...'.

    Returns:
        str | None: Its URL, or a local path; None if it is no such name.

    Raises:
        CheckpointError: If there is no model of that name.
    """
    scheme, _, name = filename.partition('://')
    if scheme in ('modelzoo', 'torchvision'):
        return _look_up(_mmengine.get_torchvision_models(), scheme, name)
    if scheme == 'mmcls':
        return _look_up(_mmengine.get_mmcls_models(), scheme, name)
    if scheme in ('open-mmlab', 'openmmlab'):
        renamed = _mmengine.get_deprecated_model_names()
        found = _look_up(_mmengine.get_external_models(), scheme, renamed.get(name, name))
        if not found.startswith(('http://', 'https://')):
            found = osp.join(_mmengine._get_mmengine_home(), found)
        return found
    return None


def _look_up(models, scheme, name):
    if name not in models:
        raise CheckpointError(f'{scheme}://{name}: {scheme} has no model {name!r}')
    return models[name]
