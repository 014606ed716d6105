"""The paper's tables against the configs: every row, at full size."""
import csv
import functools
import io
from pathlib import Path

import pytest
from mmengine.hub import get_config

from scalenet_mm import ConfigError
from scalenet_mm.analysis import (
    NOTES,
    PAPER_ROWS,
    TABLES,
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
ROWS = {(row.table, row.model, row.label): row for row in PAPER_ROWS}
DISTINCT = sorted({row.config for row in PAPER_ROWS})
#: Exact counts that the paper's figures stand for, or that the rule gives where they are misprints.
EXACT = {
    ('I', 'DeiT-Tiny', 'ScaleNet'): 6_463_912,
    ('I', 'DeiT-Small', 'ScaleNet'): 23_543_656,
    ('I', 'DeiT-Base', 'ScaleNet'): 89_553_640,
    ('I', 'Swin-Tiny', 'ScaleNet'): 29_246_818,
    ('I', 'Swin-Small', 'ScaleNet'): 51_302_002,
    ('I', 'Swin-Base', 'ScaleNet'): 90_029_216,
    ('II', 'DeiT-Base', 'adapter'): 86_567_656 + 12 * 10 * 768 * 32,
    ('II', 'DeiT-Base', 'LoRA'): 86_567_656 + 12 * 16 * 768 * 16,
    ('III', 'DeiT-Base', '1-3'): 87_314_152,
    ('III', 'Swin-Base', 'stage 1'): 89_735_328,
    ('III', 'Swin-Base', 'stage 2'): 89_777_312,
    ('III', 'Swin-Base', 'stage 3'): 91_204_768,
    ('III', 'Swin-Base', 'all'): 91_666_592,
    ('IV', 'DeiT-Base', '3 times'): 86_567_656 + 24 * 4 * 768 + 36 * 10 * 768 * 16,
    ('VII', 'DeiT-Base', 'scratch, 100 epochs'): 171_622_120,
    ('VIII', 'Swin-Small', 'stage 4'): 70_808_250,
}


@functools.lru_cache(maxsize=None)
def model_of(config):
    cfg = get_config(config) if '::' in config else load_config(str(CONFIGS / config))
    return build_on_meta(cfg)


@functools.lru_cache(maxsize=None)
def params_of(config):
    return count_parameters(model_of(config)).total


def of_params(row):
    return set(row.notes) & {'norms', 'swin-t', 'rank32', 'half-twice', 'times3', 'all-stages'}


@pytest.mark.parametrize('config', DISTINCT)
def test_parameters_fit_the_print_or_a_note_says_why(config):
    for row in PAPER_ROWS:
        if row.config == config and row.params:
            ours = params_of(config) / 1e6
            assert differs(ours, row.params) == bool(of_params(row)), (row, ours)


@pytest.mark.parametrize('key', EXACT, ids=' '.join)
def test_exact_counts(key):
    assert params_of(ROWS[key].config) == EXACT[key]


# baselines of a model build alike: one of each is enough
@pytest.mark.parametrize('key', [key for key in ROWS if key[0] == 'I' and key[2] in (
    'ungrown', 'Stack', 'ScaleNet')], ids=' '.join)
def test_flops_fit_the_print_or_a_note_says_why(key):
    row = ROWS[key]
    ours = count_flops(model_of(row.config)) / 1e9
    noted = bool(set(row.notes) & {'doubled', 'adapters', 'swin-flops', 'swin-s-block'})
    if key == ('I', 'DeiT-Tiny', 'ScaleNet'):
        noted = False  # twice 1.3 is 2.6, and by chance so is what is built, adapters and all
    assert differs(ours, row.flops) == noted, ours


@pytest.mark.parametrize('arch', ['deit-t', 'deit-s', 'deit-b'])
def test_doubled_flops(arch):
    rows = [row for row in PAPER_ROWS if 'doubled' in row.notes and f'_{arch}_' in row.config]
    (row, ) = rows
    ungrown = ROWS['I', row.model, 'ungrown']
    assert float(row.flops) == pytest.approx(2 * float(ungrown.flops))


def test_the_baselines_of_a_model_have_one_count():
    for model in {row.model for row in PAPER_ROWS if row.table == 'I'}:
        counts = {params_of(ROWS['I', model, label].config)
                  for label in ('Random', 'Stack', 'Interpolate', 'SWA')}
        assert len(counts) == 1, model


def test_the_rows():
    assert len(PAPER_ROWS) == len(ROWS)
    sizes = [sum(row.table == table for row in PAPER_ROWS) for table in TABLES]
    assert sizes == [36, 30, 12, 6, 6, 7, 6, 6]
    used = {note for row in PAPER_ROWS for note in row.notes}
    assert used == set(NOTES)
    # one config, one result: wherever the paper shows it
    scores = {}
    for row in PAPER_ROWS:
        assert scores.setdefault((row.config, row.table == 'VIII'), row.score) == row.score, row


@pytest.mark.parametrize('ours, printed, expected', [
    (5.717416, '5.72', False), (6.463912, '6.45', True), (4.4898, '4.5', False),
    (2.651, '2.6', True), (2.65, '2.6', False), (47.794, '47.8', False), (3., '3', False),
])
def test_differs(ours, printed, expected):
    assert differs(ours, printed) is expected


SOME = (
    PaperRow('I', 'A', 'plain', 'a.py', '1.00', '2.0', '70.00'),
    PaperRow('I', 'A', 'grown', 'b.py', '1.10', '4.0', '71.00', notes=('norms', 'doubled')),
    PaperRow('VII', 'A', 'grown', 'b.py', score='71.00', hours='9.5', notes=('norms', )),
)
MEASURED = {'a.py': Measured(999_900, 5, 2_040_000_000, 2_040_000_000),
            'b.py': Measured(1_234_567, 7, 4_200_000_000, 4_100_000_000)}


def test_text():
    first, second, notes = render(SOME, MEASURED).split('\n\n')
    lines = first.splitlines()
    assert lines[0] == 'Table I: ImageNet-1K, ways of growing'
    assert lines[2].split() == ['A', 'plain', '999,900', '1.00', '1.00', '+0.00', '5', '2.04',
                                '2.04', '2.0', '+0.04', '70.00']
    assert lines[3].split() == ['A', 'grown', '1,234,567', '1.23', '1.10', '+0.13', '7', '4.20',
                                '4.10', '4.0', '+0.20', '71.00', '[1]', '[2]']
    assert second.splitlines()[1].split() == [
        'model', 'row', 'parameters', 'M', 'trainable', 'GFLOPs', 'no', 'adapters', 'top-1',
        'hours', 'notes']
    assert second.splitlines()[2].split()[-2:] == ['9.5', '[1]']
    assert notes.splitlines()[:2] == [f'[1] {NOTES["norms"]}', f'[2] {NOTES["doubled"]}']


def test_markdown():
    lines = render(SOME, MEASURED, 'markdown').splitlines()
    rows = [line for line in lines if line.startswith('|')]
    assert {line.count('|') for line in rows} == {16}
    assert rows[2].endswith('| `a.py` |') and '### Table VII' in '\n'.join(lines)


def test_csv():
    rows = list(csv.DictReader(io.StringIO(render(SOME, MEASURED, 'csv'))))
    assert [row['config'] for row in rows] == ['a.py', 'b.py', 'b.py']
    assert rows[1]['parameters'] == '1234567' and rows[1]['paper_parameters_m'] == '1.10'
    assert rows[1]['flops'] == '4200000000'
    assert NOTES['norms'] in rows[1]['notes'] and rows[0]['notes'] == ''


def test_a_config_without_a_model(tmp_path):
    path = tmp_path / 'empty.py'
    path.write_text('x = 1\n')
    with pytest.raises(ConfigError, match='no model'):
        build_on_meta(load_config(str(path)))


def test_a_hook_grows_a_stock_backbone(tmp_path):
    path = tmp_path / 'stock.py'
    path.write_text('''
default_scope = 'mmpretrain'
custom_imports = dict(imports=['scalenet_mm'])
model = dict(
    type='ImageClassifier',
    backbone=dict(type='VisionTransformer', arch='deit-tiny'),
    head=dict(type='VisionTransformerClsHead', num_classes=1000, in_channels=192))
custom_hooks = [dict(type='AdapterInjectionHook', freeze='paper-strict')]
''')
    count = count_parameters(build_on_meta(load_config(str(path))))
    assert count.total == 6_463_912
    assert count.trainable == 24 * 10 * 192 * 16 + 24 * 4 * 192 + 2 * 192
