"""Pictures of what a model found, drawn by the toolboxes' own visualizers."""
import copy
import math
import os
import os.path as osp
from contextlib import contextmanager
from typing import Any, List, Sequence, Set, Tuple

import numpy as np
import torch
from mmengine.structures import InstanceData

from ..errors import ConfigError
from .images import Image
from .prediction import Prediction, top_of

#: Smaller images are enlarged, by a whole number, so that texts can be read.
SHORT_SIDE = 200
#: But to no more than that: of a strip of a few rows of pixels no picture could be saved.
LONG_SIDE = 4096
#: Of what an object or region covers, this part of the colour is laid over the image.
OPACITY = 0.5
_AS_THEY_ARE = ('.jpg', '.jpeg', '.png', '.bmp')
#: The folder of label maps; 'labels' is where many data sets have those that people drew.
LABEL_MAPS = 'label_maps'


class PictureWriter:
    """Draws predictions and writes the pictures into a folder.

    Args:
        folder (str): Where pictures go; it is made. Label maps go into its folder 'label_maps'.
        task (str): 'classification', 'detection' or 'segmentation'.
        dataset_meta (dict): The model's 'classes' and 'palette'.
        images (Sequence[Image]): What will be drawn, so that no name is used twice, by a picture
            or a label map, and no image written over.

    Raises:
        ConfigError: If the folder is a file, or an image in it would be written over.
    """

    def __init__(self, folder: str, task: str, dataset_meta: dict, images: Sequence[Image]):
        self.folder = osp.expanduser(os.fspath(folder))
        self.task = task
        if osp.exists(self.folder) and not osp.isdir(self.folder):
            raise ConfigError(f'out_dir: {self.folder!r} is a file; name a folder')
        self._names = _names_of_files(images, task == 'segmentation')
        sources = {osp.realpath(image.path) for image in images
                   if image.path is not None and '://' not in image.path}
        for names in self._names:
            for what, name in zip(('picture', 'label map'), names):
                target = osp.realpath(osp.join(self.folder, name))
                if target in sources:
                    raise ConfigError(f'out_dir: the {what} {target} would be written over an '
                                      'image; name another folder')
        self.dataset_meta = _complete(dataset_meta, task)
        self._draw = dict(classification=self._draw_classes, detection=self._draw_objects,
                          segmentation=self._draw_regions)[task]
        self._visualizer = _make_visualizer(task, self.dataset_meta)
        os.makedirs(self.folder, exist_ok=True)

    def write(self, prediction: Prediction, image: np.ndarray, index: int) -> None:
        """Draw a prediction and write the picture, and a segmentor's label map.

        Args:
            prediction (Prediction): The prediction; the files' names are noted in it.
            image (np.ndarray): The image as it was read, of shape (H, W, 3) or (H, W), blue first.
            index (int): Its place among the images.
        """
        import mmcv
        if image.ndim == 2:
            image = np.repeat(image[..., None], 3, axis=2)
        image = np.ascontiguousarray(image[..., ::-1].clip(0, 255).astype(np.uint8))
        drawn = self._draw(prediction, image)
        picture, *label_map = [osp.join(self.folder, name) for name in self._names[index]]
        prediction.picture = picture
        mmcv.imwrite(np.ascontiguousarray(drawn[..., ::-1]), prediction.picture)
        if label_map:
            prediction.label_map, = label_map
            labels = prediction.labels()
            kind = np.uint8 if labels.max(initial=0) < 256 else np.uint16
            mmcv.imwrite(labels.astype(kind), prediction.label_map)

    def _draw_classes(self, prediction, image):
        """The best classes, as text over the image."""
        _, labels = top_of(prediction.sample, prediction.topk)
        factor = enlargement(image)
        best = copy.copy(prediction.sample)
        best.set_pred_label(labels)
        # ImageNet's classes have several names each, too long for a picture
        names = prediction.classes and [name.split(',')[0] for name in prediction.classes]
        self._visualizer.visualize_cls(
            enlarge(image, factor), best, classes=names, draw_gt=False)
        return self._visualizer.get_image()

    def _draw_objects(self, prediction, image):
        """Boxes, masks, names and scores."""
        factor = enlargement(image)
        sample = prediction.sample
        if 'pred_instances' in sample:
            found = prediction.shown_instances()
            shown = InstanceData(bboxes=found.bboxes * factor, labels=found.labels,
                                 scores=found.scores)
            if 'masks' in found:
                masks = np.asarray(found.masks)
                shown.masks = masks.repeat(factor, axis=1).repeat(factor, axis=2)
            sample = type(sample)(pred_instances=shown)
        else:  # panoptic
            factor = 1
        with _fixed_colours():
            self._visualizer.add_datasample(
                '', enlarge(image, factor), sample, draw_gt=False,
                pred_score_thr=prediction.score_thr)
        return self._visualizer.get_image()

    def _draw_regions(self, prediction, image):
        """Colours over the image, and below it which class has which."""
        factor = enlargement(image)
        self._visualizer.add_datasample(
            '', image, prediction.sample, draw_gt=False, with_labels=False)
        drawn = enlarge(self._visualizer.get_image(), factor)
        labels, counts = np.unique(prediction.labels(), return_counts=True)
        entries = []
        for i in np.argsort(-counts, kind='stable'):
            label = int(labels[i])
            name = prediction.class_name(label)
            if label < len(self.dataset_meta['palette']):
                entries.append((str(label) if name is None else name,
                                self.dataset_meta['palette'][label], counts[i] / counts.sum()))
        return np.vstack([drawn, draw_legend(entries, drawn.shape[1])])


