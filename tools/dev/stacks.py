#!/usr/bin/env python
"""Run the tests on other OpenMMLab stacks than the one of `make env`, and write the results down.

Two commands::

    stacks.py onedl         the packages that OneDL maintains        (make test-onedl)
    stacks.py one-toolbox   mmdet, mmpretrain or mmsegmentation alone (make stacks)

Every stack has a virtual environment of its own in ``<environment>/stacks``. Its packages are hard
links to the files of the environment that runs this, so that torch is neither downloaded nor stored
again; packages of OpenMMLab are linked only where the stack wants them. What is linked is a
package's own list of files (its RECORD): no folder is shared, and nothing else can be imported.

What a run found goes into the table of docs/versions.md. A failure that comes from upstream is
listed in ``stack_failures.toml`` with its error; any other failure fails the run, and so does a
listed test that passes or fails in another way.

Example:
    .venv/bin/python tools/dev/stacks.py onedl
    .venv/bin/python tools/dev/stacks.py one-toolbox --only mmdet -- -k delta
    .venv/bin/python tools/dev/stacks.py onedl --again
    .venv/bin/python tools/dev/stacks.py onedl --prepare
"""
from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from dataclasses import dataclass, field
from importlib import metadata
from pathlib import Path
from typing import Iterable, Optional, Sequence

import build_mmcv
import tomllib
from make_env import venv_python
from progress import SetupError, clean_environ, elapsed, exclusive_lock, main_guard, run_logged, say
from stack_plugin import named_in

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / 'docs' / 'versions.md'
FAILURES = ROOT / 'tools' / 'dev' / 'stack_failures.toml'
BEGIN, END = '<!-- stacks: begin -->', '<!-- stacks: end -->'
FAILURES_BEGIN, FAILURES_END = '<!-- failures: begin -->', '<!-- failures: end -->'

#: The modules of OpenMMLab and the distributions that have them, originals and OneDL's.
MODULES = {
    'mmengine': ('mmengine', 'onedl-mmengine'),
    'mmcv': ('mmcv', 'onedl-mmcv'),
    'mmdet': ('mmdet', 'onedl-mmdetection'),
    'mmpretrain': ('mmpretrain', 'onedl-mmpretrain'),
    'mmseg': ('mmsegmentation', 'onedl-mmsegmentation'),
}
TOOLBOXES = ('mmdet', 'mmpretrain', 'mmseg')
OPENMMLAB = {name for names in MODULES.values() for name in names}
#: The extra of scalenet_mm that a toolbox's users install.
EXTRA = {'mmdet': 'det', 'mmpretrain': 'pretrain', 'mmseg': 'seg'}

#: What a stack of one toolbox has besides scalenet_mm with that toolbox's extra: torchvision, which
#: mmpretrain and parts of mmdet import and no toolbox asks for; mmcv, which is built by itself;
#: setuptools for mmengine's pkg_resources; and what the tests are run with.
BESIDES = ('torchvision', 'mmcv', 'opencv-python-headless', 'pip', 'setuptools', 'wheel', 'pytest',
           'pytest-timeout', 'hypothesis', 'timm', 'safetensors', 'tensorboard')

#: Raised whenever environments are made in another way, so that old ones are made again.
LAYOUT = b'1'

#: Not run in any stack: they test documents, packaging, linters, benchmarks and the set-up itself.
#: All that tests the package and its tools is run.
NOT_RUN = ('tests/test_docs', 'tests/test_lint', 'tests/test_packag', 'tests/test_stacks',
           'tests/test_benchmarks', 'tests/test_tools/test_build_mmcv',
           'tests/test_tools/test_stacks_tool')


@dataclass(frozen=True)
class Stack:
    """One set of packages.

    Args:
        name (str): Name of its folder and on the command line.
        title (str): How the table calls it.
        toolboxes (tuple[str]): Modules of the toolboxes it has.
        onedl (bool): Whether OneDL's packages stand in for the originals.
        command (str): The make target.
    """
    name: str
    title: str
    toolboxes: tuple[str, ...]
    onedl: bool = False
    command: str = 'make stacks'

    @property
    def distributions(self) -> dict[str, str]:
        """dict[str, str]: The distribution of each module it has."""
        return {module: MODULES[module][self.onedl]
                for module in ('mmengine', 'mmcv', *self.toolboxes)}


