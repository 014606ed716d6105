"""``tools/infer.py`` as a user types it."""
import json
import runpy
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from scalenet_mm import make_digit_scenes

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / 'tools' / 'infer.py'
CONFIG = ROOT / 'configs' / 'quickstart' / 'scalenet_vit-nano_digits.py'


@pytest.fixture(scope='module')
def folder(tmp_path_factory):
    """A checkpoint with drawn weights, and digits."""
    pytest.importorskip('mmpretrain')
    folder = tmp_path_factory.mktemp('infer')
    make_digit_scenes(root=str(folder / 'digits'), tasks=('cls', ), cls_num_train=20,
                      cls_num_val=10)
    cfg = Config.fromfile(CONFIG)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(dict(cfg.model, data_preprocessor=cfg.data_preprocessor))
    torch.save(dict(meta={}, state_dict=model.state_dict()), folder / 'model.pth')
    return folder


@pytest.fixture
def run(folder, monkeypatch, capsys, tmp_path):
    """Run the tool in this process, in a folder of its own."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        monkeypatch.setattr(sys, 'argv', [str(TOOL), *map(str, words)])
        monkeypatch.setattr(sys, 'path', [*sys.path])
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(TOOL), run_name='__main__')
        said = capsys.readouterr()
        return ended.value.code, said.out, said.err

    yield run
    DefaultScope._instance_dict.clear()


@pytest.fixture
def images(folder):
    return sorted((folder / 'digits/cls/val').rglob('*.png'))


def test_lines_pictures_and_results(run, folder, images, tmp_path):
    status, out, _ = run(
        CONFIG, folder / 'model.pth', images[0], folder / 'digits/cls/val', '--out-dir', 'drawn',
        '--out', 'new/found.json', '--topk', 3, '--batch-size', 4, '--device', 'cpu',
        '--cfg-options', 'model.head.init_cfg=None')
    assert status == 0
    lines = [line for line in out.splitlines() if line.startswith('[')]
    assert len(lines) == len(images) + 1
    assert lines[0].startswith(f'[1/{len(lines)}] {images[0]}: ') and lines[0].count(',') == 2
    assert 'ImageClassifier on cpu, 11 images' in out
    told = json.loads((tmp_path / 'new/found.json').read_text())
    assert told['checkpoint'] == str(folder / 'model.pth')
    assert told['classes'] == list('0123456789')  # the config's; the file names none
    assert [one['path'] for one in told['predictions']] == [str(images[0]), *map(str, images)]
    for one in told['predictions']:
        assert len(one['top']) == 3 and Path(one['picture']).is_file()
    assert len({one['picture'] for one in told['predictions']}) == len(lines)


@pytest.mark.parametrize('words, message', [
    (('none.py', '{model}', '{image}'), "error: config: no such file: 'none.py'"),
    (('{config}', 'none.pth', '{image}'), "error: checkpoint: no such file: 'none.pth'"),
    (('{config}', '{model}', 'none.png'), 'error: there is no image none.png'),
    (('{config}', '{model}', '.'), 'error: the folder . holds no images'),
    (('{config}', '{model}', '{image}', '--out', 'a.pkl'), 'error: --out a.pkl: results are'),
    (('{config}', '{model}', '{image}', '--out', '{image}/a.json'), 'no file can be written'),
    (('{config}', '{model}', '{image}', '--batch-size', '0'), 'error: batch_size must be'),
    (('{config}', '{model}', '{image}', '--score-thr', '7'), 'error: score_thr must be'),
    (('{config}', '{model}', '{image}', '--device', 'cuda:99'), "error: device 'cuda:99'"),
    (('{config}', '{model}', '{image}', '--base', 'none.pth'), 'error: base: there is no file'),
    (('{config}', '{model}', '{image}', '--cfg-options', 'modle.a=1'), 'did you mean model.a'),
])
def test_errors(words, message, run, folder, images, tmp_path):
    places = dict(config=CONFIG, model=folder / 'model.pth', image=images[0])
    status, out, err = run(*(word.format(**places) for word in words))
    assert status == 2 and message in err and 'Traceback' not in err
    assert list(tmp_path.iterdir()) == []


def test_an_unreadable_file(run, folder, images, tmp_path):
    (tmp_path / 'bad.png').write_bytes(b'no image')
    status, _, err = run(CONFIG, folder / 'model.pth', 'bad.png', images[0], '--out', 'a.json')
    assert status == 2 and 'an image cannot be read: bad.png is no image' in err
    assert not (tmp_path / 'a.json').exists()
    status, out, _ = run(CONFIG, folder / 'model.pth', 'bad.png', images[0], '--out', 'a.json',
                         '--skip-unreadable')
    told = json.loads((tmp_path / 'a.json').read_text())
    assert status == 0 and [one['path'] for one in told['predictions']] == [str(images[0])]


@pytest.mark.parametrize('error', [None, KeyboardInterrupt], ids=['bad image', 'Ctrl-C'])
def test_what_was_found_before_an_error_is_saved(error, run, folder, images, tmp_path, monkeypatch):
    (tmp_path / 'bad.png').write_bytes(b'no image')
    words = (CONFIG, folder / 'model.pth', images[0], 'bad.png', '--out', 'a.json')
    if error is None:
        status, out, err = run(*words)
        assert status == 2 and 'bad.png is no image' in err
        assert 'results: a.json (1 of 2 images)' in out
    else:
        def find_fault(_):
            raise error
        monkeypatch.setattr('scalenet_mm.apis.images.find_fault', find_fault)
        with pytest.raises(error):
            run(*words)
    told = json.loads((tmp_path / 'a.json').read_text())
    assert [one['path'] for one in told['predictions']] == [str(images[0])]
    assert told['images'] == 2


def test_no_image_can_be_read(run, folder, tmp_path):
    """Nor transformed, as by a pipeline that is wrong."""
    (tmp_path / 'bad.png').write_bytes(b'no image')
    status, _, err = run(CONFIG, folder / 'model.pth', 'bad.png', '--out', 'a.json',
                         '--skip-unreadable')
    assert status == 2 and 'error: none of 1 images could be read' in err
    assert not (tmp_path / 'a.json').exists()


def test_help_shows_defaults(run):
    status, out, _ = run('--help')
    assert status == 0
    for option in ('--out-dir', '--device', '--base', '--batch-size', '--score-thr', '--topk'):
        assert option in out
    assert out.count('Default: ') >= 8
