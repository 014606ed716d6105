"""``tools/analysis_tools/count_parameters.py``, and the table that the README quotes from it."""
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run(*args):
    return subprocess.run(
        [sys.executable, str(ROOT / 'tools/analysis_tools/count_parameters.py'), *map(str, args)],
        capture_output=True, text=True, timeout=300, cwd=ROOT)


def test_the_table_of_the_readme():
    done = run(*sorted(ROOT.glob('configs/maskrcnn_*.py')))
    assert done.returncode == 0, done.stderr
    table = [line for line in done.stdout.splitlines() if line.startswith(('param', 'maskrcnn'))]
    assert len(table) == 7
    readme = (ROOT / 'README.md').read_text()
    for line in table:
        assert line in readme


def test_no_such_config():
    done = run('nope.py')
    assert done.returncode == 2 and done.stderr.startswith('error: ')
    assert 'nope.py' in done.stderr
