"""What a model found in an image, as data and in words."""
from collections import Counter
from dataclasses import dataclass
from typing import Any, Dict, List, Optional, Tuple

import numpy as np
import torch


@dataclass
class Prediction:
    """What a model found in one image.

    Args:
        task (str): 'classification', 'detection' or 'segmentation'.
        name (str): The file's name (of an image in a folder, the path from there), or the array's
            place among the images, as '000003.png'.
        path (str, optional): The image's file or URL; None for an array.
        sample (BaseDataElement): The toolbox's own data sample, on the CPU, with everything that
            the model gave but a segmentor's logits.
        classes (tuple[str], optional): Names of the classes, if they are known.
        score_thr (float): Of a detector: results below are left out of pictures and of what is
            told here; ``sample`` holds all. Defaults to 0.3.
        topk (int): Of a classifier: how many classes are told. Defaults to 5.
        picture (str, optional): The picture that was drawn. Defaults to None.
        label_map (str, optional): Of a segmentor: the label map that was written, a PNG file of
            indices of classes. Defaults to None.
    """
    task: str
    name: str
    path: Optional[str]
    sample: Any
    classes: Optional[Tuple[str, ...]] = None
    score_thr: float = 0.3
    topk: int = 5
    picture: Optional[str] = None
    label_map: Optional[str] = None

    def class_name(self, label: int) -> Optional[str]:
        """str | None: The name of a class."""
        if self.classes is None or not 0 <= label < len(self.classes):
            return None
        return self.classes[label]

    def to_dict(self) -> Dict[str, Any]:
        """Tell the results in plain data, as JSON can hold.

        Returns:
            dict: 'task', 'path', 'size' (height and width of the image, in pixels) and

            - of a classifier 'top': 'label', 'name' and 'score' of the best classes, the best
              first;
            - of a detector 'boxes' ((x1, y1, x2, y2) in pixels of the image), 'labels', 'names'
              and 'scores', the best first; with masks 'masks', in COCO's run-length encoding
              ('size', 'counts');
            - of a segmentor 'classes': 'label', 'name', 'pixels' and 'share' of each class that is
              seen, the largest first.

            And 'picture' and 'label_map' where they were written.
        """
        size = self.sample.get('ori_shape')
        told = dict(task=self.task, path=self.path,
                    size=[int(side) for side in size[:2]] if size is not None else None)
        if self.path is None:
            told['name'] = self.name
        told.update(dict(classification=self._top, detection=self._objects,
                         segmentation=self._shares)[self.task]())
        for key in ('picture', 'label_map'):
            if getattr(self, key) is not None:
                told[key] = getattr(self, key)
        return told

    def _top(self):
        scores, labels = top_of(self.sample, self.topk)
        return dict(top=[dict(label=label, name=self.class_name(label), score=score)
                         for score, label in zip(scores.tolist(), labels.tolist())])

    def _objects(self):
        if 'pred_instances' not in self.sample:
            return self._segments()
        found = self.shown_instances()
        labels = found.labels.tolist()
        told = dict(
            boxes=[[round(side, 2) for side in box] for box in found.bboxes.tolist()],
            labels=labels,
            names=[self.class_name(label) for label in labels],
            scores=found.scores.tolist())
        if 'masks' in found:
            told['masks'] = [encode_mask(mask) for mask in found.masks]
        return told

    def _segments(self):
        """dict: The segments of a panoptic model."""
        labels = np.asarray(self.sample.pred_panoptic_seg.sem_seg.cpu())
        numbers, counts = np.unique(labels, return_counts=True)
        # mmdet's code: the class, and a thousand for each instance of it
        return dict(segments=[
            dict(label=int(n) % 1000, name=self.class_name(int(n) % 1000), pixels=int(count))
            for n, count in sorted(zip(numbers, counts), key=lambda pair: -pair[1])
            if self.classes is None or int(n) % 1000 < len(self.classes)])

    def _shares(self):
        labels, counts = np.unique(self.labels(), return_counts=True)
        order = np.argsort(-counts, kind='stable')
        total = int(counts.sum())
        return dict(classes=[
            dict(label=int(labels[i]), name=self.class_name(int(labels[i])), pixels=int(counts[i]),
                 share=round(int(counts[i]) / total, 4)) for i in order])

    def shown_instances(self):
        """InstanceData: Of a detector what is not below ``score_thr``, the best first."""
        found = self.sample.pred_instances
        found = found[found.scores >= self.score_thr]
        return found[found.scores.argsort(descending=True, stable=True)]

    def labels(self) -> np.ndarray:
        """np.ndarray: Of a segmentor the index of the class of each pixel, of shape (H, W)."""
        return np.asarray(self.sample.pred_sem_seg.data[0].cpu())

    def __str__(self):
        told = self.to_dict()
        if self.task == 'classification':
            parts = [f'{_short(one["name"], one["label"])} {one["score"]:.3f}'
                     for one in told['top']]
        elif self.task == 'segmentation':
            parts = [f'{_short(one["name"], one["label"])} {one["share"]:.1%}'
                     for one in told['classes'][:6]]
            parts += ['...'] if len(told['classes']) > 6 else []
        elif 'segments' in told:
            parts = [_short(one['name'], one['label']) for one in told['segments']]
        else:
            parts = _count(told)
        return f'{self.path or self.name}: {", ".join(parts) or "nothing found"}'


def _short(name, label):
    """str: The first of the names that a class has."""
    return str(label) if name is None else name.split(',')[0]


def _count(told) -> List[str]:
    """list[str]: How many objects of each class, the most frequent first, with the best score."""
    names = [_short(name, label) for name, label in zip(told['names'], told['labels'])]
    best: Dict[str, float] = {}
    for name, score in zip(names, told['scores']):
        best.setdefault(name, score)
    return [f'{name} x{count} (up to {best[name]:.2f})' if count > 1 else
            f'{name} ({best[name]:.2f})' for name, count in Counter(names).most_common()]


def top_of(sample: Any, topk: int) -> tuple:
    """Give the best classes of a classifier's data sample.

    Args:
        sample (DataSample): The sample, with 'pred_score'.
        topk (int): How many at most.

    Returns:
        tuple[torch.Tensor, torch.Tensor]: Scores and labels, the best first.
    """
    return torch.topk(sample.pred_score, min(topk, sample.pred_score.numel()))


def encode_mask(mask: Any) -> Dict[str, Any]:
    """Encode a mask as COCO does.

    Args:
        mask (torch.Tensor | np.ndarray): Of shape (H, W).

    Returns:
        dict: 'size' (height and width) and 'counts' (text).
    """
    from pycocotools import mask as coco  # a requirement of mmdet
    encoded = coco.encode(np.asfortranarray(np.asarray(mask), dtype=np.uint8))
    return dict(size=[int(side) for side in encoded['size']], counts=encoded['counts'].decode())
