"""What stacks.py has pytest do: leave out what a stack cannot run, and write down what happened.

These rules say that a test needs a toolbox that the stack does not have:

1. One of its parameters is the toolbox's name, or a config file of that toolbox; or it is marked
   ``needs_toolbox`` with that name.
2. It was run and failed because the toolbox cannot be imported, and its file (or a helper of the
   tests that the file imports) names the toolbox. A test whose file does not name it has nothing to
   do with it: that failure stands.

Such tests count as deselected, each with the toolbox it needs. Nothing of this is in force unless
stacks.py loads this module: in the usual environment every test runs.
"""
from __future__ import annotations

import functools
import json
import os
import re
from pathlib import Path

import pytest

ROOT = Path.cwd()
#: Modules that the stack lacks, with the toolboxes that bring them: the toolboxes themselves, and
#: what is installed with one of them alone.
LACKING = json.loads(os.environ.get('SCALENET_STACK_ABSENT') or '{}')
#: The toolboxes, with the names they are installed under, and those that the stack lacks.
DISTRIBUTIONS = {'mmdet': 'mmdet', 'mmpretrain': 'mmpretrain', 'mmseg': 'mmsegmentation'}
ABSENT = {name: DISTRIBUTIONS.get(name, name) for name in LACKING.values()}
REPORT = os.environ.get('SCALENET_STACK_REPORT', '')


def note(**entry) -> None:
    """Append a line to the report at once: a run that is stopped leaves what it found."""
    if REPORT:
        with open(REPORT, 'a', encoding='utf-8') as file:
            file.write(json.dumps(entry) + '\n')


@functools.lru_cache(maxsize=None)
def config_toolbox(path: str) -> str | None:
    """The toolbox of a config file, read from its text and that of its bases; None if unknown."""
    try:
        text = Path(path).read_text(encoding='utf-8')
    except OSError:
        return None
    found = re.search(r"^default_scope = '(\w+)'", text, re.M) or re.search(r"'(\w+)::", text)
    if found:
        return found[1]
    bases = re.search(r'^_base_ = (\[.*?\]|.*?$)', text, re.M | re.S)
    names = re.findall(r"'([^']+\.py)'", bases[1]) if bases else []
    found_in = (config_toolbox(os.path.normpath(Path(path).parent / name)) for name in names)
    return next(filter(None, found_in), None)


def toolboxes_of(value) -> set[str]:
    """Absent toolboxes that a parameter of a test names."""
    if isinstance(value, (list, tuple, set, frozenset)):
        return set().union(*map(toolboxes_of, value))
    if isinstance(value, dict):
        return toolboxes_of(list(value.values()))
    if not isinstance(value, (str, os.PathLike)):
        return set()
    text = os.fspath(value)
    found = {name for name, distribution in ABSENT.items()
             if text in (name, distribution) or text.startswith(f'{name}::')}
    if text.endswith('.py'):
        for path in (Path(text), ROOT / text, ROOT / 'configs' / text):
            if path.is_file():
                found |= {config_toolbox(str(path.resolve()))} & set(ABSENT)
                break
    return found


@functools.lru_cache(maxsize=None)
def named_in(path: str) -> frozenset[str]:
    """Toolboxes that a file of tests names, or one of the helpers beside it that it imports.

    A file that reads this project's configs names all of them.
    """
    folder, texts, todo, seen = Path(path).parent, [], [Path(path), Path(path).with_name(
        'conftest.py')], set()
    while todo:
        file = todo.pop()
        if file in seen or not file.is_file():
            continue
        seen.add(file)
        text = file.read_text(encoding='utf-8')
        texts.append(text)
        todo += [folder / f'{name}.py'
                 for name in re.findall(r'^\s*(?:from|import) (\w+)', text, re.M)]
    whole = '\n'.join(texts)
    return frozenset(name for name, distribution in DISTRIBUTIONS.items()
                     if re.search(rf'\b({name}|{distribution}|configs|CONFIGS)\b', whole))


def missing_in(text: str) -> set[str]:
    """Absent toolboxes that an error's text says cannot be imported or are not installed."""
    imported = re.findall(r"No module named '(\w+)|could not import '(\w+)", text)
    found = {LACKING[name] for names in imported for name in names if name in LACKING}
    for scope in re.findall(r"(?:\b(\w+)\.)?\b\w+ is not in the mmengine::\w+ registry", text):
        # mmengine looked in its own registry, since the toolbox's could not be imported
        found |= {scope} & set(ABSENT) if scope else set(ABSENT)
    return found | {name for name, distribution in ABSENT.items() if re.search(
        rf'\b({name}|{distribution}) is not installed|pip install [^\n]*\b{distribution}\b', text)}


def last_line(text: str) -> str:
    """The line of a failure that says what was raised."""
    lines = [line for line in text.splitlines() if line.startswith('E  ')]
    return re.sub(r'^E\s+', '', lines[0]) if lines else (text.strip().splitlines() or [''])[-1]


def pytest_collection_modifyitems(config, items):
    """Apply the first rule."""
    stay, out = [], []
    for item in items:
        spec = getattr(item, 'callspec', None)
        need = toolboxes_of(list(spec.params.values())) if spec else set()
        need |= {name for mark in item.iter_markers('needs_toolbox') for name in mark.args} & set(
            ABSENT)
        (out if need else stay).append(item)
        if need:
            note(test=item.nodeid, outcome='deselected', needs=sorted(need), rule='parameter')
    if out:
        items[:] = stay
        config.hook.pytest_deselected(items=out)


@pytest.hookimpl(wrapper=True)
def pytest_make_collect_report(collector):
    """Apply the second rule to files that cannot even be imported."""
    report = yield
    path = str(getattr(collector, 'path', ''))
    if report.failed:
        text = str(report.longrepr)
        need = missing_in(text) & named_in(path) if path.endswith('.py') else set()
        if need:
            note(test=collector.nodeid, outcome='deselected', needs=sorted(need), rule='file')
            report.outcome, report.longrepr = 'skipped', (path, 0, f'needs {", ".join(need)}')
        else:
            note(test=collector.nodeid, outcome='failed', error=last_line(text))
    elif report.skipped:
        reason = str(report.longrepr)
        need = missing_in(reason)
        note(test=collector.nodeid, outcome='deselected' if need else 'skipped',
             needs=sorted(need), reason=reason, rule='file')
    return report


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    """Apply the second rule to a test that failed, and write down how each one went."""
    report = yield
    if report.failed:
        text = report.longreprtext
        need = missing_in(text + ''.join(body for _, body in report.sections))
        need &= named_in(str(item.path))
        if need:
            note(test=item.nodeid, outcome='deselected', needs=sorted(need), rule='import',
                 error=last_line(text))
            report.outcome = 'skipped'
            report.longrepr = (str(item.path), 0, f'needs {", ".join(sorted(need))}')
        else:
            note(test=item.nodeid, outcome='failed', error=last_line(text))
    elif report.skipped:
        reason = str(report.longrepr)
        need = missing_in(reason)
        note(test=item.nodeid, outcome='deselected' if need else 'skipped', needs=sorted(need),
             reason=reason, rule='import')
    elif report.when == 'call':
        note(test=item.nodeid, outcome='passed')
    return report