ONEDL = Stack('onedl', 'OneDL', TOOLBOXES, True, 'make test-onedl')
ONE_TOOLBOX = {name: Stack(name, f'{MODULES[name][0]} alone', (name, )) for name in TOOLBOXES}


# -- an environment of links ---------------------------------------------------------------------


def normal(name: str) -> str:
    """A distribution's name as PEP 503 compares it."""
    return re.sub(r'[-_.]+', '-', name).lower()


def site_packages(venv: Path) -> Path:
    """The folder of packages of a virtual environment."""
    return venv / 'lib' / f'python{sys.version_info[0]}.{sys.version_info[1]}' / 'site-packages'


def installed(site: Path) -> dict[str, metadata.Distribution]:
    """dict[str, Distribution]: What is installed in a folder, by normal names."""
    return {normal(found.metadata['Name']): found
            for found in metadata.distributions(path=[str(site)])}


def needed(roots: Iterable[str], have: dict[str, metadata.Distribution]) -> set[str]:
    """Follow the requirements of distributions, extras too.

    Args:
        roots (Iterable[str]): Requirements to start from, such as ``scalenet_mm[det]``.
        have (dict[str, Distribution]): What there is, by normal names.

    Returns:
        set[str]: Normal names of all that is asked for and there. pip refused the environment had
        it lacked something that is needed, so what is missing stands behind a marker or was
        replaced (OpenCV's headless build).
    """
    from packaging.requirements import Requirement
    seen: set[tuple[str, str]] = set()
    todo = [(normal(item.name), extra) for item in map(Requirement, roots)
            for extra in ('', *item.extras)]
    while todo:
        name, extra = todo.pop()
        if (name, extra) in seen or name not in have:
            continue
        seen.add((name, extra))
        for line in have[name].requires or ():
            item = Requirement(line)
            if item.marker is None or item.marker.evaluate({'extra': extra}):
                todo += [(normal(item.name), one) for one in ('', *item.extras)]
    return {name for name, _ in seen}


def link(distribution: metadata.Distribution, source: Path, target: Path) -> int:
    """Link the files of one distribution into another environment.

    Args:
        distribution (Distribution): What to link.
        source (Path): The folder of packages it lies in.
        target (Path): The other environment's.

    Returns:
        int: Number of files.

    Raises:
        SetupError: If there is no list of files.
    """
    if not distribution.files:
        raise SetupError(f'{distribution.metadata["Name"]} in {source} has no list of its files '
                         '(RECORD): it was not installed by pip.')
    count = 0
    for entry in distribution.files:
        if '..' in entry.parts:  # its commands: they would run with the other environment's Python
            continue
        origin, place = source / entry, target / entry
        if not origin.is_file() or place.exists():  # `.pyc` that were cleared away
            continue
        place.parent.mkdir(parents=True, exist_ok=True)
        try:
            os.link(origin, place)
        except OSError:  # another file system, or one that has no hard links
            place.symlink_to(origin.resolve())
        count += 1
    return count


def wanted(stack: Stack, have: dict[str, metadata.Distribution]) -> set[str]:
    """Names of the distributions that a stack takes over."""
    if stack.onedl:
        return set(have) - {normal(name) for name in OPENMMLAB} - {'scalenet-mm'}
    extras = ','.join(['digits', 'onnx', *(EXTRA[name] for name in stack.toolboxes)])
    return needed([f'scalenet_mm[{extras}]', *BESIDES], have) - {'scalenet-mm'}


def brought_by(stack: Stack, have: dict[str, metadata.Distribution]) -> dict[str, str]:
    """dict[str, str]: What a stack lacks, by module names, and the toolbox that would bring it."""
    lacking = {name: name for name in TOOLBOXES if name not in stack.toolboxes}
    if stack.onedl:
        return lacking
    own = wanted(stack, have)
    modules = metadata.packages_distributions()
    for toolbox in list(lacking):
        more = needed([f'scalenet_mm[{EXTRA[toolbox]}]'], have) - own - {'scalenet-mm'}
        for module, distributions in modules.items():
            if {normal(name) for name in distributions} <= more and module.isidentifier():
                lacking.setdefault(module, toolbox)
    return lacking


