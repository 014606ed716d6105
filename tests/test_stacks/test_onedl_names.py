"""Names that differ where OneDL's packages are installed, with made-up installations."""
from importlib import metadata

import pytest
from mmengine.config import Config
from mmengine.config.utils import MODULE2PACKAGE

from scalenet_mm import ConfigError, config_paths
from scalenet_mm.checkpoints.delta import versions
from scalenet_mm.engine import SCOPES, load_config

ONEDL = {'onedl-mmengine': '0.10.12', 'onedl-mmcv': '2.3.6', 'onedl-mmdetection': '3.5.1',
         'onedl-mmpretrain': '1.3.6', 'onedl-mmsegmentation': '1.4.2'}
ORIGINAL = {'mmengine': '0.10.7', 'mmcv': '2.1.0', 'mmsegmentation': '1.2.2'}


@pytest.fixture
def install(monkeypatch):
    """Make the metadata of these distributions, and no other, be found."""
    monkeypatch.setitem(MODULE2PACKAGE, 'mmseg', 'mmsegmentation')

    def pretend(found):
        def version(name):
            if name not in found:
                raise metadata.PackageNotFoundError(name)
            return found[name]

        monkeypatch.setattr(metadata, 'version', version)

    return pretend


@pytest.mark.parametrize('found, name', [
    (ONEDL, 'onedl-mmsegmentation'), (ORIGINAL, 'mmsegmentation'), ({}, 'mmsegmentation'),
    ({**ORIGINAL, **ONEDL}, 'mmsegmentation')])
def test_where_bases_of_mmseg_are_looked_for(install, found, name):
    install(found)
    config_paths.correct_package_names()
    assert MODULE2PACKAGE['mmseg'] == name


@pytest.mark.parametrize('found, place', [(ONEDL, 1), (ORIGINAL, 0), ({}, 0)])
def test_what_to_install_for_a_toolbox(install, found, place):
    install(found)
    names = dict(mmdet=('mmdet', 'onedl-mmdetection'),
                 mmpretrain=('mmpretrain', 'onedl-mmpretrain'),
                 mmseg=('mmsegmentation', 'onedl-mmsegmentation'))
    assert {name: scope.package for name, scope in SCOPES.items()} == {
        name: both[place] for name, both in names.items()}


@pytest.mark.parametrize('error, toolbox', [
    (ModuleNotFoundError('onedl-mmsegmentation is not installed, please install '
                         'onedl-mmsegmentation manually'), 'mmseg'),
    (ModuleNotFoundError('mmdet is not installed, please install mmdet manually'), 'mmdet'),
    (ModuleNotFoundError("No module named 'mmpretrain'", name='mmpretrain'), 'mmpretrain'),
    (ModuleNotFoundError("No module named 'mmpretrain.none'", name='mmpretrain.none'), None),
    (ModuleNotFoundError("No module named 'mine'", name='mine'), None),
    (ImportError('Failed to import custom modules'), None)])
@pytest.mark.parametrize('onedl', [False, True])
def test_a_config_of_an_absent_toolbox(install, error, toolbox, onedl, tmp_path, monkeypatch):
    def fromfile(_):
        raise error

    install(ONEDL if onedl else ORIGINAL)
    monkeypatch.setattr(Config, 'fromfile', fromfile)
    path = tmp_path / 'config.py'
    path.write_text('')
    with pytest.raises(ConfigError) as raised:
        load_config(str(path))
    if toolbox is None:
        assert 'imports what cannot be imported' in str(raised.value)
    else:
        assert (f'builds on {toolbox}, which is not installed: pip install '
                f'{SCOPES[toolbox].distributions[onedl]};') in str(raised.value)


def test_a_delta_says_which_packages_made_it(install):
    install(ONEDL)
    assert {name: version for name, version in versions().items() if name in ONEDL} == ONEDL
