"""One naming scheme for all configs.

[<task>_]scalenet_<arch>[-<variant>][_in1k-pre]_<schedule>_<data>.py, where in1k-pre stands where
there is also a config that starts from a trained detector or segmentor. Learngenes have methods
and nets for an architecture: <method>_<net>[-<depth>][-<variant>]_<epochs>e_<data>.py.
"""
import re
from pathlib import Path

import pytest
from mmengine.config import Config

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
NAME = re.compile(r'([a-z0-9-]+_)?scalenet_[a-z]+-[a-z0-9]+(-[a-z0-9.-]+)?(_in1k-pre)?'
                  r'_(ms-crop-)?\d+(e|x|k)_[a-z0-9]+')
LEARNGENE = re.compile(r'(sws|simple|vanilla|tleg|selection|scratch|pf)_'
                       r'(aux-[sb](-\d+)?(-[a-z]+)?|des-[sb]-\d+(-[a-z0-9]+)?)_\d+e_[a-z0-9]+')
#: The quickstart trains for minutes; it also has the model before growing.
QUICKSTART = re.compile(r'([a-z0-9]+_)?(scalenet_)?[a-z]+-nano_digits')


def misnamed(paths):
    schemes = dict(quickstart=QUICKSTART, learngene=LEARNGENE)
    return [path.as_posix() for path in paths
            if not schemes.get(path.parts[0], NAME).fullmatch(path.stem)]


def test_every_config_follows_the_scheme():
    paths = [p.relative_to(CONFIGS) for p in CONFIGS.rglob('*.py') if p.parent.name != '_base_']
    assert len(paths) > 100
    assert misnamed(paths) == []


@pytest.mark.parametrize('name', [
    'scalenet_deit-t.py', 'deit-t_100e_imagenet.py', 'scalenet_deit-t_imagenet_100e.py',
    'scalenet_deit_t_100e_imagenet.py', 'maskrcnn-scalenet_swin-t_1x_coco.py',
    'maskrcnn_scalenet_swin-t_1x_in1k-pre_coco.py', 'upernet_in1k-pre_scalenet_swin-t_1x_coco.py',
    'maskrcnn_scalenet_swin-t_3x-ms-crop_coco.py', 'learngene/des-b-9_10e_imagenet.py',
    'learngene/sws_des-b_10e_imagenet.py', 'learngene/sws_aux-b-222222_imagenet.py',
    'learngene/scalenet_deit-t_100e_imagenet.py', 'sws_aux-b_100e_imagenet.py'])
def test_what_does_not(name):
    assert misnamed([Path(name)])


@pytest.mark.parametrize('name', [
    'scalenet_deit-t-blocks1-3_100e_imagenet.py', 'upernet_scalenet_swin-t-stage4_40k_ade20k.py',
    'maskrcnn_scalenet_swin-t_in1k-pre_ms-crop-3x_coco.py', 'upernet_scalenet_deit-t_2k_camvid.py',
    'cascade-maskrcnn_scalenet_swin-t_1x_coco.py', 'learngene/pf_des-b-12_100e_cifar100.py',
    'learngene/aux/sws_aux-b-222222-nodistill_100e_imagenet.py'])
def test_what_does(name):
    assert not misnamed([Path(name)])


@pytest.mark.parametrize('path', sorted(CONFIGS.rglob('*_in1k-pre_*.py')), ids=lambda p: p.stem)
def test_in1k_pre_starts_from_imagenet(path):
    """... by the backbone's init_cfg, and no detector or segmentor is loaded."""
    cfg = Config.fromfile(path)
    assert cfg.get('load_from') is None
    assert cfg.model.backbone.init_cfg.type == 'Pretrained'
    assert cfg.model.backbone.init_cfg.checkpoint.startswith('https://')


@pytest.mark.parametrize('path', sorted(CONFIGS.rglob('*_imagenet.py')), ids=lambda p: p.stem)
def test_a_variant_is_a_few_lines(path):
    lines = path.read_text().splitlines()
    code = [line for line in lines if line and not line.startswith('#')]
    assert lines[0].startswith('# ')
    assert len(code) <= 8
