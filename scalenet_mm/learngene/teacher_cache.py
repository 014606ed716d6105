"""A teacher's logits on the disk, in the place of the teacher."""
import hashlib
import json
import os
import os.path as osp
import shutil
from typing import Any, Callable, Iterable, List, Optional, Sequence, Tuple

import numpy as np
import torch

from ..checkpoints.delta import versions
from ..errors import ConfigError
from .teacher import check_size, fingerprint, normalisation_of, tell_teachers_apart

FORMAT = 'teacher-logits'
#: Written by this version of the format; no other is read.
VERSION = 1
DTYPES = ('float16', 'float32')
MANIFEST, LOGITS, SAMPLES = 'manifest.json', 'logits.npy', 'samples.npy'
#: What a folder is called until it is whole.
PART = '.part'


class TeacherCache:
    """The logits that a teacher gave for each image of a training set.

    It spares the teacher's forward passes, and its memory, in every epoch and every training that
    has the same teacher and data. What it gives up: the teacher has seen each image once, as a test
    would show it, and not the crop, flip or erasing that the student gets; its answer does not
    change with them. Where a batch is mixed (Mixup, CutMix), its answers are mixed in the same
    proportions, which is not what it would say of the mixed image. With strong augmentation prefer
    the teacher itself.

    A sample is found by its ``sample_idx``, and in every batch compared with what was cached under
    it: the last two parts of its path, and its labels. (Of data sets without files, like CIFAR-10,
    only the labels: two of equal labels cannot be told apart.)

    Args:
        folder (str): What ``tools/cache_teacher.py`` wrote.
        teacher (str | dict | nn.Module): The teacher that it must come from.
        checkpoint (str, optional): The file or URL of its weights. Defaults to None.
        size (int | Sequence[int], optional): ``teacher_size``. Defaults to None.
        student (dict | nn.Module, optional): The student's preprocessor, which makes the images of
            a teacher that normalises none. Defaults to None, which leaves it unchecked.
    """

    def __init__(self,
                 folder: str,
                 teacher,
                 checkpoint: Optional[str] = None,
                 size=None,
                 student=None):
        self.folder = osp.expanduser(str(folder))
        self._asked = (teacher, checkpoint, check_size(size), normalisation_of(student))
        self._manifest: Any = None  # these three until it is open
        self._logits: Any = None
        self._samples: Any = None

    def __deepcopy__(self, memo):
        return self

    def __getstate__(self):
        # the mapped files are opened anew
        return {**self.__dict__, '_manifest': None, '_logits': None, '_samples': None}

    @property
    def num_classes(self) -> int:
        """int: The number of classes; the cache must be open."""
        return self._manifest['shape'][1]

    def open(self) -> 'TeacherCache':
        """Open the files, and check that they are of this teacher.

        Returns:
            TeacherCache: Itself.

        Raises:
            ConfigError: If the folder is no cache, is damaged, or is of another teacher.
        """
        if self._logits is None:
            manifest = read_manifest(self.folder)
            check_teacher(self.folder, manifest, *self._asked)
            self._samples = _open_array(self.folder, SAMPLES, 'uint64', manifest['shape'][:1])
            self._logits = _open_array(self.folder, LOGITS, manifest['dtype'], manifest['shape'])
            self._manifest = manifest
        return self

    def look_up(self, data_samples: Sequence, preprocessor) -> Tuple:
        """Get the logits of a batch.

        Args:
            data_samples (list[DataSample]): The batch's labels.
            preprocessor (nn.Module): What made the batch; it tells how it was mixed.

        Returns:
            tuple[torch.Tensor, torch.Tensor | None]: The logits, float32 on the CPU; and how the
            batch was mixed, see :class:`RecordedMixing`, None if it was not.

        Raises:
            ConfigError: If a sample is not the one that was cached.
        """
        self.open()
        indices, found = identify(data_samples)
        count = len(self._samples)
        for place, (index, own) in enumerate(zip(indices, found)):
            if not 0 <= index < count or self._samples[index] != own:
                known = self._manifest['dataset']
                raise ConfigError(
                    f'teacher_cache: {self.folder} is of another data set: its sample {index} is '
                    f'not {describe(data_samples[place])}. It was made of {known["length"]} samples'
                    f' of {known["type"]}; a data set in another order, with other labels, cut, or '
                    'wrapped with others (ConcatDataset) needs a cache of its own, made by '
                    'tools/cache_teacher.py')
        logits = np.asarray(self._logits[indices], dtype=np.float32)
        return torch.from_numpy(logits), find_mixing(data_samples, preprocessor)


