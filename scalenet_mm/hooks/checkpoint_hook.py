"""mmengine's CheckpointHook, made so that nothing is lost whenever the process dies."""
import os
import os.path as osp
from typing import Any, Optional

import torch
from mmengine.dist import (
    broadcast_object_list,
    get_rank,
    get_world_size,
    is_main_process,
    master_only,
)
from mmengine.fileio import LocalBackend, get_file_backend
from mmengine.hooks import CheckpointHook
from mmengine.model import is_model_wrapper
from mmengine.registry import HOOKS
from mmengine.runner import Runner

from ..checkpoints.files import BACKEND, find_newest_whole, remove_leftovers, write_whole
from ..checkpoints.publish import publish, select
from ..checkpoints.safe import TypeRefusedError, find_refused, load_file
from ..errors import CheckpointError, ConfigError
from .random_state import (
    AdvancedIterator,
    gather_random_states,
    get_random_state,
    set_random_state,
)
from .training_state import get_training_state, set_training_state


@HOOKS.register_module()
class SafeCheckpointHook(CheckpointHook):
    """Save checkpoints that are whole or absent, and resume as if there had been no stop.

    It takes mmengine's arguments and saves at the same moments under the same names. It differs
    in that

    - a file gets its name when it is whole and on the disk, and ``last_checkpoint`` names it only
      then;
    - older files are removed after the new one is there (mmengine removes them before);
    - resuming without a file's name passes over damaged files, see :func:`find_newest_whole`;
    - the random states of all processes are saved and set again, and validation does not disturb
      them;
    - the order of the data is that of the first start, and what an ``EarlyStoppingHook`` has
      counted is saved, too;
    - a validation that followed the file, and whose results it does not hold, is done again;
    - averaged weights that equal the model's (frozen ones) are stored once;
    - the first file of a training is read back, so that one that could not be resumed from is an
      error then and not after days;
    - published files hold what the file they are made from holds, so that a delta stays one.

    :class:`AdapterInjectionHook` and ``tools/train.py`` turn a plain ``CheckpointHook`` into it.
    A ``file_client_args`` is refused: mmengine has replaced it by ``backend_args``.
    """
    file_backend: Any
    _random_states: Any = None  # of all processes, for the next file
    # what the file that the training resumes from holds for this hook
    _resumed: Optional[dict] = None
    _trains = False
    _held: Optional[dict] = None  # this process's random state, during validation
    _validated = False  # whether that is over
    _to_save = None  # what to save then
    _has_saved = False
    _content = None  # of the first file, until it was read back

    def before_run(self, runner) -> None:
        """Choose the file to resume from, if none is named."""
        if runner._resume and runner._load_from is None:
            found: list = [None, None]
            if is_main_process():
                try:
                    found[0] = find_newest_whole(runner.work_dir, runner.logger.warning)
                except CheckpointError as error:  # all processes must hear of it
                    found[1] = str(error)
            broadcast_object_list(found)
            if found[1]:
                raise CheckpointError(found[1])
            runner._load_from = found[0]

    def after_load_checkpoint(self, runner, checkpoint) -> None:
        """Keep what goes beyond the file's weights."""
        if runner._resume:
            self._resumed = {key: checkpoint.get(key)
                             for key in ('random_states', 'training_state')}

    def before_train(self, runner) -> None:
        """Choose the storage, and go on from the state of the file that is resumed from."""
        if self.file_client_args is not None:
            raise ConfigError('default_hooks.checkpoint: file_client_args is mmengine\'s old name '
                              'of backend_args; give that')
        super().before_train(runner)
        if type(self.file_backend) is LocalBackend:
            self.backend_args = dict(backend=BACKEND)
            self.file_backend = get_file_backend(self.out_dir, backend_args=self.backend_args)
            self._find_best_here()
            if is_main_process():
                remove_leftovers(self.out_dir)
                remove_leftovers(runner.work_dir)
                self._remove_superseded(runner)
        self.file_backend = _RemovesLater(self.file_backend)

        # OneDL's loop starts its data workers with the first batch: in a resumed training they
        # would get other seeds than in the one that was stopped.
        iterator: Any = getattr(runner.train_loop, 'dataloader_iterator', None)
        if hasattr(iterator, '_ensure_iterator'):
            iterator._ensure_iterator()
        self._trains = True
        resumed, self._resumed = self._resumed, None
        if resumed is not None:
            self._go_on(runner, **resumed)

    def _find_best_here(self):
        """The folder may have been moved or copied; in another one nothing is to be removed."""

        def here(path):
            path = path and osp.join(self.out_dir, osp.basename(path))
            return path if path and osp.isfile(path) else None

        if self.save_best is None:
            return
        if len(self.key_indicators) == 1:
            self.best_ckpt_path = here(self.best_ckpt_path)
        else:
            self.best_ckpt_path_dict = {
                key: here(path) for key, path in self.best_ckpt_path_dict.items()}

    def _remove_superseded(self, runner):
        """Remove what the process had no more time to remove that saved the resumed file."""
        source = runner._load_from
        if not runner._resume or source is None or (
                osp.dirname(osp.abspath(source)) != osp.abspath(self.out_dir)):
            return
        names = runner.message_hub.runtime_info.get('superseded_ckpts', ())
        paths = [osp.join(self.out_dir, osp.basename(name)) for name in names]
        paths = [path for path in paths
                 if osp.isfile(path) and osp.getmtime(path) < osp.getmtime(source)]
        if paths:  # one of them may be noted still
            self._note(runner, osp.abspath(source))
        for path in paths:
            os.remove(path)

    @staticmethod
    def _note(runner, path):
        write_whole(osp.join(runner.work_dir, 'last_checkpoint'),
                    lambda file: file.write(str(path).encode()))

    def _go_on(self, runner, random_states, training_state):
        number = len(random_states or [])
        if number == get_world_size():
            self._set_random_state(runner.train_loop, random_states[get_rank()])
        else:
            held = (f'the random states of {number} processes, and now there are '
                    f'{get_world_size()}' if number else 'no random states')
            runner.logger.warning(f'The checkpoint holds {held}: the training goes on with other '
                                  'random numbers than if it had not stopped')

        path = osp.abspath(str(runner._load_from))
        if path == self.file_backend.join_path(self.out_dir, osp.basename(path)):
            self.last_ckpt = path
        if training_state is not None:
            set_training_state(runner, training_state)

    @staticmethod
    def _set_random_state(loop, state):
        set_random_state(state)
        inner = getattr(loop, 'dataloader_iterator', None)
        if inner is None or loop.iter == 0 or getattr(loop, 'fast_forward_on_resume', False):
            return  # an option of OneDL's: nothing is skipped

        def go_on():
            loop.dataloader_iterator = inner
            set_random_state(state)

        loop.dataloader_iterator = AdvancedIterator(inner, loop.iter, go_on)

    def before_val(self, runner) -> None:
        """Remember the random state: a resumed training does not repeat all validations."""
        if self._trains:
            self._held = get_random_state()

    def after_val(self, runner) -> None:
        """Save what is to be saved after validation, and go on as if there had been none."""
        if self._held is None:
            return
        self._validated = True
        if self._to_save is not None:
            self._save_checkpoint_with_step(runner, *self._to_save)
        elif is_main_process():
            self.file_backend.keep(self._best_paths())
            self.file_backend.remove_now()
        set_random_state(self._held)
        self._held = self._to_save = None
        self._validated = False

    def after_train(self, runner) -> None:
        """Publish."""
        super().after_train(runner)
        self._trains = False

    def before_save_checkpoint(self, runner, checkpoint) -> None:
        """Add the random states; store what is equal once."""
        if self._random_states is not None:
            checkpoint['random_states'] = self._random_states
            checkpoint['training_state'] = get_training_state(
                runner, self.by_epoch, self._validated)
            if not self._has_saved:
                self._content = checkpoint
        _store_shared_once(checkpoint['state_dict'], _inner(runner.model).state_dict())
        averaged = checkpoint.get('ema_state_dict', {})
        for key, value in averaged.items():
            if not isinstance(value, torch.Tensor):  # a module's get_extra_state
                continue
            twin = checkpoint['state_dict'].get(key.removeprefix('module.'))
            value = value.cpu()  # mmengine leaves them on the GPU
            same = twin is not None and twin.dtype == value.dtype and torch.equal(twin, value)
            averaged[key] = twin if same else value

    def _save_checkpoint_with_step(self, runner, step, meta):
        if self._held is not None and not self._validated:
            # hooks that come later count what was measured, too
            self._to_save = step, meta
            return
        if self.max_keep_ckpts > 0 and step not in self.keep_ckpt_ids:
            if len(self.keep_ckpt_ids) == self.max_keep_ckpts:
                self._remove_later(self.keep_ckpt_ids.popleft())
            self.keep_ckpt_ids.append(step)
            runner.message_hub.update_info('keep_ckpt_ids', list(self.keep_ckpt_ids))

        name = self.filename_tmpl.format(step)
        self.last_ckpt = self.file_backend.join_path(self.out_dir, name)
        runner.message_hub.update_info('last_ckpt', self.last_ckpt)
        # a filename_tmpl without a number gives all files one name
        self.file_backend.keep([self.last_ckpt, *self._best_paths()])
        runner.message_hub.update_info('superseded_ckpts', self.file_backend.to_remove())
        self._random_states = gather_random_states(self._held or get_random_state())
        note = osp.join(runner.work_dir, 'last_checkpoint')
        if not runner._resume and not self._has_saved and is_main_process() and osp.isfile(note):
            os.remove(note)  # an earlier training's, which this one's first file supersedes
        runner.save_checkpoint(
            self.out_dir,
            name,
            save_optimizer=self.save_optimizer,
            save_param_scheduler=self.save_param_scheduler,
            meta=meta,
            by_epoch=self.by_epoch,
            backend_args=self.backend_args,
            **self.args)
        self._random_states = None
        if not self._has_saved:
            self._read_back()
            self._has_saved = True
        if is_main_process():
            self._note(runner, self.last_ckpt)
            self.file_backend.remove_now()

    def _read_back(self):
        """Check that the training can be resumed from its first file."""
        said = [None]
        content, self._content = self._content, None
        if is_main_process() and self.backend_args == dict(backend=BACKEND):
            try:
                load_file(self.last_ckpt, mmap=True)
            except TypeRefusedError as error:
                said[0] = (
                    f'{self.last_ckpt}, the first file of this training, could not be resumed '
                    f'from: at {find_refused(content) or "some place"} it holds '
                    f'{error.type_name}, which is not on the list of types that are safe to load. '
                    'Make plain numbers, texts and lists of it (in a metainfo, for example), or '
                    'allow the type by scalenet_mm.checkpoints.allow_types, called where '
                    'custom_imports finds it')
            except CheckpointError as error:
                said[0] = f'{error} (the first file of this training, as it was just written)'
        broadcast_object_list(said)  # all processes must hear of it
        if said[0]:
            raise CheckpointError(said[0])

    def _best_paths(self):
        return [getattr(self, 'best_ckpt_path', None),
                *getattr(self, 'best_ckpt_path_dict', {}).values()]

    def _remove_later(self, step):
        path = self.file_backend.join_path(self.out_dir, self.filename_tmpl.format(step))
        if is_main_process() and self.file_backend.isfile(path):
            self.file_backend.remove(path)

    def _save_best_checkpoint(self, runner, metrics) -> None:
        if self._held is None:  # a validation by itself, of which nothing is to be saved
            return
        super()._save_best_checkpoint(runner, metrics)

    @master_only
    def _publish_model(self, runner, ckpt_path: str) -> None:
        if ckpt_path is None:  # of several metrics, one without a best yet
            return
        if '://' in str(ckpt_path):
            super()._publish_model(runner, ckpt_path)
            return
        # not by mmengine's loader, which makes a delta whole
        checkpoint = load_file(ckpt_path)
        kept = [key for key in self.published_keys if key in checkpoint]
        # in the work folder, where the base of a delta is still at its place
        selected = select(checkpoint, ckpt_path, kept, paths=True)
        published = publish(selected, f'{osp.splitext(ckpt_path)[0]}.pth', force=True)
        removed = [key for key in checkpoint if key not in (*kept, 'delta')]
        runner.logger.info(f'{ckpt_path} is published to {published}, without '
                           f'{", ".join(removed) or "leaving anything out"}')


