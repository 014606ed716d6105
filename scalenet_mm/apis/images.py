"""From paths and arrays to what a model takes: found, read and transformed as in a test."""
import copy
import os
import os.path as osp
from collections.abc import Iterable, Sequence
from typing import Any, List, NamedTuple, Optional, Union

import numpy as np
from mmcv.transforms import LoadImageFromFile
from mmengine.config import Config
from mmengine.dataset import Compose
from mmengine.registry import TRANSFORMS

from ..datasets.readable import find_fault
from ..engine.dense import iter_steps
from ..engine.scopes import iter_dataloaders, iter_datasets, type_name
from ..errors import ConfigError, DataError, ScaleNetError

#: Files of these endings are the images of a folder.
ENDINGS = ('.jpg', '.jpeg', '.png', '.bmp', '.tif', '.tiff', '.webp', '.ppm', '.pgm', '.pbm')
ImageType = Union[str, os.PathLike, np.ndarray]


class Image(NamedTuple):
    """An image that is to be looked at.

    Args:
        source (str | np.ndarray): A file or URL; or an array of shape (H, W), (H, W, 1), (H, W, 3)
            or (H, W, 4), blue first, of type uint8 or uint16.
        name (str): What to call it, and its picture: the path from the folder that was named, the
            file's name, or its place among the images.
    """
    source: Union[str, np.ndarray]
    name: str

    @property
    def path(self) -> Optional[str]:
        """str | None: The file; None for an array."""
        return self.source if isinstance(self.source, str) else None


def find_images(images: Union[ImageType, Iterable]) -> List[Image]:
    """Find the images that a user names.

    Args:
        images (str | Path | np.ndarray | Iterable): Files, URLs, folders and arrays. Of a folder
            all images are taken, those of its folders too, in the order of their names.

    Returns:
        list[Image]: The images, in order.

    Raises:
        DataError: If something is not there or is no image, or a folder holds none.
    """
    if isinstance(images, (str, os.PathLike, np.ndarray)):
        images = [images]
    elif not isinstance(images, Iterable) or isinstance(images, (bytes, dict)):
        raise DataError(f'images must be files, folders or arrays, got {type(images).__name__}')
    found: List[Image] = []
    for item in images:
        if isinstance(item, np.ndarray):
            _check_array(item, len(found))
            found.append(Image(item, f'{len(found):06d}.png'))
            continue
        if not isinstance(item, (str, os.PathLike)):
            raise DataError('an image must be a file, a folder or a numpy array, got '
                            f'{type(item).__name__}; of a tensor or PIL image take an array, blue '
                            'first: np.asarray(image)[..., ::-1]')
        path = os.fspath(item)
        if '://' in path:
            found.append(Image(path, osp.basename(path.split('?')[0]) or 'image'))
            continue
        path = osp.expanduser(path)
        if osp.isdir(path):
            found += _within(path)
        elif osp.isfile(path):
            found.append(Image(path, osp.basename(path)))
        else:
            raise DataError(f'there is no image {path}: it {find_fault(path)}')
    return found


def _within(folder):
    """list[Image]: The images in a folder and its folders."""
    found = []
    seen = set()  # links are followed, and may lead back
    for place, folders, files in os.walk(folder, followlinks=True):
        if (real := osp.realpath(place)) in seen:
            folders.clear()
            continue
        seen.add(real)
        folders.sort()
        found += [osp.join(place, name) for name in sorted(files)
                  if name.lower().endswith(ENDINGS) and not name.startswith('.')]
    if not found:
        raise DataError(f'the folder {folder} holds no images (files that end in '
                        f'{", ".join(ENDINGS)})')
    return [Image(path, osp.relpath(path, folder)) for path in found]


def _check_array(array, place):
    right = array.ndim == 2 or (array.ndim == 3 and array.shape[2] in (1, 3, 4))
    if not right or 0 in array.shape:
        raise DataError(f'image {place} is an array of shape {array.shape}; it must be (H, W), or '
                        '(H, W, C) with 1, 3 or 4 channels, blue first')
    if array.dtype not in (np.uint8, np.uint16):
        raise DataError(f'image {place} is an array of {array.dtype}; it must be uint8 (or uint16, '
                        'of which the upper half is taken, as of 16-bit files). Of values from 0 '
                        'to 1 make (image * 255).round().astype(np.uint8)')


