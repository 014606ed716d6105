"""A training that kills itself: forked many times from one process that has imported everything.

``python kill_toys.py KIND FOLDER`` tries every kill point of a small training and prints, as one
line of JSON, what was tried and what was lost.
"""
import collections
import functools
import gc
import json
import os
import random
import resource
import shutil
import signal
import sys
import traceback
import types
from pathlib import Path

import numpy as np
import torch
from mmengine.config import Config
from mmengine.dist import is_main_process
from mmengine.evaluator import BaseMetric
from mmengine.hooks import EMAHook, Hook
from mmengine.hooks import checkpoint_hook as mmengine_hook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, HOOKS, METRICS, MODELS
from mmengine.runner import Runner
from torch import nn

from scalenet_mm.checkpoints import files, load_file
from scalenet_mm.errors import CheckpointError
from scalenet_mm.hooks import checkpoint_hook


@DATASETS.register_module(name='KillToyPoints')
class Points(torch.utils.data.Dataset):

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.inputs = torch.randn(12, 4, generator=generator)
        self.labels = (self.inputs.sum(1) > 0).long()

    def __len__(self):
        return 12

    def __getitem__(self, index):
        noise = random.random() + np.random.rand()  # as augmentations draw them
        return dict(inputs=self.inputs[index] + 0.1 * noise, label=self.labels[index])


@MODELS.register_module(name='KillToyClassifier')
class Classifier(BaseModel):

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Linear(4, 8), nn.BatchNorm1d(8), nn.Dropout(0.2),
                                    nn.Linear(8, 2))

    def forward(self, inputs, label, mode='tensor'):
        loss = nn.functional.cross_entropy(self.layers(inputs), label)
        return dict(loss=loss) if mode == 'loss' else [loss.item()]


@METRICS.register_module(name='KillToyLoss')
class Loss(BaseMetric):

    def process(self, data_batch, data_samples):
        self.results += data_samples

    def compute_metrics(self, results):
        return dict(loss=sum(results) / len(results))


@METRICS.register_module(name='KillToyLosses')
class Losses(Loss):
    """With one that gets worse."""

    def compute_metrics(self, results):
        loss = sum(results) / len(results)
        return dict(loss=loss, other=-loss)


@HOOKS.register_module(name='KillToyFullDisk')
class FullDisk(Hook):
    """Lets no file grow any more after some epoch, in the first process."""
    priority = 'HIGHEST'

    def __init__(self, after, size=20_000):
        self.after, self.size = after, size

    def after_train_epoch(self, runner):
        if runner.epoch + 1 == self.after and is_main_process():
            limit = resource.getrlimit(resource.RLIMIT_FSIZE)[1]
            resource.setrlimit(resource.RLIMIT_FSIZE, (self.size, limit))


def config(kind: str, work_dir, **top) -> Config:
    """A training of 3 epochs, or of 6 iterations, that saves often and keeps one file."""
    by_epoch = kind == 'epochs'
    loader = dict(
        batch_size=4, num_workers=0, dataset=dict(type='KillToyPoints'),
        collate_fn=dict(type='default_collate'))
    hook = dict(type='SafeCheckpointHook', interval=1 if by_epoch else 2, by_epoch=by_epoch,
                max_keep_ckpts=1, save_best='loss', rule='less')
    if by_epoch:
        hook['published_keys'] = ['meta', 'state_dict']
    cfg = dict(
        model=dict(type='KillToyClassifier'),
        train_dataloader=dict(
            **loader,
            sampler=dict(type='DefaultSampler' if by_epoch else 'InfiniteSampler', shuffle=True)),
        val_dataloader=dict(**loader, sampler=dict(type='DefaultSampler', shuffle=False)),
        val_evaluator=dict(type='KillToyLoss'),
        val_cfg=dict(),
        train_cfg=(dict(by_epoch=True, max_epochs=3) if by_epoch else
                   dict(by_epoch=False, max_iters=6, val_interval=2)),
        optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=0.05)),
        param_scheduler=[dict(type='LinearLR', start_factor=0.5, by_epoch=by_epoch, end=6)],
        default_hooks=dict(
            checkpoint=hook, logger=dict(type='LoggerHook', interval=100)),
        custom_hooks=[dict(type='EMAHook', momentum=0.3)],
        randomness=dict(seed=0, deterministic=True),
        log_level='ERROR',
        work_dir=str(work_dir),
        experiment_name=Path(work_dir).name)
    return Config({**cfg, **top})


