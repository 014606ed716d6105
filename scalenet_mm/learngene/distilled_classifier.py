"""A classifier that learns from labels and from a teacher."""
from typing import Any, List, Optional, Sequence, Union

import torch
import torch.nn as nn
from mmengine.model import BaseModel
from mmengine.registry import MODELS

from ..errors import ConfigError
from ..utils.model_cfg import is_distilled
from .distillation_loss import check_weights, cross_entropy_to, soften
from .teacher import NO_TEACHER, Teacher, check_size, describe_output
from .teacher_cache import TeacherCache, record_mixing

#: What a module keeps its children, tensors and state dict hooks in.
_TABLES = ('_modules', '_parameters', '_buffers', '_non_persistent_buffers_set',
           '_state_dict_hooks', '_state_dict_pre_hooks', '_load_state_dict_pre_hooks',
           '_load_state_dict_post_hooks')


@MODELS.register_module()
class DistilledClassifier(BaseModel):
    """Train a classifier of mmpretrain by distillation (SWS, eqs. 2 to 4).

    The loss is (1 - alpha) CE(student, labels) + alpha CE(student, teacher), the second between
    the distributions at temperature tau; they are logged as ``loss_cls`` and ``loss_distill``, each
    with its weight. The first is the loss of the student's head, so that label smoothing, Mixup and
    CutMix (``train_cfg`` of the student) work as ever; the teacher sees the images that the student
    sees, mixed.

    To all that looks at it from outside it is the student: parameters, ``state_dict``, children
    and attributes have the student's names (``backbone.*``, ``head.*``), so that a checkpoint
    loads into the plain classifier's config and the other way round, and hooks, freezing presets,
    layer-wise rates and deltas need know nothing of it. That holds by sharing, not copying: the
    tables in which a module keeps its children and tensors are the student's own, and the student
    is kept unregistered. The teacher is in none of these tables.

    Args:
        student (dict | nn.Module): A classifier of mmpretrain.
        teacher (str | dict | nn.Module, optional): Another one with the same classes: its config,
            a config file, a name like ``'mmpretrain::levit/levit-384_8xb256_in1k.py'``, or a
            module, which is taken with the weights that it has. Its weights do not change, it is
            always in eval mode (drop path and dropout, too), and it is not saved. Not needed with
            alpha=0. Defaults to None.
        alpha (float): Weight of the teacher, 0 to 1. Defaults to 0.5.
        tau (float): Temperature of both distributions. Defaults to 1.
        scale_by_tau (bool): Whether the teacher's part is multiplied by tau squared, so that its
            gradient keeps its size at any temperature. Defaults to False, as in the paper.
        teacher_checkpoint (str, optional): File or URL of the teacher's weights. They are loaded
            when training begins, so that a test needs none. Defaults to None: the teacher's config
            names them by its ``init_cfg`` or ``pretrained``.
        teacher_cache (str, optional): Folder of logits that ``tools/cache_teacher.py`` wrote. The
            teacher is then neither built nor loaded, and it has not seen the augmented images,
            see :class:`TeacherCache`. Defaults to None.
        teacher_size (int | Sequence[int], optional): Height and width to which the images are
            resized for the teacher. Defaults to None, which leaves them as they are.
        data_preprocessor (dict | nn.Module, optional): That of the student, if its config names
            none. Defaults to None.
        init_cfg (dict | list, optional): That of the student, if its config names none.
            Defaults to None.

    Raises:
        ConfigError: If alpha, tau or teacher_size can't be meant, or student and teacher do not
            fit.
    """

    def __init__(self,
                 student: Union[dict, nn.Module],
                 teacher: Union[str, dict, nn.Module, None] = None,
                 alpha: float = 0.5,
                 tau: float = 1.,
                 scale_by_tau: bool = False,
                 teacher_checkpoint: Optional[str] = None,
                 teacher_cache: Optional[str] = None,
                 teacher_size: Union[int, Sequence, None] = None,
                 data_preprocessor: Union[dict, nn.Module, None] = None,
                 init_cfg: Union[dict, list, None] = None):
        check_weights(alpha, tau)
        check_size(teacher_size)
        if alpha and teacher is None:
            raise ConfigError(NO_TEACHER)
        student = _build_student(student, data_preprocessor, init_cfg)
        super().__init__(data_preprocessor=student.data_preprocessor, init_cfg=student.init_cfg)
        for name in _TABLES:
            if name in student.__dict__:
                self.__dict__[name] = student.__dict__[name]
        self.__dict__['_student'] = (student, )
        self.alpha, self.tau, self.scale_by_tau = alpha, tau, scale_by_tau
        # unregistered, all three: no modules
        self._teacher: Optional[Teacher] = None
        self._cache: Optional[TeacherCache] = None
        if alpha and teacher_cache is not None:
            self._cache = TeacherCache(teacher_cache, teacher, teacher_checkpoint, teacher_size,
                                       self.data_preprocessor)
            self.data_preprocessor.register_forward_pre_hook(record_mixing)
        elif alpha and teacher is not None:
            self._teacher = Teacher(teacher, teacher_checkpoint, teacher_size)
            self._check_classes(self._teacher.num_classes)
            _check_not_student(self._teacher.module, self)

    # --- to be the student, as seen from outside --------------------------------------------------

    @property
    def student(self) -> Any:
        """nn.Module: The plain classifier; its children and tensors are those of this model."""
        return self.__dict__['_student'][0]

    @property
    def teacher(self) -> Optional[nn.Module]:
        """nn.Module | None: The teacher's model; None without one or with a cache."""
        return None if self._teacher is None else self._teacher.module

    def __getattr__(self, name):
        try:
            return super().__getattr__(name)
        except AttributeError:
            # also asked while a copy is made, before there is anything
            student = self.__dict__.get('_student')
            if student is None or name.startswith('__'):
                raise
            return getattr(student[0], name)

    def train(self, mode: bool = True):
        """Set the mode of this model and the student; the teacher stays in eval mode."""
        self.student.train(mode)
        self.training = mode
        return self

    def _apply(self, fn, *args, **kwargs):
        super()._apply(fn, *args, **kwargs)
        if self._teacher is not None:
            self._teacher.apply(fn)
        return self

    def init_weights(self) -> None:
        """Initialise the student, and load the teacher's weights or open its cache.

        Raises:
            ConfigError: If nothing names the teacher's weights, or the cache is another teacher's.
            CheckpointError: If they cannot be read or are not those of the teacher.
        """
        student = self.student
        within = '_params_init_info' in self.__dict__  # another module calls
        if within:
            student._params_init_info = self._params_init_info
        student.init_weights()
        if within:
            del student._params_init_info
        self._is_init = True
        self.prepare_teacher()

    # --- to be taught -----------------------------------------------------------------------------

    def prepare_teacher(self) -> None:
        """Load the teacher's weights, or open and check its cache; nothing if that was done.

        Raises:
            ConfigError: If nothing names the teacher's weights, or the cache is another teacher's.
            CheckpointError: If they cannot be read or are not those of the teacher.
        """
        if self._cache is not None:
            self._check_classes(self._cache.open().num_classes)
        elif self._teacher is not None:
            self._teacher.load_weights()

    def use_random_teacher(self) -> None:
        """Take the teacher with the weights it was built with, to measure time and memory."""
        if self._teacher is not None:
            self._teacher.use_random_weights()

    def forward(self,
                inputs: torch.Tensor,
                data_samples: Optional[list] = None,
                mode: str = 'tensor'):
        """Do what the student does, but for its loss.

        Args:
            inputs (torch.Tensor): A batch of images.
            data_samples (list[DataSample], optional): Its labels. Defaults to None.
            mode (str): 'tensor', 'predict' or 'loss'. Defaults to 'tensor'.

        Returns:
            Whatever mmpretrain's ``ImageClassifier`` gives.
        """
        if mode == 'loss':
            return self.loss(inputs, data_samples)
        return self.student(inputs, data_samples, mode)

    def loss(self, inputs: torch.Tensor, data_samples: Optional[List]) -> dict:
        """Compute both parts of the loss.

        Args:
            inputs (torch.Tensor): A batch of images, from the preprocessor.
            data_samples (list[DataSample]): Its labels.

        Returns:
            dict[str, torch.Tensor]: 'loss_cls' and 'loss_distill', whose sum is the loss, and what
            else the student's head measures.

        Raises:
            ConfigError: If the teacher has no weights, or its logits do not fit the batch.
        """
        logits = self.head(self.extract_feat(inputs))
        if not isinstance(logits, torch.Tensor) or logits.dim() != 2:
            raise ConfigError('DistilledClassifier: the student must give one tensor of logits, of '
                              f'shape (batch, classes), but {type(self.head).__name__} gives '
                              f'{describe_output(logits)}')
        target = self._teach(inputs, data_samples, logits) if self.alpha else None
        with torch.autocast(logits.device.type, enabled=False):
            logits = _at_least_float32(logits)
            losses = {
                ('loss_cls' if name == 'loss' else name):
                value * (1 - self.alpha) if 'loss' in name else value
                for name, value in self.head._get_loss(logits, data_samples).items()
            }
            if target is not None:
                loss = cross_entropy_to(logits, target, self.tau)
                losses['loss_distill'] = self.alpha * loss * (
                    self.tau**2 if self.scale_by_tau else 1)
        return losses

    def teach(self, inputs: torch.Tensor) -> torch.Tensor:
        """Compute the teacher's logits.

        Args:
            inputs (torch.Tensor): A batch of images, from the preprocessor.

        Returns:
            torch.Tensor: Of shape (batch, classes).

        Raises:
            ConfigError: If there is no teacher, or it has no weights.
        """
        if self._teacher is None:
            raise ConfigError('DistilledClassifier: there is no teacher: alpha is 0, or a cache '
                              'takes its place')
        return self._teacher.logits(inputs, self.data_preprocessor)

    @torch.no_grad()
    def _teach(self, inputs, data_samples, logits):
        """torch.Tensor: The teacher's softened distribution for each image of a batch."""
        if self._cache is not None:
            taught, mixing = self._cache.look_up(data_samples, self.data_preprocessor)
            taught = taught.to(logits.device)
        else:
            taught, mixing = self.teach(inputs), None
        if taught.shape != logits.shape:
            raise ConfigError(f'DistilledClassifier: the student gives {logits.shape[1]} classes '
                              f'for {len(logits)} images, the teacher {taught.shape[1]} for '
                              f'{len(taught)}')
        with torch.autocast(logits.device.type, enabled=False):
            target = soften(_at_least_float32(taught), self.tau)
            return target if mixing is None else mixing.to(target) @ target

    def _check_classes(self, number):
        own = getattr(self.head, 'num_classes', None)
        if None not in (own, number) and own != number:
            raise ConfigError(
                f'DistilledClassifier: the student has {own} classes (student.head.num_classes), '
                f'the teacher {number}; they must be the same ones')


