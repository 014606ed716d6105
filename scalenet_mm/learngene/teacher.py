"""The teacher of a distillation: seen by nothing that looks for modules, parameters or tensors."""
import copy
import hashlib
import json
import os.path as osp
from numbers import Integral
from typing import Any, Optional, Sequence, Tuple, Union

import torch
import torch.nn as nn
import torch.nn.functional as F
from mmengine.config import Config
from mmengine.model import revert_sync_batchnorm

from ..checkpoints.adapt import adapt_checkpoint
from ..checkpoints.delta import read_checkpoint
from ..checkpoints.files import sha256_of
from ..checkpoints.safe import cache_path, is_url
from ..config_paths import PREFIX, find_config
from ..errors import CheckpointError, ConfigError
from ..utils.model_cfg import plain_cfg

#: Settings of a config that do not change what a model computes in a test.
_OF_TRAINING = ('train_cfg', 'init_cfg', 'pretrained', '_scope_')


def read_teacher_cfg(teacher: Union[str, dict]) -> dict:
    """Get the config of a teacher's model.

    Args:
        teacher (str | dict): The config itself, a config file, or the name of one of an installed
            toolbox, like ``'mmpretrain::levit/levit-384_8xb256_in1k.py'``.

    Returns:
        dict: A copy, in which 'data_preprocessor' is what the config's Runner would hand to the
        model. Of a ``DistilledClassifier`` it is the student's.

    Raises:
        ConfigError: If it is not there or no config of a model.
    """
    preprocessor = None
    if isinstance(teacher, str):
        name = teacher
        cfg = _read_config(name)
        teacher, preprocessor = cfg.get('model'), cfg.get('data_preprocessor')
        if not isinstance(teacher, dict):
            raise ConfigError(f'DistilledClassifier: teacher={name!r} is a config without a model')
    if not isinstance(teacher, dict) or teacher.get('type') is None:
        raise ConfigError('DistilledClassifier: teacher must be the config of a classifier, a '
                          "config file, a name like 'mmpretrain::levit/levit-384_8xb256_in1k.py', "
                          f'or a module, got {teacher!r}')
    teacher = plain_cfg(teacher)
    if preprocessor is not None and teacher.get('data_preprocessor') is None:
        teacher['data_preprocessor'] = copy.deepcopy(preprocessor)
    return teacher


def _read_config(name):
    try:
        if name.startswith(PREFIX):
            return Config.fromfile(find_config(name if name.endswith('.py') else f'{name}.py'))
        if '::' in name:
            from mmengine.hub import get_config
            return get_config(name if name.endswith('.py') else f'{name}.py')
        return Config.fromfile(osp.expanduser(name))
    except Exception as error:  # whatever mmengine raises of names that are not there
        raise ConfigError(f'DistilledClassifier: teacher={name!r} cannot be read as a config: '
                          f'{error}') from error


def check_size(size: Union[int, Sequence, None]) -> Optional[Tuple[int, int]]:
    """Check ``teacher_size``.

    Args:
        size (int | Sequence[int], optional): One number for both, or height and width.

    Returns:
        tuple[int, int] | None: Height and width; None for None.

    Raises:
        ConfigError: If it is anything else.
    """
    if size is None:
        return None
    pair: Any = tuple(size) if isinstance(size, (list, tuple)) else (size, size)
    if len(pair) != 2 or not all(
            isinstance(n, Integral) and not isinstance(n, bool) and int(n) > 0 for n in pair):
        raise ConfigError('DistilledClassifier: teacher_size must be a number of pixels, or two of '
                          f'them, height and width, such as 384 or (384, 256), got {size!r}')
    return pair


