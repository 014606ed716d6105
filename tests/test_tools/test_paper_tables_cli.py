"""``tools/analysis_tools/paper_tables.py`` and ``choose.py``."""
import csv
import importlib.util
import io
import subprocess
import sys
from pathlib import Path

import pytest

from scalenet_mm import ConfigError

ROOT = Path(__file__).resolve().parents[2]


def run(tool, *args):
    return subprocess.run(
        [sys.executable, str(ROOT / f'tools/analysis_tools/{tool}.py'), *map(str, args)],
        capture_output=True, text=True, timeout=500, cwd=ROOT)


def test_a_table():
    done = run('paper_tables', '--table', 'V', '--format', 'csv')
    assert done.returncode == 0, done.stderr
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [row['parameters'] for row in rows] == [
        '86567656', '89553640', '89553640', '87768224', '90029216', '90029216']
    assert [row['score'] for row in rows] == ['81.80', '82.53', '82.23', '83.50', '83.51', '83.69']
    grown, plain = int(rows[1]['flops']), int(rows[1]['flops_without_adapters'])
    assert grown - plain == 24 * 10 * 768 * 16 * 197
    assert rows[0]['flops'] == rows[0]['flops_without_adapters']
    assert all((ROOT / 'configs' / row['config']).is_file() for row in rows)


def test_detection_has_no_flops():
    done = run('paper_tables', '--table', 'VIII')
    assert done.returncode == 0, done.stderr
    assert '48,879,018' in done.stdout and 'box AP' in done.stdout
    assert 'no adapters' not in done.stdout
    assert 'INFO' not in done.stdout


def test_what_is_stored():
    """Ten pre-trained models against one gene, as built."""
    done = run('paper_tables', '--paper', 'sws', '--table', '2')
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    # sums of 1,513,192 for embeddings, norm and head and of 7,087,872 a block
    stored = 10 * 1_513_192 + sum(range(6, 16)) * 7_087_872
    assert f'stored for the 10 models by PF: {stored:,} parameters (759.36 M) in 10 files' in lines
    assert ('stored for the 10 models by SWS: 36,952,552 parameters (36.95 M) in 1 file') in lines
    assert 'PF stores 20.5 times as much as SWS' in lines
    assert 'no adapters' not in done.stdout


def test_another_papers_table():
    done = run('paper_tables', '--paper', 'sws', '--table', '2', 'IV')
    assert done.returncode == 2 and done.stdout == ''
    assert done.stderr == ('error: --table IV: the tables are 1, 2, 3, 4, 5, 6, F4; --paper '
                           'scalenet has it\n')


def test_missing_configs_are_named(tmp_path):
    done = run('paper_tables', '--table', 'IV', '--configs', tmp_path)
    assert done.returncode == 2 and done.stdout == ''
    assert done.stderr.startswith('error: 6 configs of the tables are not in')
    assert 'ablations/times/scalenet_swin-b-times3_100e_imagenet.py' in done.stderr


def test_choose():
    done = run('choose', '--group', 'deit-t', '--rounds', '1', '--device', 'cpu')
    assert done.returncode == 0, done.stderr
    lines = [line.split() for line in done.stdout.splitlines()]
    assert lines[0][0] == 'CPU,' and 'batches of 1' in done.stdout
    assert lines[2] == ['top-1', 'M', 'params', 'GFLOPs', 'latency', 'ms/image']
    assert lines[3][:5] == ['DeiT-Tiny', '72.16', '5.72', '1.25', '1.00']
    assert lines[4][:5] == ['DeiT-Tiny,', 'grown', '76.46', '6.46', '2.62']
    assert lines[5][:4] == ['DeiT-Small', '79.86', '22.05', '4.60']
    assert float(lines[4][5]) > 1.2  # twice as deep


def test_choose_refuses():
    done = run('choose', '--device', 'cpu', '--configs', 'nowhere')
    assert done.returncode == 2 and done.stderr.startswith('error: no such config: nowhere')


@pytest.mark.parametrize('asked, tables, left_out', [
    (None, ['I', 'II', 'III', 'IV', 'V', 'VI', 'VII'], ['VIII']), (['VI'], ['VI'], [])])
def test_one_toolbox_is_enough(asked, tables, left_out, monkeypatch):
    tool = load_tool(monkeypatch)
    assert tool.choose_tables(asked) == (tables, left_out)


def test_a_missing_toolbox_is_named(monkeypatch):
    with pytest.raises(ConfigError, match='--table VIII needs mmdet, which is not installed'):
        load_tool(monkeypatch).choose_tables(['I', 'VIII'])


def load_tool(monkeypatch):
    """The tool as a module, in an environment without mmdet."""
    spec = importlib.util.spec_from_file_location(
        'paper_tables_tool', ROOT / 'tools/analysis_tools/paper_tables.py')
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    monkeypatch.setattr(tool, 'find_spec', lambda name: None if name == 'mmdet' else name)
    return tool
