"""What a model sees in images: one call for classifiers, detectors and segmentors."""
import logging
import math
from collections.abc import Iterable, Iterator
from typing import Dict, List, Optional, Tuple, Union

import torch
import torch.nn as nn
from mmengine.dataset import pseudo_collate
from mmengine.logging import print_log
from mmengine.registry import DefaultScope

from ..errors import ConfigError, DataError
from .images import Image, ImageType, Pipeline, find_images
from .model import find_dataset_meta, task_of
from .pictures import PictureWriter, to_cpu
from .prediction import Prediction

#: How many batches' worth of images, or of results, wait for others at most.
WAITING = 4


def infer(model: nn.Module,
          images: Union[ImageType, Iterable],
          batch_size: int = 1,
          out_dir: Optional[str] = None,
          score_thr: float = 0.3,
          topk: int = 5,
          skip_unreadable: bool = False,
          logits: bool = False) -> List[Prediction]:
    """Run a model on images.

    Images are read and transformed as in a test. Images that have the same size after that make
    batches, so what is found in one does not depend on the others (but for rounding).

    Args:
        model (nn.Module): What :func:`init_model` gave, or mmdet's ``init_detector``, mmseg's
            ``init_model`` or mmpretrain's ``get_model``.
        images (str | Path | np.ndarray | Iterable): Files, URLs, folders (with the folders in
            them) and arrays, in any mixture. Arrays are of shape (H, W, 3), blue first as OpenCV
            reads them, (H, W) or (H, W, 4), and uint8 or uint16.
        batch_size (int): Images at once. Defaults to 1.
        out_dir (str, optional): A folder for pictures: with boxes and masks, with regions and a
            legend (label maps as PNG files go into its folder 'label_maps'), or with the best
            classes. Defaults to None.
        score_thr (float): What a detector found with a lower score is not drawn nor told; the
            data sample holds it. Defaults to 0.3.
        topk (int): How many classes of a classifier are drawn and told. Defaults to 5.
        skip_unreadable (bool): Whether an image that cannot be read, or at which the transforms
            fail, is left out with a warning. Defaults to False.
        logits (bool): Whether a segmentor's logits stay in the data sample, which are as many
            numbers as classes for each pixel. Defaults to False.

    Returns:
        list[Prediction]: What was found, in the order of the images.

    Raises:
        DataError: If an image is not there, cannot be read or is none.
        ConfigError: If an option, or the model's config, cannot be meant.
    """
    return list(iter_infer(model, images, batch_size, out_dir, score_thr, topk, skip_unreadable,
                           logits))


def iter_infer(model: nn.Module,
               images: Union[ImageType, Iterable],
               batch_size: int = 1,
               out_dir: Optional[str] = None,
               score_thr: float = 0.3,
               topk: int = 5,
               skip_unreadable: bool = False,
               logits: bool = False) -> Iterator[Prediction]:
    """Run a model on images, and give what was found one by one.

    It is for more images than results fit into memory; all else is as for :func:`infer`.

    Args:
        model (nn.Module): See :func:`infer`.
        images (str | Path | np.ndarray | Iterable): See :func:`infer`.
        batch_size (int): See :func:`infer`. Defaults to 1.
        out_dir (str, optional): See :func:`infer`. Defaults to None.
        score_thr (float): See :func:`infer`. Defaults to 0.3.
        topk (int): See :func:`infer`. Defaults to 5.
        skip_unreadable (bool): See :func:`infer`. Defaults to False.
        logits (bool): See :func:`infer`. Defaults to False.

    Returns:
        Iterator[Prediction]: What is found, in the order of the images. Options and the images'
        files are checked before the first.

    Raises:
        DataError: If an image is not there, cannot be read or is none.
        ConfigError: If an option, or the model's config, cannot be meant.
    """
    check_options(batch_size, score_thr, topk)
    cfg = getattr(model, 'cfg', None)
    cfg = getattr(model, '_config', None) if cfg is None else cfg
    if cfg is None:
        raise ConfigError('the model does not tell its config (model.cfg), by which images are '
                          'read: make it by scalenet_mm.init_model')
    task = task_of(cfg, "the model's config")
    meta = getattr(model, 'dataset_meta', None) or getattr(model, '_dataset_meta', None)
    meta = dict(meta) if meta else find_dataset_meta(cfg, None)
    found = find_images(images)
    writer = PictureWriter(out_dir, task, meta, found) if out_dir is not None else None
    options = dict(classes=meta.get('classes'), score_thr=score_thr, topk=topk)
    stream = _Stream(model, cfg, task, batch_size, writer, options, skip_unreadable, logits)
    return stream.run(found)