class Teacher:
    """A frozen classifier that a student learns from.

    It is no module, so that no module registers it: it is neither saved nor trained, averaged,
    counted or wrapped. A copy of the student's model has the same teacher.

    It is always in eval mode, also where another owner of the module sets another. Its images are
    the student's, brought to its own mean, deviation, order of channels and, if asked for, size.

    Args:
        teacher (str | dict | nn.Module): See :func:`read_teacher_cfg`. A module is taken as it is:
            put in eval mode and frozen, and trusted to have its weights if ``checkpoint`` is None.
        checkpoint (str, optional): File or URL of the weights. Defaults to None.
        size (int | Sequence[int], optional): Height and width of its images; those of the student's
            if None. Defaults to None.

    Raises:
        ConfigError: If it cannot be built.
    """

    def __init__(self,
                 teacher: Union[str, dict, nn.Module],
                 checkpoint: Optional[str] = None,
                 size: Union[int, Sequence, None] = None):
        self.checkpoint = checkpoint
        self.size = check_size(size)
        self._inits_itself = False
        self._conversion = None
        if isinstance(teacher, nn.Module):
            module: Any = teacher
            self.ready = checkpoint is None
        else:
            cfg = read_teacher_cfg(teacher)
            self._inits_itself = bool(pretrained_files(cfg))
            module = _build(cfg)
            self.ready = False
        self.module: Any = revert_sync_batchnorm(module)
        self.module.requires_grad_(False)
        self._settle()

    def __deepcopy__(self, memo):
        return self

    @property
    def num_classes(self) -> Optional[int]:
        """int | None: The number of classes, if the head tells."""
        return getattr(getattr(self.module, 'head', None), 'num_classes', None)

    def apply(self, fn) -> None:
        """Move the tensors, as a module's ``_apply`` does."""
        self.module._apply(fn)
        self._settle()

    def _settle(self):
        # also after a move and after loading: LeViT keeps, in eval mode and outside of its
        # buffers, a tensor that is made of its parameters when the mode is set
        self.module.eval()

    def load_weights(self) -> None:
        """Load the weights, once.

        Raises:
            ConfigError: If nothing names them.
            CheckpointError: If they cannot be read, or are not the whole model.
        """
        if self.ready:
            return
        if self.checkpoint is None and not self._inits_itself:
            raise ConfigError(NO_WEIGHTS)
        device = next((p.device for p in self.module.parameters()), torch.device('cpu'))
        if self._inits_itself:
            with torch.random.fork_rng(devices=[]):
                self.module.init_weights()
        if self.checkpoint is not None:
            self._load(self.checkpoint)
        self.module.to(device)
        self.module.requires_grad_(False)
        self._settle()
        self.ready = True

    def _load(self, name):
        checkpoint = read_checkpoint(name)
        if not isinstance(checkpoint, dict):
            raise CheckpointError(f'teacher_checkpoint: {name} holds no weights')
        try:
            report = adapt_checkpoint(self.module, checkpoint, name)
        except CheckpointError as error:
            raise CheckpointError(f'teacher_checkpoint: {error}') from None
        lacking = [k for keys in report.initialised.values() for k in keys] + report.resized
        if lacking:
            raise CheckpointError(
                f'teacher_checkpoint: {name} is not the whole teacher: {len(lacking)} of its '
                f'tensors are missing or of another size, such as {lacking[0]}. Name a file of '
                'this architecture and these classes')
        self.module.load_state_dict(checkpoint['state_dict'], strict=False)

    def use_random_weights(self) -> None:
        """Take the weights that the teacher was built with, to measure time and memory."""
        self.ready = True

    @torch.no_grad()
    def logits(self, images: torch.Tensor, preprocessor: Optional[nn.Module]) -> torch.Tensor:
        """Compute the logits.

        Args:
            images (torch.Tensor): What the student's preprocessor made of a batch.
            preprocessor (nn.Module): The student's preprocessor.

        Returns:
            torch.Tensor: Of shape (batch, classes).

        Raises:
            ConfigError: If there are no weights, the images cannot be brought to what the teacher
                takes, or its output is not one tensor of logits.
        """
        if not self.ready:
            raise ConfigError(NO_WEIGHTS)
        # who else has the module may have set its mode
        if any(module.training for module in self.module.modules()):
            self._settle()
        images = self.convert(images, preprocessor)
        if hasattr(self.module, 'extract_feat') and getattr(self.module, 'head', None):
            logits = self.module.head(self.module.extract_feat(images))
        else:
            logits = self.module(images)
        if not isinstance(logits, torch.Tensor) or logits.dim() != 2:
            raise ConfigError('DistilledClassifier: the teacher must give one tensor of logits, of '
                              f'shape (batch, classes), but {type(self.module).__name__} gives '
                              f'{describe_output(logits)}')
        return logits

    def convert(self, images: torch.Tensor, preprocessor: Optional[nn.Module]) -> torch.Tensor:
        """Bring the student's images to what the teacher takes.

        Args:
            images (torch.Tensor): What the student's preprocessor made of a batch.
            preprocessor (nn.Module): The student's preprocessor.

        Returns:
            torch.Tensor: The images as the teacher's own preprocessor would have made them. A
            teacher whose preprocessor normalises nothing takes the student's images as they are.

        Raises:
            ConfigError: If that cannot be undone in what the student's preprocessor made.
        """
        own = getattr(self.module, 'data_preprocessor', None)
        if getattr(own, '_enable_normalize', False):
            images = self._renormalise(images, preprocessor, own)
        if self.size is not None and tuple(images.shape[-2:]) != self.size:
            images = F.interpolate(
                images, self.size, mode='bilinear', align_corners=False, antialias=True)
        return images

    def _renormalise(self, images, student, own):
        if self._conversion is None or self._conversion[0] is not student:
            # the tensors, once for each device
            self._conversion = (student, *_plan_conversion(student, own), {})
        _, flip, scale, shift, kept = self._conversion
        if own.mean.numel() not in (1, images.shape[1]):
            raise ConfigError(f'{_CANNOT_CONVERT}: they have {images.shape[1]} channels, its '
                              f'data_preprocessor {own.mean.numel()}')
        if flip and images.shape[1] == 3:
            images = images.flip(1)
        if scale is None:
            return images
        place = (images.device, images.dtype)
        if place not in kept:
            kept[place] = (scale.to(images), shift.to(images))
        scale, shift = kept[place]
        return images * scale + shift


