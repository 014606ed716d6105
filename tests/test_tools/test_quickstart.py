"""``tools/quickstart.py`` from end to end, with few scenes and epochs."""
import re
import subprocess
import sys
from pathlib import Path

import cv2
import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope='module')
def output(tmp_path_factory):
    folder = tmp_path_factory.mktemp('quickstart')
    done = subprocess.run(
        [sys.executable, str(ROOT / 'tools' / 'quickstart.py'), '--work-dir', str(folder / 'work'),
         '--data-root', str(folder / 'scenes'), '--scenes', '24', '8', '--base-epochs', '1',
         '--grown-epochs', '1'],
        capture_output=True, text=True, timeout=500)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout, folder


def row(text, name):
    line = next(x for x in text.splitlines() if x.startswith(name) and x.count(',') > 1)
    return [float(x.replace(',', '')) for x in line[len(name):].split()]


def test_table(output):
    text, _ = output
    total, added, trainable, box, mask = row(text, 'before growing')
    assert added == 0 and trainable == total
    grown = row(text, 'right after, start=identity')
    # the identity start is the ungrown detector: the same AP, to the digit
    assert grown[3:] == [box, mask]
    assert grown[0] == total + grown[1]
    paper = row(text, 'right after, start=paper')
    # two gains a block, of 32 to 256 channels, in 16 blocks
    assert grown[0] - paper[0] == 2 * 4 * (32 + 64 + 128 + 256)
    assert row(text, 'trained, start=identity')[2] < 0.1 * total


def test_progress_and_pictures(output):
    text, folder = output
    assert re.search(r'base: epoch 1/1, loss \d+\.\d+, \d+:\d\d spent', text)
    pictures = sorted((folder / 'work').rglob('*.png'))
    assert len(pictures) == 4
    # truth, before, after: three panels of 128 px, enlarged three times
    assert cv2.imread(str(pictures[0])).shape[1] == 3 * 3 * 128


def test_other_scenes_in_the_folder_are_an_error(output):
    _, folder = output
    done = subprocess.run(
        [sys.executable, str(ROOT / 'tools' / 'quickstart.py'), '--work-dir', str(folder / 'work'),
         '--data-root', str(folder / 'scenes'), '--scenes', '25', '8'],
        capture_output=True, text=True, timeout=200)
    assert done.returncode == 2
    assert done.stderr.startswith('error: ') and '[24, 8] there' in done.stderr
