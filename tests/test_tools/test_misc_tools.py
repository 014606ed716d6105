"""``tools/misc``: configs printed, data drawn, for all three toolboxes."""
import json
import runpy
import sys
from pathlib import Path

import numpy as np
import pytest
from mmengine.config import Config
from PIL import Image

from scalenet_mm import ConfigError, make_digit_scenes
from scalenet_mm.analysis.curves import choose_keys, read_run
from scalenet_mm.apis import browse

ROOT = Path(__file__).resolve().parents[2]
QUICKSTART = ROOT / 'configs' / 'quickstart'
CONFIGS = dict(
    cls='scalenet_vit-nano_digits.py', det='maskrcnn_scalenet_swin-nano_digits.py',
    seg='upernet_scalenet_swin-nano_digits.py')


@pytest.fixture
def tool(monkeypatch, capsys):
    """Run a tool of tools/misc in this process; return its status and what it says."""

    def run(name, *words):
        monkeypatch.setattr(sys, 'argv', [name, *map(str, words)])
        monkeypatch.setattr(sys, 'path', list(sys.path))
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(ROOT / 'tools' / 'misc' / name), run_name='__main__')
        return (stop.value.code, *capsys.readouterr())

    return run


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    root = tmp_path_factory.mktemp('scenes') / 'digits'
    make_digit_scenes(root=str(root), num_train=6, num_val=4, cls_num_train=10, cls_num_val=10)
    return root


class TestPrintConfig:

    @pytest.mark.needs_toolbox('mmdet')
    def test_all_of_it_can_be_read_again(self, tool, tmp_path):
        code, out, _ = tool('print_config.py', QUICKSTART / CONFIGS['det'], '--save',
                            tmp_path / 'new' / 'whole.py')
        assert code == 0
        wanted = Config.fromfile(QUICKSTART / CONFIGS['det'])
        assert Config.fromstring(out, '.py').to_dict() == wanted.to_dict()
        assert Config.fromfile(tmp_path / 'new' / 'whole.py').to_dict() == wanted.to_dict()

    @pytest.mark.needs_toolbox('mmpretrain')
    def test_parts_and_options(self, tool):
        code, out, _ = tool(
            'print_config.py', QUICKSTART / CONFIGS['cls'], '--key', 'model.backbone.patch_size',
            'train_dataloader.dataset.pipeline.0', '--cfg-options', 'model.backbone.patch_size=4')
        assert code == 0
        assert out == ("# model.backbone.patch_size\npatch_size = 4\n\n"
                       "# train_dataloader.dataset.pipeline.0\n"
                       "item_0 = dict(type='LoadImageFromFile')\n")

    @pytest.mark.parametrize('key,words', [
        ('model.backbon', "model has no 'backbon'; it has type, backbone, head"),
        ('custom_hooks.3', "custom_hooks has no '3'; it has 0"),
        ('max_epochs.x', "max_epochs has no 'x'"),
    ])
    def test_a_key_that_is_not_there(self, tool, key, words):
        code, out, err = tool('print_config.py', QUICKSTART / CONFIGS['cls'], '--key', key)
        assert code == 2 and not out and words in err and 'Traceback' not in err

    def test_nothing_is_written_over(self, tool, tmp_path):
        path = tmp_path / 'mine.py'
        path.write_text('mine = 1\n')
        words = ('print_config.py', QUICKSTART / CONFIGS['cls'], '--save', path)
        code, _, err = tool(*words)
        assert code == 2 and '--force' in err and path.read_text() == 'mine = 1\n'
        assert tool(*words, '--force')[0] == 0 and 'mine' not in path.read_text()
        code, _, err = tool('print_config.py', QUICKSTART / CONFIGS['cls'], '--save', 'a.txt')
        assert code == 2 and '.json' in err

    def test_messages_are_those_of_the_trainer(self, tool):
        code, _, err = tool('print_config.py', QUICKSTART / 'scalenet_vit-nano_digit.py')
        assert code == 2 and 'did you mean' in err and CONFIGS['cls'] in err


