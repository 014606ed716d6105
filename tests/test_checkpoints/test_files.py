"""Checkpoint files are whole or absent; damage is found; the newest whole one is found."""
import errno
import hashlib
import io
import os
import random
import resource
import shutil
import subprocess
import sys
import types
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.fileio import get_file_backend
from mmengine.logging import HistoryBuffer

from scalenet_mm import CheckpointError
from scalenet_mm.checkpoints import base_files, files, load_file, make_delta, read_checkpoint
from scalenet_mm.checkpoints.base_files import open_base
from scalenet_mm.checkpoints.delta import write_checkpoint
from scalenet_mm.checkpoints.files import (
    check_whole,
    find_newest_whole,
    remove_leftovers,
    save_file,
    sha256_of,
    write_whole,
)


def training_checkpoint(step=1):
    """What mmengine saves, small."""
    weight = torch.nn.Parameter(torch.randn(3, 5, generator=torch.Generator().manual_seed(step)))
    optimizer = torch.optim.AdamW([weight])
    weight.sum().backward()
    optimizer.step()
    return dict(
        meta=dict(epoch=step, iter=3 * step, cfg='a = 1', seed=0, time='now'),
        state_dict={'backbone.weight': weight.detach(), 'count': torch.tensor(step)},
        message_hub=dict(
            log_scalars={'train/loss': HistoryBuffer([0.5, 0.25], [1, 1])},
            runtime_info=dict(iter=5, best=np.float64(0.5), keep_ckpt_ids=[step]),
            resumed_keys={'train/loss': True}),
        optimizer=optimizer.state_dict(),
        param_schedulers=[dict(last_step=step)])