# --- samples -------------------------------------------------------------------------------------


def identify(data_samples: Sequence) -> tuple:
    """Tell which samples of a data set the samples of a batch are.

    Args:
        data_samples (list[DataSample]): The batch's labels.

    Returns:
        tuple[list[int], np.ndarray]: The index of each, and a hash of its path and labels.

    Raises:
        ConfigError: If they do not tell their index.
    """
    indices = []
    for sample in data_samples:
        index = sample.get('sample_idx')
        if index is None:
            raise ConfigError(
                'teacher_cache: the samples do not tell their sample_idx. The data set must be one '
                "of mmpretrain's, whose PackInputs keeps 'sample_idx' in its meta_keys (the "
                'default)')
        indices.append(int(index))
    labels = [sample.get('gt_label') for sample in data_samples]
    known = [label for label in labels if label is not None]
    # at once: they may be on a GPU
    values = iter(torch.cat(known).tolist() if known else [])
    names = []
    for sample, label in zip(data_samples, labels):
        own = [] if label is None else [next(values) for _ in range(len(label))]
        names.append('|'.join([_path_of(sample), *map(str, own)]))
    return indices, np.array([_hash(name) for name in names], dtype=np.uint64)


def _path_of(sample):
    """str: The end of a sample's path, which stays when a data set is moved."""
    return '/'.join(str(sample.get('img_path') or '').replace('\\', '/').split('/')[-2:])


def _hash(name):
    return int.from_bytes(hashlib.blake2b(name.encode(), digest_size=8).digest(), 'little')


def describe(sample) -> str:
    """str: A sample, for messages."""
    label = sample.get('gt_label')
    label = '' if label is None else f' with label {label.tolist()}'
    return f'{sample.get("img_path") or "an image without a file"}{label}'


# --- mixing --------------------------------------------------------------------------------------


class RecordedMixing:
    """A batch augmentation that remembers how it mixed a batch.

    Mixing is linear in the scores, so the rows of an identity matrix, appended to the scores'
    columns, come back as the part that each sample of the batch has in each mixed one.

    Args:
        augments (Callable): Mixes images and scores, as mmpretrain's ``RandomBatchAugment``.
    """

    def __init__(self, augments: Callable):
        self.augments = augments
        self.scores: Any = None
        self.mixing: Any = None

    def __call__(self, inputs: torch.Tensor, scores: torch.Tensor) -> tuple:
        """Mix a batch.

        Args:
            inputs (torch.Tensor): Images.
            scores (torch.Tensor): Scores of shape (batch, classes).

        Returns:
            tuple[torch.Tensor, torch.Tensor]: Mixed images and scores.

        Raises:
            ConfigError: If the augmentation does anything else to the scores.
        """
        scores = scores.float()
        number, classes = scores.shape
        own = torch.eye(number, device=scores.device)
        # AmpOptimWrapper's context has the preprocessor in it, too; a product in half precision
        # would be none of the scores
        with torch.autocast(scores.device.type, enabled=False):
            inputs, mixed = self.augments(inputs, torch.cat([scores, own], dim=1))
            self.scores, self.mixing = mixed.split([classes, number], dim=1)
            whole = torch.ones(number, device=scores.device)
            mixes = torch.allclose(self.mixing @ scores, self.scores, atol=1e-4) \
                and torch.allclose(self.mixing.sum(dim=1), whole, atol=1e-4)
        if not mixes:
            raise ConfigError('teacher_cache: a batch augmentation of the student (train_cfg) does '
                              'more than to mix images and scores, so what the teacher would say '
                              'is not known; leave it out, or leave teacher_cache out')
        return inputs, self.scores


