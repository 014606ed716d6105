"""Which samples are measured on."""
import random

import numpy as np
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import DATASETS

from scalenet_mm import ConfigError
from scalenet_mm.analysis.samples import SampleBatches, annotations_first, count_cores


@DATASETS.register_module(name='AnalysisToyData')
class Data(torch.utils.data.Dataset):
    """Numbers, with random augmentation of every kind."""

    def __init__(self, count=20, broken=None, ragged=False):
        self.count, self.broken, self.ragged = count, broken, ragged

    def __len__(self):
        return self.count

    def __getitem__(self, index):
        if index == self.broken:
            raise OSError('cannot identify image')
        noise = torch.tensor([random.random(), np.random.rand(), torch.rand(()).item()])
        size = 1 + index % 2 if self.ragged else 1
        return dict(inputs=torch.full((size, ), float(index)), noise=noise)

    def get_data_info(self, index):
        return dict(img_path=f'images/{index}.jpg')


def batches(num_samples=6, batch_size=2, workers=0, seed=0, drop_last=False, **dataset):
    cfg = Config(
        dict(
            val_dataloader=dict(
                num_workers=64,
                collate_fn=dict(type='default_collate'),
                dataset=dict(type='AnalysisToyData', **dataset))))
    return SampleBatches(cfg, 'val', num_samples, batch_size, seed, workers, drop_last)


def drawn(loaded):
    return [(batch['inputs'].flatten().tolist(), batch['noise'].tolist()) for batch in loaded]


def test_the_same_samples_with_the_same_noise_each_time():
    loaded = batches()
    first = drawn(loaded)
    torch.rand(3)  # what a model draws
    assert drawn(loaded) == first == drawn(batches(workers=2)) and len(first) == len(loaded) == 3
    assert [i for ids, _ in drawn(batches(batch_size=3)) for i in ids] == [
        i for ids, _ in first for i in ids]
    assert drawn(batches(seed=1)) != first
    noise = [tuple(n) for _, noises in first for n in noises]
    assert len(set(noise)) == 6 and len({x for n in noise for x in n}) == 18
    ids = loaded.indices
    assert len(set(ids)) == 6 and ids != sorted(ids)


def test_models_draw_the_same_in_each_batch():
    draws = [[torch.rand(()).item() for _ in batches(workers=workers)] for workers in (1, 1, 0)]
    assert draws[0] == draws[1] == draws[2] and len(set(draws[0])) == 3


def test_numbers_of_samples():
    assert batches(7, 3).num_samples == 7 and len(batches(7, 3)) == 3
    assert batches(7, 3, drop_last=True).num_samples == 6
    assert batches(100, 8).num_samples == 20
    assert [len(ids) for ids, _ in drawn(batches(7, 3))] == [3, 3, 1]
    assert batches(workers=None).workers == min(64, count_cores())
    with pytest.raises(ConfigError, match=r'20 sample\(s\) fill no batch of 32'):
        batches(100, 32, drop_last=True)
    with pytest.raises(ConfigError, match='the data set is empty'):
        batches(count=0)
    with pytest.raises(ConfigError, match='--num-samples must be 1 or more, got 0'):
        batches(0)
    with pytest.raises(ConfigError, match='--batch-size must be 1 or more, got -1'):
        batches(batch_size=-1)


@pytest.mark.parametrize('workers', (0, 1))
def test_a_sample_that_does_not_load_is_named(workers):
    bad = batches().indices[3]
    with pytest.raises(ConfigError) as error:
        list(batches(broken=bad, workers=workers))
    assert str(error.value) == (f'sample {bad} of the data set (images/{bad}.jpg) cannot be '
                                'loaded: OSError: cannot identify image')


def test_samples_of_different_sizes():
    with pytest.raises(ConfigError, match='--batch-size 1'):
        list(batches(ragged=True))
    assert len(list(batches(ragged=True, batch_size=1))) == 6


def test_no_such_loader_or_data(tmp_path):
    cfg = Config(dict(train_dataloader=dict(dataset=dict(type='CocoDataset', data_root='nope/'))))
    with pytest.raises(ConfigError, match='--split val: the config has no val_dataloader; it has '
                       'one for train'):
        SampleBatches(cfg, 'val', 1, 1)
    with pytest.raises(ConfigError, match="train_dataloader.dataset.data_root='nope/'"):
        SampleBatches(cfg, 'train', 1, 1)


def test_annotations_are_loaded_before_the_image_is_resized():
    load, resize, annotations, pack = (
        dict(type=name) for name in ('LoadImageFromFile', 'mmdet.Resize',
                                     'mmdet.LoadPanopticAnnotations', 'PackDetInputs'))
    expected = [load, annotations, resize, pack]
    assert annotations_first([load, resize, annotations, pack]) == expected
    assert annotations_first(expected) == expected
    assert annotations_first([load, resize, pack]) == [load, resize, pack]
    assert annotations_first([resize, annotations]) == [resize, annotations]
