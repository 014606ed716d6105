"""``tools/train.py``, ``tools/test.py`` and their launch scripts, as a user types them."""
import json
import os
import random
import socket
import stat
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
TOOLS = ROOT / 'tools'
PROJECT = Path(__file__).parent / 'toy_project'
CONFIG = PROJECT / 'toy_config.py'


def run(*command, cwd, **env):
    inherited = {k: v for k, v in os.environ.items()
                 if k not in ('NNODES', 'NODE_RANK', 'MASTER_ADDR', 'MASTER_PORT', 'PORT',
                              'LOCAL_RANK', 'RANK', 'WORLD_SIZE', 'OMP_NUM_THREADS')}
    return subprocess.run(
        [str(word) for word in command],
        cwd=cwd,
        env={**inherited, 'PYTHON': sys.executable, 'PYTHONPATH': str(PROJECT), **env},
        capture_output=True,
        text=True,
        timeout=300)


@pytest.fixture
def toy_options(tmp_path):
    """The options that point the toy config to its data."""
    rng = random.Random(0)
    samples = [dict(x=[rng.random() for _ in range(4)], y=rng.random()) for _ in range(12)]
    folder = tmp_path / 'toy data'
    folder.mkdir()
    (folder / 'ann.json').write_text(json.dumps(samples))
    keys = [f'{split}_dataloader.dataset.data_root' for split in ('train', 'val', 'test')]
    return ['--cfg-options', *(f'{key}={folder}' for key in keys)]


