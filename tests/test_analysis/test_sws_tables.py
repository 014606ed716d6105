"""The tables of stage-wise weight sharing against the configs: every row, at full size."""
import csv
import functools
import io
import re
from pathlib import Path

import pytest

from scalenet_mm.analysis import (
    SWS,
    SWS_NOTES,
    SWS_ROWS,
    SWS_TABLES,
    Measured,
    PaperRow,
    build_on_meta,
    count_flops,
    count_parameters,
    differs,
    render,
)
from scalenet_mm.engine import load_config

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'
ROWS = {(row.table, row.model, row.label): row for row in SWS_ROWS}
DISTINCT = sorted({name for row in SWS_ROWS for name in row.configs})


@functools.lru_cache(maxsize=None)
def model_of(config):
    return build_on_meta(load_config(str(CONFIGS / config)))


@functools.lru_cache(maxsize=None)
def params_of(config):
    return count_parameters(model_of(config)).total


@pytest.mark.parametrize('config', DISTINCT)
def test_parameters_fit_the_print_or_a_note_says_why(config):
    for row in SWS_ROWS:
        if row.config == config and row.params:
            assert differs(params_of(config) / 1e6, row.params) == (
                'hundred-classes' in row.notes), row
        if row.stored_config == config:
            assert not differs(params_of(config) / 1e6, row.stored), row


@pytest.mark.parametrize('config', sorted({row.config for row in SWS_ROWS if row.flops}))
def test_flops_fit_the_print_or_a_note_says_why(config):
    ours = count_flops(model_of(config)) / 1e9
    for row in SWS_ROWS:
        if row.config == config and row.flops:
            assert differs(ours, row.flops) == ('no-class-token' in row.notes), (row, ours)


def flops(blocks, tokens, norms):
    """Multiply-accumulates of DeiT-Base: products, and operations for each element of a norm."""
    width, patches = 768, 196
    block = 12 * width**2 * tokens + 2 * tokens**2 * width + 2 * norms * tokens * width
    return patches * width * (3 * 16 * 16) + blocks * block + norms * tokens * width + width * 1000


def test_what_the_printed_flops_are():
    """196 tokens and five operations a norm's element fit all, 197 or norms for nothing do not."""
    printed = {int(row.model[6:]): row.flops for row in SWS_ROWS if row.table == '1'}
    printed[16] = ROWS['5', 'Aux-B', 'MS-WS6 (3,3,4,3,3)'].flops
    assert sorted(printed) == [*range(6, 17)]

    def misfits(tokens, norms):
        return [n for n, text in printed.items() if differs(flops(n, tokens, norms) / 1e9, text)]

    assert misfits(196, 5) == []
    assert misfits(197, 0) == [*range(9, 17)] and misfits(196, 0) == [7]
    assert count_flops(model_of(ROWS['1', 'Des-B-9', 'SWS'].config)) == flops(9, 197, 0)


def test_the_rows():
    assert len(SWS_ROWS) == len(ROWS)
    sizes = [sum(row.table == table for row in SWS_ROWS) for table in SWS_TABLES]
    assert sizes == [50, 20, 10, 18, 9, 10, 20]
    assert {note for row in SWS_ROWS for note in row.notes} == set(SWS_NOTES)
    # what stands in two tables is the same in both
    for depth in range(8, 13):
        rows = [ROWS[key, f'Des-B-{depth}', label]
                for key, label in (('1', 'SWS'), ('3', 'SWS'), ('4', 'CI-order1'))]
        assert len({(row.config, row.score, row.params, row.flops) for row in rows}) == 1
    assert ROWS['1', 'Des-B-12', 'Trained (100ep)'].score == ROWS['5', 'Aux-B', 'Scratch'].score


def test_every_config_is_in_a_row():
    """... but for those that the paper plots and prints no figure of."""
    there = {path.relative_to(CONFIGS).as_posix() for path in CONFIGS.glob('learngene/*/*.py')
             if path.parent.name != '_base_'}
    plotted = re.compile(
        r'learngene/(aux/(simple_aux-[sb]|tleg_aux-s)_.*'  # genes of descendants
        r'|baselines/(scratch|tleg)_des-s-\d+_.*|baselines/simple_des-b-(6|7|13|14|15)_.*'
        r'|transfer/(pf_des-s-12|(pf|sws)_des-b-12)_100e_(?!cifar100).*'
        r'|transfer/pf_des-s-12_100e_cifar100\.py)')
    assert {name for name in there if not plotted.fullmatch(name)} == set(DISTINCT)


