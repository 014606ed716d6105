"""Fixtures for the hook's tests."""
import pytest
from mmengine.config import Config
from mmengine.registry import DefaultScope
from mmengine.runner import Runner

import scalenet_mm  # noqa: F401
from scalenet_mm.datasets import make_digit_scenes


@pytest.fixture
def make_runner(tmp_path):
    """Build a Runner from a config dict, with a work folder of its own."""
    count = [0]

    def make(cfg, **top):
        count[0] += 1
        cfg = Config({**cfg, 'work_dir': str(tmp_path / 'work'), **top})
        cfg.experiment_name = f'{tmp_path.name}_{count[0]}'
        return Runner.from_cfg(cfg)

    yield make
    DefaultScope._instance_dict.clear()


@pytest.fixture(scope='session')
def digits(tmp_path_factory):
    """A small set of digit scenes, for detection and segmentation."""
    root = tmp_path_factory.mktemp('digits') / 'digit_scenes'
    make_digit_scenes(root=str(root), tasks=('det', 'seg'), num_train=12, num_val=4)
    return root