def fingerprint(stack: Stack, have: dict[str, metadata.Distribution]) -> str:
    """Hash of all that an environment is made from."""
    digest = hashlib.sha256()
    for name in sorted(wanted(stack, have)):
        digest.update(f'{name}=={have[name].version}\n'.encode())
    digest.update(LAYOUT + (ROOT / 'requirements-onedl.txt').read_bytes())
    return digest.hexdigest()


def make_environment(stack: Stack, venv: Path) -> None:
    """Make a stack's environment; do nothing if it is there.

    Raises:
        SetupError: If it cannot be made.
    """
    source = site_packages(Path(sys.prefix))
    have = installed(source)
    missing = [name for name in ('torch', 'pytest', 'mmcv') if name not in have]
    if missing:
        raise SetupError(f'{sys.prefix} has no {", ".join(missing)}: run this by the Python of '
                         '`make env`.')
    stamp, now = venv / '.scalenet_mm-stack', fingerprint(stack, have)
    if stamp.is_file() and stamp.read_text(encoding='utf-8') == now:
        return
    if venv.exists() and any(venv.iterdir()) and not stamp.is_file():  # it will be made anew
        raise SetupError(f'{venv} exists and was not made by this tool; take another folder, or '
                         'remove it.')
    wheel = None
    if stack.onedl:  # first: it takes minutes, and may fail for want of a compiler
        wheel, _ = build_mmcv.obtain_wheel(pin('onedl-mmcv'), have['torch'].version,
                                           name='onedl-mmcv')
    start = time.monotonic()
    shutil.rmtree(venv, ignore_errors=True)
    log = venv.parent / f'{venv.name}-setup.log'
    log.unlink(missing_ok=True)
    base = getattr(sys, '_base_executable', None) or sys.executable
    run_logged([base, '-m', 'venv', '--without-pip', str(venv)], log,
               'making the virtual environment', env=clean_environ())
    stamp.write_text('unfinished', encoding='utf-8')
    target = site_packages(venv)
    names = wanted(stack, have)
    count = sum(link(have[name], source, target) for name in sorted(names))
    say(f'{venv}: {len(names)} packages, {count} files linked from {sys.prefix}')
    if stack.onedl:
        pip = [str(venv_python(venv)), '-m', 'pip', 'install', '--no-deps', '--no-build-isolation']
        run_logged([*pip, str(wheel)], log, 'installing onedl-mmcv', env=clean_environ())
        # Without their dependencies: imaug asks for two OpenCVs at once, both older than ours.
        run_logged([*pip, '-r', str(ROOT / 'requirements-onedl.txt')], log,
                   'installing the packages of OneDL', env=clean_environ(CUDA_VISIBLE_DEVICES=''))
    stamp.write_text(now, encoding='utf-8')
    log.unlink(missing_ok=True)
    say(f'{venv} is ready ({elapsed(time.monotonic() - start)})')


def pin(name: str) -> str:
    """The version that requirements-onedl.txt names."""
    return build_mmcv.pinned(name, ROOT / 'requirements-onedl.txt')


# Reads names of modules and distributions, answers with their places and versions.
ORIGINS = """
import importlib, json, sys
from importlib import metadata
modules, names = json.loads(sys.argv[1])
found = {'modules': {}, 'versions': {}, 'python': sys.version.split()[0]}
for name in modules:
    try:
        module = importlib.import_module(name)
        found['modules'][name] = module.__file__
    except ModuleNotFoundError as error:
        found['modules'][name] = None
for name in names:
    try:
        found['versions'][name] = metadata.version(name)
    except metadata.PackageNotFoundError:
        found['versions'][name] = None
print(json.dumps(found))
"""