class Killer:
    """Counts the steps of this process while it saves, and kills it at one of them.

    A step is a line of the code that saves, an operation on the disk, or a part of a file's bytes.

    Args:
        at (int, optional): The step. Defaults to None: it only counts.
        told (int): A file descriptor that takes what was completed.
    """
    FILES = {files.__file__, checkpoint_hook.__file__, mmengine_hook.__file__}
    OPERATIONS = ('makedirs', 'open', 'fsync', 'close', 'replace', 'remove')

    def __init__(self, at, told):
        self.at, self.told, self.steps, self.operations = at, told, 0, []

    def step(self):
        if self.steps == self.at:
            os.kill(os.getpid(), signal.SIGKILL)
        self.steps += 1

    def operation(self):
        self.operations.append(self.steps)
        self.step()

    def tell(self, what):
        os.write(self.told, f'{what}\n'.encode())

    def start(self):
        """Watch the methods that touch the disk."""
        files.open = self._open
        files.os = types.SimpleNamespace(**vars(os))
        for name in self.OPERATIONS:
            setattr(files.os, name, self._operating(getattr(os, name)))
        hook = checkpoint_hook.SafeCheckpointHook
        hook.before_train = self._traced(hook.before_train)
        hook._save_checkpoint_with_step = self._traced(
            self._announced(hook._save_checkpoint_with_step, 'saved'))
        hook._save_best_checkpoint = self._traced(
            self._announced(hook._save_best_checkpoint, 'validated'))
        hook._publish_model = self._traced(hook._publish_model)

    def _operating(self, function):

        def operating(*args, **kwargs):
            result = function(*args, **kwargs)
            self.operation()
            return result

        return operating

    def _announced(self, method, what):

        def announced(hook, runner, *args, **kwargs):
            method(hook, runner, *args, **kwargs)
            self.tell(f'{what} {runner.message_hub.get_info("keep_ckpt_ids")[-1]}')

        return announced

    def _traced(self, method):

        def traced(*args, **kwargs):
            outer = sys.gettrace()
            sys.settrace(self._trace)
            try:
                return method(*args, **kwargs)
            finally:
                sys.settrace(outer)

        return traced

    def _trace(self, frame, event, arg):
        return self._line if frame.f_code.co_filename in self.FILES else None

    def _line(self, frame, event, arg):
        if event == 'line':
            self.step()
        return self._line

    def _open(self, path, mode='r', **kwargs):
        file = open(path, mode, **kwargs)
        if 'w' not in mode:
            return file
        self.operation()
        return _Slow(file, self.operation)


class _Slow:
    """A file that is written in parts, each of which reaches the operating system."""

    def __init__(self, file, operation):
        self._file, self._operation = file, operation

    def __getattr__(self, name):
        return getattr(self._file, name)

    def __enter__(self):
        return self

    def __exit__(self, *error):
        self._file.close()
        self._operation()

    def write(self, content):
        content = bytes(content)
        middle, last = len(content) // 2, len(content) - 1
        for part in (content[:1], content[1:middle], content[middle:last], content[last:]):
            self._file.write(part)
            self._file.flush()
            self._operation()


def forked(call):
    """Call a function in a fork of this process; its return value comes back by a pipe.

    Returns:
        tuple: The exit status as of ``os.waitpid``, and what was told or returned, as lines.
    """
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(read)
        try:
            call(write)
            os._exit(0)
        except BaseException:  # noqa: B036  a fork must not go on with its parent's work
            os.write(write, traceback.format_exc().encode())
            os._exit(1)
    os.close(write)
    with os.fdopen(read) as file:
        told = file.read().splitlines()
    return os.waitpid(pid, 0)[1], told


def train(cfg, told, at=None):
    killer = Killer(at, told)
    killer.start()
    runner = Runner.from_cfg(cfg)
    runner.train()
    averaged, = (h.ema_model for h in runner.hooks if isinstance(h, EMAHook))
    torch.save({**runner.model.state_dict(), **averaged.state_dict()}, f'{cfg.work_dir}.final')
    killer.tell(json.dumps([killer.steps, killer.operations]))


