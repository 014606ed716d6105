"""SafeCheckpointHook: what is kept, removed, noted, passed over and refused."""
import os
import re
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import kill_toys
import numpy as np
import pytest
import torch
from mmengine.hooks import CheckpointHook, Hook
from mmengine.registry import HOOKS

from scalenet_mm import CheckpointError, ConfigError
from scalenet_mm.checkpoints import load_file
from scalenet_mm.checkpoints.files import find_newest_whole
from scalenet_mm.hooks import SafeCheckpointHook, secure_checkpoints

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).parent


@pytest.fixture
def make(make_runner, tmp_path):
    """A Runner for the toy, with other arguments of the hook."""

    def make(kind='epochs', epochs=None, work='work', top=None, **hook):
        cfg = kill_toys.config(kind, '')
        cfg.default_hooks.checkpoint.pop('published_keys', None)
        cfg.default_hooks.checkpoint.update(hook)
        if epochs is not None:
            cfg.train_cfg.max_epochs = epochs
        return make_runner(cfg, work_dir=str(tmp_path / work), log_level='INFO', **(top or {}))

    return make


@pytest.fixture
def files(tmp_path):

    def files(work='work'):
        return sorted(p.name for p in (tmp_path / work).iterdir() if not p.is_dir()
                      and p.name != 'last_checkpoint' and p.suffix != '.py')

    return files


@pytest.fixture
def log(tmp_path):
    return lambda work='work': ''.join(p.read_text() for p in (tmp_path / work).rglob('*.log'))


def noted(folder):
    return os.path.basename((folder / 'last_checkpoint').read_text())


def damage(path):
    """Flip a bit of a weight."""
    weight = load_file(str(path))['state_dict']['layers.0.weight']
    content = bytearray(path.read_bytes())
    content[content.index(weight.numpy().tobytes())] ^= 1
    path.write_bytes(content)


# --- what the folder holds -----------------------------------------------------------------------


@pytest.mark.parametrize('kind, names', [
    ('epochs', ['best_loss_epoch_3.pth', 'epoch_3.pth']),
    ('iterations', ['best_loss_iter_6.pth', 'iter_6.pth'])])
def test_as_mmengine_leaves_it(kind, names, make, files, tmp_path):
    make(kind, work='safe').train()
    make(kind, work='stock', type='CheckpointHook').train()
    assert files('safe') == files('stock') == names
    assert noted(tmp_path / 'safe') == noted(tmp_path / 'stock') == names[1]
    safe, stock = (load_file(str(tmp_path / work / names[1])) for work in ('safe', 'stock'))
    assert safe.keys() - stock.keys() == {'random_states', 'training_state'}
    assert not stock.keys() - safe.keys()
    assert safe['state_dict'].keys() == stock['state_dict'].keys()


@pytest.mark.parametrize('keep, names', [
    (-1, ['epoch_1.pth', 'epoch_2.pth', 'epoch_3.pth']), (1, ['epoch_3.pth']),
    (2, ['epoch_2.pth', 'epoch_3.pth'])])
def test_how_many_are_kept(keep, names, make, files):
    make(max_keep_ckpts=keep, save_best=None, rule=None).train()
    assert files() == names


@pytest.mark.parametrize('best', ['loss', None])
def test_one_name_for_all_files(best, make, files, tmp_path):
    """Removing the older file must not remove the newer one."""
    make(epochs=2, filename_tmpl='latest.pth', save_best=best).train()
    assert files() == (['best_loss_latest.pth'] if best else []) + ['latest.pth']
    assert noted(tmp_path / 'work') == 'latest.pth'
    assert load_file(str(tmp_path / 'work' / 'latest.pth'))['meta']['epoch'] == 2


def test_two_bests(make, files):
    make(save_best=['loss', 'other'], rule='less',
         top=dict(val_evaluator=dict(type='KillToyLosses')), published_keys=['state_dict']).train()
    assert [name for name in files() if '-' not in name] == [
        'best_loss_epoch_3.pth', 'best_other_epoch_1.pth', 'epoch_3.pth']
    assert len(files()) == 6  # and one of each to publish


