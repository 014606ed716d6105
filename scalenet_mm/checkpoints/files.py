"""Checkpoint files that are whole or absent, and that tell when they were damaged."""
import errno
import functools
import glob
import hashlib
import io
import os
import os.path as osp
import re
import shutil
import zipfile
import zlib
from typing import Callable, Optional

import torch
from mmengine.fileio import LocalBackend, register_backend

from ..errors import CheckpointError

#: The name of the storage backend that :class:`WholeFileBackend` is registered under.
BACKEND = 'scalenet_local'
_TEMPORARY = '.tmp'
_ZIP = b'PK\x03\x04'
_DOS_FOLDER = 0x10
#: What mmengine can do without when it resumes.
_MAY_LACK = ('optimizer', 'param_schedulers')
#: A name by its last number; digits in the ending count only where there are no others.
_NUMBERED = re.compile(r'(.*?)(\d+)(\D*(?:\.\w+)?)$')
#: How mmengine names the files of a training.
_USUAL = (('epoch_', '.pth'), ('iter_', '.pth'))


def write_whole(path: str, write: Callable) -> None:
    """Write a file so that it is there as a whole or not at all, whenever the process dies.

    It is written under a hidden name beside its own, forced to the disk and renamed; an earlier
    file of that name stays until then. A symbolic link stays one, and its target is written.

    Args:
        path (str): The file; missing folders are made.
        write (Callable): Takes the file, opened for binary writing, and writes the content.

    Raises:
        CheckpointError: If it cannot be written, for want of space or of permission; then an
            earlier file of that name is as it was.
    """
    path = osp.abspath(osp.expanduser(path))
    target = osp.realpath(path)
    folder, name = osp.split(target)
    temporary = osp.join(folder, f'.{name}.{os.getpid()}{_TEMPORARY}')
    try:
        os.makedirs(folder, exist_ok=True)
        with open(temporary, 'wb') as file:
            write(file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(temporary, target)
        _sync_folder(folder)
    except OSError as error:
        raise CheckpointError(_cannot_write(path, folder, error)) from error
    finally:
        if osp.exists(temporary):
            os.remove(temporary)


def _sync_folder(folder):
    """The new name must be on the disk as well, before an older file is removed."""
    if os.name != 'posix':
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    except OSError:  # some network file systems do not know it
        pass
    finally:
        os.close(handle)


def _cannot_write(path, folder, error):
    earlier = 'the earlier file of that name is as it was' if osp.isfile(
        path) else 'nothing was left there'
    no_folder = osp.exists(folder) and not osp.isdir(folder)
    reason = f'{folder} is no folder' if no_folder else error.strerror or error
    text = f'{path} cannot be written: {reason}; {earlier}'
    if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        try:
            free = f' ({shutil.disk_usage(folder).free / 2**20:,.0f} MiB are free)'
        except OSError:
            free = ''
        text += (f'. Make room in {folder}{free}, or choose another folder (of a training: '
                 '--work-dir or work_dir)')
    return text


def remove_leftovers(folder: str) -> None:
    """Remove what processes that were killed while they wrote have left in a folder."""
    for path in glob.glob(osp.join(glob.escape(folder), f'.*{_TEMPORARY}')):
        pid = re.search(rf'\.(\d+){re.escape(_TEMPORARY)}$', path)
        if pid and not _is_running(int(pid[1])):
            os.remove(path)


def _is_running(pid):
    if os.name != 'posix':  # there the signal 0 would end the process
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:  # somebody else's
        pass
    return True


def save_file(checkpoint, path: str) -> None:
    """Save a checkpoint as ``torch.save`` does, as a whole or not at all.

    Args:
        checkpoint (Any): What the file is to hold.
        path (str): The file.

    Raises:
        CheckpointError: If it cannot be written.
    """
    # not into the file itself: torch turns an error of the disk into one that tells nothing
    content = io.BytesIO()
    torch.save(checkpoint, content)
    write_whole(path, lambda file: file.write(content.getbuffer()))


class WholeFileBackend(LocalBackend):
    """mmengine's local storage, whose files are whole or absent."""

    def put(self, obj: bytes, filepath) -> None:
        """Write bytes to a file."""
        write_whole(os.fspath(filepath), lambda file: file.write(obj))

    def put_text(self, obj: str, filepath, encoding: str = 'utf-8') -> None:
        """Write text to a file."""
        self.put(obj.encode(encoding), filepath)


register_backend(BACKEND, WholeFileBackend, force=True)


def check_whole(source, name: Optional[str] = None) -> None:
    """Check that a checkpoint file is as it was written.

    Torch's files are zip archives with a checksum (CRC-32) of every record, which torch itself
    never looks at. Files of another kind are left to their readers.

    Args:
        source (str | BinaryIO): A local file, or an open one, which is read from its beginning.
        name (str, optional): What to call an open file in messages. Defaults to None.

    Raises:
        CheckpointError: If it is truncated or was changed, naming it.
    """
    name = name or source
    try:
        if not is_archive(source):
            return
        with zipfile.ZipFile(source) as archive:
            # files written with torch.serialization.set_crc32_options(False) have none
            sums = any(record.CRC for record in archive.infolist())
            damaged = archive.testzip() if sums else None
            # of a record that is marked so torch reads nothing, in silence
            folders = [record.filename for record in archive.infolist()
                       if record.external_attr & _DOS_FOLDER]
    except OSError as error:
        raise CheckpointError(f'{name} cannot be read: {error}') from error
    except (zipfile.BadZipFile, NotImplementedError, RuntimeError, ValueError, LookupError,
            EOFError, zlib.error) as error:
        raise CheckpointError(damage(name, str(error))) from error
    if damaged:
        raise CheckpointError(damage(name, f'the checksum of {damaged} does not agree'))
    if folders:
        raise CheckpointError(damage(name, f'{folders[0]} is marked as a folder'))


def is_archive(source) -> bool:
    """Whether a file is of the kind that ``torch.save`` writes since torch 1.6."""
    if hasattr(source, 'read'):
        source.seek(0)
        head = source.read(len(_ZIP))
        source.seek(0)
        return head == _ZIP
    with open(source, 'rb') as file:
        return file.read(len(_ZIP)) == _ZIP


def damage(path: str, reason: str = '', remedy: str = 'copy or download it again') -> str:
    """str: What to tell of a file that cannot be read."""
    reason = f' ({reason})' if reason else ''
    return f'{path} is no checkpoint file, or is truncated or damaged{reason}: {remedy}'


def sha256_of(path: str) -> str:
    """str: The SHA-256 of a file, in hexadecimal; computed once as long as it does not change."""
    status = os.stat(path)
    return _sha256(osp.abspath(path), status.st_size, status.st_mtime_ns)


@functools.lru_cache(maxsize=64)
def _sha256(path, size, changed):
    digest = hashlib.sha256()
    with open(path, 'rb') as file:
        while chunk := file.read(2**22):
            digest.update(chunk)
    return digest.hexdigest()


def find_newest_whole(folder: str, say: Callable = print) -> Optional[str]:
    """Find the checkpoint to resume from.

    That is the one that ``last_checkpoint`` names, or a newer one whose process died before it
    could be noted there. Files that are damaged, refused or gone are passed over.

    Args:
        folder (str): The work folder of a training.
        say (Callable): Takes one line for each file that is passed over. Defaults to ``print``.

    Returns:
        str | None: The file; None if none was ever saved there.

    Raises:
        CheckpointError: If there are checkpoints and all are damaged or refused.
    """
    from .safe import TypeRefusedError  # it stands on this module
    noted = _noted(folder)
    if noted is not None and '://' in noted:  # a storage of which nothing is known here
        return noted
    folders = dict.fromkeys([folder] + ([osp.dirname(noted)] if noted else []))
    series = _series(noted) if noted else None
    found = {osp.abspath(path): path for place in folders
             for path in glob.glob(osp.join(glob.escape(place), '*'))
             if _may_be_saved(path, series) and osp.isfile(path)}
    candidates = sorted(found.values(), key=_age, reverse=True)
    if noted is not None:
        # an earlier training in the same folder may have left files with higher numbers
        newer = [path for path in candidates if osp.isfile(noted)
                 and _series(path) == series
                 and _number(path) > _number(noted)
                 and os.stat(path).st_mtime_ns >= os.stat(noted).st_mtime_ns]
        rest = [path for path in candidates
                if path not in newer and osp.abspath(path) != osp.abspath(noted)]
        candidates = [*newer, noted, *rest]
    passed, refused = [], False
    for path in candidates:
        # and not weights that somebody keeps there
        of_training = path == noted or _series(path) in (series, *_USUAL)
        try:
            if path == noted and not osp.exists(path):
                raise CheckpointError(f'{osp.join(folder, "last_checkpoint")} names {noted}, '
                                      'which is not there')
            lacking = _what_lacks(path)
            if lacking and (noted is None or not of_training):
                continue
            _refuse_lacking(path, lacking)
        except CheckpointError as error:
            if of_training:
                passed.append(str(error))
                refused |= isinstance(error, TypeRefusedError)
            say(f'resume: passed over, since {error}')
            continue
        if passed:
            say(f'resume: going back to {path}, the newest that is whole')
        return path
    if passed:
        anew = ('What is refused is whole, and can be resumed from when its types are allowed. '
                'To start anew, name another --work-dir' if refused else
                'To start anew, remove them and last_checkpoint, or name another --work-dir')
        raise CheckpointError(
            f'{folder} holds no checkpoint to resume from: {"; ".join(passed)}. {anew}')
    return None


def _noted(folder):
    try:
        with open(osp.join(folder, 'last_checkpoint')) as file:
            noted = file.read().strip()
    except (OSError, UnicodeDecodeError):
        return None
    if not noted or '\0' in noted:
        return None
    # the folder may have been moved since, or copied: then there is another one with such a note
    theirs = osp.join(osp.dirname(noted), 'last_checkpoint')
    ours = osp.join(folder, osp.basename(noted))
    if '://' not in noted and osp.isfile(ours) and (
            not osp.isfile(noted) or osp.isfile(theirs)):
        return ours
    return noted


def _may_be_saved(path, series):
    """Whether a name is of the noted file's kind, or of the usual one."""
    own = _series(path)
    usual = path.endswith('.pth') and not osp.basename(path).startswith('best_')
    return own is not None and (own == series or usual)


def _series(path):
    """What files of one training have in common: the name without its number."""
    match = _NUMBERED.match(osp.basename(path))
    return (match[1], match[3]) if match else None


def _number(path):
    match = _NUMBERED.match(osp.basename(path))
    return int(match[2]) if match else -1


def _age(path):
    return os.stat(path).st_mtime_ns, _number(path)


def check_resumable(path: str) -> list:
    """Check that a file is a whole checkpoint of a training.

    Args:
        path (str): A local file.

    Returns:
        list[str]: What will start anew, as the file does not hold it: 'optimizer',
        'param_schedulers'.

    Raises:
        CheckpointError: If it is not there, damaged, or holds weights alone.
    """
    lacking = _what_lacks(path, ('meta', 'message_hub', 'state_dict', *_MAY_LACK))
    _refuse_lacking(path, [key for key in lacking if key not in _MAY_LACK])
    return lacking


def _what_lacks(path, keys=('meta', 'message_hub', 'state_dict')):
    from .safe import load_file  # it stands on this module
    checkpoint = load_file(path)
    return [key for key in keys if not isinstance(checkpoint, dict) or key not in checkpoint]


def _refuse_lacking(path, lacking):
    if lacking:
        raise CheckpointError(f'{path} is no checkpoint of a training: it has no '
                              f'{" and no ".join(lacking)}')