class Trial:
    """All kill points of one training.

    Args:
        kind (str): 'epochs' or 'iterations'.
        folder (Path): A folder to work in.
    """

    STRIDE = 32  # of the lines that are no operation

    def __init__(self, kind, folder):
        self.kind, self.folder = kind, Path(folder)
        self.counts = collections.Counter()
        self.resumed = {}
        self.halfway = None  # a folder whose newest file is not noted yet

    def run(self, name, at=None, **top):
        cfg = config(self.kind, self.folder / name, **top)
        return forked(lambda told: train(cfg, told, at))

    def unbroken(self):
        status, told = self.run('unbroken')
        assert status == 0, '\n'.join(told)
        steps, operations = json.loads(told[-1])
        self.steps = sorted({*operations, *range(0, steps, self.STRIDE)})
        self.final = torch.load(self.folder / 'unbroken.final')
        # but for published ones, whose hashes tell the time
        self.names = {p.name for p in (self.folder / 'unbroken').glob('*.pth')
                      if '-' not in p.name}

    def kill_at(self, step, least=None, **top):
        work = self.folder / 'killed'
        status, told = self.run('killed', step, **top)
        assert os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGKILL, '\n'.join(told)
        self.counts['kill points'] += 1
        done = [line.split() for line in told]
        saved = max([int(n) for what, n in done if what == 'saved'], default=least)
        newest = self.check(work, saved)
        if any(what == 'validated' for what, _ in done):
            assert list(work.glob('best_*.pth')), 'the best is gone'
        # the same state on the disk was resumed from already?
        state = tuple(sorted(
            (p.name, p.stat().st_size, p.read_text() if p.name == 'last_checkpoint' else '')
            for p in work.glob('*') if p.is_file() and p.suffix != '.py'
            and not p.name.startswith('.')))
        if (newest, state) not in self.resumed:
            self.resumed[newest, state] = step
            if self.halfway is None and saved and self.number(work / newest) > saved:
                self.halfway = self.folder / 'halfway'
                shutil.copytree(work, self.halfway)
            self.resume(work)

    def kill_everywhere(self):
        for step in self.steps:
            shutil.rmtree(self.folder / 'killed', ignore_errors=True)
            yield f'step {step}', functools.partial(self.kill_at, step)

    def kill_again(self):
        """The training that resumes after a kill is killed, too."""
        work = self.folder / 'killed'
        shutil.rmtree(work)
        shutil.copytree(self.halfway, work)
        status, told = self.run('killed', resume=True)
        assert status == 0, '\n'.join(told)
        least = self.number(files.find_newest_whole(str(self.halfway)))
        for step in json.loads(told[-1])[1][::2]:
            shutil.rmtree(work)
            shutil.copytree(self.halfway, work)
            self.counts['killed again'] += 1
            yield f'resumed, step {step}', functools.partial(
                self.kill_at, step, least, resume=True)

    def check(self, work, saved):
        """Nothing damaged has a final name; the newest whole file is no older than ``saved``."""
        for path in [*work.glob('*.pth')]:
            files.check_whole(str(path))
            load_file(str(path))
            self.counts['whole files'] += 1
        note = work / 'last_checkpoint'
        if note.exists():
            assert Path(note.read_text()).is_file(), note.read_text()
            load_file(note.read_text())
        passed = []
        newest = files.find_newest_whole(str(work), passed.append)
        assert not passed, passed
        if saved is None:
            assert newest is None or self.number(newest) == self.first, newest
            self.counts['before anything was saved'] += newest is None
            return newest and Path(newest).name
        lost = saved - self.number(newest)
        assert lost <= 0, (saved, newest)
        self.counts['newer than noted'] += lost < 0
        self.counts['two kept for the moment'] += len([
            p for p in work.glob('*.pth') if not p.name.startswith('best_')]) > 1
        return Path(newest).name

    @property
    def first(self):
        return 1 if self.kind == 'epochs' else 2

    @staticmethod
    def number(path):
        return load_file(str(path))['message_hub']['runtime_info']['keep_ckpt_ids'][-1]

    def resume(self, work):
        status, told = self.run('killed', resume=True)
        assert status == 0, '\n'.join(told)
        final = Path(f'{work}.final')
        weights = torch.load(final)
        assert weights.keys() == self.final.keys()
        differ = [key for key in weights if not torch.equal(weights[key], self.final[key])]
        assert not differ, f'resumed, and these differ: {differ}'
        final.unlink()
        left = sorted(p.name for p in work.iterdir() if p.name.startswith('.'))
        assert not left, left
        self.counts['resumed to the end'] += 1
        names = {path.name for path in work.glob('*.pth')}
        assert {name for name in names if '-' not in name} == self.names, names


def prepare(folder):
    """Do here, once, what is slow in every fork and has nothing to do with saving."""
    torch.set_num_threads(1)
    Config.pretty_text = property(lambda cfg: 'a config')  # it is formatted for every file
    Config.dump = lambda cfg, path=None: None
    Runner._log_env = lambda runner, cfg: None
    Runner.from_cfg(config('epochs', folder / 'first')).train()
    gc.collect()
    gc.freeze()


def main(kind, folder):
    prepare(Path(folder))
    trial = Trial(kind, folder)
    trial.unbroken()
    problems = []
    for trials in (trial.kill_everywhere, trial.kill_again):
        for name, kill in trials():
            try:
                kill()
            except (AssertionError, CheckpointError) as error:
                problems.append(f'{name}: {error}')
    print(json.dumps(dict(
        problems=problems, **trial.counts)))


if __name__ == '__main__':
    main(*sys.argv[1:])