def test_another_folder(make, files, tmp_path):
    make(out_dir=str(tmp_path / 'out')).train()
    assert files() == [] and files('out/work') == ['best_loss_epoch_3.pth', 'epoch_3.pth']
    assert noted(tmp_path / 'work') == 'epoch_3.pth'
    runner = make(epochs=4, out_dir=str(tmp_path / 'out'), top=dict(resume=True))
    runner.train()
    assert 'epoch_4.pth' in files('out/work') and 'epoch_3.pth' not in files('out/work')


def test_validation_by_itself(make, files):
    runner = make()
    runner.val()
    assert files() == []


def test_removed_only_when_the_next_is_whole(make, files, monkeypatch, tmp_path):
    """Every moment at which a file is removed, there is a newer one, and it is noted."""
    seen = []
    remove = kill_toys.files.WholeFileBackend.remove

    def watched(backend, path):
        here = set(files())
        series = re.sub(r'\d+\.pth$', '', os.path.basename(path))
        seen.append(os.path.basename(path))
        assert len([name for name in here if name.startswith(series)]) == 2
        assert noted(tmp_path / 'work') != os.path.basename(path)
        remove(backend, path)

    monkeypatch.setattr(kill_toys.files.WholeFileBackend, 'remove', watched)
    make().train()
    assert {'epoch_1.pth', 'epoch_2.pth'} <= set(seen) and len(seen) >= 3


# --- resuming ------------------------------------------------------------------------------------


def test_damaged_files_are_passed_over(make, log, tmp_path):
    make(max_keep_ckpts=-1).train()
    damage(tmp_path / 'work' / 'epoch_3.pth')
    make(epochs=4, max_keep_ckpts=-1, top=dict(resume=True)).train()
    assert 'resumed epoch: 2' in log()
    assert re.search(r'resume: passed over, since \S*epoch_3.pth is no checkpoint file, or is '
                     r'truncated or damaged.*\n.*resume: going back to \S*epoch_2.pth', log())
    load_file(str(tmp_path / 'work' / 'epoch_3.pth'))  # it was trained again


def test_all_damaged(make, tmp_path):
    make().train()
    path = tmp_path / 'work' / 'epoch_3.pth'
    path.write_bytes(path.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match='work holds no checkpoint to resume from: .*'
                       'epoch_3.pth is no checkpoint file.*To start anew'):
        make(top=dict(resume=True)).train()
    # a file that the user names is never replaced by another one
    make(work='other').train()
    with pytest.raises(CheckpointError, match='epoch_3.pth is no checkpoint file'):
        make(work='other', top=dict(resume=True, load_from=str(path))).train()


def test_nothing_to_resume_from(make, files, log):
    make(top=dict(resume=True)).train()
    assert 'epoch_3.pth' in files() and 'resumed epoch' not in log()


def test_what_a_killed_process_left(make, files, tmp_path):
    """A hidden part of a file, and one that was to be removed."""
    make(epochs=2).train()
    work = tmp_path / 'work'
    shutil.copy(work / 'epoch_2.pth', work / 'epoch_1.pth')
    os.utime(work / 'epoch_1.pth', (1, 1))
    content = load_file(str(work / 'epoch_2.pth'))
    content['message_hub']['runtime_info']['superseded_ckpts'] = ['epoch_1.pth', '../epoch_7.pth']
    torch.save(content, work / 'epoch_2.pth')
    (tmp_path / 'epoch_7.pth').touch()
    os.utime(tmp_path / 'epoch_7.pth', (1, 1))
    process = subprocess.Popen(['true'])
    process.wait()
    (work / f'.epoch_3.pth.{process.pid}.tmp').touch()
    make(top=dict(resume=True)).train()
    assert [name for name in files() if not name.startswith('best')] == ['epoch_3.pth']
    assert (tmp_path / 'epoch_7.pth').exists()