def origins(stack: Stack, venv: Path, tree: Path) -> dict[str, str]:
    """See that every module comes from the stack's environment, and what must be absent is.

    Args:
        stack (Stack): The stack.
        venv (Path): Its environment.
        tree (Path): The clone that is tested.

    Returns:
        dict[str, str]: Versions of Python, torch, numpy and of OpenMMLab's packages.

    Raises:
        SetupError: If something leaks in, is missing, or has another version than asked for.
    """
    modules = ['torch', 'torchvision', 'numpy', 'cv2', *MODULES, 'scalenet_mm']
    names = ['torch', 'torchvision', 'numpy', 'setuptools', *sorted(OPENMMLAB)]
    done = subprocess.run([str(venv_python(venv)), '-W', 'ignore', '-c', ORIGINS,
                           json.dumps([modules, names])], env=clean_environ(), cwd='/',
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True, errors='replace')
    lines = done.stdout.strip().splitlines()
    if done.returncode or not lines:
        tail = '\n'.join(f'    {line}' for line in done.stderr.strip().splitlines()[-8:])
        raise SetupError(f'the packages in {venv} do not load:\n{tail}')
    found = json.loads(lines[-1])
    site = str(site_packages(venv)) + os.sep
    for module, place in found['modules'].items():
        say(f'  {module}: {place}')
        expected = module not in MODULES or module in stack.distributions
        if (place is not None) != expected:
            raise SetupError(f'{module} is {"there" if place else "missing"} in {venv}: {place}')
        home = str(tree) + os.sep if module == 'scalenet_mm' else site
        if place is not None and not place.startswith(home):
            raise SetupError(f'{module} comes from {place}, not from {home}')
    for name in OPENMMLAB:
        version = found['versions'][name]
        if (version is not None) != (name in stack.distributions.values()):
            raise SetupError(f'{name} {version}: {venv} holds a mix of stacks.')
        exact = None if version is None else (pin(name) if stack.onedl
                                              else build_mmcv.pinned(name))
        if version != exact:
            raise SetupError(f'{venv} has {name} {version}, not {exact}.')
    return {'python': found['python'],
            **{name: version for name, version in found['versions'].items() if version}}


# -- a run ---------------------------------------------------------------------------------------


