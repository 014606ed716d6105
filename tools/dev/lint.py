#!/usr/bin/env python
"""Run the linters of the project: ruff, codespell, mypy and a check of blanks; one summary.

Each is set up in ``pyproject.toml``. The exit code is 0 if all are content, 1 if one is not, and 2
if one is not installed.

Example:
    python tools/dev/lint.py
    python tools/dev/lint.py --only ruff --only blanks --fix
    python tools/dev/lint.py scalenet_mm/growth
"""
import argparse
import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SETTINGS = ROOT / 'pyproject.toml'
#: Text in which blanks are checked; those of Python are ruff's.
TEXT = {'.md', '.toml', '.txt', '.yml', '.yaml', '.cff', '.in', '.sh', '.cfg', '.css', '.ipynb'}
NAMES = {'Makefile', '.gitignore'}
#: Folders that hold no text of the project.
PASSED_OVER = {'build', 'dist', 'data', 'work_dirs', 'checkpoints', '_build', 'jupyter_execute',
               'node_modules', 'venv', '__pycache__'}


def run_ruff(paths: list, fix: bool) -> int:
    """int: 0 or 1 of ruff, which mends what it can if asked to."""
    chosen = only_python(paths)
    if paths and not chosen:
        return 0
    options = ['--fix'] if fix else []
    return call('ruff', 'check', '--config', str(SETTINGS), '--force-exclude', '--output-format',
                'concise', *options, *(chosen or ['.']))


def run_codespell(paths: list, fix: bool) -> int:
    """int: 0 or 1 of codespell; it never writes: a name may be misspelt on purpose."""
    return call('codespell_lib', '--toml', str(SETTINGS), *(paths or ['.']))


def run_mypy(paths: list, fix: bool) -> int:
    """int: 0 or 1 of mypy; without paths it looks at the package."""
    chosen = only_python(paths)
    if paths and not chosen:
        return 0
    return call('mypy', '--config-file', str(SETTINGS), '--no-error-summary', *chosen)


def run_blanks(paths: list, fix: bool) -> int:
    """int: 1 if a text has blanks at a line's end, tabs in YAML, or no or several last newlines."""
    code = 0
    for path in find_texts(paths):
        text = path.read_bytes().decode('utf-8')
        whole = '\n'.join(line.rstrip() for line in text.splitlines()).rstrip('\n')
        whole = whole + '\n' if whole else ''
        faults = []
        if path.suffix in ('.yml', '.yaml', '.cff') and '\t' in text:
            faults.append('a tab, which YAML does not take')
        if text != whole:
            number = next((i for i, pair in enumerate(
                zip(text.split('\n'), whole.split('\n')), 1) if pair[0] != pair[1]), None)
            faults.append('no single newline at its end' if number is None else
                          f'line {number} ends with blanks, or is one too many')
            if fix:
                path.write_bytes(whole.encode('utf-8'))
                faults[-1] += ' (mended)'
        for fault in faults:
            print(f'{path}: {fault}')
            code = 1
    return code


def only_python(paths: list) -> list:
    """list[str]: Of paths, the folders and the files of Python."""
    return [path for path in paths if os.path.isdir(path) or path.endswith(('.py', '.pyi'))]


def find_texts(paths: list) -> list:
    """Find the texts of the project, or below the paths named.

    Args:
        paths (list[str]): Files and folders; empty for the project.

    Returns:
        list[Path]: Files.
    """
    found = []
    for path in map(Path, paths or [ROOT]):
        if path.is_file():
            found.append(path)
        for folder, folders, files in os.walk(path):
            folders[:] = sorted(name for name in folders if name not in PASSED_OVER
                                and not name.startswith('.') and not name.endswith('.egg-info'))
            found += [Path(folder, name) for name in sorted(files)]
    return [path for path in found if path.suffix in TEXT or path.name in NAMES]


LINTERS = dict(ruff=run_ruff, codespell=run_codespell, mypy=run_mypy, blanks=run_blanks)


def call(module: str, *arguments: str) -> int:
    """int: 0 if a linter of this environment is content, 1 if not; 2 if it is not installed."""
    if importlib.util.find_spec(module) is None:
        print(f'{module} is not installed: pip install -r requirements-test.txt -c constraints.txt')
        return 2
    done = subprocess.run([sys.executable, '-m', module, *arguments], cwd=ROOT, check=False)
    return 1 if done.returncode else 0


def main() -> int:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('paths', nargs='*', metavar='PATH',
                        help='files and folders (default: the project)')
    parser.add_argument('--only', action='append', choices=LINTERS, metavar='LINTER',
                        help='run this one, several times for several: %(choices)s (default: all)')
    parser.add_argument('--fix', action='store_true',
                        help='mend what ruff and the check of blanks can mend')
    args = parser.parse_args()
    paths = [os.path.abspath(path) for path in args.paths]
    missing = [path for path in paths if not os.path.exists(path)]
    if missing:
        parser.error(f'no such file or folder: {", ".join(missing)}')
    codes = {}
    for name in args.only or LINTERS:
        print(f'--- {name}', flush=True)
        start = time.monotonic()
        codes[name] = LINTERS[name](paths, args.fix)
        verdict = {0: 'ok', 2: 'NOT RUN'}.get(codes[name], 'FAILED')
        print(f'{name}: {verdict} ({time.monotonic() - start:.1f} s)', flush=True)
    bad = [name for name, code in codes.items() if code]
    print(f'lint: {", ".join(bad)} failed' if bad else f'lint: {", ".join(codes)} ok')
    return max(codes.values())


if __name__ == '__main__':
    sys.exit(main())