def as_plain(value):
    """The content in types that can be compared."""
    if isinstance(value, torch.Tensor):
        return value.dtype, tuple(value.shape), value.tolist()
    if isinstance(value, HistoryBuffer):
        return value.data
    if isinstance(value, dict):
        return {key: as_plain(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [as_plain(entry) for entry in value]
    if isinstance(value, (np.ndarray, np.generic)):
        return value.dtype, value.tolist()
    return value


def same(first, second):
    return repr(as_plain(first)) == repr(as_plain(second))


# --- writing -------------------------------------------------------------------------------------


def test_written_files_are_ordinary_ones(tmp_path):
    path = tmp_path / 'a' / 'b' / 'epoch_1.pth'
    save_file(training_checkpoint(), str(path))
    assert same(torch.load(path, weights_only=True), training_checkpoint())
    assert [p.name for p in path.parent.iterdir()] == ['epoch_1.pth']
    save_file(training_checkpoint(2), str(path))
    assert same(load_file(str(path)), training_checkpoint(2))


def test_a_changed_file_is_hashed_again(tmp_path):
    path = tmp_path / 'x.pth'
    path.write_bytes(b'one')
    assert sha256_of(str(path)) == hashlib.sha256(b'one').hexdigest()
    path.write_bytes(b'two')
    os.utime(path, ns=(1, 1))
    assert sha256_of(str(path)) == hashlib.sha256(b'two').hexdigest()


def test_the_storage_of_checkpoints(tmp_path):
    backend = get_file_backend(str(tmp_path), backend_args=dict(backend='scalenet_local'))
    backend.put(b'x', tmp_path / 'f')
    backend.put_text('ä', str(tmp_path / 'g'))
    assert backend.get(tmp_path / 'f') == b'x' and backend.get_text(tmp_path / 'g') == 'ä'
    # mmengine's own storage is for others, who may write to pipes and devices
    assert type(get_file_backend(str(tmp_path))).__name__ == 'LocalBackend'


@pytest.mark.parametrize('error', [OSError(errno.ENOSPC, 'No space left on device'),
                                   KeyboardInterrupt(), ValueError('no')])
def test_a_failure_leaves_the_earlier_file(tmp_path, error):
    path = tmp_path / 'epoch_1.pth'
    path.write_bytes(b'earlier')

    def write(file):
        file.write(b'half')
        file.flush()
        assert path.read_bytes() == b'earlier'
        raise error

    expected = CheckpointError if isinstance(error, OSError) else type(error)
    with pytest.raises(expected) as caught:
        write_whole(str(path), write)
    if isinstance(error, OSError):
        assert str(caught.value).startswith(f'{path} cannot be written: No space left on device; '
                                            'the earlier file of that name is as it was. Make '
                                            f'room in {tmp_path} (')
        assert '--work-dir' in str(caught.value)
    assert [p.name for p in tmp_path.iterdir()] == ['epoch_1.pth']
    assert path.read_bytes() == b'earlier'


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / 'file').write_bytes(b'')
    with pytest.raises(CheckpointError, match='file/epoch_1.pth cannot be written: .*/file is no '
                       'folder; nothing was left there$'):
        save_file({}, str(tmp_path / 'file' / 'epoch_1.pth'))
    (tmp_path / 'folder.pth').mkdir()
    with pytest.raises(CheckpointError, match='folder.pth cannot be written: Is a directory'):
        save_file({}, str(tmp_path / 'folder.pth'))
    assert sorted(p.name for p in tmp_path.iterdir()) == ['file', 'folder.pth']


FULL_DISK = """
import resource, sys
from scalenet_mm.checkpoints.files import save_file
import torch
resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
save_file({'w': torch.ones(100)}, sys.argv[1])
try:
    save_file({'w': torch.ones(100_000)}, sys.argv[1])
except Exception as error:
    print(type(error).__name__, error)
"""


def test_a_write_that_really_fails(tmp_path):
    """By a limit of the process: an error of the system, and not ours."""
    path = tmp_path / 'epoch_1.pth'
    done = subprocess.run([sys.executable, '-c', FULL_DISK, str(path)], capture_output=True,
                          text=True, timeout=100, preexec_fn=_no_core)
    assert done.stdout.startswith(f'CheckpointError {path} cannot be written: File too large'), (
        done.stdout + done.stderr)
    assert [p.name for p in tmp_path.iterdir()] == ['epoch_1.pth']
    assert len(load_file(str(path))['w']) == 100


def _no_core():
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


class Disk:
    """Notes the order of operations, as a disk that loses power sees it."""

    def __init__(self):
        self.log = []

    def watch(self, monkeypatch):
        noted = types.SimpleNamespace(**vars(os))
        paths = {}

        def open_(*args, **kwargs):
            handle = os.open(*args, **kwargs)
            paths[handle] = args[0]
            return handle

        def fsync(handle):
            path = paths.pop(handle, None) or os.readlink(f'/proc/self/fd/{handle}')
            self.log.append(('sync', Path(path).name, os.fstat(handle).st_size))
            os.fsync(handle)

        def replace(source, target):
            self.log.append(('rename', Path(source).name, Path(target).name))
            os.replace(source, target)

        noted.open, noted.fsync, noted.replace = open_, fsync, replace
        monkeypatch.setattr(files, 'os', noted)


def test_the_content_is_on_the_disk_before_the_name_is(tmp_path, monkeypatch):
    """A kill cannot show it: what a process has written stays; a loss of power can."""
    disk = Disk()
    disk.watch(monkeypatch)
    write_whole(str(tmp_path / 'epoch_1.pth'), lambda file: file.write(b'12345'))
    hidden = f'.epoch_1.pth.{os.getpid()}.tmp'
    assert disk.log == [('sync', hidden, 5), ('rename', hidden, 'epoch_1.pth'),
                        ('sync', tmp_path.name, os.stat(tmp_path).st_size)]


def test_leftovers(tmp_path):
    done = subprocess.Popen(['true'])
    done.wait()
    dead = tmp_path / f'.epoch_1.pth.{done.pid}.tmp'
    others = [tmp_path / name for name in (
        f'.epoch_2.pth.{os.getppid()}.tmp', '.hidden', 'epoch_1.pth', '.mine.tmp', 'x.1.tmp')]
    for path in (dead, *others):
        path.write_bytes(b'')
    remove_leftovers(str(tmp_path))
    assert not dead.exists() and all(path.exists() for path in others)


def test_leftovers_where_processes_cannot_be_asked(monkeypatch):
    """On Windows the question would end the process."""
    monkeypatch.setattr(files, 'os', types.SimpleNamespace(name='nt'))
    assert files._is_running(1)


def test_a_link_stays_one(tmp_path):
    (tmp_path / 'store').mkdir()
    target, link = tmp_path / 'store' / 'epoch_1.pth', tmp_path / 'epoch_1.pth'
    target.write_bytes(b'earlier')
    link.symlink_to(target)
    write_whole(str(link), lambda file: file.write(b'new'))
    assert link.is_symlink() and target.read_bytes() == b'new'
    assert [p.name for p in target.parent.iterdir()] == ['epoch_1.pth']


# --- damage --------------------------------------------------------------------------------------


def refused_or_same(path, content, original, load=load_file):
    """Whether a damaged file is refused, and by name; if not it must be the same."""
    path.write_bytes(content)
    try:
        loaded = load(str(path))
    except CheckpointError as error:
        assert str(path) in str(error) and 'weights_only' not in str(error)
        return True
    assert same(loaded, original)
    return False


@pytest.fixture(scope='module')
def written(tmp_path_factory):
    path = tmp_path_factory.mktemp('written') / 'epoch_1.pth'
    save_file(training_checkpoint(), str(path))
    return path.read_bytes(), load_file(str(path))


def borders(content):
    """Where the records of an archive begin, where its directory does, and its ends."""
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        starts = [record.header_offset for record in archive.infolist()]
        return sorted({*starts, *(at + 30 for at in starts), archive.start_dir, 0, 1, 3, 4, 29,
                       len(content) - 22, len(content) - 1})


def test_truncated_files_are_refused(written, tmp_path):
    content, original = written
    lengths = {*borders(content), *range(0, len(content), 29)}
    assert len(lengths) > 150
    for length in sorted(lengths):
        assert refused_or_same(tmp_path / 'cut.pth', content[:length], original), length


def test_every_flipped_bit_is_found_or_harmless(written, tmp_path):
    """All bytes of headers, of the directory and of the end; each eighth byte of the rest."""
    content, original = written
    records = [at for at in borders(content) if content[at:at + 4] == b'PK\x03\x04']
    directory = zipfile.ZipFile(io.BytesIO(content)).start_dir
    places = {*range(directory, len(content)), *range(0, directory, 8)}
    for start in records:
        places |= {*range(start, start + 64)}
    generator = random.Random(0)
    refused = 0
    for place in sorted(places):
        flipped = bytearray(content)
        flipped[place] ^= 1 << generator.randrange(8)
        refused += refused_or_same(tmp_path / 'flip.pth', bytes(flipped), original)
    assert refused > len(places) / 3  # the others are times, versions and padding


def test_each_flipped_bit_of_the_data_is_refused(written, tmp_path):
    content, original = written
    generator = random.Random(1)
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        for record in archive.infolist():
            start = record.header_offset + 30 + sum(
                int.from_bytes(content[record.header_offset + at:record.header_offset + at + 2],
                               'little') for at in (26, 28))
            for place in {0, record.file_size - 1, generator.randrange(record.file_size)}:
                flipped = bytearray(content)
                flipped[start + place] ^= 1 << generator.randrange(8)
                path = tmp_path / 'flip.pth'
                path.write_bytes(flipped)
                with pytest.raises(CheckpointError, match='flip.pth is no checkpoint file, or is '
                                   'truncated or damaged .the checksum of .* does not agree'):
                    load_file(str(path))


def test_a_record_that_became_a_folder(written, tmp_path):
    """Torch would give whatever is in its memory, and no checksum says so."""
    content, _ = written
    with zipfile.ZipFile(io.BytesIO(content)) as archive:
        name = archive.infolist()[-3].filename.encode()
    start = content.rindex(name) - 46
    assert content[start:start + 4] == b'PK\x01\x02'
    flipped = bytearray(content)
    flipped[start + 38] ^= 0x10
    path = tmp_path / 'flip.pth'
    path.write_bytes(flipped)
    with pytest.raises(CheckpointError, match='flip.pth .*is marked as a folder'):
        load_file(str(path))


def test_torch_alone_would_have_loaded_it(written, tmp_path):
    """Why the checksums are looked at: a flipped weight is otherwise a wrong model in silence."""
    content, original = written
    weight = original['state_dict']['backbone.weight'].numpy().tobytes()
    flipped = bytearray(content)
    flipped[content.index(weight) + 3] ^= 64
    path = tmp_path / 'flip.pth'
    path.write_bytes(flipped)
    silent = torch.load(path, weights_only=True)
    assert not same(silent, original)
    with pytest.raises(CheckpointError):
        check_whole(str(path))
    with open(path, 'rb') as file, pytest.raises(CheckpointError, match='s3://x.pth is no check'):
        load_file(file, name='s3://x.pth')  # as from a storage elsewhere


def test_files_without_checksums_load(tmp_path):
    kept = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        torch.save(training_checkpoint(), tmp_path / 'w.pth')
    finally:
        torch.serialization.set_crc32_options(kept)
    assert same(load_file(str(tmp_path / 'w.pth')), training_checkpoint())


# --- damaged deltas ------------------------------------------------------------------------------


@pytest.fixture
def small_delta(tmp_path, monkeypatch):
    """A delta in both containers: its path, and what it is with its base."""
    monkeypatch.setattr(base_files, '_found', {})
    monkeypatch.setattr(base_files, '_places', [])
    base = {f'backbone.{name}': torch.randn(40, 40) for name in 'abc'}
    torch.save({'state_dict': base}, tmp_path / 'base.pth')
    whole = {'meta': {'dataset_meta': {'classes': ['cat', 'dog']}},
             'state_dict': {**base, 'head.weight': torch.randn(3, 4), 'head.bias': torch.ones(3)}}

    def save(ending):
        path = tmp_path / f'delta{ending}'
        write_checkpoint(make_delta({**whole}, open_base(str(tmp_path / 'base.pth'))), str(path))
        return path, read_checkpoint(str(path))

    return save


@pytest.mark.parametrize('ending', ['.pth', '.safetensors'])
def test_damaged_deltas(ending, small_delta):
    path, original = small_delta(ending)
    content = path.read_bytes()
    generator = random.Random(0)
    refused = 0
    for place in range(0, len(content), 2 if ending == '.safetensors' else 7):
        flipped = bytearray(content)
        flipped[place] ^= 1 << generator.randrange(8)
        refused += refused_or_same(path, bytes(flipped), original, read_checkpoint)
    assert refused > len(content) / 20
    for length in {*range(0, len(content), 41), len(content) - 1}:
        assert refused_or_same(path, content[:length], original, read_checkpoint), length


@pytest.mark.parametrize('content', [b'', b'PK', b'PK\x03\x04', b'PK\x03\x04' + bytes(100)])
def test_what_is_no_archive(content, tmp_path):
    path = tmp_path / 'w.pth'
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match='w.pth is no checkpoint file, or is truncated'):
        load_file(str(path))


