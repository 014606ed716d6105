"""What ``tools/test.py --show-dir`` draws of a classifier's predictions.

Imported when a classifier is tested: it needs mmpretrain.
"""
from mmengine.registry import HOOKS
from mmpretrain.engine.hooks import VisualizationHook


@HOOKS.register_module()
class ClassifierPicturesHook(VisualizationHook):
    """mmpretrain's hook, with colours that are right.

    mmpretrain 1.2.0 hands the images as they were loaded, blue first, to a visualizer that takes
    them for RGB: red and blue change places in every picture.
    """

    def _draw_samples(self, batch_idx, data_batch, data_samples, step=0):
        inputs = [image.flip(0) if len(image) == 3 else image for image in data_batch['inputs']]
        super()._draw_samples(batch_idx, {**data_batch, 'inputs': inputs}, data_samples, step)
