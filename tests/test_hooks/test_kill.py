"""``kill -9`` at any moment: no file is damaged, only the work since the last one is lost."""
import json
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch

from scalenet_mm.checkpoints import load_file
from scalenet_mm.checkpoints.files import check_whole

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent


@pytest.mark.parametrize('kind', ['epochs', 'iterations'])
def test_killed_at_every_step_of_saving(kind, tmp_path):
    done = subprocess.run(
        [sys.executable, str(HERE / 'kill_toys.py'), kind, str(tmp_path)], capture_output=True,
        text=True, timeout=500, env={**os.environ, 'OMP_NUM_THREADS': '1'})
    assert done.returncode == 0, done.stderr[-3000:]
    found = json.loads(done.stdout.splitlines()[-1])
    print(found)
    assert found['problems'] == []
    assert found['kill points'] > 250 and found['killed again'] > 50
    assert found['resumed to the end'] > 10  # once from every state of the folder
    assert found['whole files'] > 300
    # the points that matter were among them: between a file and its note, and before removals
    assert found['newer than noted'] > 10 and found['two kept for the moment'] > 10


def config(work_dir, epochs=30):
    import kill_toys
    cfg = kill_toys.config('epochs', work_dir)
    cfg.custom_imports = dict(imports=['scalenet_mm', 'kill_toys'])
    cfg.default_hooks.checkpoint.type = 'CheckpointHook'  # tools/train.py makes it the safe one
    cfg.default_hooks.checkpoint.pop('published_keys')
    cfg.train_cfg.max_epochs = epochs
    cfg.log_level = 'INFO'
    return cfg


def test_the_tool_killed_at_random_times(tmp_path):
    """As a user does it: the same command with ``--resume``, until it is through."""
    cfg = config(tmp_path / 'work')
    cfg.dump(tmp_path / 'config.py')
    env = {**os.environ, 'PYTHONPATH': str(HERE), 'OMP_NUM_THREADS': '1'}

    def start(work):
        return subprocess.Popen(
            [sys.executable, str(ROOT / 'tools' / 'train.py'), str(tmp_path / 'config.py'),
             '--work-dir', str(tmp_path / work), '--resume'],
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)

    unbroken = start('unbroken')
    generator = random.Random(os.urandom(4))
    work = tmp_path / 'broken'
    reached = []
    for _ in range(3):
        process = start('broken')
        wait_for_new_file(work, process)
        time.sleep(generator.uniform(0, 0.4))
        process.send_signal(signal.SIGKILL)
        process.communicate()
        for path in work.glob('*.pth'):
            check_whole(str(path))
        note = work / 'last_checkpoint'
        reached.append(load_file(note.read_text())['meta']['epoch'] if note.exists() else 0)
    last = start('broken')
    log = last.communicate(timeout=200)[0]
    assert last.returncode == 0, log[-3000:]
    print('killed after epochs', reached)
    assert reached == sorted(reached) and reached[-1] > 0
    assert unbroken.wait(200) == 0
    first, second = (load_file(str(tmp_path / name / 'epoch_30.pth'))
                     for name in ('unbroken', 'broken'))
    for part in ('state_dict', 'ema_state_dict'):
        assert first[part].keys() == second[part].keys()
        for key, value in first[part].items():
            assert torch.equal(value, second[part][key]), key
    assert not [p for p in work.iterdir() if p.name.startswith('.')]


def wait_for_new_file(work, process):
    """Wait until a training has begun to save: the first seconds are imports."""
    note = work / 'last_checkpoint'
    before = note.stat().st_mtime_ns if note.exists() else 0
    for _ in range(1200):
        if note.exists() and note.stat().st_mtime_ns > before or process.poll() is not None:
            return
        time.sleep(0.05)