@contextmanager
def _fixed_colours():
    """Let mmdet, which varies the colours of masks at random, draw the same picture each time."""
    state = np.random.get_state()
    np.random.seed(0)
    try:
        yield
    finally:
        np.random.set_state(state)


def _complete(meta, task):
    """dict: Classes and colours, such as the visualizers take."""
    classes, palette = meta.get('classes'), meta.get('palette', 'random')
    if task == 'segmentation':
        # SegLocalVisualizer wants names and colours of all classes, and takes those of Cityscapes
        if not isinstance(palette, (list, tuple)):
            number = len(classes) if classes is not None else 256
            state = np.random.RandomState(42)
            palette = [tuple(int(v) for v in state.randint(0, 256, 3)) for _ in range(number)]
        if classes is None:
            classes = tuple(map(str, range(len(palette))))
    return dict(classes=classes, palette=palette)


def _make_visualizer(task, meta):
    if task == 'classification':
        from mmpretrain.visualization import UniversalVisualizer
        return UniversalVisualizer()
    if task == 'detection':
        from mmdet.visualization import DetLocalVisualizer
        visualizer: Any = DetLocalVisualizer(line_width=2, alpha=OPACITY)
    else:
        from mmseg.visualization import SegLocalVisualizer
        visualizer = SegLocalVisualizer(alpha=OPACITY)
    visualizer.dataset_meta = meta
    return visualizer


def _names_of_files(images: Sequence[Image], label_maps: bool) -> List[Tuple[str, ...]]:
    """list[tuple]: Names for each picture and, where there are some, its label map.

    All are different, also without their endings.
    """
    taken: Set[str] = set()
    names = []
    for image in images:
        stem, ending = osp.splitext(image.name)
        number, name = 2, stem
        while not taken.isdisjoint(stems := _stems(name, label_maps)):
            name, number = f'{stem}_{number}', number + 1
        taken.update(stems)
        endings = (ending if ending.lower() in _AS_THEY_ARE else '.png', '.png')
        names.append(tuple(map(str.__add__, stems, endings)))
    return names


def _stems(name: str, label_maps: bool) -> Tuple[str, ...]:
    return (name, osp.join(LABEL_MAPS, name)) if label_maps else (name, )


def enlargement(image: np.ndarray) -> int:
    """int: By how much an image is enlarged, so that texts can be read."""
    height, width = image.shape[:2]
    return max(1, min(math.ceil(SHORT_SIDE / min(height, width)), LONG_SIDE // max(height, width)))


def enlarge(image: np.ndarray, factor: int) -> np.ndarray:
    """np.ndarray: The image, each of its pixels a square of ``factor`` pixels a side."""
    if factor == 1:
        return image
    return np.ascontiguousarray(image.repeat(factor, axis=0).repeat(factor, axis=1))


def draw_legend(entries: Sequence[Tuple[str, Sequence[int], float]], width: int) -> np.ndarray:
    """Draw which colour stands for which class.

    Args:
        entries (Sequence[tuple]): Name, colour (red first) and share of the image of each class.
        width (int): Of the picture, in pixels.

    Returns:
        np.ndarray: A picture of shape (height, width, 3), red first.
    """
    from PIL import Image as Pillow
    from PIL import ImageDraw
    font = _font(13)
    texts = [f'{name} {share:.1%}' for name, _, share in entries]
    column = int(max([font.getlength(text) for text in texts], default=0)) + 36
    columns = max(1, min(width // column, len(entries)))
    rows = max(1, math.ceil(len(entries) / columns))
    canvas = Pillow.new('RGB', (width, rows * 20 + 8), (255, 255, 255))
    draw = ImageDraw.Draw(canvas)
    for i, (text, (_, colour, _)) in enumerate(zip(texts, entries)):
        left, top = i % columns * (width // columns) + 8, i // columns * 20 + 4
        draw.rectangle([left, top + 3, left + 14, top + 17], fill=tuple(map(int, colour)),
                       outline=(0, 0, 0))
        draw.text((left + 20, top + 2), text, fill=(0, 0, 0), font=font)
    return np.asarray(canvas)


def _font(size):
    """ImageFont: matplotlib's own, which knows more than Latin letters."""
    from matplotlib import font_manager
    from PIL import ImageFont
    return ImageFont.truetype(font_manager.findfont('DejaVu Sans'), size)


def to_cpu(sample: Any, logits: bool = False) -> Any:
    """Take a data sample off the GPU.

    Args:
        sample (BaseDataElement): The sample.
        logits (bool): Whether a segmentor's logits stay, of shape (classes, H, W). Defaults to
            False.

    Returns:
        BaseDataElement: The sample, on the CPU.
    """
    if not logits and 'seg_logits' in sample:
        del sample.seg_logits
    with torch.no_grad():
        return sample.cpu()
