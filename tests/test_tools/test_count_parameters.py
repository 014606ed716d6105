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
    readme = (ROOT / 'README.md').read_text()
    # the shell's braces, without a shell
    patterns = ('maskrcnn_scalenet_swin-?_1x_coco.py', 'maskrcnn_scalenet_swin-?-stage?_1x_coco.py',
                'upernet_*_40k_ade20k.py')
    assert ('count_parameters.py configs/maskrcnn_scalenet_swin-?{,-stage?}_1x_coco.py \\\n'
            '    configs/upernet_*_40k_ade20k.py') in readme
    done = run(*(path for pattern in patterns for path in sorted(ROOT.glob(f'configs/{pattern}'))))
    assert done.returncode == 0, done.stderr
    table = [line for line in done.stdout.splitlines()
             if line.startswith(('param', 'maskrcnn', 'upernet'))]
    assert len(table) == 11
    assert '\n'.join(table) in readme


def test_no_such_config():
    done = run('nope.py')
    assert done.returncode == 2 and done.stderr.startswith('error: ')
    assert 'nope.py' in done.stderr