def test_a_copy_of_a_folder_leaves_the_original_alone(make, files, tmp_path):
    make(epochs=2).train()
    before = files()
    shutil.copytree(tmp_path / 'work', tmp_path / 'copy')
    make(work='copy', top=dict(resume=True)).train()
    assert files() == before
    assert files('copy') == ['best_loss_epoch_3.pth', 'epoch_3.pth']
    # and one that goes on from a file of another folder
    make(work='new', top=dict(
        resume=True, load_from=str(tmp_path / 'work' / 'epoch_2.pth'))).train()
    assert files() == before and 'epoch_3.pth' in files('new')


def test_an_earlier_training_in_the_folder(make, tmp_path, monkeypatch):
    """It has higher numbers; and this one dies before its first file is noted."""
    make(epochs=3).train()
    work = tmp_path / 'work'
    for path in work.glob('*.pth'):
        os.utime(path, (1, 1))

    def die(*args):
        raise KeyboardInterrupt

    monkeypatch.setattr('scalenet_mm.hooks.checkpoint_hook.write_whole', die)
    with pytest.raises(KeyboardInterrupt):
        make().train()
    assert find_newest_whole(str(work)) == str(work / 'epoch_1.pth')


@HOOKS.register_module()
class SecuresLate(Hook):
    """As DeltaCheckpointHook does, when the checkpoint hook's turn has gone by."""
    priority = 'LOWEST'

    def before_run(self, runner):
        secure_checkpoints(runner)


def test_a_hook_that_is_turned_late_passes_over_damaged_files(make, log, tmp_path):
    make(max_keep_ckpts=-1).train()
    damage(tmp_path / 'work' / 'epoch_3.pth')
    late = [dict(type='EMAHook', momentum=0.3), dict(type='SecuresLate')]
    make(type='CheckpointHook', epochs=4, top=dict(resume=True, custom_hooks=late)).train()
    assert 'resumed epoch: 2' in log()


# --- what is saved -------------------------------------------------------------------------------


class Counts(torch.nn.Linear):
    """A module whose state is more than tensors."""
    count = 0

    def get_extra_state(self):
        return dict(count=self.count)

    def set_extra_state(self, state):
        self.count = state['count']


@pytest.mark.parametrize('ema', [True, False])
def test_states_that_are_no_tensors(ema, make, monkeypatch, tmp_path):
    monkeypatch.setattr(kill_toys.nn, 'Linear', Counts)
    monkeypatch.setattr(Counts, 'count', 5)
    hooks = [dict(type='EMAHook', momentum=0.3)] if ema else []
    make(epochs=1, top=dict(custom_hooks=hooks)).train()
    state = load_file(str(tmp_path / 'work' / 'epoch_1.pth'))
    assert state['state_dict']['layers.0._extra_state'] == dict(count=5)
    runner = make(epochs=2, top=dict(custom_hooks=hooks, resume=True))
    runner.train()
    assert runner.model.layers[0].count == 5


def test_arrays_in_the_metainfo(make, monkeypatch, log):
    monkeypatch.setattr(kill_toys.Points, 'metainfo', raising=False, value=dict(
        classes=np.array(['a', 'b']), palette=np.zeros((2, 3), np.uint8)))
    make(epochs=1).train()
    make(epochs=2, top=dict(resume=True)).train()
    assert 'resumed epoch: 1' in log()


def test_the_first_file_could_not_be_resumed_from(make, monkeypatch, tmp_path):
    """Then the training stops at it, and not when it is resumed after days."""
    monkeypatch.setattr(kill_toys.Points, 'metainfo', raising=False, value=dict(
        classes=np.array(['a', None])))
    with pytest.raises(CheckpointError, match=r'epoch_1.pth, the first file of this training, '
                       r'could not be resumed from: at meta.dataset_meta.classes it holds '
                       r'numpy.dtypes.ObjectDType, .*allow_types'):
        make().train()
    assert not (tmp_path / 'work' / 'last_checkpoint').exists()


