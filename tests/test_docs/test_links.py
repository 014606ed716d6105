"""Every link in the documents leads somewhere; anchors by GitHub's rules."""
from pathlib import Path

import pytest
from link_checker import ROOT, anchors, faults, links, missing_files, slug, without_code

DOCUMENTS = sorted(
    path for pattern in ('*.md', 'docs/**/*.md', 'docs/*.ipynb', 'configs/**/*.md', 'tests/**/*.md',
                         'benchmarks/*.md')
    for path in ROOT.glob(pattern)
    if not {'_build', 'jupyter_execute'} & set(path.relative_to(ROOT).parts))


@pytest.mark.parametrize('path', DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links(path):
    assert faults(path) == []


@pytest.mark.parametrize('path', DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_files_that_are_named_as_code(path):
    assert missing_files(path) == []


def test_a_missing_file(tmp_path):
    (tmp_path / 'page.md').write_text(
        '`tools/a.py`, `tools/{b,c}.py`, `configs/my_a.py`, `configs/')
    assert missing_files(tmp_path / 'page.md', tmp_path) == ['page.md: tools/a.py']


def test_there_are_links():
    count = sum(1 for path in DOCUMENTS for _ in links(path))
    assert len(DOCUMENTS) > 10 and count > 60


@pytest.mark.parametrize('heading, anchor', [
    ('Two commands', 'two-commands'),
    ("The paper's tables, in small", 'the-papers-tables-in-small'),
    ('`convert_keys.py`', 'convert_keyspy'), ('What is *not* there', 'what-is-not-there'),
    ('A [link](there.md) & more', 'a-link--more'), ('times=(2, 3)', 'times2-3'),
    ('under_score and-dash', 'under_score-and-dash')])
def test_slug(heading, anchor):
    assert slug(heading) == anchor


PAGE = """# One

## Two `words`

## Twice

text [good](#one), [good](other.md#there), [code](../code.py), ![image](picture.png)
`[not](a-link.md)` <!-- [nor](this.md) -->

```
# no heading
[nor](this-one.md)
```

## Twice

<a id="named"></a>
[web](https://example.org/none), [twice](#twice-1), [named](#named), [folder](../folder/)
"""


@pytest.fixture
def folder(tmp_path: Path):
    (tmp_path / 'docs').mkdir()
    (tmp_path / 'folder').mkdir()
    for name, text in {'docs/page.md': PAGE, 'docs/other.md': '# There', 'code.py': '',
                       'docs/picture.png': ''}.items():
        (tmp_path / name).write_text(text)
    return tmp_path


def test_good_page(folder):
    assert faults(folder / 'docs/page.md', folder) == []
    assert anchors(folder / 'docs/page.md') == {'one', 'two-words', 'twice', 'twice-1', 'named'}
    assert without_code(PAGE).count('\n') == PAGE.rstrip().count('\n')


@pytest.mark.parametrize('link, fault', [
    ('[x](#no-heading)', 'has no heading'), ('[x](none.md)', 'there is no docs/none.md'),
    ('[x](other.md#one)', 'other.md has no heading #one'), ('[x](../../away.md)', 'leaves'),
    ('[x](/docs/other.md)', 'leaves'), ('[x](../code.py#L3)', 'only a document'),
    ('![x](none.png)', 'there is no docs/none.png'), ('[x]()', 'without target'),
    ('<img src="none.svg">', 'there is no docs/none.svg'), ('[a]: none.md', 'there is no'),
    ('[![x](none.png)](other.md)', 'there is no docs/none.png'), ('[x](#twice-2)', 'no heading'),
    ('[x](../code.md)', 'there is no code.md')])
def test_bad_link(folder, link, fault):
    (folder / 'docs/page.md').write_text(PAGE + '\n' + link + '\n')
    found = faults(folder / 'docs/page.md', folder)
    assert len(found) == 1 and fault in found[0]
    assert found[0].startswith(f'docs/page.md:{(PAGE + chr(10)).count(chr(10)) + 1}:')
