"""Configs of this package as bases of a user's: ``_base_ = 'scalenet_mm::NAME.py'``.

mmengine knows ``::`` for a fixed list of packages only, and gives what it reads from there that
package's scope. This package has no scope of its own: its configs are mmpretrain's, mmdet's or
mmseg's, and the ``default_scope`` they set says whose. So they are read as files beside the user's.
"""
import difflib
import functools
from importlib import metadata
from pathlib import Path
from typing import Optional, Tuple

from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE

from .errors import ConfigError

PREFIX = 'scalenet_mm::'


def configs_folder() -> Path:
    """Find the folder of the package's configs: the installed ones, else the clone's.

    Raises:
        ConfigError: If there is neither.
    """
    package = Path(__file__).resolve().parent
    for folder in (package / '.mim' / 'configs', package.parent / 'configs'):
        if folder.is_dir():
            return folder
    raise ConfigError(f'{package} holds no configs: neither .mim/configs nor ../configs is there. '
                      'Install scalenet_mm again, from a wheel or a whole clone.')


def find_config(name: str) -> str:
    """Find the file of ``scalenet_mm::NAME``.

    Args:
        name (str): The config's path below ``configs``, with or without the prefix, like
            ``'scalenet_mm::quickstart/scalenet_vit-nano_digits.py'``.

    Returns:
        str: Path of the file.

    Raises:
        ConfigError: If there is no such config; the message names the nearest ones.
    """
    folder = configs_folder()
    relative = name.removeprefix(PREFIX)
    path = folder / relative
    if path.is_file():
        return str(path)
    names = sorted(file.relative_to(folder).as_posix() for file in folder.rglob('*.py'))
    close = difflib.get_close_matches(relative, names, n=3)
    hint = f' Near: {", ".join(close)}.' if close else ''
    raise ConfigError(f'{PREFIX}{relative}: there is no such config in {folder}.{hint}')


def _is_installed(distribution: str) -> bool:
    try:
        metadata.version(distribution)
    except metadata.PackageNotFoundError:
        return False
    return True


def correct_package_names() -> None:
    """Tell OneDL's mmengine under which name OneDL's mmseg is installed.

    Its table still has the original's, so that ``_base_ = 'mmseg::...'`` ends in "mmsegmentation is
    not installed". mmdet and mmpretrain are called as their modules are, which it tries as well.
    """
    fork = 'onedl-mmsegmentation'
    if not _is_installed(MODULE2PACKAGE['mmseg']) and _is_installed(fork):
        MODULE2PACKAGE['mmseg'] = fork


def install() -> None:
    """Teach mmengine's ``Config`` the prefix; all other bases are found as before, but once each.

    For each base of another package mmengine reads the metafiles of all that package's models: most
    of the time that loading a config takes.
    """
    correct_package_names()
    if getattr(Config._get_cfg_path, 'knows_scalenet_mm', False):
        return
    find_others = Config._get_cfg_path

    @functools.lru_cache(maxsize=None)  # a base that is not found is looked for again
    def find_packaged(cfg_path: str) -> Tuple[str, Optional[str]]:
        return find_others(cfg_path, '')  # the file that names a packaged base does not matter

    def get_cfg_path(cfg_path: str, filename: str) -> Tuple[str, Optional[str]]:
        if cfg_path.startswith(PREFIX):
            return find_config(cfg_path), None
        if '::' in cfg_path:
            return find_packaged(cfg_path)
        return find_others(cfg_path, filename)

    get_cfg_path.knows_scalenet_mm = True  # type: ignore[attr-defined]
    Config._get_cfg_path = staticmethod(get_cfg_path)