def test_only_the_first_file_is_read_back(make, monkeypatch):
    read = []
    monkeypatch.setattr('scalenet_mm.hooks.checkpoint_hook.load_file',
                        lambda path, **_: read.append(os.path.basename(path)))
    make().train()
    assert read == ['epoch_1.pth']


# --- what cannot be ------------------------------------------------------------------------------


def test_file_client_args(make, tmp_path):
    with pytest.raises(ConfigError, match="mmengine's old name of backend_args"):
        make(file_client_args=dict(backend='disk')).train()


@HOOKS.register_module(name='OwnCheckpointHook')
class Own(CheckpointHook):
    pass


def test_hooks_of_other_classes_stay(make):
    runner = make(type='CheckpointHook')
    hook, = (h for h in runner.hooks if isinstance(h, CheckpointHook))
    secure_checkpoints(runner)
    assert type(hook) is SafeCheckpointHook and hook in runner.hooks
    runner = make(type='OwnCheckpointHook')
    secure_checkpoints(runner)
    assert any(type(h) is Own for h in runner.hooks)
    secure_checkpoints(object())


def test_a_full_disk(make, files, tmp_path):
    runner = make(top=dict(custom_hooks=[dict(type='KillToyFullDisk', after=2)]))
    kept = resource.getrlimit(resource.RLIMIT_FSIZE)
    try:
        with pytest.raises(CheckpointError, match=r'work/epoch_2.pth cannot be written: File too '
                           r'large; nothing was left there. Make room in \S*work \(.*MiB are free'):
            runner.train()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, kept)
    assert files() == ['best_loss_epoch_1.pth', 'epoch_1.pth']
    assert noted(tmp_path / 'work') == 'epoch_1.pth'
    assert load_file(str(tmp_path / 'work' / 'epoch_1.pth'))['meta']['epoch'] == 1


def test_a_full_disk_by_the_tool(tmp_path):
    """Exit status 2 and a message; resuming when there is room ends as if there had been."""
    cfg = kill_toys.config('epochs', '')
    cfg.custom_imports = dict(imports=['scalenet_mm', 'kill_toys'])
    cfg.default_hooks.checkpoint.type = 'CheckpointHook'
    cfg.dump(tmp_path / 'config.py')
    cfg.custom_hooks.append(dict(type='KillToyFullDisk', after=2))
    cfg.dump(tmp_path / 'full.py')

    def train(config, work, *options):
        done = subprocess.run(
            [sys.executable, str(ROOT / 'tools/train.py'), config, '--work-dir', work,
             *options], cwd=tmp_path, capture_output=True, text=True, timeout=300,
            env={**os.environ, 'PYTHONPATH': str(HERE), 'OMP_NUM_THREADS': '1'})
        return done.returncode, done.stderr

    status, said = train('full.py', 'work')
    assert status == 2
    assert re.search(r'^error: \S*/work/epoch_2.pth cannot be written: File too large', said, re.M)
    work = tmp_path / 'work'
    assert noted(work) == 'epoch_1.pth'
    assert not [p for p in work.iterdir() if p.name.startswith('.')]
    status, said = train('config.py', 'work', '--resume')
    assert status == 0, said[-3000:]
    assert train('config.py', 'whole')[0] == 0
    first, second = (load_file(str(tmp_path / name / 'epoch_3.pth')) for name in ('work', 'whole'))
    for key, value in first['ema_state_dict'].items():
        assert torch.equal(value, second['ema_state_dict'][key]), key


def test_a_folder_that_cannot_be_written(make, tmp_path):
    (tmp_path / 'file').touch()
    with pytest.raises(CheckpointError, match='cannot be written: .*/file/work is no folder|'
                       'cannot be written: Not a directory'):
        make(out_dir=str(tmp_path / 'file')).train()
