"""One naming scheme for all configs: [<task>_]scalenet_<arch>[-<variant>]_<schedule>_<data>.py."""
import re
from pathlib import Path

import pytest

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
NAME = re.compile(r'([a-z0-9-]+_)?scalenet_[a-z]+-[a-z0-9]+(-[a-z0-9.-]+)?_\d+(e|x|k)_[a-z0-9]+')
#: The quickstart trains for minutes; it also has the model before growing.
QUICKSTART = re.compile(r'([a-z0-9]+_)?(scalenet_)?[a-z]+-nano_digits')


def misnamed(paths):
    return [path.as_posix() for path in paths
            if not (QUICKSTART if 'quickstart' in path.parts else NAME).fullmatch(path.stem)]


def test_every_config_follows_the_scheme():
    paths = [p.relative_to(CONFIGS) for p in CONFIGS.rglob('*.py') if p.parent.name != '_base_']
    assert len(paths) > 100
    assert misnamed(paths) == []


@pytest.mark.parametrize('name', [
    'scalenet_deit-t.py', 'deit-t_100e_imagenet.py', 'scalenet_deit-t_imagenet_100e.py',
    'scalenet_deit_t_100e_imagenet.py', 'maskrcnn-scalenet_swin-t_1x_coco.py'])
def test_what_does_not(name):
    assert misnamed([Path(name)])


@pytest.mark.parametrize('path', sorted(CONFIGS.rglob('*_imagenet.py')), ids=lambda p: p.stem)
def test_a_variant_is_a_few_lines(path):
    lines = path.read_text().splitlines()
    code = [line for line in lines if line and not line.startswith('#')]
    assert lines[0].startswith('# ')
    assert len(code) <= 8
