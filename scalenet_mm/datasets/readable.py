"""Images that do not open: an error that names the file, in whatever process it is found."""
import logging
import os
import os.path as osp
from typing import Any, Optional

from mmcv.transforms import BaseTransform, LoadAnnotations, LoadImageFromFile
from mmengine.dataset import Compose
from mmengine.logging import print_log
from PIL import Image

from ..errors import DataError, ScaleNetError

_WORDS = {
    b'version https:/': 'is a Git LFS pointer, not the image: `git lfs pull`',
    b'<': 'holds a web page, not an image',
}


class NamingLoader(BaseTransform):
    """A loader of images or label maps whose errors name the file.

    OpenCV says nothing of the file it failed on, or returns nothing at all; and what a worker
    process of a dataloader raises comes as a text. Nothing is done unless the loader fails.

    Args:
        loader (BaseTransform): mmcv's ``LoadImageFromFile`` or ``LoadAnnotations``, or one of a
            toolbox that inherits from it.
    """

    def __init__(self, loader: BaseTransform):
        self.loader = loader
        self._key = 'img_path' if isinstance(loader, LoadImageFromFile) else 'seg_map_path'

    def transform(self, results: dict) -> Optional[dict]:
        """Load, as the loader does.

        Args:
            results (dict): The sample.

        Returns:
            dict | None: The sample with its image or label map. None if the image does not open
            and the loader's ``ignore_empty`` is set; a training set then takes another one.

        Raises:
            DataError: If the file is at fault.
        """
        try:
            return self.loader(results)
        except ScaleNetError:
            raise
        except Exception as error:
            path = results.get(self._key)
            remote = (getattr(self.loader, 'backend_args', None) or {}).get('backend', 'local')
            if not isinstance(path, str) or (remote != 'local' and self._key != 'img_path'):
                raise
            fault = None if remote != 'local' or '://' in path else find_fault(path)
            if fault is None and self._key != 'img_path':
                raise  # boxes, for example
            fault = fault or f'cannot be decoded ({type(error).__name__}: {error})'
            if getattr(self.loader, 'ignore_empty', False):
                print_log(f'skipped {path}: it {fault}', 'current', logging.WARNING)
                return None
            raise DataError(_message(path, fault, self._key)) from error

    def __repr__(self):
        return repr(self.loader)


def _message(path, fault, key):
    if key != 'img_path':
        return (f'a label map cannot be read: {path} {fault}. Make or copy it again, or remove the '
                'sample')
    return (f'an image cannot be read: {path} {fault}. Copy or download it again, or remove it '
            '(from the annotation file, too). To skip such images in training, set '
            'ignore_empty=True in the LoadImageFromFile of its pipeline')


def find_fault(path: str) -> Optional[str]:
    """What is wrong with a file that should be an image.

    Args:
        path (str): A local path.

    Returns:
        str | None: The fault, to stand behind the path; None if none is seen.
    """
    if osp.isdir(path):
        return 'is a folder'
    if not osp.lexists(path):
        return 'does not exist'
    if not osp.exists(path):
        return f'is a link to {os.readlink(path)}, which does not exist'
    if osp.getsize(path) == 0:
        return 'is empty (0 bytes)'
    try:
        with open(path, 'rb') as file:
            head = file.read(16).lstrip()
    except OSError as error:
        return f'cannot be opened ({error.strerror})'
    try:
        with Image.open(path) as image:
            kind = image.format
            image.load()
    except Image.UnidentifiedImageError:
        for start, words in _WORDS.items():
            if head.startswith(start):
                return words
        return f'is no image (it begins with {head!r})'
    except Exception as error:  # Pillow raises what its parsers meet
        return f'is cut off or damaged ({osp.getsize(path)} bytes; {error})'
    if kind not in ('JPEG', 'PNG', 'BMP', 'TIFF', 'PPM', 'WEBP'):
        return f"is a {kind} file, which OpenCV may not read: imdecode_backend='pillow' may"
    return None


def name_unreadable(dataset: Any) -> int:
    """Put :class:`NamingLoader` around the loaders of a built data set, in place.

    Args:
        dataset (Dataset): A data set of any toolbox, possibly wrapped.

    Returns:
        int: How many loaders there are; they are wrapped once, however often this is called.
    """
    inner = getattr(dataset, 'dataset', None)
    inner = [] if inner is None else [inner]
    count = sum(name_unreadable(d) for d in [*inner, *(getattr(dataset, 'datasets', None) or [])])
    return count + _wrap_in(getattr(dataset, 'pipeline', None))


def _wrap_in(owner):
    """Wrap the loaders in a pipeline, however deep its transforms hold others."""
    if isinstance(owner, list):
        for i, item in enumerate(owner):
            if isinstance(item, (LoadImageFromFile, LoadAnnotations)):
                owner[i] = NamingLoader(item)
        return sum(_wrap_in(item) for item in owner)
    if isinstance(owner, NamingLoader):
        return 1
    if isinstance(owner, (BaseTransform, Compose)):
        return sum(_wrap_in(value) for value in vars(owner).values())
    return 0
