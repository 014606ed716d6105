"""What a user of images and label maps gets wrong, and what is said before a folder is made."""
import cv2
import numpy as np
import pytest
from data_toys import LOOPS, error_of
from mmengine.config import Config
from PIL import Image

from scalenet_mm.engine import check_test, check_train, run_cli, segmentation, train

CLASSES = ('a', 'b', 'c')


def write(path, array, palette=False, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(np.asarray(array))
    if palette:
        image.putpalette(list(range(256)) * 3)
    image.save(path, **options)


def labels(*values, size=(12, 8)):
    """A label map of that width and height, which holds the values."""
    width, height = size
    return np.resize(np.uint8(values), (height, width))


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A sound data set, in the current folder."""
    monkeypatch.chdir(tmp_path)
    root = tmp_path / 'data'
    for split in ('train', 'val'):
        for i in range(4):
            write(root / f'img_dir/{split}/{i}.jpg', np.full((8, 12, 3), 99, np.uint8))
            write(root / f'ann_dir/{split}/{i}.png', labels(0, 1, 2, 255))
    return root


def make(dataset=None, **top):
    """A UPerNet's config, as far as it is looked at."""
    pipeline = [dict(type='LoadImageFromFile'), dict(type='LoadAnnotations'),
                dict(type='PackSegInputs')]
    loaders = {}
    for split in ('train', 'val', 'test'):
        name = 'train' if split == 'train' else 'val'
        loaders[f'{split}_dataloader'] = dict(
            batch_size=2, num_workers=0,
            dataset={**dict(type='BaseSegDataset', data_root='data', pipeline=pipeline,
                            metainfo=dict(classes=CLASSES),
                            data_prefix=dict(img_path=f'img_dir/{name}',
                                             seg_map_path=f'ann_dir/{name}')), **(dataset or {})})
    cfg = Config(dict(
        default_scope='mmseg',
        model=dict(
            type='EncoderDecoder',
            data_preprocessor=dict(type='SegDataPreProcessor', size=(8, 8)),
            backbone=dict(type='ScaleNetSwin', embed_dims=8, depths=(1, 1), num_heads=(1, 1),
                          out_indices=(0, 1)),
            decode_head=dict(type='UPerHead', num_classes=3),
            auxiliary_head=dict(type='FCNHead', num_classes=3)),
        **loaders,
        val_evaluator=dict(type='IoUMetric'),
        test_evaluator=dict(type='IoUMetric'),
        work_dir='work',
        **LOOPS))
    cfg.merge_from_dict(top)
    return cfg


def test_sound(data):
    check_train(make())
    check_test(make())
    # without ground truth
    cfg = make()
    cfg.test_dataloader.dataset.pipeline = [cfg.test_dataloader.dataset.pipeline[i] for i in (0, 2)]
    for path in (data / 'ann_dir/val').iterdir():
        path.unlink()
    check_test(cfg)


class TestFolders:

    def test_suffix_of_images(self, data):
        text = error_of(make(dict(img_suffix='.png')))
        assert "no image with img_suffix='.png'" in text and "files of 4 '.jpg'" in text
        assert 'train_dataloader.dataset.img_suffix' in text

    def test_no_images(self, data):
        for path in (data / 'img_dir/val').iterdir():
            path.unlink()
        text = error_of(make())
        assert text.startswith('val_dataloader.dataset: there is no image')
        assert 'holds no files: put the data there' in text

    def test_suffix_of_label_maps(self, data):
        for path in (data / 'ann_dir/train').iterdir():
            path.rename(path.with_name(f'{path.stem}_mask.png'))
        text = error_of(make())
        assert '4 of 4 images have no label map' in text
        assert str(data / 'ann_dir/train/0.png') in text
        assert "set train_dataloader.dataset.seg_map_suffix='_mask.png'" in text
        cfg = make()
        cfg.train_dataloader.dataset.seg_map_suffix = '_mask.png'
        check_train(cfg)

    def test_other_names(self, data):
        for i, path in enumerate((data / 'ann_dir/train').iterdir()):
            path.rename(path.with_name(f'label{i}.png'))
        text = error_of(make())
        assert "files of 4 '.png' such as label0.png" in text and 'that of its image' in text

    def test_one_lost(self, data):
        (data / 'ann_dir/val/2.png').unlink()
        text = error_of(make())
        assert text.startswith('val_dataloader.dataset: 1 of 4') and 'val/2.jpg' in text
        assert 'add them, or remove the images' in text

    def test_none(self, data):
        for path in (data / 'ann_dir/train').iterdir():
            path.unlink()
        assert 'there is no label map in' in error_of(make())

    def test_list(self, data):
        (data / 'list.txt').write_text('0\n1\n')
        check_train(make(dict(ann_file='list.txt')))
        (data / 'list.txt').write_text('0.jpg\n')
        assert 'names are relative to data_prefix.img_path and have no suffix' in error_of(
            make(dict(ann_file='list.txt')))
        (data / 'list.txt').write_text('')
        assert 'list.txt is empty' in error_of(make(dict(ann_file='list.txt')))


class TestFiles:

    @pytest.fixture(params=('train', 'val'))
    def path(self, request, data):
        self.split = request.param
        return data / f'ann_dir/{request.param}/1.png'

    def error(self, path):
        text = error_of(make())
        assert f'ann_dir/{self.split}/1.png' in text
        return text

    def test_colours(self, path):
        write(path, np.zeros((8, 12, 3), np.uint8))
        assert 'is a RGB picture with 3 channels, not a label map' in self.error(path)

    def test_palette(self, path):
        write(path, labels(0, 1, 2), palette=True)
        check_train(make())
        write(path, labels(0, 7, 2), palette=True)
        assert 'holds the label(s) 7' in self.error(path)

    def test_16_bits(self, path):
        write(path, np.full((8, 12), 257, np.uint16))
        assert 'holds the value 257' in self.error(path)

    def test_size(self, path):
        write(path, labels(0, 1, 2, size=(8, 12)))
        text = self.error(path)
        assert 'has 8 x 12 pixels' in text and f'img_dir/{self.split}/1.jpg 12 x 8' in text

    def test_size_of_an_image_that_is_turned(self, data, path):
        exif = Image.Exif()
        exif[0x0112] = 6
        image = data / f'img_dir/{self.split}/1.jpg'
        write(image, np.full((12, 8, 3), 99, np.uint8), exif=exif)
        assert cv2.imread(str(image)).shape == (8, 12, 3)
        check_train(make())

    @pytest.mark.parametrize('content, words', (
        (b'', 'is empty (0 bytes)'), (b'<html>', 'holds a web page')))
    def test_no_image(self, path, content, words):
        path.write_bytes(content)
        assert words in self.error(path)


class TestLabels:

    def fill(self, data, *values, split='train'):
        for path in (data / 'ann_dir' / split).iterdir():
            write(path, labels(*values))

    def test_values_outside(self, data):
        self.fill(data, 0, 1, 3, 7)
        text = error_of(make())
        assert 'ann_dir/train/0.png holds the label(s) 3, 7' in text
        assert 'there are 3 classes, 0 to 2, and 255 is ignored' in text
        assert 'metainfo.classes' in text and 'write 255' in text and 'ignore_index' not in text

    def test_a_void_of_another_number(self, data):
        self.fill(data, 0, 1, 2, 3)
        text = error_of(make())
        ignore = ('set ignore_index=3 in decode_head, auxiliary_head and the evaluators, and '
                  'seg_pad_val=3 in the data preprocessor')
        assert ignore in text
        options = {f'model.{head}.ignore_index': 3 for head in ('decode_head', 'auxiliary_head')}
        # the other half of it
        assert 'model.data_preprocessor.seg_pad_val=255' in error_of(make(**options))
        options['model.data_preprocessor.seg_pad_val'] = 3
        for path in (data / 'ann_dir/val').iterdir():
            write(path, labels(0, 1, 3))
        assert error_of(make(**options)).startswith('val_dataloader.dataset: ')
        check_train(make(**options, **{'val_evaluator.ignore_index': 3}))

    def test_labels_from_one(self, data):
        for split in ('train', 'val'):
            self.fill(data, 0, 1, 2, 3, split=split)
        assert 'reduce_zero_label=True' in error_of(make())
        check_train(make(dict(reduce_zero_label=True)))
        self.fill(data, 0, 1, 2, 5)
        text = error_of(make(dict(reduce_zero_label=True)))
        assert 'holds the label(s) 5' in text and '3 classes, 1 to 3' in text

    def test_reduced_in_one_split(self, data):
        cfg = make()
        cfg.val_dataloader.dataset.reduce_zero_label = True
        text = error_of(cfg)
        assert 'reduce_zero_label differs' in text
        assert 'val_dataloader.dataset.reduce_zero_label=True' in text

    def test_reduced_by_the_loader(self, data):
        cfg = make()
        cfg.train_dataloader.dataset.pipeline[1].reduce_zero_label = True
        text = error_of(cfg)
        assert 'train/0.png cannot be loaded (AssertionError' in text
        assert 'reduce_zero_label' in text

    def test_255_for_the_class(self, data):
        self.fill(data, 0, 255)
        text = error_of(make())
        assert 'hold 0 and 255 alone' in text and 'write 1 for the class' in text

    def test_nothing_but_ignored(self, data):
        self.fill(data, 255)
        assert 'nothing but the ignored label 255' in error_of(make())

    def test_only_some_are_looked_at(self, data, monkeypatch):
        monkeypatch.setattr(segmentation, 'SAMPLES', 2)
        write(data / 'ann_dir/train/1.png', labels(9))
        check_train(make())
        write(data / 'ann_dir/train/3.png', labels(9))
        assert '3.png holds the label(s) 9' in error_of(make())

    def test_transforms_of_ones_own_may_change_them(self, data):
        from mmcv.transforms import BaseTransform
        from mmengine.registry import TRANSFORMS

        class MyLabels(BaseTransform):

            def transform(self, results):
                return results

        TRANSFORMS.register_module(name='MyLabels', module=MyLabels, force=True)
        self.fill(data, 0, 1, 9)
        cfg = make()
        cfg.train_dataloader.dataset.pipeline.insert(2, dict(type='MyLabels'))
        check_train(cfg)

    def test_classes_chosen(self, data):
        """A data set of known classes maps the others to 255."""
        from mmseg.datasets import ADE20KDataset
        names = ADE20KDataset.METAINFO['classes']
        for split in ('train', 'val'):
            self.fill(data, 0, 1, 2, 150, split=split)
        dataset = dict(type='ADE20KDataset', metainfo=dict(classes=names[:3]))
        check_train(make(dataset))
        text = error_of(make(dict(dataset, metainfo=dict(classes=('wal', 'building')))))
        assert 'ADE20KDataset cannot be built' in text and 'wal' in text


    def test_a_class_that_is_ignored(self, data):
        # the default padding is none of it, but nothing need be filled up
        options = {f'model.{head}.ignore_index': 0 for head in ('decode_head', 'auxiliary_head')}
        for split in ('train', 'val'):
            self.fill(data, 0, 1, 2, split=split)
        check_train(make(**options, **{'val_evaluator.ignore_index': 0}))

    def test_labels_that_do_not_count(self, data):
        self.fill(data, 255, split='val')
        assert 'nothing but the ignored label' in error_of(make(), check_test)
        check_test(make(**{'test_evaluator.format_only': True}))

    def test_images_that_are_no_files(self, data):
        for image in (data / 'img_dir/train').iterdir():
            image.write_bytes(b'')
        assert 'the image' in error_of(make())
        cfg = make()
        cfg.train_dataloader.dataset.pipeline[0] = dict(type='LoadFromSomewhereElse')
        segmentation.check_segmentation(cfg, ('train', ))


class TestImageSizes:
    """The images have 12 x 8 pixels."""

    def make(self, **model):
        cfg = make()
        cfg.model.backbone = dict(
            type='ScaleNetViT', img_size=8, patch_size=8, out_indices=(0, ), out_type='featmap',
            arch=dict(embed_dims=8, num_layers=1, num_heads=1, feedforward_channels=8))
        cfg.model.neck = dict(type='MultiLevelNeck', in_channels=[8], out_channels=8)
        cfg.model.update(model)
        return cfg

    @pytest.mark.parametrize('check', (check_train, check_test))
    def test_smaller_than_two_patches(self, data, check):
        text = error_of(self.make(), check)
        assert 'val/0.jpg has 12 x 8 pixels, but MultiLevelNeck behind patches of 8 needs 9' in text
        assert 'size_divisor=16' in text

    def test_as_the_message_says(self, data):
        cfg = self.make()
        cfg.model.data_preprocessor.test_cfg = dict(size_divisor=16)
        check_train(cfg)
        cfg = self.make()
        cfg.val_dataloader.dataset.pipeline.insert(1, dict(type='Resize', scale=(32, 32)))
        check_train(cfg)

    def test_others(self, data):
        check_train(self.make(neck=None))
        cfg = self.make()
        cfg.model.backbone.patch_size = 4
        check_train(cfg)


class TestClasses:

    def test_heads(self, data):
        text = error_of(make(**{'model.decode_head.num_classes': 150}))
        assert 'has 3 classes (a, b, c), but model.decode_head.num_classes=150: set' in text
        assert '--cfg-options model.decode_head.num_classes=3,' in text
        assert 'model.auxiliary_head.num_classes=19' in error_of(
            make(**{'model.auxiliary_head.num_classes': 19}), check_test)

    def test_lists_of_heads(self, data):
        cfg = make()
        cfg.model.auxiliary_head = [dict(type='FCNHead', num_classes=n) for n in (3, 2)]
        assert 'model.auxiliary_head.1.num_classes=2' in error_of(cfg)

    def test_a_head_for_boundaries(self, data):
        cfg = make()
        cfg.model.auxiliary_head = [dict(type='FCNHead', num_classes=3),
                                    dict(type='STDCHead', num_classes=2)]
        check_train(cfg)
        cfg.model.auxiliary_head[1].type = 'FCNHead'
        assert 'model.auxiliary_head.1.num_classes=2' in error_of(cfg)

    def test_other_metrics_need_no_classes(self, data):
        cfg = make(val_evaluator=dict(_delete_=True, type='DepthMetric'))
        for split in ('train', 'val'):
            cfg[f'{split}_dataloader'].dataset.metainfo.pop('classes')
        check_train(cfg)

    def test_weights_of_classes(self, data):
        cfg = make()
        cfg.model.decode_head.loss_decode = dict(type='CrossEntropyLoss', class_weight=[1.] * 19)
        assert 'model.decode_head.loss_decode.class_weight has 19 numbers' in error_of(cfg)
        cfg.model.decode_head.loss_decode.class_weight = [1.] * 3
        check_train(cfg)

    def test_none(self, data):
        text = error_of(make(dict(metainfo=None)))
        assert text.startswith('val_dataloader.dataset names no classes')
        cfg = make(dict(metainfo=None))
        cfg.val_cfg = cfg.val_dataloader = cfg.val_evaluator = None
        check_train(cfg)

    def test_one_as_a_text(self, data):
        assert "classes=('cat', )" in error_of(make(dict(metainfo=dict(classes='cat'))))

    def test_splits(self, data):
        cfg = make()
        cfg.val_dataloader.dataset.metainfo.classes = ('a', 'c', 'b')
        assert 'train_dataloader.dataset and val_dataloader.dataset have' in error_of(cfg)


def test_through_the_command(data, capfd):
    write(data / 'ann_dir/train/1.png', labels(0, 77))
    make().dump('c.py')
    assert run_cli(lambda: train(['c.py', '--work-dir', 'work'])) == 2
    error = capfd.readouterr().err.strip().splitlines()[-1]
    assert error.startswith('error: train_dataloader.dataset: ') and 'label(s) 77' in error
    assert not (data.parent / 'work').exists()