def check_options(batch_size: int, score_thr: float, topk: int) -> None:
    """Check numbers that :func:`infer` takes.

    Raises:
        ConfigError: If one cannot be meant.
    """
    for name, value in (('batch_size', batch_size), ('topk', topk)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ConfigError(f'{name} must be a whole number from 1, got {value!r}')
    if isinstance(score_thr, bool) or not isinstance(score_thr, (int, float)) \
            or not 0 <= score_thr <= 1:
        raise ConfigError(f'score_thr must be a number from 0 to 1, got {score_thr!r}')


class _Stream:
    """Images through a model, in batches of one size, and out in their order."""

    def __init__(self, model, cfg, task, batch_size, writer, options, skip_unreadable, logits):
        self.model = model
        self.scope = cfg.default_scope
        self.task = task
        self.batch_size = batch_size
        self.writer = writer
        self.options = options
        self.skip_unreadable = skip_unreadable
        self.logits = logits
        with DefaultScope.overwrite_default_scope(self.scope):
            self.pipeline = Pipeline(cfg)

    def run(self, images: List[Image]) -> Iterator[Prediction]:
        """Yield a prediction for each image that can be read, in order."""
        waiting: Dict[Tuple, List] = {}
        done: Dict[int, Optional[Prediction]] = {}
        due = 0
        for index, image in enumerate(images):
            item = self._read(image, index)
            if item is None:
                done[index] = None
            else:
                key = self._size_of(item[1]['inputs'])
                waiting.setdefault(key, []).append(item)
                if len(waiting[key]) == self.batch_size:
                    self._predict(waiting.pop(key), images, done)
            # neither images nor results, which leave in order, may pile up behind one odd size
            while max(sum(map(len, waiting.values())), len(done)) >= WAITING * self.batch_size \
                    and waiting and due not in done:
                oldest = min(waiting, key=lambda key: waiting[key][0][0])
                self._predict(waiting.pop(oldest), images, done)
            while due in done:
                prediction = done.pop(due)
                due += 1
                if prediction is not None:
                    yield prediction
        for batch in waiting.values():
            self._predict(batch, images, done)
        for _, prediction in sorted(done.items(), key=lambda item: item[0]):
            if prediction is not None:
                yield prediction

    def _read(self, image, index):
        """tuple | None: Place, transformed and original image; None if it is passed over."""
        try:
            with DefaultScope.overwrite_default_scope(self.scope):
                data, read = self.pipeline(image, index, keep=self.writer is not None)
        except DataError as error:
            if not self.skip_unreadable:
                raise
            print_log(f'skipped: {error}', logger='current', level=logging.WARNING)
            return None
        return index, data, read

    def _size_of(self, inputs) -> Tuple:
        """Height and width of an image as the model gets it alone."""
        divisor = 1
        if self.task == 'detection':  # padded at the right and below, as in a batch of one
            divisor = getattr(self.model.data_preprocessor, 'pad_size_divisor', 1) or 1
        return tuple(math.ceil(side / divisor) * divisor for side in inputs.shape[-2:])

    def _predict(self, batch, images, done) -> None:
        data = pseudo_collate([item for _, item, _ in batch])
        if self.task == 'classification':
            data['inputs'] = torch.stack(data['inputs'])
        with torch.no_grad(), DefaultScope.overwrite_default_scope(self.scope):
            samples = self.model.test_step(data)
        for (index, _, read), sample in zip(batch, samples):
            image = images[index]
            prediction = Prediction(self.task, image.name, image.path,
                                    to_cpu(sample, self.logits), **self.options)
            if self.writer is not None:
                self.writer.write(prediction, read, index)
            done[index] = prediction

