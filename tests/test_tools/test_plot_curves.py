"""``tools/analysis_tools/plot_curves.py``, as a user types it."""
import csv
import json
import subprocess
import sys
from pathlib import Path

TOOL = Path(__file__).resolve().parents[2] / 'tools' / 'analysis_tools' / 'plot_curves.py'


def run(*words, cwd):
    return subprocess.run([sys.executable, str(TOOL), *words], cwd=cwd, capture_output=True,
                          text=True, timeout=300)


def test_figures_and_numbers(tmp_path):
    for rate in ('0.0', '0.2'):
        folder = tmp_path / f'dp{rate}' / '20260101_000000' / 'vis_data'
        folder.mkdir(parents=True)
        (folder / 'config.py').write_text(f'model = dict(backbone=dict(drop_path_rate={rate}))\n')
        with open(folder / 'scalars.json', 'w') as file:
            for epoch in (1, 2):
                step = 10 * epoch
                for record in (dict(lr=1., loss=1. / epoch, epoch=epoch, iter=step, step=step),
                               {'accuracy/top1': 30. * epoch + float(rate), 'step': epoch}):
                    file.write(json.dumps(record) + '\n')
    done = run('dp0.0', 'dp0.2', '--out', 'figures/dp.png', cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    figures = tmp_path / 'figures'
    for name in ('dp.png', 'dp_final.png'):
        assert (figures / name).read_bytes().startswith(b'\x89PNG')
        assert f'figures/{name}' in done.stdout
    with open(figures / 'dp.csv') as file:
        rows = list(csv.reader(file))
    assert rows[0] == ['run', 'key', 'epoch', 'value']
    assert ['drop path 0.2', 'accuracy/top1', '2', '60.2'] in rows and len(rows) == 9
    with open(figures / 'dp_final.csv') as file:
        assert list(csv.reader(file))[1:] == [['', '0.0', '60.0', '60.0'],
                                              ['', '0.2', '60.2', '60.2']]

    for words, message in (
            (('no', '--out', 'a.png'), "error: no such folder: 'no'"),
            (('figures', '--out', 'a.png'), "error: 'figures' is no work folder"),
            (('dp0.0', '--out', 'a.png', '--keys', 'mIoU'), "error: 'dp0.0' has no 'mIoU'"),
            (('dp0.0', '--out', 'a.jpg'), 'error: --out a.jpg'),
            (('dp0.0', 'dp0.2', '--labels', 'x', '--out', 'a.png'), 'error: --labels: 1 for 2')):
        done = run(*words, cwd=tmp_path)
        assert done.returncode == 2 and done.stderr.startswith(message)
    assert not list(tmp_path.glob('a.*'))