_CANNOT_CONVERT = ("DistilledClassifier: the teacher's images cannot be made of the student's")
NO_TEACHER = 'DistilledClassifier: there is no teacher; name one, or set alpha=0'
NO_WEIGHTS = ('DistilledClassifier: the teacher has no weights. Name their file or URL by '
              'teacher_checkpoint; they are loaded when training begins, by init_weights(), which '
              'the Runner calls')


def describe_output(value: Any) -> str:
    """str: What a model gave instead of logits."""
    if isinstance(value, torch.Tensor):
        return f'a tensor of shape {tuple(value.shape)}'
    return f'a {type(value).__name__}'


def _build(cfg):
    from mmpretrain.registry import MODELS
    cfg = copy.deepcopy(cfg)
    cfg.pop('train_cfg', None)  # no batch augmentation of its own
    # the student's initial weights are those of a training without teacher
    with torch.random.fork_rng(devices=[]):
        return MODELS.build(cfg)


def pretrained_files(cfg: Any) -> list:
    """list[str]: The files of weights that a config names, wherever."""
    if isinstance(cfg, dict):
        files = [cfg['pretrained']] if isinstance(cfg.get('pretrained'), str) else []
        kind = cfg.get('type')
        if getattr(kind, '__name__', kind) in ('Pretrained', 'PretrainedInit'):
            return [*files, str(cfg.get('checkpoint'))]
        return [*files, *pretrained_files(list(cfg.values()))]
    if isinstance(cfg, (list, tuple)):
        return [name for value in cfg for name in pretrained_files(value)]
    return []


def _plan_conversion(student, own):
    """tuple[bool, Tensor | None, Tensor | None]: Flip the channels; scale and shift, if any."""
    if type(student) is not type(own):
        raise ConfigError(
            f'{_CANNOT_CONVERT}: its data_preprocessor is a {type(own).__name__}, the student\'s a '
            f'{type(student).__name__}; use one class for both')
    flip = bool(student.to_rgb) != bool(own.to_rgb)
    mean, std = (value.detach().cpu().double() for value in (own.mean, own.std))
    before = [torch.zeros_like(mean), torch.ones_like(std)]
    if student._enable_normalize:
        before = [value.detach().cpu().double() for value in (student.mean, student.std)]
    if flip:
        before = [value.flip(0) for value in before]
    same = all(torch.equal(*torch.broadcast_tensors(*pair)) for pair in zip(before, (mean, std)))
    pads = [(p.pad_size_divisor, p.pad_value) for p in (student, own)]
    if max(divisor for divisor, _ in pads) > 1 and not (same and pads[0] == pads[1]):
        raise ConfigError(
            f'{_CANNOT_CONVERT}: they are padded (pad_size_divisor, pad_value: '
            f'{pads[0]} in the student\'s data_preprocessor, {pads[1]} in the teacher\'s), and '
            'padding is not undone; give both the same data_preprocessor, or pad neither')
    if same:
        return flip, None, None
    return flip, before[1] / std, (before[0] - mean) / std


# --- who a teacher is ----------------------------------------------------------------------------


