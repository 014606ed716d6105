"""What `tools/test.py --show-dir` draws of a classifier's predictions."""
import cv2
import numpy as np
import pytest
import torch
from mmpretrain.structures import DataSample
from mmpretrain.visualization import UniversalVisualizer

from scalenet_mm.engine.classifier_pictures import ClassifierPicturesHook


@pytest.mark.parametrize('as_batch', [False, True])
def test_colours_of_the_image(request, tmp_path, as_batch):
    loaded = np.zeros((64, 96, 3), np.uint8)  # as OpenCV loads it: blue, green, red
    loaded[..., 0], loaded[..., 2] = 10, 200
    inputs = [torch.from_numpy(loaded).permute(2, 0, 1)]
    sample = DataSample(metainfo=dict(img_path='a/photo.jpg')).set_pred_label(1).set_pred_score(
        torch.tensor([0.25, 0.75]))
    UniversalVisualizer.get_instance(tmp_path.name)
    request.addfinalizer(lambda: UniversalVisualizer._instance_dict.pop(tmp_path.name))
    hook = ClassifierPicturesHook(enable=True, interval=1, out_dir=str(tmp_path))
    batch = dict(inputs=torch.stack(inputs) if as_batch else inputs)
    hook.after_test_iter(None, 0, batch, [sample])
    picture, = tmp_path.glob('photo.jpg*.png')
    corner = cv2.imread(str(picture))[-3:, -3:].reshape(-1, 3).mean(0)
    assert np.allclose(corner, [10, 0, 200], atol=3)