def record_mixing(preprocessor, _) -> None:
    """Have a preprocessor's batch augmentations recorded; a hook before its forward pass."""
    augments = getattr(preprocessor, 'batch_augments', None)
    if augments is not None and not isinstance(augments, RecordedMixing):
        preprocessor.batch_augments = RecordedMixing(augments)


def find_mixing(data_samples: Sequence, preprocessor) -> Optional[torch.Tensor]:
    """Find how a batch was mixed.

    Args:
        data_samples (list[DataSample]): The batch's labels.
        preprocessor (nn.Module): What made the batch.

    Returns:
        torch.Tensor | None: Row i holds the part of each sample in the i-th; None if nothing mixes.

    Raises:
        ConfigError: If the preprocessor has not made this batch.
    """
    augments = getattr(preprocessor, 'batch_augments', None)
    if augments is None:
        return None
    if isinstance(augments, RecordedMixing) and augments.scores is not None \
            and 'gt_score' in data_samples[0] and len(augments.scores) == len(data_samples):
        scores = torch.stack([sample.gt_score for sample in data_samples])
        if torch.equal(scores, augments.scores.to(scores)):
            return augments.mixing
    raise ConfigError('teacher_cache: it is not known how this batch was mixed: it must be the '
                      "last that went through the model's data_preprocessor, in training")


# --- files ---------------------------------------------------------------------------------------


def read_manifest(folder: str) -> dict:
    """Read what a cache says of itself.

    Args:
        folder (str): The cache.

    Returns:
        dict: Its manifest.

    Raises:
        ConfigError: If there is none, or none that is understood.
    """
    path = osp.join(osp.expanduser(folder), MANIFEST)
    if not osp.isfile(path):
        begun = f' ({folder}{PART} was begun and not finished)' if osp.isdir(
            f'{folder}{PART}') else ''
        raise ConfigError(f'teacher_cache: {folder} is no cache of logits: it has no {MANIFEST}'
                          f'{begun}; make one by tools/cache_teacher.py CONFIG {folder}')
    try:
        with open(path, encoding='utf-8') as file:
            manifest = json.load(file)
        known = (manifest['format'], manifest['version'])
        complete = all(key in manifest for key in ('teacher', 'dataset', 'dtype', 'shape'))
    except (ValueError, KeyError, TypeError) as error:
        raise ConfigError(f'teacher_cache: {path} cannot be read: {error}; make it again by '
                          'tools/cache_teacher.py') from error
    if known != (FORMAT, VERSION) or not complete:
        raise ConfigError(f'teacher_cache: {path} is of the format {known}, not '
                          f'{(FORMAT, VERSION)}; make it again by tools/cache_teacher.py')
    return manifest


def check_teacher(folder: str, manifest: dict, teacher, checkpoint=None, size=None,
                  student=None) -> None:
    """Check that a cache is of a teacher.

    Args:
        folder (str): The cache.
        manifest (dict): What it says of itself.
        teacher (str | dict | nn.Module): As for :class:`Teacher`.
        checkpoint (str, optional): As for :class:`Teacher`. Defaults to None.
        size (int | Sequence[int], optional): As for :class:`Teacher`. Defaults to None.
        student (dict | nn.Module, optional): As for :func:`fingerprint`. Defaults to None.

    Raises:
        ConfigError: If it is of another one, or one that saw other images.
    """
    difference = tell_teachers_apart(
        manifest['teacher'], fingerprint(teacher, checkpoint, size, student))
    if difference:
        raise ConfigError(f'teacher_cache: {folder} was made by another teacher: {difference} '
                          'differ. Name the cache of this teacher, or make it by '
                          f'tools/cache_teacher.py CONFIG {folder} --force')


