"""The learngene configs by name, and tiny data sets in the formats that they read."""
import pickle
import re
from typing import NamedTuple, Optional

import mat4py
import numpy as np
from imagenet_toys import CONFIGS
from PIL import Image

FOLDER = CONFIGS / 'learngene'
#: Name -> file.
FILES = {path.stem: path for path in sorted(FOLDER.rglob('*.py')) if path.parent.name != '_base_'}
NAME = re.compile(
    r'(?P<method>[a-z]+)_(?P<net>aux|des)-(?P<size>[sb])(-(?P<number>\d+))?(-(?P<variant>[a-z0-9]+))?'
    r'_(?P<epochs>\d+)e_(?P<data>[a-z0-9]+)')
#: What mmpretrain's data sets have: type, folder, classes.
DATA = {
    'imagenet': ('ImageNet', 'data/imagenet', 1000), 'cifar10': ('CIFAR10', 'data/cifar10', 10),
    'cifar100': ('CIFAR100', 'data/cifar100', 100), 'food101': ('Food101', 'data/food-101', 101),
    'cars196': ('StanfordCars', 'data/stanford_cars', 196),
}


class Told(NamedTuple):
    """What a config's name tells.

    Args:
        method (str): 'sws', 'tleg' and so on.
        net (str): 'aux' or 'des'.
        size (str): 's' or 'b'.
        number (str, optional): Depth of a descendant; uses of an auxiliary net's blocks.
        variant (str, optional): What else.
        epochs (int): How long it trains.
        data (str): A key of DATA.
    """
    method: str
    net: str
    size: str
    number: Optional[str]
    variant: Optional[str]
    epochs: int
    data: str


def tell(name):
    """Told: What a name tells."""
    told = NAME.fullmatch(name).groupdict()
    return Told(**{**told, 'epochs': int(told['epochs'])})


def write_cifar(root, kind, monkeypatch):
    """Four photos a split in CIFAR's format; the class forgets the real files' checksums."""
    import mmpretrain.datasets
    cls = getattr(mmpretrain.datasets, kind)
    key = 'labels' if kind == 'CIFAR10' else 'fine_labels'
    rng = np.random.default_rng(0)
    for name in ('train_list', 'test_list'):
        files = [[file, None] for file, _ in getattr(cls, name)]
        monkeypatch.setattr(cls, name, files)
        for file, _ in files:
            path = root / cls.base_folder / file
            path.parent.mkdir(exist_ok=True)
            data = rng.integers(0, 256, (4, 3 * 32 * 32), dtype=np.uint8)
            path.write_bytes(pickle.dumps({'data': data, key: [0, 3, 5, 9]}))
    return root


def _photo(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(path)


def write_food(root):
    """Four photos a split in Food-101's layout."""
    (root / 'meta').mkdir(parents=True)
    for split in ('train', 'test'):
        names = [f'{kind}/{split}{i}' for kind in ('apple_pie', 'waffles') for i in range(2)]
        (root / 'meta' / f'{split}.txt').write_text('\n'.join(names))
        for name in names:
            _photo(root / 'images' / f'{name}.jpg')
    return root


def write_cars(root):
    """Four photos a split in the layout of Stanford Cars, labels counted from 1."""
    names = [f'car_ims/{i:06}.jpg' for i in range(8)]
    for name in names:
        _photo(root / name)
    mat4py.savemat(str(root / 'cars_annos.mat'), dict(annotations={
        'relative_im_path': names, 'class': [1, 50, 100, 196] * 2, 'test': [0] * 4 + [1] * 4}))
    return root