class TestBrowseDataset:

    @pytest.mark.parametrize('task', sorted(CONFIGS))
    @pytest.mark.parametrize('split', ['train', 'val'])
    def test_pictures(self, task, split, scenes, tmp_path, tool):
        root = f'{scenes}/{task}/'
        code, out, err = tool(
            'browse_dataset.py', QUICKSTART / CONFIGS[task], tmp_path / 'out', '--num-samples', 3,
            '--split', split, '--cfg-options', f'{split}_dataloader.dataset.data_root={root}')
        assert code == 0, err
        assert 'overview.png and 3 pictures' in out
        names = sorted(path.name for path in (tmp_path / 'out').iterdir())
        assert len(names) == 4 and names[-1] == 'overview.png'
        overview = np.asarray(Image.open(tmp_path / 'out' / 'overview.png'))
        assert overview.shape[1] == 3 * (browse.TILE + browse.GAP) + browse.GAP
        for name in names[:-1]:
            picture = np.asarray(Image.open(tmp_path / 'out' / name))
            assert min(picture.shape[:2]) >= 200, 'too small for words'
            assert picture.reshape(-1, 3).std(axis=0).min() > 5, 'nothing is drawn'

    def test_the_same_seed_draws_the_same(self, scenes, tmp_path):
        cfg = Config.fromfile(QUICKSTART / CONFIGS['det'])
        cfg.train_dataloader.dataset.data_root = f'{scenes}/det/'
        drawn = [browse.browse_dataset(cfg, tmp_path / name, num_samples=2, seed=seed)
                 for name, seed in (('a', 0), ('b', 0), ('c', 1))]
        pictures = [Path(files[0]).read_bytes() for files in drawn]
        assert pictures[0] == pictures[1] != pictures[2]

    def test_boxes_and_masks_are_where_the_digits_are(self, scenes, tmp_path):
        # painted in one colour, what is drawn differs from the image inside the masks
        cfg = Config.fromfile(QUICKSTART / CONFIGS['det'])
        cfg.val_dataloader.dataset.data_root = f'{scenes}/det/'
        files = browse.browse_dataset(cfg, tmp_path / 'out', 'val', num_samples=1)
        index = int(Path(files[1]).name.split('_')[0])
        data = json.loads((scenes / 'det' / 'annotations' / 'val.json').read_text())
        image = data['images'][index]
        assert Path(files[1]).name == f'{index:06d}_{Path(image["file_name"]).stem}.png'
        plain = np.asarray(Image.open(scenes / 'det' / 'val' / image['file_name']).convert('RGB'))
        drawn = np.asarray(Image.open(files[1]))
        factor = drawn.shape[0] // plain.shape[0]
        changed = np.abs(drawn.astype(int)[::factor, ::factor] - plain).max(axis=2) > 60
        boxes = [a['bbox'] for a in data['annotations'] if a['image_id'] == image['id']]
        inside = np.zeros_like(changed)
        for x, y, width, height in boxes:
            top, left, bottom, right = int(y), int(x), int(y + height), int(x + width)
            inside[max(0, top - 4):bottom + 5, max(0, left - 4):right + 5] = 1
            assert changed[top:bottom, left:right].mean() > 0.1
        assert changed[inside == 0].mean() < 0.02
        # red and blue are where they were
        untouched = ~changed & (inside == 0)
        assert np.abs(drawn.astype(int)[::factor, ::factor] - plain)[untouched].mean() < 2

    def test_wrong_requests(self, scenes, tmp_path, tool):
        config = QUICKSTART / CONFIGS['cls']
        code, _, err = tool('browse_dataset.py', config, tmp_path / 'out', '--cfg-options',
                            'train_dataloader.dataset.data_root=/no/such/')
        assert code == 2 and 'no such' in err and not (tmp_path / 'out').exists()
        (tmp_path / 'file').write_text('')
        code, _, err = tool('browse_dataset.py', config, tmp_path / 'file')
        assert code == 2 and 'is a file' in err
        with pytest.raises(ConfigError, match='default_scope'):
            browse.browse_dataset(Config(dict(default_scope='mmpose')), tmp_path / 'out')


def test_a_sheet_of_few_and_of_many():
    one = np.zeros((browse.TILE, browse.TILE, 3), np.uint8)
    step = browse.TILE + browse.GAP
    for number, rows, columns in ((1, 1, 1), (4, 1, 4), (5, 2, 4)):
        sheet = browse.tile([one] * number)
        assert sheet.shape == (rows * step + browse.GAP, columns * step + browse.GAP, 3)
        assert (sheet == 0).mean() == pytest.approx(
            number * browse.TILE**2 / (sheet.shape[0] * sheet.shape[1]))


@pytest.mark.parametrize('record,x,keys', [
    ({'coco/bbox_mAP': 0.4, 'coco/segm_mAP': 0.3, 'coco/bbox_mAP_50': 0.6}, dict(epoch=1),
     ['coco/bbox_mAP', 'coco/segm_mAP', 'loss']),
    ({'mIoU': 40., 'aAcc': 80.}, {}, ['mIoU', 'loss']),
    ({'accuracy/top1': 40.}, dict(epoch=1), ['accuracy/top1', 'loss']),
    ({}, {}, ['loss']),
])
def test_what_is_drawn_of_each_toolbox(record, x, keys, tmp_path):
    folder = tmp_path / '20260101_000000' / 'vis_data'
    folder.mkdir(parents=True)
    lines = [dict(loss=2., lr=0.1, iter=1, step=1, **x)]
    if record:
        lines.append(dict(record, step=1))
    (folder / 'scalars.json').write_text('\n'.join(map(json.dumps, lines)) + '\n')
    run = read_run(str(tmp_path))
    assert choose_keys([run]) == keys
    assert all(run.curve(key) for key in keys)
