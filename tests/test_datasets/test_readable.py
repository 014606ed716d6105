"""Images and label maps that do not open."""
import os
import pickle

import cv2
import numpy as np
import pytest
from mmcv.transforms import LoadImageFromFile, TestTimeAug
from mmengine.dataset import BaseDataset, Compose, ConcatDataset, RepeatDataset
from mmengine.registry import DefaultScope
from torch.utils.data import DataLoader

from scalenet_mm.datasets.readable import NamingLoader, find_fault, name_unreadable
from scalenet_mm.errors import DataError

rng = np.random.default_rng(0)
IMAGE = rng.integers(0, 255, (40, 50, 3), np.uint8)


def encoded(extension):
    return cv2.imencode(extension, IMAGE)[1].tobytes()


#: What is in a file that should be an image, and what is said of it.
BAD = {
    'empty': (b'', r'is empty \(0 bytes\)'),
    'text': (b'not an image\n', r'is no image \(it begins with b.not an image'),
    'page': (b'<!DOCTYPE html><html></html>', 'holds a web page'),
    'lfs': (b'version https://git-lfs.github.com/spec/v1\n', 'is a Git LFS pointer'),
    'cut jpg': (encoded('.jpg')[:900], r'is cut off or damaged \(900 bytes'),
    'cut png': (encoded('.png')[:900], r'is cut off or damaged \(900 bytes'),
}


class Images(BaseDataset):
    """One image a file, of a folder."""

    def load_data_list(self):
        return [dict(img_path=path) for path in self.files]

    def __init__(self, files, pipeline=None, **kwargs):
        self.files = [str(f) for f in files]
        super().__init__(pipeline=pipeline or [LoadImageFromFile()], **kwargs)


class TestFiles:

    @pytest.mark.parametrize('name', BAD)
    def test_bad(self, tmp_path, name):
        content, message = BAD[name]
        path = tmp_path / 'x.jpg'
        path.write_bytes(content)
        with pytest.raises(DataError, match=f'an image cannot be read: {path} {message}'):
            NamingLoader(LoadImageFromFile())(dict(img_path=str(path)))

    def test_not_there(self, tmp_path):
        for path, message in ((tmp_path, 'is a folder'), (tmp_path / 'x', 'does not exist'),
                              (tmp_path / 'y', 'is a link to nowhere')):
            if path.name == 'y':
                os.symlink('nowhere', path)
            with pytest.raises(DataError, match=f'{path} {message}'):
                NamingLoader(LoadImageFromFile())(dict(img_path=str(path)))

    def test_a_format_that_opencv_may_not_read(self, tmp_path):
        from PIL import Image
        Image.fromarray(IMAGE).save(tmp_path / 'x.ico')
        with pytest.raises(DataError, match="is a ICO file.*imdecode_backend='pillow'"):
            NamingLoader(LoadImageFromFile())(dict(img_path=str(tmp_path / 'x.ico')))
        loader = NamingLoader(LoadImageFromFile(imdecode_backend='pillow'))
        assert loader(dict(img_path=str(tmp_path / 'x.ico')))['img'].ndim == 3

    @pytest.mark.parametrize('extension', ('.jpg', '.png', '.bmp'))
    def test_good(self, tmp_path, extension):
        path = tmp_path / f'x{extension}'
        path.write_bytes(encoded(extension))
        plain = LoadImageFromFile()(dict(img_path=str(path)))
        named = NamingLoader(LoadImageFromFile())(dict(img_path=str(path)))
        assert np.array_equal(plain.pop('img'), named.pop('img')) and plain == named
        assert find_fault(str(path)) is None

    def test_what_is_not_the_file_s_fault(self, tmp_path):
        path = tmp_path / 'x.png'
        path.write_bytes(encoded('.png'))
        with pytest.raises(DataError, match='cannot be decoded .*nonsense'):
            NamingLoader(LoadImageFromFile(imdecode_backend='nonsense'))(dict(img_path=str(path)))
        with pytest.raises(KeyError):
            NamingLoader(LoadImageFromFile())(dict())

    @pytest.mark.parametrize('name', BAD)
    def test_skipped_if_asked_for(self, tmp_path, name):
        (tmp_path / 'bad.jpg').write_bytes(BAD[name][0])
        (tmp_path / 'good.png').write_bytes(encoded('.png'))
        dataset = Images([tmp_path / 'bad.jpg', tmp_path / 'good.png'],
                         pipeline=[LoadImageFromFile(ignore_empty=True)])
        name_unreadable(dataset)
        assert dataset[0]['img_path'].endswith('good.png')


