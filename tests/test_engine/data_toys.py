"""What the tests of bad data share: parts of configs, and a small COCO-format data set."""
import json
import os

import cv2
import numpy as np
import pytest

from scalenet_mm.engine import check_train
from scalenet_mm.errors import ScaleNetError

#: The parts of a config that say nothing of data or model.
LOOPS = dict(
    train_cfg=dict(by_epoch=True, max_epochs=1),
    val_cfg=dict(),
    test_cfg=dict(),
    optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='SGD', lr=0.1)))


def error_of(cfg, check=check_train):
    """str: What is said of a config whose ``work_dir`` is 'work', before that is made."""
    with pytest.raises(ScaleNetError) as error:
        check(cfg)
    assert not os.path.exists('work')
    return str(error.value)


def coco(images=2, names=('a', 'b', 'c'), size=32):
    """dict: An annotation file's content: an object of each class in each image."""
    x, y, width, height = box = [4, 4, size // 2, size // 2]
    polygon = [x, y, x + width, y, x + width, y + height, x, y + height]
    pairs = [(i, c) for i in range(1, images + 1) for c in range(1, len(names) + 1)]
    return dict(
        images=[dict(id=i, file_name=f'{i}.png', width=size, height=size)
                for i in range(1, images + 1)],
        annotations=[
            dict(id=i, image_id=image, category_id=category, bbox=list(box), area=width * height,
                 iscrowd=0, segmentation=[list(polygon)])
            for i, (image, category) in enumerate(pairs, 1)
        ],
        categories=[dict(id=i, name=name) for i, name in enumerate(names, 1)])


def write_coco(root, split, data=None):
    """Write ``annotations/SPLIT.json`` and the images that it lists into ``SPLIT/``."""
    data = data or coco()
    (root / 'annotations').mkdir(parents=True, exist_ok=True)
    (root / split).mkdir(exist_ok=True)
    (root / 'annotations' / f'{split}.json').write_text(json.dumps(data))
    for image in data['images']:
        pixels = np.full((image['height'], image['width'], 3), 127, np.uint8)
        cv2.imwrite(str(root / split / image['file_name']), pixels)
