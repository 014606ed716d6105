"""What the configs' tests share."""
import copy
import functools
import itertools

import pytest
from mmengine.config.utils import _get_cfg_metainfo
from mmengine.runner import Runner
from mmengine.visualization import Visualizer

_COUNT = itertools.count()


@pytest.fixture(autouse=True, scope='session')
def one_look_for_a_toolboxs_config():
    """Look up once where a toolbox's config is: mmengine reads its index of models each time."""
    patch, find = pytest.MonkeyPatch(), 'mmengine.config.utils._get_cfg_metainfo'
    patch.setattr(find, functools.lru_cache(maxsize=None)(_get_cfg_metainfo))
    yield
    patch.undo()


@pytest.fixture(autouse=True)
def plain_config_text(monkeypatch):
    """Leave a config's text as it is: mmengine formats it five times a run.

    That takes longer than to train and test a narrow model.
    """
    monkeypatch.setattr('mmengine.config.config.FormatCode', lambda text, **_: (text, True))


@pytest.fixture(autouse=True)
def names_of_their_own(monkeypatch):
    """Name every run: mmengine names them by the second, and those of one second share a log.

    Visualizers have their names from the toolboxes' configs, so that another test's would be taken.
    """
    for kind in (Visualizer, *Visualizer.__subclasses__()):
        kind._instance_dict.clear()
    from_cfg = Runner.from_cfg.__func__

    def named(cls, cfg):
        cfg = copy.deepcopy(cfg)
        cfg.experiment_name = f'run{next(_COUNT)}'
        return from_cfg(cls, cfg)

    monkeypatch.setattr(Runner, 'from_cfg', classmethod(named))