class TestDatasets:

    @pytest.fixture
    def files(self, tmp_path):
        for i in range(4):
            (tmp_path / f'{i}.png').write_bytes(encoded('.png'))
        (tmp_path / '2.png').write_bytes(b'')
        return [tmp_path / f'{i}.png' for i in range(4)]

    @pytest.mark.parametrize('workers', (0, 2))
    def test_through_a_dataloader(self, files, workers):
        dataset = Images(files)
        name_unreadable(dataset)
        with pytest.raises(DataError, match='2.png is empty'):
            list(DataLoader(dataset, num_workers=workers, collate_fn=list))

    def test_wrapped_and_nested(self, files):
        tta = TestTimeAug([[dict(type='LoadImageFromFile')], [dict(type='RandomFlip', prob=0.)]])
        first, second = Images(files), Images(files, pipeline=[tta])
        for wrapped, count in ((RepeatDataset(first, 2), 1), (ConcatDataset([first, second]), 2)):
            assert name_unreadable(wrapped) == count
            assert name_unreadable(wrapped) == count  # and not wrapped twice
            for index in (2, len(wrapped) - 2):
                with pytest.raises(DataError, match='2.png is empty'):
                    wrapped[index]
        loader = first.pipeline.transforms[0]
        assert isinstance(loader.loader, LoadImageFromFile)
        assert repr(loader) == repr(loader.loader)

    def test_for_processes_that_are_spawned(self, files):
        dataset = Images(files)
        name_unreadable(dataset)
        with pytest.raises(DataError, match='2.png is empty'):
            pickle.loads(pickle.dumps(dataset))[2]

    def test_other_datasets(self):
        assert name_unreadable([1, 2]) == 0
        assert name_unreadable(object()) == 0


@pytest.mark.parametrize('scope', ('mmpretrain', 'mmdet', 'mmseg'))
def test_each_toolbox_s_image_loader(tmp_path, scope):
    path = tmp_path / 'x.png'
    path.write_bytes(BAD['cut png'][0])
    with DefaultScope.overwrite_default_scope(scope):
        pipeline = Compose([dict(type='LoadImageFromFile')])
    dataset = Images([path], pipeline=pipeline.transforms)
    assert name_unreadable(dataset) == 1
    with pytest.raises(DataError, match='x.png is cut off'):
        dataset[0]


@pytest.mark.parametrize('loader', (
    dict(type='mmdet.LoadAnnotations', with_bbox=False, with_seg=True),
    dict(type='mmseg.LoadAnnotations')))
def test_each_toolbox_s_label_maps(tmp_path, loader):
    with DefaultScope.overwrite_default_scope(loader['type'].split('.')[0]):
        pipeline = Compose([loader])
    path = tmp_path / 'x.png'
    assert name_unreadable(Images([path], pipeline=[pipeline])) == 1
    sample = dict(seg_map_path=str(path), seg_fields=[], reduce_zero_label=None)
    for content, message in ((b'', 'is empty'), (b'text', 'is no image')):
        path.write_bytes(content)
        with pytest.raises(DataError, match=f'a label map cannot be read: {path} {message}'):
            pipeline(dict(sample))
    path.write_bytes(cv2.imencode('.png', IMAGE[..., 0])[1].tobytes())
    assert pipeline(dict(sample))['gt_seg_map'].shape == (40, 50)
    # what is no file's fault keeps its own error
    sample['seg_map_path'] = 3
    with pytest.raises(Exception) as error:
        pipeline(sample)
    assert not isinstance(error.value, DataError)