def _open_array(folder, name, dtype, shape):
    path = osp.join(folder, name)
    try:
        array = np.load(path, mmap_mode='r', allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ConfigError(f'teacher_cache: {path} cannot be read: {error}; make the cache again by '
                          'tools/cache_teacher.py') from error
    if array.dtype.name != dtype or list(array.shape) != list(shape):
        raise ConfigError(f'teacher_cache: {path} holds {array.dtype.name} {array.shape}, its '
                          f'{MANIFEST} says {dtype} {tuple(shape)}; make the cache again by '
                          'tools/cache_teacher.py')
    return array


def write_cache(folder: str,
                batches: Iterable[Tuple[torch.Tensor, List]],
                count: int,
                teacher: dict,
                dataset: dict,
                dtype: str = 'float16',
                force: bool = False) -> dict:
    """Write a cache, which is there as a whole or not at all.

    Args:
        folder (str): Where to.
        batches (Iterable): Pairs of logits and data samples, in any order.
        count (int): Number of samples.
        teacher (dict): Its :func:`fingerprint`.
        dataset (dict): What the manifest says of the data set; its length and a hash of its
            samples are added.
        dtype (str): 'float16' or 'float32'. Defaults to 'float16'.
        force (bool): Whether to write over a cache. Defaults to False.

    Returns:
        dict: The manifest.

    Raises:
        ConfigError: If there is a folder of that name, a sample is missing or comes twice, or a
            logit is too large for the type.
    """
    folder = osp.abspath(osp.expanduser(folder))
    refuse_folder(folder, force)
    part = folder + PART
    shutil.rmtree(part, ignore_errors=True)
    os.makedirs(part)
    samples, seen = np.zeros(count, np.uint64), np.zeros(count, bool)
    logits: Any = None
    for values, data_samples in batches:
        indices, own = identify(data_samples)
        for index in indices:
            if not 0 <= index < count or seen[index]:
                raise ConfigError(
                    f'teacher_cache: sample {index} of {count} comes twice or is out of range: the '
                    'data set must be a plain one, wrapped by no other')
            seen[index] = True
        values = values.detach().float().cpu().numpy()
        with np.errstate(over='ignore'):
            stored = values.astype(dtype)
        if not np.isfinite(stored).all():
            raise ConfigError(
                'teacher_cache: the teacher gives logits that are no numbers'
                if not np.isfinite(values).all() else
                f'teacher_cache: logits of up to {np.abs(values).max():.3g} are too large for '
                f'{dtype}; use --dtype float32')
        if logits is None:
            logits = np.lib.format.open_memmap(
                osp.join(part, LOGITS), 'w+', np.dtype(dtype), (count, stored.shape[1]))
        logits[indices], samples[indices] = stored, own
    if not seen.all():
        raise ConfigError(f'teacher_cache: {int((~seen).sum())} of {count} samples did not come')
    logits.flush()
    np.save(osp.join(part, SAMPLES), samples, allow_pickle=False)
    manifest = dict(
        format=FORMAT, version=VERSION, teacher=teacher,
        dataset=dict(dataset, length=count, sha256=hashlib.sha256(samples.tobytes()).hexdigest()),
        dtype=dtype, shape=list(logits.shape),
        versions=versions())
    with open(osp.join(part, MANIFEST), 'w', encoding='utf-8') as file:
        json.dump(manifest, file, indent=1)
    del logits
    for name in (LOGITS, SAMPLES, MANIFEST):
        with open(osp.join(part, name), 'rb') as file:
            os.fsync(file.fileno())
    old = f'{folder}.old'
    if osp.lexists(folder):
        shutil.rmtree(old, ignore_errors=True)
        os.replace(folder, old)
    os.replace(part, folder)
    shutil.rmtree(old, ignore_errors=True)
    return manifest


def refuse_folder(folder: str, force: bool) -> None:
    """Refuse to write over what is there.

    Args:
        folder (str): Where a cache is to go.
        force (bool): Whether a cache that is there may go.

    Raises:
        ConfigError: If something is there that may not.
    """
    folder = osp.expanduser(folder)
    if not osp.lexists(folder):
        return
    if not force:
        raise ConfigError(f'{folder} exists; use --force to write over it')
    if not osp.isfile(osp.join(folder, MANIFEST)) and (
            not osp.isdir(folder) or os.listdir(folder)):
        raise ConfigError(f'{folder} is no cache of logits, so --force does not remove it; name '
                          'another folder')