@pytest.mark.parametrize('row', SWS_ROWS, ids=lambda row: f'{row.table} {row.model} {row.label}')
def test_a_rows_config_is_the_right_one(row):
    stem = Path(row.config).stem
    method, net = re.match(r'([a-z]+)_((?:aux|des)-[sb](?:-\d+)?)', stem).groups()
    if row.model.startswith('Des-'):
        assert net == row.model.lower()
        expected = {'Trained (100ep)': 'scratch', 'IMwLM': 'selection', 'Vanilla-LG': 'vanilla',
                    'TLEG': 'tleg', 'Simple-LG': 'simple', 'PF': 'pf'}.get(row.label, 'sws')
        assert method == expected
    uses = re.search(r'\(([\d,]+)\)', row.label)
    if uses and uses.group(1) != '3,3,4,3,3':
        assert f'-{uses.group(1).replace(",", "")}_' in stem
    if row.table == '6' and row.model == 'Des-S-12':
        data, epochs = re.match(r'([\w-]+), gene of (\d+) epochs', row.label).groups()
        assert stem.endswith('_' + data.lower().replace('-', ''))
        assert ('aux100e' in stem) == (epochs == '100')


def test_what_is_stored():
    rows = [row for row in SWS_ROWS if row.table == '2']
    # the print is the sum of rounded figures
    assert round(sum(float(row.stored) for row in rows if row.label == 'PF'), 1) == 759.3
    pf = sum(params_of(row.stored_config) for row in rows if row.label == 'PF')
    assert pf == 759_358_480 and differs(pf / 1e6, '759.3')
    genes = {row.stored_config for row in rows if row.label == 'SWS'}
    assert [params_of(config) for config in genes] == [36_952_552]


SOME = (
    PaperRow('2', 'A', 'PF', 'a.py', '1.0', score='70', stored='1.1', stored_config='b.py'),
    PaperRow('2', 'B', 'PF', 'a.py', '1.0', score='71', stored='1.1', stored_config='c.py'),
    PaperRow('2', 'A', 'SWS', 'a.py', '1.0', score='72', stored='0.5', stored_config='d.py',
             notes=('sum', )),
    PaperRow('2', 'B', 'SWS', 'a.py', '1.0', score='73', stored='0.5', stored_config='d.py'),
)
MEASURED = {name: Measured(count, count) for name, count in (
    ('a.py', 1_000_000), ('b.py', 1_100_000), ('c.py', 1_300_000), ('d.py', 480_000))}


def test_text():
    table, notes = render(SOME, MEASURED, paper=SWS).split('\n\n')
    title, header, *lines = table.splitlines()
    assert title == f'Table 2: {SWS_TABLES["2"]}'
    assert header.split() == ['model', 'row', 'parameters', 'M', 'paper', 'diff', 'stored', 'paper',
                              'diff', 'trainable', 'top-1', 'notes']
    assert lines[2].split() == ['A', 'SWS', '1,000,000', '1.00', '1.0', '+0.00', '480,000', '0.5',
                                '-0.02', '1,000,000', '72', '[1]']
    assert lines[4:] == [
        'stored for the 2 models by PF: 2,400,000 parameters (2.40 M) in 2 files',
        'stored for the 2 models by SWS: 480,000 parameters (0.48 M) in 1 file',
        'PF stores 5.0 times as much as SWS']
    assert notes.startswith(f'[1] {SWS_NOTES["sum"]}')


def test_markdown_and_csv():
    lines = render(SOME, MEASURED, 'markdown', SWS).splitlines()
    assert {line.count('|') for line in lines if line.startswith('|')} == {18}
    rows = list(csv.DictReader(io.StringIO(render(SOME, MEASURED, 'csv', SWS))))
    assert [row['stored'] for row in rows] == ['1100000', '1300000', '480000', '480000']
    assert rows[2]['paper_stored_m'] == '0.5' and rows[2]['stored_config'] == 'd.py'
    assert rows[2]['notes'] == SWS_NOTES['sum']


def test_a_figure_is_no_table():
    row = PaperRow('F4', 'A', 'SWS', 'a.py', '1.0')
    assert render([row], MEASURED, paper=SWS).splitlines()[0] == SWS_TABLES['F4']
