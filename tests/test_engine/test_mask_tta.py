"""Masks under test-time augmentation: flipped back, kept with their boxes."""
import pytest
import torch
import torch.nn as nn
from mmdet.models import DetTTAModel
from mmdet.structures import DetDataSample
from mmengine.config import ConfigDict
from mmengine.structures import InstanceData

from scalenet_mm.engine.mask_tta import MaskTTAModel

HEIGHT, WIDTH = 12, 20
CFG = ConfigDict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=3)


class Module(nn.Module):
    def test_step(self, data):
        raise NotImplementedError


def mask_of(box):
    x1, y1, x2, y2 = box
    mask = torch.zeros(HEIGHT, WIDTH, dtype=torch.bool)
    mask[y1:y2, x1:x2] = True
    mask[y1, x1] = False  # not symmetric: a wrong flip shows
    return mask


def flipped_box(box, direction):
    x1, y1, x2, y2 = box
    if direction in ('horizontal', 'diagonal'):
        x1, x2 = WIDTH - x2, WIDTH - x1
    if direction in ('vertical', 'diagonal'):
        y1, y2 = HEIGHT - y2, HEIGHT - y1
    return x1, y1, x2, y2


def view(found, direction=None, masks=True):
    """A view that finds (box, score, label) of the unflipped image."""
    dims = dict(horizontal=(2, ), vertical=(1, ), diagonal=(1, 2)).get(direction, ())
    sample = DetDataSample(metainfo=dict(
        ori_shape=(HEIGHT, WIDTH), img_shape=(HEIGHT, WIDTH), flip=direction is not None,
        flip_direction=direction))
    sample.pred_instances = InstanceData(
        bboxes=torch.tensor([flipped_box(b, direction) for b, _, _ in found]).float().view(-1, 4),
        scores=torch.tensor([float(s) for _, s, _ in found]),
        labels=torch.tensor([n for _, _, n in found], dtype=torch.long))
    if masks:
        stack = [mask_of(b) for b, _, _ in found]
        stack = torch.stack(stack) if stack else torch.zeros(0, HEIGHT, WIDTH, dtype=torch.bool)
        sample.pred_instances.masks = stack.flip(dims)
    return sample


def merge(*views, cfg=CFG, kind=MaskTTAModel):
    return kind(module=Module(), tta_cfg=cfg).merge_preds([list(views)])[0].pred_instances


A, B, C, D = (1, 2, 8, 9), (10, 1, 18, 6), (0, 8, 5, 11), (12, 7, 19, 11)


@pytest.mark.parametrize('direction', ['horizontal', 'vertical', 'diagonal'])
def test_each_box_brings_the_mask_of_its_view(direction):
    merged = merge(view([(A, .6, 0), (B, .9, 1)]), view([(A, .8, 0), (C, .5, 0)], direction))
    assert merged.scores.tolist() == pytest.approx([.9, .8, .5])
    assert merged.labels.tolist() == [1, 0, 0]
    for box, found, mask in zip((B, A, C), merged.bboxes, merged.masks):
        assert found.tolist() == list(box)
        assert torch.equal(mask, mask_of(box))


def test_limit_and_classes():
    views = view([(A, .9, 0), (B, .3, 1), (C, .8, 2)]), view([(D, .7, 0), (A, .6, 1)], 'horizontal')
    merged = merge(*views)
    assert merged.labels.tolist() == [0, 2, 0]  # the third is D; (A, class 1) is beyond the limit
    assert torch.equal(merged.masks, torch.stack([mask_of(b) for b in (A, C, D)]))


def test_boxes_are_merged_as_mmdet_does():
    def views(masks):
        return (view([(A, .6, 0), (B, .9, 1)], masks=masks),
                view([(A, .8, 0), (C, .5, 0)], 'horizontal', masks=masks))

    reference = merge(*views(False), kind=DetTTAModel)
    for merged in (merge(*views(True)), merge(*views(False))):
        for key in ('bboxes', 'scores', 'labels'):
            assert torch.equal(merged[key], reference[key])
    with pytest.raises(AssertionError, match='does not support'):
        merge(*views(True), kind=DetTTAModel)


def test_nothing_found():
    merged = merge(view([]), view([], 'horizontal'))
    assert len(merged) == 0 and merged.masks.shape == (0, HEIGHT, WIDTH)
    merged = merge(view([]), view([(A, .8, 0)], 'horizontal'))
    assert torch.equal(merged.masks, mask_of(A)[None])