def _at_least_float32(value):
    return value if value.dtype in (torch.float32, torch.float64) else value.float()


def _build_student(student, data_preprocessor, init_cfg):
    from mmpretrain.models.heads import ClsHead
    from mmpretrain.registry import MODELS as CLASSIFIERS
    if isinstance(student, DistilledClassifier) or is_distilled(student):
        raise ConfigError('DistilledClassifier: the student is itself distilled; name its plain '
                          'classifier')
    if isinstance(student, nn.Module):
        for name, value in (('data_preprocessor', data_preprocessor), ('init_cfg', init_cfg)):
            if value is not None:
                raise ConfigError(f'DistilledClassifier: {name} cannot be given for a student that '
                                  "is built already; give it to the student's own config")
    elif isinstance(student, dict):
        student = dict(student)
        for name, value in (('data_preprocessor', data_preprocessor), ('init_cfg', init_cfg)):
            if student.get(name) is None and value is not None:
                # mmpretrain completes the dict that it is given
                student[name] = dict(value) if isinstance(value, dict) else value
        student = CLASSIFIERS.build(student)
    else:
        raise ConfigError('DistilledClassifier: student must be the config of a classifier, got '
                          f'{student!r}')
    head = getattr(student, 'head', None)
    what = type(student).__name__
    if not isinstance(head, nn.Module):
        raise ConfigError(f'DistilledClassifier: the student, a {what}, has no head; it must be a '
                          'classifier of mmpretrain (ImageClassifier) that has one')
    splits = isinstance(head, ClsHead) and type(head).loss is ClsHead.loss
    if not splits or not hasattr(student, 'extract_feat'):
        raise ConfigError(
            f'DistilledClassifier: the student\'s head, a {type(head).__name__}, computes its loss '
            'in a way that logits cannot be taken from; use a head that keeps the loss of '
            "mmpretrain's ClsHead, such as LinearClsHead or VisionTransformerClsHead")
    return student


def _check_not_student(teacher, model):
    own = {id(p) for p in model.parameters()}
    if any(id(p) in own for p in teacher.parameters()):
        raise ConfigError('DistilledClassifier: the teacher has tensors of the student, which '
                          'training changes; give it a copy')
