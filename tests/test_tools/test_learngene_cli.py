"""``tools/learngene.py``, as a user types it."""
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from mmengine.runner import load_checkpoint

from scalenet_mm.checkpoints import load_file
from scalenet_mm.checkpoints.files import save_file
from scalenet_mm.engine import run_cli

TOOL = Path(__file__).resolve().parents[2] / 'tools/learngene.py'
MODEL = """
default_scope = 'mmpretrain'
model = dict(
    type='ImageClassifier',
    backbone=dict(
        type='ScaleNetViT',
        arch=dict(embed_dims=16, num_layers=3, num_heads=2, feedforward_channels=32),
        img_size=32, patch_size=16, growth={growth}, adjustment=None),
    head=dict(type='VisionTransformerClsHead', num_classes=4, in_channels=16))
"""
SHARED = "dict(times=(1, 2, 1), share='all', depth=4)"


@pytest.fixture
def run(monkeypatch, capsys, tmp_path):
    """Run the tool in this process; give its exit status, output and error."""
    spec = importlib.util.spec_from_file_location('learngene_tool', TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    monkeypatch.chdir(tmp_path)

    def call(line):
        monkeypatch.setattr(sys, 'argv', ['learngene.py', *line.split()])
        capsys.readouterr()
        status = run_cli(tool.main)
        return status, *capsys.readouterr()

    return call


def save(path, growth=SHARED, text=True):
    """The checkpoint of a net, and its config."""
    config = MODEL.format(growth=growth)
    path.with_suffix('.py').write_text(config)
    init_default_scope('mmpretrain')
    torch.manual_seed(0)
    model = MODELS.build(Config.fromstring(config, '.py').model)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    meta = dict(epoch=2, dataset_meta=dict(classes=('ant', 'bee', 'cat', 'dog')))
    if text:
        meta['cfg'] = config
    save_file(dict(meta=meta, state_dict=model.state_dict()), str(path))
    return model


@pytest.fixture
def aux(tmp_path):
    return save(tmp_path / 'aux.pth')


def test_from_a_net_to_a_descendant(run, aux, tmp_path):
    status, out, _ = run('extract aux.pth gene.pth')
    assert status == 0 and out.startswith('gene.pth: a learngene\n')
    assert 'sws' in out and 'stages of 1 2 1' in out and 'aux.pth, epoch 2' in out
    status, out, _ = run('expand gene.pth 5 des.pth --order front-last-mid')
    assert status == 0 and 'a descendant of 5 blocks made of gene.pth (method sws, order front-l' \
        in out
    cfg = Config.fromstring(MODEL.format(growth=None), '.py')
    cfg.model.backbone.num_layers = 5
    model = MODELS.build(cfg.model)
    load_checkpoint(model, 'des.pth', strict=True)
    for index, source in enumerate((0, 0, 1, 2, 2)):
        assert torch.equal(model.backbone.layers[index].ln1.weight,
                           aux.backbone.get_parameter(f'layers.{source}.ln1.weight'))
    assert torch.equal(model.head.layers.head.weight, aux.head.layers.head.weight)


def test_options_of_expand(run, aux):
    run('extract aux.pth gene.pth')
    for options in ('--order random-assigned --seed 3', '--order random-sorted --seed 3'):
        assert run(f'expand gene.pth 9 a.pth {options}')[0] == 0
        assert 'seed 3' in run('inspect a.pth')[1]
        assert run(f'expand gene.pth 9 b.pth {options}')[0] == 0
        a, b = (load_file(name)['state_dict'] for name in ('a.pth', 'b.pth'))
        assert all(torch.equal(a[k], b[k]) for k in a)
        os.remove('a.pth'), os.remove('b.pth')
    assert run('expand gene.pth 2 headless.pth --no-head')[0] == 0
    assert not any('head' in k for k in load_file('headless.pth')['state_dict'])
    assert run('expand gene.pth 2 new.pth --no-head --num-classes 7')[0] == 0
    assert load_file('new.pth')['state_dict']['head.layers.head.weight'].shape == (7, 16)


def test_options_of_extract(run, tmp_path):
    save(tmp_path / 'plain.pth', growth=None, text=False)
    status, _, err = run('extract plain.pth gene.pth')
    assert status == 2 and err == ("error: plain.pth holds no config (meta['cfg']): give it by "
                                   '--config\n')
    assert run('extract plain.pth gene.pth --config plain.py')[0] == 0
    assert 'simple' in run('inspect gene.pth')[1]
    line = 'extract plain.pth last.pth --config plain.py --method vanilla'
    assert run(f'{line} --last-blocks 1')[0] == 0
    assert '1, of a net of 3' in run('inspect last.pth')[1]
    assert run(f'{line} --force')[0] == 0
    assert '3, of a net of 3' in run('inspect last.pth')[1]


def test_the_table_of_descendants(run, aux):
    run('extract aux.pth gene.pth')
    _, out, _ = run('inspect gene.pth')
    rows = [re.split(r'\s{2,}', line.strip()) for line in out.split('depth')[-1].splitlines()[1:11]]
    assert [int(row[0]) for row in rows] == list(range(6, 16))
    assert rows[1][2:] == ['3 2 2', '3 2 2'] and rows[2][2:] == ['3 3 2', '3 2 3']
    run('expand gene.pth 7 des.pth')
    numbers = sum(v.numel() for v in load_file('des.pth')['state_dict'].values())
    assert int(rows[1][1].replace(',', '')) == numbers
    _, out, _ = run('inspect gene.pth --depths 1 48')
    assert '   48' in out and '16 16 16' in out and '1 0 0' in out and '\n   15' not in out


def test_what_is_no_gene(run, aux, tmp_path):
    status, out, _ = run('inspect aux.pth')
    assert status == 0 and out.startswith(
        'aux.pth: no learngene, but the checkpoint of an auxiliary net of 3 stages of 1 2 1 blocks'
        ': tools/learngene.py extract aux.pth OUT')
    assert 'ungrown' not in out and 'growth' not in out
    save(tmp_path / 'plain.pth', growth=None)
    assert 'the checkpoint of a plain model of 3 blocks' in run('inspect plain.pth')[1]
    save(tmp_path / 'grown.pth', growth='dict(times=2)')
    status, out, _ = run('inspect grown.pth')
    assert status == 0 and 'no learngene, and none can be taken out of it: ' in out
    assert 'holds' in out


@pytest.mark.parametrize('line, message', [
    ('expand gene.pth 0 out.pth', 'the depth of a descendant must be an integer >= 1, got 0'),
    ('expand gene.pth -4 out.pth', 'the depth of a descendant must be an integer >= 1, got -4'),
    ('expand gene.pth 3 out.pth --order random-sorted', 'give a seed'),
    ('expand gene.pth 3 out.pth --num-classes 9', '--no-head'),
    ('expand gene.pth 3 out.safetensors', 'out.safetensors: give the file to write the ending'),
    ('expand gene.pth 3 aux.pth', 'aux.pth is there already: --force writes over it'),
    ('expand gene.pth 3 gene.pth --force', 'gene.pth is the file that is read (gene.pth)'),
    ('extract aux.pth aux.pth --force', 'aux.pth is the file that is read (aux.pth)'),
    ('extract aux.pth link.pth --force', 'link.pth is the file that is read (aux.pth)'),
    ('expand aux.pth 3 out.pth', 'aux.pth is no learngene'),
    ('expand none.pth 3 out.pth', 'there is no checkpoint file none.pth'),
    # what is asked for is looked at before any file
    ('expand none.pth 0 out.pth', 'the depth of a descendant must be an integer >= 1, got 0'),
    ('expand none.pth 3 out.pth --order random-sorted', 'give a seed'),
    ('expand none.pth 3 aux.pth', 'aux.pth is there already'),
    ('expand bad.pth 3 out.pth', 'bad.pth is a damaged learngene'),
    ('expand new.pth 3 out.pth', 'new.pth is a learngene of format version 9'),
    ('expand cut.pth 3 out.pth', 'cut.pth is no checkpoint file, or is truncated or damaged'),
    ('extract gene.pth out.pth', 'gene.pth is a learngene already'),
    ('extract aux.pth gene.pth', 'gene.pth is there already'),
    ('extract aux.pth out.pth --config none.py', "no such file: 'none.py'"),
    ('extract aux.pth out.pth --method vanilla', "method 'vanilla' takes the last blocks"),
    ('extract aux.pth out.pth --last-blocks 2', "method 'vanilla'"),
    ('inspect gene.pth --depths 6 0', '--depths: a depth is an integer >= 1, got 0'),
    ('inspect cut.pth', 'cut.pth is no checkpoint file'),
])
def test_errors_are_one_line_and_leave_nothing(line, message, run, aux, tmp_path):
    run('extract aux.pth gene.pth')
    gene = load_file('gene.pth')
    save_file(dict(gene, learngene=dict(gene['learngene'], version=9)), 'new.pth')
    save_file(dict(gene, learngene=dict(gene['learngene'], stages=[1])), 'bad.pth')
    (tmp_path / 'link.pth').symlink_to('aux.pth')
    (tmp_path / 'cut.pth').write_bytes((tmp_path / 'gene.pth').read_bytes()[:2000])
    before = {path.name: path.read_bytes() for path in tmp_path.iterdir() if path.is_file()}
    status, _, err = run(line)
    assert status == 2 and err.startswith('error: ') and err.count('\n') == 1 and message in err
    assert {path.name: path.read_bytes() for path in tmp_path.iterdir()
            if path.is_file()} == before


@pytest.mark.parametrize('line, message', [
    ('expand gene.pth three out.pth', 'invalid int value'),
    ('expand gene.pth 2.5 out.pth', 'invalid int value'),
    ('expand gene.pth 3 out.pth --order middle', 'invalid choice'),
    ('', 'required: command'),
])
def test_words_that_cannot_be(line, message, run, capsys):
    with pytest.raises(SystemExit) as ended:
        run(line)
    assert ended.value.code == 2 and message in capsys.readouterr().err


def test_help_shows_defaults(run, capsys, monkeypatch):
    monkeypatch.setenv('COLUMNS', '500')  # no words are parted
    for command, defaults in (('extract', ['Default: auto', 'Default: 3']),
                              ('expand', ['Default: front-mid-last', 'Default: none']),
                              ('inspect', ['6 to 15'])):
        with pytest.raises(SystemExit) as ended:
            run(f'{command} --help')
        text = ' '.join(capsys.readouterr().out.split())
        assert ended.value.code == 0 and all(default in text for default in defaults), text


def test_as_a_program(aux, tmp_path):
    run = subprocess.run([sys.executable, str(TOOL), 'extract', 'none.pth', 'gene.pth'],
                         cwd=tmp_path, capture_output=True, text=True)
    assert run.returncode == 2 and run.stderr == 'error: there is no checkpoint file none.pth\n'


@pytest.mark.parametrize('line, text', [
    ('expand absent.pth 0 out.pth', 'integer >= 1, got 0'),
    ('expand absent.pth 5 out.pth --order random-sorted', 'give a seed'),
    ('expand absent.pth 5 out.pth --no-head --num-classes 0', 'num_classes must be'),
])
def test_a_request_is_checked_before_anything_is_read(run, line, text):
    status, _, error = run(line)
    assert status and text in error and 'absent' not in error