class TestOneProcess:

    def test_train_resume_test(self, tmp_path, toy_options):
        train = [sys.executable, TOOLS / 'train.py', CONFIG, '--work-dir', 'w', *toy_options]
        done = run(*train, 'model.width=5', cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        first = done.stdout.splitlines()[0]
        assert first.startswith('scalenet_mm ') and f'torch {torch.__version__}' in first
        assert 'mmengine ' in first and 'scope mmengine' in first
        assert (tmp_path / 'w/epoch_2.pth').is_file()

        # The same command and --resume: goes on, from the checkpoint rather than load_from.
        done = run(*train, 'model.width=5', 'train_cfg.max_epochs=3', 'load_from=w/epoch_1.pth',
                   '--resume', cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert 'resumed epoch: 2' in done.stdout + done.stderr
        assert (tmp_path / 'w/epoch_3.pth').is_file()

        done = run(
            sys.executable, TOOLS / 'test.py', CONFIG, 'w/epoch_3.pth', '--work-dir', 'w',
            '--out', 'metrics.json', '--out-item', 'metrics', *toy_options, 'model.width=5',
            cwd=tmp_path)
        assert done.returncode == 0, done.stderr
        assert 'mean_error' in done.stdout + done.stderr
        assert json.loads((tmp_path / 'metrics.json').read_text())['mean_error'] < 1

    @pytest.mark.parametrize('options, message', (
        ((), r"train_dataloader.dataset.data_root='data/toy/'"),
        (('--cfg-options', 'train_dataloder.batch_size=2'), 'did you mean train_dataloader'),
        (('--cfg-options', 'model.widht=3'), "ToyRegressor has no argument 'widht'; did you mean"),
        (('--resume', 'no.pth'), '--resume: no such file'),
        (('--auto-scale-lr', ), 'auto_scale_lr.base_batch_size'),
    ))
    def test_anticipated_errors(self, tmp_path, options, message):
        done = run(sys.executable, TOOLS / 'train.py', CONFIG, *options, cwd=tmp_path)
        assert done.returncode == 2
        assert done.stderr.startswith('error: ') and message in done.stderr
        assert 'Traceback' not in done.stderr
        assert list(tmp_path.iterdir()) == []  # no work dir is left behind

    def test_other_errors_keep_their_traceback(self, tmp_path, toy_options):
        done = run(sys.executable, TOOLS / 'train.py', CONFIG, *toy_options, 'model.width=-1',
                   cwd=tmp_path)
        assert done.returncode == 1
        assert 'Traceback' in done.stderr and 'negative dimension' in done.stderr

    def test_missing_checkpoint(self, tmp_path, toy_options):
        done = run(sys.executable, TOOLS / 'test.py', CONFIG, 'no.pth', *toy_options, cwd=tmp_path)
        assert done.returncode == 2 and 'checkpoint: no such file' in done.stderr


@pytest.mark.skipif(torch.cuda.is_available(), reason='for machines without GPU')
class TestTwoProcesses:

    def test_train_and_test(self, tmp_path, toy_options):
        """Both ranks end with the same parameters, though each saw other samples."""
        work_dir = tmp_path / 'work dir'
        done = run(
            TOOLS / 'dist_train.sh', CONFIG, 2, '--work-dir', work_dir, *toy_options,
            'model.sync_bn=True', cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert done.stdout.count('scalenet_mm ') == 1
        assert 'SyncBN needs GPUs' in done.stdout + done.stderr

        start = torch.load(work_dir / 'epoch_1.pth', weights_only=False)['state_dict']
        first, second = (torch.load(work_dir / f'rank{rank}.pth') for rank in (0, 1))
        assert first['world_size'] == 2 and first['wrapper'] == 'CPUDistributedDataParallel'
        assert first['norm'] == '_BatchNormXd'
        half = len(first['seen']) // 2  # of two epochs
        assert not set(first['seen'][:half]) & set(second['seen'][:half])
        for name, value in first['parameters'].items():
            assert torch.equal(value, second['parameters'][name]), name
        assert not torch.equal(first['parameters']['output.weight'], start['output.weight'])

        done = run(
            TOOLS / 'dist_test.sh', CONFIG, work_dir / 'epoch_2.pth', 2, '--out', 'metrics.json',
            '--out-item', 'metrics', *toy_options, 'model.sync_bn=True', cwd=tmp_path)
        assert done.returncode == 0, done.stdout + done.stderr
        assert 'mean_error' in json.loads((tmp_path / 'metrics.json').read_text())

    def test_an_error_is_said_once(self, tmp_path):
        done = run(TOOLS / 'dist_train.sh', CONFIG, 2, cwd=tmp_path)
        assert done.returncode != 0
        lines = done.stderr.splitlines()
        assert sum(line.startswith('error: data that the config names') for line in lines) == 1
        # ... and torchrun's closing page quotes it as the root cause
        assert any('traceback : error: data that' in line for line in lines)
        assert list(tmp_path.iterdir()) == []


@pytest.fixture
def stub(tmp_path):
    """A program that writes down its arguments and environment; stands for Python and srun."""
    path = tmp_path / 'bin' / 'srun'
    path.parent.mkdir()
    path.write_text(
        '#!/usr/bin/env bash\n'
        'printf "%s\\n" "$@" > "$STUB_OUT.argv"\n'
        'env > "$STUB_OUT.env"\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)

    def call(script, *args, **env):
        out = tmp_path / 'call'
        done = run(
            TOOLS / script, *args, cwd=tmp_path, STUB_OUT=str(out),
            **{'PYTHON': str(path), 'PATH': f'{path.parent}:{os.environ["PATH"]}', **env})
        if done.returncode:
            return done, None, None
        pairs = (line.split('=', 1) for line in out.with_suffix('.env').read_text().splitlines()
                 if '=' in line)
        return done, out.with_suffix('.argv').read_text().splitlines(), dict(pairs)

    return call


class TestLaunchScripts:

    def test_one_machine(self, stub):
        _, argv, env = stub('dist_train.sh', 'my config.py', '8', '--work-dir', 'a b', '--amp')
        assert argv == [
            '-m', 'torch.distributed.run', '--standalone', '--local_addr=127.0.0.1',
            '--nproc_per_node=8', str(TOOLS / 'train.py'), 'my config.py', '--launcher', 'pytorch',
            '--work-dir', 'a b', '--amp'
        ]
        assert env['PYTHONPATH'] == f'{ROOT}:{PROJECT}'
        assert env['OMP_NUM_THREADS'] == '1' and env['SCALENET_AUTO_THREADS'] == '1'

    def test_test(self, stub):
        _, argv, _ = stub('dist_test.sh', 'c.py', 'a b.pth', '2', '--tta')
        assert argv[-7:] == [
            '--nproc_per_node=2', str(TOOLS / 'test.py'), 'c.py', 'a b.pth', '--launcher',
            'pytorch', '--tta']

    def test_several_machines(self, stub):
        _, argv, _ = stub(
            'dist_train.sh', 'c.py', '8', NNODES='4', NODE_RANK='3', MASTER_ADDR='10.0.0.1',
            PORT='29511')
        assert argv[2:7] == ['--nnodes=4', '--node_rank=3', '--master_addr=10.0.0.1',
                             '--master_port=29511', '--nproc_per_node=8']
        done, _, _ = stub('dist_train.sh', 'c.py', '8', NNODES='4')
        assert done.returncode == 2 and 'MASTER_ADDR' in done.stderr

    def test_threads_of_the_user(self, stub):
        _, _, env = stub('dist_train.sh', 'c.py', '2', OMP_NUM_THREADS='4')
        assert env['OMP_NUM_THREADS'] == '4' and 'SCALENET_AUTO_THREADS' not in env

    def test_port_in_use(self, stub):
        with socket.socket() as server:
            server.bind(('127.0.0.1', 0))
            server.listen()
            port = str(server.getsockname()[1])
            done, _, _ = stub('dist_train.sh', 'c.py', '2', PORT=port)
            assert done.returncode == 2 and f'port {port} is in use' in done.stderr
        _, argv, _ = stub('dist_train.sh', 'c.py', '2', PORT=port)
        assert f'--master_port={port}' in argv and '--master_addr=127.0.0.1' in argv

    @pytest.mark.parametrize('script, args', (
        ('dist_train.sh', ('c.py', )),
        ('dist_test.sh', ('c.py', 'a.pth')),
        ('slurm_train.sh', ('partition', 'job', 'c.py')),
        ('slurm_test.sh', ('partition', 'job', 'c.py')),
    ))
    def test_usage(self, stub, script, args):
        done, _, _ = stub(script, *args)
        assert done.returncode == 2 and done.stderr.startswith('usage: ')

    @pytest.mark.parametrize('gpus', ('0', 'x', '', '--work-dir'))
    def test_gpus_is_a_number(self, stub, gpus):
        done, _, _ = stub('dist_train.sh', 'c.py', gpus)
        assert done.returncode == 2 and 'GPUS must be' in done.stderr

    def test_slurm_train(self, stub):
        _, argv, env = stub(
            'slurm_train.sh', 'part', 'my job', 'c.py', 'work dir', '--amp', GPUS='16',
            SRUN_ARGS='--quotatype=auto --exclude=n1')
        assert argv[:10] == [
            '-p', 'part', '--job-name=my job', '--gres=gpu:8', '--ntasks=16',
            '--ntasks-per-node=8', '--cpus-per-task=5', '--kill-on-bad-exit=1',
            '--quotatype=auto', '--exclude=n1'
        ]
        assert argv[11:] == ['-u', str(TOOLS / 'train.py'), 'c.py', '--work-dir=work dir',
                             '--launcher=slurm', '--amp']
        assert 20000 <= int(env['MASTER_PORT']) < 40000

    def test_slurm_test(self, stub):
        _, argv, env = stub(
            'slurm_test.sh', 'part', 'job', 'c.py', 'a.pth', GPUS='2', CPUS_PER_TASK='3',
            PORT='29511')
        assert argv[3:8] == ['--gres=gpu:2', '--ntasks=2', '--ntasks-per-node=2',
                             '--cpus-per-task=3', '--kill-on-bad-exit=1']
        assert argv[9:] == ['-u', str(TOOLS / 'test.py'), 'c.py', 'a.pth', '--launcher=slurm']
        assert env['MASTER_PORT'] == '29511'
