"""Pictures of a config's data, as the model is given them, with their labels."""
import math
import os
import os.path as osp
from typing import Any, Dict, List, Sequence

import numpy as np
from mmengine.config import Config
from mmengine.registry import DefaultScope
from PIL import Image as Pillow

from ..analysis.samples import SampleBatches
from ..engine.preflight import check_toolbox
from ..errors import ConfigError
from .model import TASKS
from .pictures import (
    _complete,
    _fixed_colours,
    _make_visualizer,
    draw_legend,
    enlarge,
    enlargement,
)

OVERVIEW = 'overview.png'
#: Of the overview: side of an image, space around it, images in a row.
TILE, GAP, COLUMNS = 256, 8, 4


def browse_dataset(cfg: Config, folder: str, split: str = 'train', num_samples: int = 16,
                   seed: int = 0) -> List[str]:
    """Draw samples of a data set behind its pipeline, with their ground truth.

    Images are as they go to the data preprocessor: cropped, flipped and recoloured, not yet
    normalised or mixed with each other. Where a pipeline for evaluation loads annotations after
    it resized the image, they are loaded before, so that they fit the picture.

    Args:
        cfg (Config): A config of mmpretrain, mmdet or mmseg.
        folder (str): Where the pictures go, and ``overview.png`` with all of them; it is made.
        split (str): 'train', 'val' or 'test': whose data loader is used. Defaults to 'train'.
        num_samples (int): How many samples, drawn at random. Defaults to 16.
        seed (int): Seed of the choice and of random augmentations. Defaults to 0.

    Returns:
        list[str]: The files, the overview first.

    Raises:
        ConfigError: If the config is of no known task, its toolbox or data is missing, or the
            folder is a file.
        DataError: If an image or a label map cannot be read.
    """
    scope = cfg.get('default_scope')
    if scope not in TASKS:
        raise ConfigError(f'default_scope is {scope!r}; data are drawn for {", ".join(TASKS)}')
    check_toolbox(cfg)
    folder = osp.expanduser(os.fspath(folder))
    if osp.exists(folder) and not osp.isdir(folder):
        raise ConfigError(f'{folder!r} is a file; name a folder')
    with DefaultScope.overwrite_default_scope(scope):
        batches = SampleBatches(cfg, split, num_samples, 1, seed=seed, workers=0,
                                with_labels=True)
        draw = Painter(TASKS[scope][0], batches.dataset.metainfo).draw
        os.makedirs(folder, exist_ok=True)
        files, tiles = [], []
        for index, batch in zip(batches.indices, batches):
            sample, = batch['data_samples']
            # the pipeline's last step takes the image's axes apart; red first, as is drawn
            image = np.asarray(batch['inputs'][0])[::-1].transpose(1, 2, 0)
            picture = draw(np.ascontiguousarray(image.clip(0, 255).astype(np.uint8)), sample)
            stem = osp.splitext(osp.basename(str(sample.get('img_path') or '')))[0]
            files.append(osp.join(folder, '_'.join(filter(None, [f'{index:06d}', stem])) + '.png'))
            Pillow.fromarray(picture).save(files[-1])
            tiles.append(make_tile(picture))
    overview = osp.join(folder, OVERVIEW)
    Pillow.fromarray(tile(tiles)).save(overview)
    return [overview, *files]


class Painter:
    """Draws an image with its ground truth.

    Args:
        task (str): 'classification', 'detection' or 'segmentation'.
        metainfo (dict): The data set's 'classes' and 'palette'.
    """

    def __init__(self, task: str, metainfo: Dict[str, Any]):
        self.meta = _complete(dict(metainfo), task)
        self.visualizer = _make_visualizer(task, self.meta)
        self.draw = dict(classification=self._draw_classes, detection=self._draw_objects,
                         segmentation=self._draw_regions)[task]

    def _draw_classes(self, image, sample):
        names = self.meta['classes'] and [str(name).split(',')[0] for name in self.meta['classes']]
        self.visualizer.visualize_cls(
            enlarge(image, enlargement(image)), sample, classes=names, draw_pred=False)
        return self.visualizer.get_image()

    def _draw_objects(self, image, sample):
        factor, truth = enlargement(image), sample.gt_instances
        shown = type(truth)(labels=truth.labels.numpy())
        boxes = truth.get('bboxes')
        if boxes is not None:
            shown.bboxes = getattr(boxes, 'tensor', boxes).numpy() * factor
        if 'masks' in truth:
            masks = truth.masks
            masks = masks.to_ndarray() if hasattr(masks, 'to_ndarray') else np.asarray(masks)
            shown.masks = masks.astype(bool).repeat(factor, axis=1).repeat(factor, axis=2)
        with _fixed_colours():
            self.visualizer.add_datasample(
                '', enlarge(image, factor), type(sample)(gt_instances=shown), draw_pred=False)
        return self.visualizer.get_image()

    def _draw_regions(self, image, sample):
        self.visualizer.add_datasample('', image, sample, draw_pred=False, with_labels=False)
        drawn = enlarge(self.visualizer.get_image(), enlargement(image))
        labels, counts = np.unique(sample.gt_sem_seg.data.numpy(), return_counts=True)
        palette, classes = self.meta['palette'], self.meta['classes']
        entries = [(classes[label] if label < len(classes) else str(label), palette[label],
                    count / counts.sum())
                   for label, count in zip(labels, counts) if label < len(palette)]
        return np.vstack([drawn, draw_legend(entries, drawn.shape[1])])


def make_tile(picture: np.ndarray) -> np.ndarray:
    """Fit a picture into a square of the overview.

    Args:
        picture (np.ndarray): Of shape (H, W, 3).

    Returns:
        np.ndarray: Of shape (TILE, TILE, 3), white where the picture does not reach.
    """
    square = Pillow.new('RGB', (TILE, TILE), (255, 255, 255))
    shrunk = Pillow.fromarray(picture)
    shrunk.thumbnail((TILE, TILE))
    square.paste(shrunk, ((TILE - shrunk.width) // 2, (TILE - shrunk.height) // 2))
    return np.asarray(square)


def tile(tiles: Sequence[np.ndarray]) -> np.ndarray:
    """Lay out squares in rows.

    Args:
        tiles (Sequence[np.ndarray]): Each of shape (TILE, TILE, 3).

    Returns:
        np.ndarray: The overview.
    """
    columns = min(COLUMNS, len(tiles))
    rows = math.ceil(len(tiles) / columns)
    step = TILE + GAP
    sheet = np.full((rows * step + GAP, columns * step + GAP, 3), 255, np.uint8)
    for i, one in enumerate(tiles):
        top, left = i // columns * step + GAP, i % columns * step + GAP
        sheet[top:top + TILE, left:left + TILE] = one
    return sheet
