"""Fixtures for the tests of the analysis."""
import functools

import pytest
from mmengine.config.utils import _get_cfg_metainfo
from mmengine.registry import DefaultScope


@pytest.fixture(autouse=True, scope='session')
def one_look_for_a_toolboxs_config():
    """Look up once where a toolbox's config is: mmengine reads its index of models each time."""
    patch, find = pytest.MonkeyPatch(), 'mmengine.config.utils._get_cfg_metainfo'
    patch.setattr(find, functools.lru_cache(maxsize=None)(_get_cfg_metainfo))
    yield
    patch.undo()


@pytest.fixture(autouse=True)
def forget_scope():
    """Leave no default scope behind."""
    yield
    DefaultScope._instance_dict.clear()