def fingerprint(teacher: Union[str, dict, nn.Module], checkpoint: Optional[str] = None,
                size: Union[int, Sequence, None] = None,
                student: Union[dict, nn.Module, None] = None) -> dict:
    """Describe a teacher so that another one is told from it, without building or downloading it.

    Args:
        teacher (str | dict | nn.Module): As for :class:`Teacher`.
        checkpoint (str, optional): As for :class:`Teacher`. Defaults to None.
        size (int | Sequence[int], optional): As for :class:`Teacher`. Defaults to None.
        student (dict | nn.Module, optional): The student's preprocessor, or what
            :func:`normalisation_of` says of it. Defaults to None, not known.

    Returns:
        dict: 'model', a hash of what the config says of the network and its preprocessor (of a
        module, of its tensors); 'files', name and hash of each file of weights, the hash None if
        the file is not on this machine; 'size'; 'images', how they are normalised, by the teacher
        or, if it does not, by the student, None if that is not known.

    Raises:
        ConfigError: If the config cannot be read, or the size is none.
    """
    files = [] if checkpoint is None else [str(checkpoint)]
    if isinstance(teacher, nn.Module):
        model = _hash_module(teacher)
        own = getattr(teacher, 'data_preprocessor', None)
    else:
        cfg = read_teacher_cfg(teacher)
        model = _hash_cfg(cfg)
        files += pretrained_files(cfg)
        own = cfg.get('data_preprocessor')
    images = normalisation_of(own)
    if images is None or images['mean'] is None:
        images = normalisation_of(student)
    size = check_size(size)
    return dict(model=model, files=[[osp.basename(name), _hash_file(name)] for name in files],
                size=None if size is None else list(size), images=images)


def normalisation_of(preprocessor: Union[dict, nn.Module, None]) -> Optional[dict]:
    """Describe what a preprocessor does to the values of an image.

    Args:
        preprocessor (dict | nn.Module, optional): One of mmpretrain's, or its config, of which an
            empty one stands for mmpretrain's default.

    Returns:
        dict | None: 'mean' and 'std', None where it does not normalise, and 'to_rgb'; None if it is
        of another kind.
    """
    if isinstance(preprocessor, nn.Module):
        if not all(hasattr(preprocessor, name) for name in ('_enable_normalize', 'to_rgb')):
            return None
        values = [preprocessor.mean, preprocessor.std] if preprocessor._enable_normalize \
            else [None, None]
        to_rgb = preprocessor.to_rgb
    elif isinstance(preprocessor, dict):
        kind = preprocessor.get('type') or 'ClsDataPreprocessor'
        if getattr(kind, '__name__', str(kind)).split('.')[-1] != 'ClsDataPreprocessor':
            return None
        values = [preprocessor.get('mean'), preprocessor.get('std')]
        to_rgb = preprocessor.get('to_rgb', False)
    else:
        return None
    mean, std = (None if value is None else _numbers(value) for value in values)
    return dict(mean=mean, std=std, to_rgb=bool(to_rgb))


def _numbers(values):
    """list[float]: As a buffer keeps them; a single one if all are equal."""
    values = torch.as_tensor(values, dtype=torch.float32).detach().cpu().flatten().tolist()
    return values[:1] if len(set(values)) == 1 else values


def tell_teachers_apart(one: dict, other: dict) -> Optional[str]:
    """Compare two fingerprints.

    What is not known of one of them is not compared: a file that is not on this machine is known
    by its name alone. Those of OpenMMLab carry a part of their hash in it.

    Args:
        one (dict): What :func:`fingerprint` gave.
        other (dict): The same of another time or machine.

    Returns:
        str | None: What differs, in words; None if nothing does.
    """
    if one['model'] != other['model']:
        return 'its config (or, of a teacher given as a module, its weights)'
    if one['size'] != other['size']:
        return f'teacher_size, {one["size"]} and {other["size"]}'
    images = [who.get('images') for who in (one, other)]
    if None not in images and images[0] != images[1]:
        return f'mean, std and to_rgb of its images, {_say(images[0])} and {_say(images[1])},'
    if len(one['files']) != len(other['files']):
        return f'its files of weights, {one["files"]} and {other["files"]}'
    for (name, digest), (other_name, other_digest) in zip(one['files'], other['files']):
        if None in (digest, other_digest):
            if name != other_name:
                return f'its weights, {name} and {other_name}'
        elif digest != other_digest:
            return f'the content of its weights, {name} and {other_name}'
    return None


def _say(images):
    return '({mean}, {std}, {to_rgb})'.format(**images)


def _hash_file(name):
    path = cache_path(name) if is_url(name) else osp.expanduser(name)
    return sha256_of(path) if osp.isfile(path) else None


def _hash_cfg(cfg):
    text = json.dumps(_plain(cfg), sort_keys=True, default=str)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value):
    if isinstance(value, dict):
        return {str(k): _plain(v) for k, v in value.items() if k not in _OF_TRAINING}
    if isinstance(value, (list, tuple)):
        return [_plain(v) for v in value]
    return getattr(value, '__name__', value) if isinstance(value, type) else value


def _hash_module(module):
    digest = hashlib.sha256()
    for name, value in sorted(module.state_dict().items()):
        value = value.detach().cpu().contiguous()
        digest.update(f'{name} {value.dtype} {tuple(value.shape)}'.encode())
        digest.update(value.flatten().view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()
