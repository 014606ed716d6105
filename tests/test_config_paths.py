"""Configs of the package as bases of a user's: `_base_ = 'scalenet_mm::NAME.py'`."""
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

import scalenet_mm
from scalenet_mm import ConfigError, config_paths
from scalenet_mm.learngene.teacher import read_teacher_cfg

CONFIGS = Path(__file__).resolve().parents[1] / 'configs'


def write(tmp_path, text):
    path = tmp_path / 'mine.py'
    path.write_text(text)
    return path


@pytest.mark.parametrize('toolbox, name', [
    ('mmpretrain', 'scalenet_deit-t_100e_imagenet.py'),
    ('mmpretrain', 'quickstart/scalenet_vit-nano_digits.py'),
    ('mmdet', 'maskrcnn_scalenet_swin-t_1x_coco.py'),
    ('mmseg', 'upernet_scalenet_swin-t_2k_camvid.py')])
def test_same_as_the_file(tmp_path, toolbox, name):
    """... scopes too: what a config says of no scope is of its default scope."""
    pytest.importorskip(toolbox)
    mine = Config.fromfile(write(tmp_path, f"_base_ = 'scalenet_mm::{name}'\n"))
    assert mine.to_dict() == Config.fromfile(CONFIGS / name).to_dict()


def test_model_of_it(tmp_path):
    pytest.importorskip('mmpretrain')
    cfg = Config.fromfile(write(
        tmp_path, "_base_ = ['scalenet_mm::quickstart/scalenet_vit-nano_digits.py']\n"
        'model = dict(backbone=dict(growth=dict(times=3)))\n'))
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        model = MODELS.build(cfg.model)
    assert len(model.backbone.layers) == 12


def test_other_packages_as_before(tmp_path):
    pytest.importorskip('mmpretrain')
    cfg = Config.fromfile(write(tmp_path, "_base_ = 'mmpretrain::_base_/default_runtime.py'\n"))
    assert cfg.default_scope == 'mmpretrain'
    with pytest.raises(Exception, match='there_is_none'):
        Config.fromfile(write(tmp_path, "_base_ = './there_is_none.py'\n"))


def test_what_is_not_there(tmp_path):
    path = write(tmp_path, "_base_ = 'scalenet_mm::quickstart/scalenet_vit-nano_digit.py'\n")
    with pytest.raises(ConfigError, match='no such config in .*configs.* Near: quickstart/'
                                          r'scalenet_vit-nano_digits\.py'):
        Config.fromfile(path)
    with pytest.raises(ConfigError, match=r"configs\.$"):
        config_paths.find_config('scalenet_mm::zzzzzzzz')


def test_an_installed_package_has_its_own(tmp_path, monkeypatch):
    """`.mim` comes first; without either folder the message says what to do."""
    package = tmp_path / 'scalenet_mm'
    package.mkdir()
    monkeypatch.setattr(config_paths, '__file__', str(package / 'config_paths.py'))
    with pytest.raises(ConfigError, match='holds no configs.*Install scalenet_mm again'):
        config_paths.configs_folder()
    (tmp_path / 'configs').mkdir()
    assert config_paths.configs_folder() == tmp_path / 'configs'
    (package / '.mim' / 'configs').mkdir(parents=True)
    assert config_paths.configs_folder() == package / '.mim' / 'configs'


def test_installed_once():
    before = Config._get_cfg_path
    config_paths.install()
    assert Config._get_cfg_path is before
    assert scalenet_mm.config_paths is config_paths


def test_teacher_by_name():
    """A teacher is named as a base is."""
    pytest.importorskip('mmpretrain')
    name = 'scalenet_mm::quickstart/scalenet_vit-nano_digits.py'
    assert read_teacher_cfg(name)['backbone']['type'] == 'ScaleNetViT'
    assert read_teacher_cfg(name.removesuffix('.py')) == read_teacher_cfg(name)
    with pytest.raises(ConfigError, match='cannot be read as a config.*no such config'):
        read_teacher_cfg('scalenet_mm::no_such.py')


def test_metafiles_are_read_once(tmp_path, monkeypatch):
    pytest.importorskip('mmpretrain')
    import mmengine.config.utils as config_utils
    read = []
    load = config_utils.load
    monkeypatch.setattr(config_utils, 'load', lambda path: read.append(path) or load(path))
    base = 'mmpretrain::_base_/models/vgg11.py'  # no other test's, or it would be known already
    first = Config.fromfile(write(tmp_path, f"_base_ = '{base}'\n"))
    count = len(read)
    again = Config.fromfile(write(tmp_path, f"_base_ = '{base}'\nmodel = dict(init_cfg=None)\n"))
    assert count and len(read) == count
    assert again.model.backbone == first.model.backbone