# --- what to resume from -------------------------------------------------------------------------


class WorkDir:
    """A work folder whose files are a second apart."""

    def __init__(self, folder):
        self.folder, self.clock = folder, 1_700_000_000
        folder.mkdir()

    def save(self, *names, note=True):
        for name in names:
            path = self.folder / name
            save_file(training_checkpoint(), str(path))
            self._tick(path)
        if note:
            self.note(path)

    def note(self, content):
        path = self.folder / 'last_checkpoint'
        path.write_bytes(content if isinstance(content, bytes) else str(content).encode())
        self._tick(path)

    def _tick(self, path):
        self.clock += 1
        os.utime(path, (self.clock, self.clock))

    def damage(self, name):
        path = self.folder / name
        times = os.stat(path)
        content = bytearray(path.read_bytes())
        content[len(content) // 2] ^= 1
        path.write_bytes(content[:-1])
        os.utime(path, ns=(times.st_atime_ns, times.st_mtime_ns))

    def find(self):
        self.said = []
        found = find_newest_whole(str(self.folder), self.said.append)
        return found and os.path.relpath(found, self.folder)


@pytest.fixture
def work(tmp_path):
    return WorkDir(tmp_path / 'work')


def test_nothing_was_saved(work, tmp_path):
    assert work.find() is None
    assert find_newest_whole(str(tmp_path / 'nowhere')) is None
    (work.folder / '20250101_000000').mkdir()
    work.note('')
    assert work.find() is None and work.said == []


def test_the_noted_file(work):
    work.save('epoch_1.pth', 'epoch_2.pth', 'epoch_3.pth')
    assert work.find() == 'epoch_3.pth'
    work.note(work.folder / 'epoch_2.pth')  # as after a resume from 2, when 3 is of another run
    work._tick(work.folder / 'epoch_2.pth')
    assert work.find() == 'epoch_2.pth' and work.said == []


def test_a_file_that_was_not_noted_any_more(work):
    """The process died between the two."""
    work.save('epoch_1.pth')
    work.save('epoch_2.pth', note=False)
    assert work.find() == 'epoch_2.pth'
    work.save('best_loss_epoch_3.pth', 'iter_90.pth', note=False)  # of another kind
    assert work.find() == 'epoch_2.pth'


@pytest.mark.parametrize('damaged, expected', [
    (['epoch_3.pth'], 'epoch_2.pth'), (['epoch_3.pth', 'epoch_2.pth'], 'epoch_1.pth'),
    (['epoch_1.pth'], 'epoch_3.pth')])
def test_damaged_files_are_passed_over(work, damaged, expected):
    work.save('epoch_1.pth', 'epoch_2.pth', 'epoch_3.pth')
    for name in damaged:
        work.damage(name)
    assert work.find() == expected
    if expected == 'epoch_3.pth':
        assert work.said == []
        return
    for name, line in zip(damaged, work.said, strict=False):
        assert line.startswith(f'resume: passed over, since {work.folder / name} is no checkpoint '
                               'file, or is truncated or damaged')
    assert work.said[-1] == (f'resume: going back to {work.folder / expected}, the newest that is '
                             'whole')


def test_all_are_damaged(work):
    work.save('epoch_1.pth', 'epoch_2.pth')
    work.damage('epoch_1.pth')
    work.damage('epoch_2.pth')
    with pytest.raises(CheckpointError) as error:
        work.find()
    text = str(error.value)
    assert text.startswith(f'{work.folder} holds no checkpoint to resume from: {work.folder}')
    assert 'epoch_1.pth' in text and 'epoch_2.pth' in text
    assert text.endswith('To start anew, remove them and last_checkpoint, or name another '
                         '--work-dir')


@pytest.mark.parametrize('note', [
    None, b'', b' \n', b'\x00\xff\xfe', b'\xff\xfe', b'nonsense', b'a\x00b', b'x' * 5000,
    '{folder}/epoch_9.pth', '/nowhere/epoch_9.pth', '/nowhere', '{folder}'])
def test_a_note_that_is_of_no_use(work, note):
    work.save('epoch_1.pth', 'epoch_2.pth')
    if note is None:
        (work.folder / 'last_checkpoint').unlink()
    else:
        work.note(note if isinstance(note, bytes) else note.format(folder=work.folder))
    assert work.find() == 'epoch_2.pth'


def test_the_note_names_a_damaged_file_and_an_older_training_left_higher_numbers(work):
    work.save('epoch_8.pth', 'epoch_9.pth')
    work.save('epoch_1.pth', 'epoch_2.pth')
    assert work.find() == 'epoch_2.pth' and work.said == []
    work.damage('epoch_2.pth')
    assert work.find() == 'epoch_1.pth'


def test_the_folder_was_moved_or_copied(work, tmp_path):
    work.save('epoch_1.pth', 'epoch_2.pth')
    copy = tmp_path / 'copy'
    shutil.copytree(work.folder, copy)
    assert find_newest_whole(str(copy)) == str(copy / 'epoch_2.pth')  # not the original's
    work.save('epoch_3.pth', note=False)
    assert find_newest_whole(str(copy)) == str(copy / 'epoch_2.pth')
    shutil.rmtree(work.folder)
    assert find_newest_whole(str(copy)) == str(copy / 'epoch_2.pth')


def test_another_folder_for_checkpoints(work, tmp_path):
    elsewhere = WorkDir(tmp_path / 'out')
    elsewhere.save('epoch_1.pth', 'epoch_2.pth', note=False)
    work.note(elsewhere.folder / 'epoch_2.pth')
    assert find_newest_whole(str(work.folder)) == str(elsewhere.folder / 'epoch_2.pth')
    elsewhere.damage('epoch_2.pth')
    assert find_newest_whole(str(work.folder), print) == str(elsewhere.folder / 'epoch_1.pth')


def test_a_storage_elsewhere_is_left_to_mmengine(work):
    work.note('s3://bucket/epoch_2.pth')
    assert find_newest_whole(str(work.folder)) == 's3://bucket/epoch_2.pth'


def test_the_noted_file_is_gone_and_there_is_no_other(work):
    work.note(work.folder / 'epoch_2.pth')
    with pytest.raises(CheckpointError, match='last_checkpoint names .*epoch_2.pth, which is not '
                       'there.*To start anew'):
        work.find()


def test_weights_are_nothing_to_resume_from(work):
    work.save('epoch_1.pth', 'epoch_2.pth')
    save_file({'state_dict': {'w': torch.ones(1)}, 'meta': {}}, str(work.folder / 'epoch_2.pth'))
    assert work.find() == 'epoch_1.pth'
    assert 'epoch_2.pth is no checkpoint of a training: it has no message_hub' in work.said[0]
    save_file([1], str(work.folder / 'epoch_2.pth'))
    assert work.find() == 'epoch_1.pth'


def test_a_first_start_beside_pretrained_weights(work):
    work.folder.mkdir(exist_ok=True)
    save_file({'w': torch.ones(1)}, str(work.folder / 'deit_tiny_224.pth'))
    assert find_newest_whole(str(work.folder)) is None
    work.save('epoch_1.pth', note=False)
    assert work.find() == 'epoch_1.pth'


@pytest.mark.parametrize('content', [b'no archive', {'w': {1: types.SimpleNamespace()}}],
                         ids=['unreadable', 'refused'])
def test_a_first_start_beside_a_file_that_does_not_load(content, work):
    path = work.folder / 'deit_tiny_224.pth'
    if isinstance(content, bytes):
        path.write_bytes(content)
    else:
        torch.save(content, path)
    assert work.find() is None and 'passed over' in work.said[0]
    work.save('epoch_1.pth')
    work.damage('epoch_1.pth')
    with pytest.raises(CheckpointError) as error:
        work.find()
    assert 'deit' not in str(error.value)


def test_all_are_refused(work):
    work.save('epoch_1.pth')
    torch.save({'meta': {'x': types.SimpleNamespace()}}, work.folder / 'epoch_1.pth')
    with pytest.raises(CheckpointError, match='SimpleNamespace.*What is refused is whole.*allowed.'
                       ' To start anew, name another --work-dir') as error:
        work.find()
    assert 'remove' not in str(error.value) and 'damaged' not in str(error.value)


@pytest.mark.parametrize('name', ['ck_{}.ckpt', 'ep{}_model.pth', 'ck_{}', 'ck_{}.pt2'])
def test_other_names(name, work):
    names = [name.format(step) for step in (8, 9, 10)]
    work.save(*names[:2])
    (work.folder / '20250101_000000.log').write_text('x')
    assert work.find() == names[1]
    work.save(names[2], note=False)
    assert work.find() == names[2]  # the process died before it could be noted
    work.damage(names[2])
    assert work.find() == names[1]
    work.damage(names[1])
    assert work.find() == names[0] and len(work.said) == 3


@pytest.mark.parametrize('note', [True, False])
def test_a_link_to_nowhere(note, work):
    work.save('epoch_1.pth', 'epoch_2.pth', note=note)
    (work.folder / 'epoch_3.pth').symlink_to(work.folder / 'gone.pth')
    assert work.find() == 'epoch_2.pth'


def test_a_name_without_a_number(work):
    work.save('latest.pth')
    assert work.find() == 'latest.pth'
