"""The tutorial notebook: a fresh run finds what the committed one shows."""
import base64
import re
from pathlib import Path

import pytest
import tutorial_runner
from tutorial_runner import METADATA, execute, figures_of, pictures_of, read, text_of

TRAINED = ('grown, identity start', "grown, paper's start", 'control, not grown')


@pytest.fixture(scope='module')
def committed():
    return read()


def test_the_committed_notebook_is_clean(committed):
    assert committed.metadata == METADATA
    code = [cell for cell in committed.cells if cell.cell_type == 'code']
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    for cell in committed.cells:
        assert cell.metadata == {}
        for output in cell.get('outputs', ()):
            assert output.output_type in ('stream', 'display_data', 'execute_result')
            assert output.get('name', 'stdout') == 'stdout', 'a warning is in the outputs'
            assert not output.get('metadata')
    text = text_of(committed)
    assert not re.search(r'(^|[\s\'"(])/\w+/', text), 'an absolute path is in the outputs'
    assert 'Warning' not in text and len(text) < 6000
    size = sum(len(base64.b64decode(picture)) for picture in pictures_of(committed))
    assert size < 300_000
    assert Path(tutorial_runner.NOTEBOOK).stat().st_size < 500_000


def test_what_it_says_of_itself_holds(committed):
    figures = figures_of(committed)
    base = figures['base'][-1]
    assert base > 75, 'a model that learned nothing teaches nothing'
    identity = figures['grown, identity start: row']
    assert identity['start'] == figures['base: row']['start'] == base
    assert figures["grown, paper's start: row"]['start'] < base - 2
    ends = [figures[f'{name}: row']['end'] for name in TRAINED]
    # "within the uncertainty": of a difference of two figures of 500 images
    assert max(ends) - min(ends) < 2 * 1.7 * 2**0.5 and min(ends) > base - 1.7
    assert figures['grown, delta: KiB'] < figures['base: KiB'] < figures['grown, whole: KiB']
    assert 'equal scores for all validation images: True' in text_of(committed)


def test_a_fresh_run_agrees(committed, tmp_path):
    fresh = execute(read(), tmp_path)
    assert not [output for cell in fresh.cells for output in cell.get('outputs', ())
                if output.get('name') == 'stderr'], 'a warning is in the outputs'
    old, new = figures_of(committed), figures_of(fresh)
    assert old.keys() == new.keys() and len(old) == 8
    # another processor rounds otherwise, and over some hundred steps that grows
    assert new['base'][-1] == pytest.approx(old['base'][-1], abs=5)
    for name in ('base', *TRAINED):
        was, now = old[f'{name}: row'], new[f'{name}: row']
        assert (now['total'], now['trainable']) == (was['total'], was['trainable'])
        assert now['start'] == pytest.approx(was['start'], abs=8)
        if was['end'] is not None:
            assert now['end'] == pytest.approx(was['end'], abs=5)
    for name in ('base', 'grown, whole', 'grown, delta'):
        assert new[f'{name}: KiB'] == pytest.approx(old[f'{name}: KiB'], rel=0.02)
    assert 'equal scores for all validation images: True' in text_of(fresh)
    assert text_of(fresh).count('the same scores') == 2
    assert len(pictures_of(fresh)) == len(pictures_of(committed)) == 3
    # what was not measured is the same to the letter
    for one, other in zip(committed.cells, fresh.cells):
        assert one.source == other.source
    names = re.compile(r'^  backbone\.layers\..*$', re.M)
    assert names.findall(text_of(committed)) == names.findall(text_of(fresh))