def bring_into_form(array: np.ndarray, color_type: str = 'color') -> np.ndarray:
    """Make of an array what OpenCV makes of a file that holds the same.

    Args:
        array (np.ndarray): See :class:`Image`.
        color_type (str): As for mmcv's ``LoadImageFromFile``. Defaults to 'color'.

    Returns:
        np.ndarray: Of shape (H, W, 3), or (H, W) with ``color_type='grayscale'``; uint8.
    """
    if array.dtype == np.uint16:
        array = (array >> 8).astype(np.uint8)
    if array.ndim == 3 and array.shape[2] == 4:
        array = array[..., :3]
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if color_type.startswith('grayscale'):
        if array.ndim == 3:  # OpenCV's weights
            array = (array @ np.array([0.114, 0.587, 0.299])).round().astype(np.uint8)
        return np.ascontiguousarray(array)
    if array.ndim == 2:
        array = np.repeat(array[..., None], 3, axis=2)
    return np.ascontiguousarray(array)


class Pipeline:
    """The transforms of a config's test data, without those that read annotations.

    It must be built and called in the config's default scope.

    Args:
        cfg (Config): The config.

    Raises:
        ConfigError: If the config has no such transforms, or they do not begin by reading an image
            from a file.
    """

    def __init__(self, cfg: Config):
        steps = without_annotations(find_pipeline(cfg))
        if not steps:
            raise ConfigError('the config has no test_dataloader.dataset.pipeline, by which images '
                              'would be read')
        self.loader = TRANSFORMS.build(steps[0])
        if not isinstance(self.loader, LoadImageFromFile):
            raise ConfigError(
                f'test_dataloader.dataset.pipeline begins with {type_name(steps[0])}, and not with '
                'LoadImageFromFile: images cannot be given to it one by one')
        self.rest = Compose(steps[1:])

    def __call__(self, image: Image, index: int, keep: bool = False) -> tuple:
        """Read and transform an image.

        Args:
            image (Image): The image.
            index (int): Its place among the images.
            keep (bool): Whether a copy as it was read is wanted. Defaults to False.

        Returns:
            tuple[dict, np.ndarray | None]: 'inputs' and 'data_samples', and the copy.

        Raises:
            DataError: If it cannot be read, or the transforms fail at it.
        """
        results = self._read(image)
        results.update(img_id=index, sample_idx=index)
        read = np.array(results['img']) if keep else None
        height, width = results['img'].shape[:2]
        try:
            return self.rest(results), read
        except ScaleNetError:
            raise
        except Exception as error:  # as of a strip that a resize would leave no row of
            raise DataError(
                'the transforms in test_dataloader.dataset.pipeline fail at '
                f'{image.path or image.name} ({width} x {height} pixels): {type(error).__name__}: '
                f'{error}') from error

    def _read(self, image) -> dict:
        if image.path is not None:
            try:
                results = self.loader(dict(img_path=image.path))
                if results is not None:
                    return results
                reason = 'nothing was read'
            except Exception as error:
                reason = f'{type(error).__name__}: {error}'
            fault = None if '://' in image.path else find_fault(image.path)
            raise DataError(f'an image cannot be read: {image.path} '
                            f'{fault or f"cannot be decoded ({reason})"}')
        array = bring_into_form(image.source, getattr(self.loader, 'color_type', 'color'))
        if getattr(self.loader, 'to_float32', False):
            array = array.astype(np.float32)
        return dict(img=array, img_path=None, img_shape=array.shape[:2], ori_shape=array.shape[:2])


def find_pipeline(cfg: Config) -> list:
    """list[dict]: The transforms of a config's test data, the first if there are several sets."""
    for loader_key, loader in iter_dataloaders(cfg, 'test'):
        for _, dataset in iter_datasets(loader.get('dataset'), loader_key):
            if dataset.get('pipeline'):
                return list(dataset['pipeline'])
    return list(cfg.get('test_pipeline') or [])


def without_annotations(steps: Sequence) -> list:
    """Leave out, at any depth, the transforms that read annotations.

    Args:
        steps (list[dict]): Configs of transforms.

    Returns:
        list[dict]: Copies of the others.
    """
    kept: List[Any] = []
    for step in steps:
        if isinstance(step, (list, tuple)):
            kept.append(without_annotations(step))
        elif not _reads_annotations(step):
            step = copy.deepcopy(step)
            if isinstance(step, dict):
                for key, value in step.items():
                    if isinstance(value, (list, tuple)) and any(True for _ in iter_steps(value)):
                        step[key] = without_annotations(value)
            kept.append(step)
    return kept


def _reads_annotations(step):
    name = type_name(step) if isinstance(step, dict) else ''
    return name.startswith('Load') and 'Annotation' in name or name in (
        'FilterAnnotations', 'LoadProposals', 'LoadEmptyAnnotations')