def _inner(model):
    return model.module if is_model_wrapper(model) else model


def _store_shared_once(copies, tensors):
    """Tie again, in a state dict, what copying from a GPU has made several tensors of.

    Args:
        copies (dict): What is to be saved, changed in place.
        tensors (dict): The model's own state dict.
    """
    first = {}
    for key, tensor in tensors.items():
        if key not in copies or not isinstance(tensor, torch.Tensor) or tensor.numel() == 0:
            continue
        place = (tensor.device, tensor.data_ptr(), tensor.shape, tensor.stride(), tensor.dtype)
        copies[key] = copies[first.setdefault(place, key)]


class _RemovesLater:
    """A storage that removes files when it is told to, and not when it is asked."""

    def __init__(self, backend):
        self._backend = backend
        self._removals = []

    def __getattr__(self, name):
        return getattr(self._backend, name)

    def remove(self, path):
        self._removals.append(path)

    def keep(self, paths):
        self._removals = [path for path in self._removals if path not in paths]

    def to_remove(self):
        return [osp.basename(path) for path in self._removals]

    def remove_now(self):
        removals, self._removals = self._removals, []
        for path in removals:
            if self._backend.isfile(path):
                self._backend.remove(path)


def secure_checkpoints(runner) -> None:
    """Turn a Runner's plain ``CheckpointHook`` into a :class:`SafeCheckpointHook`.

    Hooks and Runners of other classes are left as they are. All processes must call it.
    """
    if not isinstance(runner, Runner):
        return
    for hook in runner.hooks:
        if type(hook) is CheckpointHook:
            # the object stays: it was made with the user's arguments, and others may hold it
            hook.__class__ = SafeCheckpointHook
            hook.before_run(runner)  # its turn may have gone by
