"""Test-time augmentation for detectors that predict masks, which mmdet leaves out."""
from typing import List

import torch
from mmcv.ops import batched_nms
from mmdet.models import DetTTAModel
from mmdet.structures import DetDataSample
from mmengine.registry import MODELS
from mmengine.structures import InstanceData

#: The dimensions of (instances, height, width) that a flip turns around.
_FLIPPED = {'horizontal': (2, ), 'vertical': (1, ), 'diagonal': (1, 2)}


@MODELS.register_module()
class MaskTTAModel(DetTTAModel):
    """Merge the boxes *and masks* of several views of an image.

    mmdet's ``DetTTAModel`` refuses predictions with masks. Here boxes and scores are merged as
    there, by one non-maximum suppression over all views, and each box that is kept brings the
    mask of its own view, flipped back. Masks of different views are not averaged: the view with
    the highest score decides. Without masks the result is that of ``DetTTAModel``.

    Args:
        tta_cfg (dict): ``nms`` and ``max_per_img``, as for ``DetTTAModel``.
    """

    def _merge_single_sample(self, data_samples: List[DetDataSample]) -> DetDataSample:
        """Merge the predictions for the views of one image.

        Args:
            data_samples (list[DetDataSample]): One a view, boxes and masks in the coordinates of
                the original image; ``masks`` of shape (instances, height, width).

        Returns:
            DetDataSample: The first, with the merged predictions.
        """
        views = [sample.pred_instances for sample in data_samples]
        if views[0].get('masks') is None:
            return super()._merge_single_sample(data_samples)
        metas = [sample.metainfo for sample in data_samples]
        boxes, scores = self.merge_aug_bboxes([view.bboxes for view in views],
                                              [view.scores for view in views], metas)
        if boxes.numel() == 0:
            return data_samples[0]
        labels = torch.cat([view.labels for view in views])
        masks = torch.cat([
            view.masks.flip(_FLIPPED[meta['flip_direction']]) if meta['flip'] else view.masks
            for view, meta in zip(views, metas)
        ])
        kept_boxes, kept = batched_nms(boxes, scores, labels, self.tta_cfg.nms)
        kept = kept[:self.tta_cfg.max_per_img]
        kept_boxes = kept_boxes[:self.tta_cfg.max_per_img]
        merged = data_samples[0]
        merged.pred_instances = InstanceData(
            bboxes=kept_boxes[:, :-1], scores=kept_boxes[:, -1], labels=labels[kept],
            masks=masks[kept])
        return merged
