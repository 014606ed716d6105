"""``tools/analysis_tools/count_parameters.py``, and the table that the README quotes from it."""
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(*args):
    return subprocess.run(
        [sys.executable, str(ROOT / 'tools/analysis_tools/count_parameters.py'), *map(str, args)],
        capture_output=True, text=True, timeout=300, cwd=ROOT)


@pytest.mark.needs_toolbox('mmpretrain')
def test_the_table_of_the_readme():
    block = (ROOT / 'README.md').read_text().split('## Parameters')[1].split('```')[1]
    command, table = block.removeprefix('text\n').split('\n\n')
    done = subprocess.run(
        ['bash', '-c', command.replace('python ', f"'{sys.executable}' ", 1)],
        capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip() == table.strip()
    assert len(table.split('\n')) >= 9


def test_no_such_config():
    done = run('nope.py')
    assert done.returncode == 2 and done.stderr.startswith('error: ')
    assert 'nope.py' in done.stderr