def git(*words: str, tree: Optional[Path] = None) -> str:
    """What git answers; an empty text where there is no git or no repository."""
    try:
        done = subprocess.run(['git', '-C', str(tree or ROOT), *words], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    except OSError:
        return ''
    return done.stdout.strip() if done.returncode == 0 else ''


def check_out(commit: str, folder: Path) -> Path:
    """Clone the repository at a commit, so that what is edited meanwhile is not tested.

    Args:
        commit (str): The commit.
        folder (Path): Where the clone goes.

    Returns:
        Path: The clone.

    Raises:
        SetupError: If there is no such commit.
    """
    exact = git('rev-parse', '--verify', f'{commit}^{{commit}}')
    if not exact:
        raise SetupError(f'{ROOT} has no commit {commit}.')
    for words in (['clone', '-q', '--shared', '--no-checkout', str(ROOT), str(folder)],
                  ['-C', str(folder), 'checkout', '-q', '--detach', exact]):
        subprocess.run(['git', *words], check=True, stdin=subprocess.DEVNULL)
    return folder


def state_of(tree: Path) -> str:
    """The commit of a tree, with `+` if files were changed since; `unknown` without git."""
    commit = git('rev-parse', '--short', 'HEAD', tree=tree)
    return f'{commit}{"+" if git("status", "--porcelain", tree=tree) else ""}' if commit else '-'


def test_files(tree: Path) -> list[str]:
    """The test files that stacks run: all but those that `NOT_RUN` names."""
    files = (path.relative_to(tree).as_posix() for path in sorted(tree.glob('tests/**/test_*.py')))
    return [file for file in files if not file.startswith(NOT_RUN)]


def install_tree(stack: Stack, venv: Path, tree: Path) -> None:
    """Install the tested tree, editable."""
    log = venv.parent / f'{venv.name}-tree.log'
    log.unlink(missing_ok=True)
    run_logged([str(venv_python(venv)), '-m', 'pip', 'install', '--no-deps',
                '--no-build-isolation', '-q', '-e', str(tree)], log, 'installing scalenet_mm',
               env=clean_environ())
    log.unlink(missing_ok=True)


def run_tests(stack: Stack, venv: Path, tree: Path, files: Sequence[str],
              options: Sequence[str], jobs: int, folder: Path) -> dict[str, dict[str, dict]]:
    """Run test files in a stack.

    Args:
        stack (Stack): The stack.
        venv (Path): Its environment.
        tree (Path): The tree that is tested.
        files (Sequence[str]): Files of tests.
        options (Sequence[str]): Options for pytest.
        jobs (int): Processes at once; each takes every so many-th file.
        folder (Path): Where their logs and reports go.

    Returns:
        dict[str, dict]: For every file that was run to its end what happened to each of its tests:
        its `outcome` (passed, failed, skipped, deselected), and `error` or `needs`. An interrupt
        leaves out the files that were not run to their end.

    Raises:
        SetupError: If pytest ends before it has run all.
    """
    folder.mkdir(parents=True, exist_ok=True)
    absent = brought_by(stack, installed(site_packages(Path(sys.prefix))))
    running = []
    for job in range(min(jobs, len(files))):
        report, log = folder / f'report-{job}.jsonl', folder / f'pytest-{job}.log'
        report.unlink(missing_ok=True)
        scratch = tempfile.mkdtemp(prefix=f'{stack.name}-')
        command = [str(venv_python(venv)), '-m', 'pytest', '-q', '-p', 'stack_plugin', '-p',
                   'no:cacheprovider', '--continue-on-collection-errors', '-o', 'timeout=1800',
                   '--basetemp', str(Path(scratch, 'tests')), *options, *files[job::jobs]]
        environ = clean_environ(
            SCALENET_STACK=stack.name, SCALENET_STACK_ABSENT=json.dumps(absent),
            SCALENET_STACK_REPORT=str(report), TMPDIR=scratch,
            PYTHONPATH=str(ROOT / 'tools' / 'dev'), HYPOTHESIS_STORAGE_DIRECTORY=scratch,
            OMP_NUM_THREADS=os.environ.get('OMP_NUM_THREADS', '1'), OMP_WAIT_POLICY='PASSIVE')
        with open(log, 'wb') as sink:
            process = subprocess.Popen(command, cwd=tree, stdin=subprocess.DEVNULL, stdout=sink,
                                       stderr=subprocess.STDOUT, env=environ)
        running.append((process, report, log, scratch))
    start, interrupted = time.monotonic(), False
    try:
        while any(process.poll() is None for process, *_ in running):
            time.sleep(min(60, 1 + (time.monotonic() - start) / 10))
            counts = Counter(entry['outcome'] for _, report, *_ in running
                             for entry in read_report(report).values())
            say(f'  ... {stack.name}: {elapsed(time.monotonic() - start)}, '
                + ', '.join(f'{counts[key]} {key}' for key in sorted(counts)))
    except (KeyboardInterrupt, SystemExit):
        interrupted = True
        say('interrupted; the files that were run to their end count')
    finally:
        for process, _, _, scratch in running:
            if process.poll() is None:
                process.terminate()
                process.wait()
            shutil.rmtree(scratch, ignore_errors=True)
    found: dict[str, dict[str, dict]] = {}
    for job, (process, report, log, _) in enumerate(running):
        ended = process.returncode in (0, 1, 5)
        if not ended and not interrupted:
            tail = '\n'.join(f'    {line}' for line in
                             log.read_text(encoding='utf-8', errors='replace').splitlines()[-15:])
            raise SetupError(f'pytest ended with status {process.returncode} ({log}):\n{tail}')
        found.update(by_file(read_report(report), files[job::jobs], ended))
    return found


def by_file(found: dict[str, dict], files: Sequence[str], ended: bool) -> dict[str, dict]:
    """Sort what happened by files, and leave out files that were not run to their end.

    Args:
        found (dict[str, dict]): What happened to each test.
        files (Sequence[str]): The files in the order in which pytest runs them.
        ended (bool): Whether pytest ran all of them.

    Returns:
        dict[str, dict]: What happened to each test, by files.
    """
    sorted_ = {file: {test: entry for test, entry in found.items()
                      if test.split('::')[0] == file} for file in files}
    if not ended:  # what is known of the last one that has begun, or of later ones, is not all
        begun = [index for index, file in enumerate(files) for entry in sorted_[file].values()
                 if entry.get('rule') not in ('parameter', 'file')]
        sorted_ = {file: sorted_[file] for file in files[:max(begun, default=0)]}
    return sorted_


def read_report(path: Path) -> dict[str, dict]:
    """Read what the plugin wrote; a failure of a test outweighs its other phases."""
    found: dict[str, dict] = {}
    if path.is_file():
        for line in path.read_text(encoding='utf-8').splitlines():
            try:
                entry = json.loads(line)
            except ValueError:  # being written
                continue
            if found.get(entry['test'], {}).get('outcome') != 'failed':
                found[entry['test']] = entry
    return found


@dataclass
class Verdict:
    """A run's results beside the failures that were expected of it."""
    passed: int = 0
    deselected: Counter = field(default_factory=Counter)
    files: Counter = field(default_factory=Counter)
    skipped: list[str] = field(default_factory=list)
    upstream: list[dict] = field(default_factory=list)
    wrong: list[str] = field(default_factory=list)


def judge(stack: Stack, found: dict[str, dict], expected: Sequence[dict],
          whole: bool = True) -> Verdict:
    """Compare what happened with what was expected.

    Args:
        stack (Stack): The stack.
        found (dict[str, dict]): What happened to each test.
        expected (Sequence[dict]): The expected failures: `test`, `error`, `reason`.
        whole (bool): Whether all tests were to run, so that a listed one that is missing is a
            mistake. Defaults to True.

    Returns:
        Verdict: Counts, and in `wrong` one line for whatever was not expected.
    """
    verdict, listed = Verdict(), {entry['test']: entry for entry in expected}
    for test, entry in sorted(found.items()):
        known = listed.pop(test, None)
        outcome = entry['outcome']
        if outcome == 'failed' and known and known['error'] == entry['error']:
            verdict.upstream.append(known)
        elif outcome == 'failed' and known:
            verdict.wrong.append(f'{test} fails in another way than listed: {entry["error"]}')
        elif outcome == 'failed':
            verdict.wrong.append(f'{test} fails: {entry["error"]}')
        elif known:
            verdict.wrong.append(f'{test} is listed as a failure from upstream, and was {outcome}')
        elif outcome == 'passed':
            verdict.passed += 1
        elif outcome == 'skipped':
            verdict.skipped.append(f'{test}: {entry.get("reason", "")}')
        else:
            counts = verdict.files if entry['rule'] == 'file' else verdict.deselected
            counts[', '.join(entry['needs'])] += 1
    if whole:
        verdict.wrong += [f'{test} is listed as a failure from upstream, and there is no such test'
                          for test in listed]
    return verdict


def expected_failures(stack: Stack) -> list[dict]:
    """The failures from upstream that are listed for a stack.

    Raises:
        SetupError: If an entry lacks something.
    """
    entries = tomllib.loads(FAILURES.read_text(encoding='utf-8')).get(stack.name, [])
    for entry in entries:
        if set(entry) != {'test', 'error', 'reason'} or not all(entry.values()):
            raise SetupError(f'{FAILURES}: an entry of {stack.name} needs test, error and reason, '
                             f'and has {entry}.')
    return entries


# -- the table -----------------------------------------------------------------------------------

HEAD = ('Packages', 'Python', 'torch', 'mmengine', 'mmcv', 'Toolboxes', 'Passed',
        'Failed (upstream)', 'Deselected', 'Date', 'Commit', 'Command')


def describe_deselected(verdict: Verdict) -> str:
    """Say how many tests, and files of tests, were left out for want of which toolboxes."""
    texts = []
    for needs in sorted({*verdict.deselected, *verdict.files}):
        counts = [f'{count} {unit}' for unit, count in (('tests', verdict.deselected[needs]),
                                                        ('files', verdict.files[needs])) if count]
        texts.append(f'{" and ".join(counts)} need {needs}')
    return '; '.join(texts) or '0'


def make_row(stack: Stack, verdict: Verdict, versions: dict[str, str], commit: str,
             today: Optional[str] = None) -> tuple[str, ...]:
    """One row of the table."""
    names = stack.distributions
    toolboxes = ', '.join(f'{names[name]} {versions[names[name]]}' for name in stack.toolboxes)
    failed = len(verdict.wrong)
    return (stack.title, versions['python'], versions['torch'], versions[names['mmengine']],
            versions[names['mmcv']], toolboxes, str(verdict.passed),
            f'{failed + len(verdict.upstream)} ({len(verdict.upstream)})',
            describe_deselected(verdict), today or datetime.date.today().isoformat(), commit,
            f'`{stack.command}`')


def read_rows(text: str) -> dict[str, tuple[str, ...]]:
    """The rows that a page has, by their first column."""
    match = re.search(f'{re.escape(BEGIN)}\n(.*?){re.escape(END)}', text, re.S)
    if match is None:
        raise SetupError(f'{PAGE} has no lines {BEGIN} and {END} to write the table between.')
    rows = {}
    for line in match[1].splitlines():
        cells = tuple(cell.strip() for cell in line.strip().strip('|').split('|'))
        if line.startswith('|') and len(cells) == len(HEAD) and cells != HEAD \
                and not set(cells[0]) <= set('-: '):
            rows[cells[0]] = cells
    return rows


def between(text: str, begin: str, end: str, content: str) -> str:
    """Replace what stands between two lines of a page."""
    if begin not in text or end not in text:
        raise SetupError(f'{PAGE} has no lines {begin} and {end}.')
    start = text.index(begin) + len(begin)
    return f'{text[:start]}\n{content}\n{text[text.index(end):]}'


def describe_failures() -> str:
    """The listed failures as markdown."""
    lines = []
    for stack in STACKS.values():
        for entry in expected_failures(stack):
            error = entry['error'].replace('`', "'")
            lines.append(f'- {stack.title}: `{entry["test"]}` fails with `{error}`. '
                         f'{entry["reason"]}')
    return '\n'.join(lines) or 'None.'


def write_row(row: tuple[str, ...], page: Path = PAGE) -> None:
    """Put a row into the page's table, in the place of the stack's last one.

    The listed failures are written anew besides.
    """
    with exclusive_lock(page, 'writing the table'):
        text = page.read_text(encoding='utf-8')
        rows = {**read_rows(text), row[0]: row}
        order = [stack.title for stack in STACKS.values()]
        lines = ['| ' + ' | '.join(HEAD) + ' |', '|' + '---|' * len(HEAD)]
        lines += ['| ' + ' | '.join(rows[title]) + ' |' for title in order if title in rows]
        text = between(text, BEGIN, END, '\n'.join(lines))
        text = between(text, FAILURES_BEGIN, FAILURES_END, describe_failures())
        fresh = page.with_name(f'.{page.name}.new')
        fresh.write_text(text, encoding='utf-8')
        fresh.replace(page)


# -- the command line ----------------------------------------------------------------------------


def test_stack(stack: Stack, args: argparse.Namespace) -> bool:
    """Make a stack's environment, run the tests in it and write its row.

    Every file counts as it went the last time it was run; the row names all commits that are in
    it. It is written as soon as every file of the tree was run.

    Returns:
        bool: Whether all went as expected.
    """
    home = Path(args.folder).absolute()
    home.mkdir(parents=True, exist_ok=True)
    with exclusive_lock(home / f'{stack.name}.lock', f'using the stack {stack.name}'):
        venv, folder = home / stack.name, home / f'{stack.name}-run'
        make_environment(stack, venv)
        with tempfile.TemporaryDirectory(prefix=f'scalenet-{stack.name}-') as scratch:
            tree = check_out(args.commit, Path(scratch, 'clone')) if args.commit else ROOT
            install_tree(stack, venv, tree)
            versions = origins(stack, venv, tree)
            if args.prepare:
                return True
            commit, start = state_of(tree), time.monotonic()
            memory = folder / 'last.json'
            last = json.loads(memory.read_text(encoding='utf-8')) if memory.is_file() else {}
            every = test_files(tree)
            others = leave_to_others(stack, tree, every)
            last = {file: entry for file, entry in last.items() if file not in others}
            files = choose([file for file in every if file not in others], last, args)
            say(f'{stack.name}: {len(files)} of {len(every)} files of tests in {tree}, commit '
                f'{commit}, logs in {folder}')
            found = run_tests(stack, venv, tree, files, args.pytest, args.jobs, folder)
    if not args.pytest:
        last = {file: entry for file, entry in last.items() if file in every}
        last.update({file: {'commit': commit, 'tests': tests} for file, tests in found.items()})
        last.update({file: {'commit': commit, 'tests': {file: {
            'test': file, 'outcome': 'deselected', 'needs': [reason], 'rule': 'file'}}}
            for file, reason in others.items()})
        memory.write_text(json.dumps(last), encoding='utf-8')
        missing = [file for file in every if file not in last]
        found = {file: entry['tests'] for file, entry in last.items()}
    tests = {test: entry for entries in found.values() for test, entry in entries.items()}
    verdict = judge(stack, tests, expected_failures(stack), not args.pytest and not missing)
    for line in (*verdict.wrong, *(f'skipped: {line}' for line in verdict.skipped)):
        say(f'  {line}')
    say(f'{stack.name}: {verdict.passed} passed, {len(verdict.wrong)} not as expected, '
        f'{len(verdict.upstream)} failed as listed, {len(verdict.skipped)} skipped, deselected: '
        f'{describe_deselected(verdict)} ({elapsed(time.monotonic() - start)})')
    if args.pytest:
        return not verdict.wrong
    if missing:
        say(f'{stack.name}: no row yet, {len(missing)} files of tests have not been run: '
            f'{", ".join(missing[:5])}' + (', ...' if len(missing) > 5 else ''))
        return False
    commits: Counter = Counter()
    for entry in last.values():
        commits[entry['commit']] += sum(item['outcome'] == 'passed'
                                        for item in entry['tests'].values())
    names = ', '.join(name if len(commits) == 1 else f'{name} ({count})'
                      for name, count in commits.most_common())
    write_row(make_row(stack, verdict, versions, names))
    return not verdict.wrong


def leave_to_others(stack: Stack, tree: Path, every: Sequence[str]) -> dict[str, str]:
    """Files of tests that a stack of one toolbox does not run.

    Those that name other toolboxes alone need them; those that name none do the same wherever they
    are run, and are run once, beside the first toolbox.

    Args:
        stack (Stack): The stack.
        tree (Path): The tree that is tested.
        every (Sequence[str]): Its files of tests.

    Returns:
        dict[str, str]: For each file left out the toolboxes that it names, or where it is run.
    """
    if len(stack.toolboxes) != 1:
        return {}
    own, = stack.toolboxes
    first = ONE_TOOLBOX[TOOLBOXES[0]]
    left = {}
    for file in every:
        named = named_in(str(tree / file))
        if named and own not in named:
            left[file] = ', '.join(sorted(named))
        elif not named and stack != first:
            left[file] = f'no toolbox (run with {first.title})'
    return left


def choose(every: Sequence[str], last: dict[str, dict], args: argparse.Namespace) -> list[str]:
    """The files that are run now: all, those named, or those that lack a good result."""
    chosen = [file for file in every
              if not args.tests or file.startswith(tuple(args.tests))]
    if args.again:
        def good(file):
            return file in last and all(entry['outcome'] != 'failed'
                                        for entry in last[file]['tests'].values())
        chosen = [file for file in chosen if not good(file)]
    if not chosen and not args.again:  # else there is still the row to be written
        raise SetupError(f'no file of tests begins with {", ".join(args.tests)}.')
    return chosen


STACKS = {stack.name: stack for stack in (ONEDL, *ONE_TOOLBOX.values())}


def parse_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    """Read the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__.split('\n')[0], epilog='What follows -- goes to pytest; no row is '
        'written then.')
    parser.add_argument('command', choices=('onedl', 'one-toolbox'),
                        help='the packages of OneDL, or one original toolbox at a time')
    parser.add_argument('--only', choices=TOOLBOXES, action='append',
                        help='one-toolbox: this toolbox (default: each of the three)')
    parser.add_argument('--commit', help='test a clone at this commit (default: the files as they '
                                         'lie here)')
    parser.add_argument('--folder', default=str(Path(sys.prefix, 'stacks')),
                        help='where the environments go (default: %(default)s)')
    parser.add_argument('--jobs', type=int, default=1,
                        help='pytest processes at once (default: %(default)s)')
    parser.add_argument('--prepare', action='store_true',
                        help='make the environments and see what they load, run no test')
    parser.add_argument('--tests', nargs='+', metavar='PATH',
                        help='only files of tests whose paths begin so (default: all)')
    parser.add_argument('--again', action='store_true',
                        help='only files with a failure the last time, or not run since')
    argv = list(sys.argv[1:] if argv is None else argv)
    cut = argv.index('--') if '--' in argv else len(argv)
    args = parser.parse_args(argv[:cut])
    args.pytest = argv[cut + 1:]
    if args.only and args.command != 'one-toolbox':
        parser.error('--only belongs to one-toolbox')
    if args.jobs < 1:
        parser.error('--jobs is 1 or more')
    return args


def main() -> None:
    args = parse_args()
    stacks = [ONEDL] if args.command == 'onedl' else \
        [ONE_TOOLBOX[name] for name in args.only or TOOLBOXES]
    if not all([test_stack(stack, args) for stack in stacks]):
        raise SetupError('not all tests went as expected, see above.')


if __name__ == '__main__':
    sys.exit(main_guard(main))
