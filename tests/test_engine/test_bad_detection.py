"""What a user of COCO-format data gets wrong, and what is said before a folder is made."""
import contextlib
import copy
import json
import unittest.mock

import pytest
from data_toys import LOOPS, coco, error_of, write_coco
from mmengine.config import Config

from scalenet_mm.engine import check_test, check_train, detection, run_cli, train
from scalenet_mm.errors import ConfigError

CLASSES = ('a', 'b', 'c')


@contextlib.contextmanager
def warned():
    """Gives a function that tells what was logged within the block."""
    lines = []
    with unittest.mock.patch.object(
            detection, 'print_log', lambda message, *args: lines.append(message)):
        yield lambda: '\n'.join(lines)


@pytest.fixture
def data(tmp_path, monkeypatch):
    """A sound data set, in the current folder."""
    monkeypatch.chdir(tmp_path)
    root = tmp_path / 'data'
    write_coco(root, 'train')
    write_coco(root, 'val')
    return root


def make(masks=True, classes=CLASSES, **top):
    """A Mask R-CNN's config, as far as it is looked at."""
    pipeline = [dict(type='LoadImageFromFile'),
                dict(type='LoadAnnotations', with_bbox=True, with_mask=masks),
                dict(type='PackDetInputs')]
    loaders = {}
    for split in ('train', 'val', 'test'):
        name = 'train' if split == 'train' else 'val'
        loaders[f'{split}_dataloader'] = dict(
            batch_size=2, num_workers=0,
            dataset=dict(type='CocoDataset', data_root='data', ann_file=f'annotations/{name}.json',
                         data_prefix=dict(img=f'{name}/'), pipeline=pipeline,
                         test_mode=split != 'train', **(dict(metainfo=dict(classes=classes))
                                                        if classes else {})))
    metric = dict(type='CocoMetric', ann_file='data/annotations/val.json',
                  metric=['bbox', 'segm'] if masks else 'bbox')
    cfg = Config(dict(
        default_scope='mmdet',
        model=dict(
            type='MaskRCNN',
            backbone=dict(type='ScaleNetSwin', embed_dims=8, depths=(1, 1), num_heads=(1, 1),
                          out_indices=(0, 1)),
            roi_head=dict(
                type='StandardRoIHead',
                bbox_head=dict(type='Shared2FCBBoxHead', num_classes=3),
                mask_head=dict(type='FCNMaskHead', num_classes=3))),
        **loaders,
        val_evaluator=metric,
        test_evaluator=metric,
        work_dir='work',
        **LOOPS))
    cfg.merge_from_dict(top)
    return cfg


def change(root, split='train', **top):
    """Write an annotation file anew, with its lists or the keys of its first annotation changed."""
    path = root / 'annotations' / f'{split}.json'
    content = json.loads(path.read_text())
    for key, value in top.items():
        if key in content or key == 'extra':
            content[key] = value
        elif value is None:
            del content['annotations'][0][key]
        else:
            content['annotations'][0][key] = value
    path.write_text(json.dumps(content))


def test_sound(data):
    check_train(make())
    check_test(make())
    check_train(make(masks=False))


class TestFile:

    @pytest.mark.parametrize('content, words', (
        ('', ('is empty (0 bytes)', )),
        ('version https://git-lfs', ('Git LFS pointer', )),
        ('<html>', ('is not JSON', "begins with '<html>'", '"images"')),
        ('{"images": [', ('is not JSON', )),
        ('[]', ('holds a list', '"categories"')),
        ('{"shapes": []}', ('no list "images"', 'it has shapes')),
        ('{"images": [], "annotations": [], "categories": []}', ('has no categories', )),
        ('{"images": [{}], "annotations": 3, "categories": []}', ('no list "annotations"', )),
    ))
    def test_content(self, data, content, words):
        path = data / 'annotations/train.json'
        path.write_text(content)
        text = error_of(make())
        assert text.startswith('train_dataloader.dataset.ann_file') and str(path) in text
        for word in words:
            assert word in text

    def test_no_images(self, data):
        change(data, images=[])
        assert 'train.json lists no images' in error_of(make())

    @pytest.mark.parametrize('split', ('train', 'val'))
    @pytest.mark.parametrize('annotations', ([], None))
    def test_no_annotations(self, data, split, annotations):
        change(data, split, annotations=annotations or [])
        if annotations is None:
            path = data / f'annotations/{split}.json'
            path.write_text(path.read_text().replace('"annotations": [], ', ''))
        text = error_of(make())
        assert text.startswith(f'{split}_dataloader.dataset.ann_file')
        assert f'{split}.json has no annotations' in text

    def test_images_of_a_test_without_truth(self, data):
        change(data, 'val', annotations=[])
        assert 'no annotations' in error_of(make(), check_test)
        check_test(make(**{'test_evaluator.format_only': True}))
        check_test(make(test_evaluator=dict(
            _delete_=True, type='DumpDetResults', out_file_path='a.pkl')))

    def test_a_part_without_objects_beside_others(self, data):
        write_coco(data, 'empty', dict(coco(), annotations=[]))
        cfg = make()
        part = copy.deepcopy(cfg.train_dataloader.dataset)
        part.update(ann_file='annotations/empty.json', data_prefix=dict(img='empty/'))
        both = [part, cfg.train_dataloader.dataset]
        cfg.train_dataloader.dataset = dict(type='ConcatDataset', datasets=both)
        check_train(cfg)
        cfg.train_dataloader.dataset.datasets.pop(1)
        assert 'empty.json has no annotations' in error_of(cfg)

    @pytest.mark.parametrize('loader', (
        dict(type='LoadImageFromFile', backend_args=dict(backend='petrel')),
        dict(type='LoadFromSomewhereElse')))
    def test_images_that_are_no_files(self, data, loader):
        for image in (data / 'train').iterdir():
            image.unlink()
        assert 'images that were looked for are not there' in error_of(make())
        cfg = make()
        cfg.train_dataloader.dataset.pipeline[0] = loader
        check_train(cfg)

    def test_unlabelled_images_to_train_on(self, data):
        change(data, annotations=[])
        cfg = make()
        cfg.train_dataloader.dataset.pipeline.pop(1)
        check_train(cfg)

    def test_no_file_named(self, data):
        cfg = make()
        cfg.train_dataloader.dataset.ann_file = ''
        assert 'train_dataloader.dataset.ann_file: ' in error_of(cfg)
        assert 'is no file: name the annotations' in error_of(cfg)

    def test_no_objects_of_the_classes(self, data):
        names = [*'abcd']
        write_coco(data, 'train', coco(names=names))
        write_coco(data, 'val', coco(names=names))
        one = {'model.roi_head.bbox_head.num_classes': 1, 'model.roi_head.mask_head.num_classes': 1}
        check_train(make(classes=('d', ), **one))
        kept = [a for a in coco(names=names)['annotations'] if a['category_id'] != 4]
        change(data, annotations=kept)
        text = error_of(make(classes=('d', ), **one))
        assert 'has 6 annotations, but none that can be used of d' in text

    def test_large_files_are_not_parsed_twice(self, data, monkeypatch):
        monkeypatch.setattr(detection, 'SMALL', 10)
        (data / 'annotations/train.json').write_text('{"images": [' + ' ' * 10)
        check_train(make())
        text = error_of(make(**{'model.roi_head.bbox_head.num_classes': 4}))
        assert 'model.roi_head.bbox_head.num_classes=3' in text


class TestItems:

    @pytest.mark.parametrize('key', ('id', 'image_id', 'category_id', 'bbox', 'area'))
    def test_missing_keys(self, data, key):
        change(data, **{key: None})
        text = error_of(make())
        assert f"annotations[0] has no '{key}'" in text and 'train.json' in text

    @pytest.mark.parametrize('key', ('file_name', 'width', 'height', 'id'))
    def test_missing_keys_of_images(self, data, key):
        images = coco()['images']
        del images[1][key]
        change(data, images=images)
        assert f"images[1] has no '{key}'" in error_of(make())

    @pytest.mark.parametrize('values, words', (
        (dict(image_id=[1]), ('annotations[0] has image_id=[1]', 'a number or a text')),
        (dict(area='5'), ("annotations[0] has area='5'", 'must be a number')),
        (dict(bbox='1, 2, 3, 4'), ('must be a list', )),
        (dict(bbox=[1, 2, 3]), ('has the box [1, 2, 3]', '[x, y, width, height]')),
        (dict(bbox=None), ("has no 'bbox'", )),
        (dict(id=2), ('several annotations of one id', )),
        (dict(segmentation=None), ('annotations[0] (id 1) has no "segmentation"', 'with_mask')),
        (dict(segmentation=[]), ('has no "segmentation"', )),
    ))
    def test_values(self, data, values, words):
        change(data, **values)
        text = error_of(make())
        for word in ('train.json', *words):
            assert word in text

    def test_kinds_in_images(self, data):
        for key, value in (('width', '32'), ('file_name', 5)):
            images = coco()['images']
            images[1][key] = value
            change(data, images=images)
            assert f'images[1] has {key}={value!r}, which must be' in error_of(make())

    @pytest.mark.parametrize('values', (dict(image_id=7), dict(category_id=9),
                                        dict(ignore=1, area=None)))
    def test_what_mmdet_passes_over(self, data, values):
        for split in ('train', 'val'):  # a file that was cut down
            change(data, split, **values)
        if 'ignore' in values:
            change(data, 'val', area=1)
        with warned() as text:
            check_train(make())
        assert ('1 of 6 annotations are of none of its' in text()) == ('ignore' not in values)

    def test_nothing_left(self, data):
        for_all = [dict(a, image_id=7) for a in coco()['annotations']]
        change(data, annotations=for_all)
        assert 'none that can be used' in error_of(make())

    def test_an_id_that_the_evaluation_never_finds(self, data):
        change(data, 'val', id=0)
        with warned() as text:
            check_train(make())
        assert 'val.json has an annotation of id 0' in text()

    def test_masks_are_not_asked_for_without_use(self, data):
        for split in ('train', 'val'):
            change(data, split, segmentation=None)
        check_train(make(masks=False))
        # mmdet passes this one over
        change(data, bbox=[1, 1, 0, 4])
        change(data, 'val', segmentation=[[1, 1, 4, 1, 4, 4]])
        check_train(make())

    def test_boxes_of_corners_in_fractions(self, data):
        for_all = [dict(a, bbox=[0.1, 0.1, 0.9, 0.9]) for a in coco()['annotations']]
        change(data, annotations=for_all)
        text = error_of(make())
        assert 'none that can be used' in text and 'in pixels' in text

    def test_boxes_that_mmdet_passes_over(self, data):
        change(data, bbox=[-9, 0, 4, 4])
        check_train(make())


class TestClasses:

    def test_other_case(self, data):
        text = error_of(make(classes=('A', 'b', 'c')))
        assert text.startswith('train_dataloader.dataset.metainfo.classes names 1')
        assert "Did you mean 'a' for 'A'" in text and "classes=('a', 'b', 'c')" in text

    def test_coco_left_over(self, data):
        text = error_of(make(classes=None))
        assert 'own list of 80 classes' in text and "metainfo=dict(classes=('a', 'b', 'c'))" in text

    def test_a_text(self, data):
        text = error_of(make(classes='cat'))
        assert "is the text 'cat'" in text and "classes=('cat', )" in text

    def test_order(self, data):
        text = error_of(make(classes=('b', 'a', 'c')))
        assert 'another order' in text and "classes=('a', 'b', 'c')" in text
        # a model that was trained so is tested rightly; only the names in pictures are wrong
        with warned() as text:
            check_test(make(classes=('b', 'a', 'c')))
        assert 'another order' in text()

    @pytest.mark.parametrize('names', (('a', 'b', 'b'), ('a', 'b', 'c')))
    def test_twice(self, data, names):
        write_coco(data, 'train', coco(names=names))
        classes = CLASSES if names == CLASSES else ('a', 'b')
        ids = [dict(id=min(i + 1, 2), name=n) for i, n in enumerate(names)]
        if names == CLASSES:
            change(data, categories=ids)
        text = error_of(make(classes=classes))
        assert ('of id 2' if names == CLASSES else 'more than one class of the name b') in text

    def test_heads(self, data):
        bbox, mask = (f'model.roi_head.{k}_head.num_classes' for k in ('bbox', 'mask'))
        text = error_of(make(**{bbox: 80, mask: 80}))
        assert 'has 3 classes (a, b, c), but' in text and f'{bbox}=80, {mask}=80' in text
        fixes = text[text.index('--cfg-options') + 14:].split(',')[0].split()
        assert fixes == [f'{bbox}=3', f'{mask}=3']
        cfg = make(**{bbox: 80, mask: 80})
        cfg.merge_from_dict(dict((k, int(v)) for k, v in (f.split('=') for f in fixes)))
        check_train(cfg)
        check_test(make(**{mask: 80, 'model.roi_head.mask_head.class_agnostic': True}))

    def test_heads_of_a_cascade(self, data):
        heads = [dict(type='Shared2FCBBoxHead', num_classes=n) for n in (3, 4, 3)]
        cfg = make()
        cfg.model.roi_head.bbox_head = heads
        text = error_of(cfg)
        assert 'model.roi_head.bbox_head.1.num_classes=4: set' in text

    @pytest.mark.parametrize('type, head', (
        ('RetinaNet', 'bbox_head'), ('DINO', 'bbox_head'), ('Mask2Former', 'panoptic_head')))
    def test_other_detectors(self, data, type, head):
        cfg = make()
        del cfg.model['roi_head']
        options = dict(num_classes=80) if head == 'bbox_head' else dict(
            num_things_classes=80, num_stuff_classes=53)
        cfg.model.update({'type': type, head: options})
        text = error_of(cfg)
        for name, value in options.items():
            assert f'model.{head}.{name}={value}' in text
            assert f'model.{head}.{name}={0 if "stuff" in name else 3}' in text

    def test_weights_of_classes(self, data):
        cfg = make()
        del cfg.model['roi_head']
        cfg.model.type = 'Mask2Former'
        cfg.model.panoptic_head = dict(
            type='Mask2FormerHead', num_things_classes=3, num_stuff_classes=0,
            loss_cls=dict(type='CrossEntropyLoss', class_weight=[1.] * 80 + [.1]))
        text = error_of(cfg)
        assert 'model.panoptic_head.loss_cls.class_weight has 81 numbers' in text
        assert 'class_weight=[1.0] * 3 + [0.1]' in text
        cfg.model.panoptic_head.loss_cls.class_weight = [1.] * 3 + [.1]
        check_train(cfg)

    def test_splits(self, data):
        names = ('a', 'b', 'c', 'd')
        for split in ('train', 'val'):
            write_coco(data, split, coco(names=names))
        cfg = make()
        cfg.val_dataloader.dataset.metainfo.classes = ('a', 'b', 'd')
        text = error_of(cfg)
        assert 'train_dataloader.dataset and val_dataloader.dataset have different' in text
        assert 'a, b, d' in text

    def test_wrapped(self, data):
        cfg = make(classes=('A', 'b', 'c'))
        cfg.train_dataloader.dataset = dict(
            type='RepeatDataset', times=2, dataset=cfg.train_dataloader.dataset)
        assert 'train_dataloader.dataset.dataset.metainfo.classes' in error_of(cfg)


class TestImages:

    def test_elsewhere(self, data):
        for path in (data / 'train').iterdir():
            path.rename(data / path.name)
        text = error_of(make())
        assert str(data / 'train/1.png') in text and 'data_prefix.img' in text

    def test_a_folder_too_many(self, data):
        change(data, images=[dict(i, file_name=f'train/{i["file_name"]}')
                             for i in coco()['images']])
        assert 'a folder too many' in error_of(make())

    def test_maps_that_nothing_loads(self, data):
        """mmdet's Mask2Former for instances inherits the folder from the panoptic one."""
        cfg = make()
        cfg.train_dataloader.dataset.data_prefix.seg = 'panoptic/'
        check_train(cfg)
        cfg.train_dataloader.dataset.pipeline[1].with_seg = True
        assert 'train_dataloader.dataset.data_prefix.seg' in error_of(cfg)

    def test_one_lost(self, data):
        (data / 'val/2.png').unlink()
        text = error_of(make())
        assert '1 of 2 images' in text and 'val/2.png' in text


class TestEvaluator:

    def test_another_file(self, data):
        write_coco(data, 'other', coco(images=3))
        cfg = make(**{'val_evaluator.ann_file': 'data/annotations/other.json'})
        text = error_of(cfg)
        assert 'val_evaluator.ann_file' in text and 'lists other images' in text
        assert 'val_evaluator.ann_file=data/annotations/val.json' in text
        # a copy will do
        (data / 'annotations/other.json').write_text((data / 'annotations/val.json').read_text())
        check_train(cfg)

    @pytest.mark.parametrize('key', ('iscrowd', 'segmentation'))
    def test_what_only_the_evaluation_asks_for(self, data, key):
        change(data, 'val', **{key: None, 'bbox': [1, 1, 0, 4]})
        change(data, 'train', iscrowd=None)
        text = error_of(make())
        assert text.startswith('val_evaluator.ann_file')
        assert f"annotations[0] has no '{key}'" in text

    def test_images_left_out(self, data, monkeypatch):
        said = []
        monkeypatch.setattr(detection, 'print_log', lambda text, *_: said.append(text))
        check_train(make(**{'val_dataloader.dataset.indices': 1}))
        assert len(said) == 1 and 'val_dataloader.dataset.indices=1 leaves images out' in said[0]


def test_through_the_command(data, capfd):
    (data / 'annotations/train.json').write_text('')
    make().dump('c.py')
    assert run_cli(lambda: train(['c.py', '--work-dir', 'work'])) == 2
    error = capfd.readouterr().err.strip().splitlines()[-1]
    assert error.startswith('error: train_dataloader.dataset.ann_file: ')
    assert 'is empty (0 bytes)' in error
    assert not (data.parent / 'work').exists()


class TestOtherHeads:

    def test_words_in_the_place_of_classes(self, data):
        cfg = make(**{'model.roi_head.bbox_head.num_classes': 256})
        assert 'num_classes=256' in error_of(cfg)
        cfg.model.language_model = dict(type='BertModel')
        detection.check_detection(cfg, ('train', 'val'))
        cfg.val_dataloader.dataset.metainfo.classes = ('a', 'b')
        detection.check_detection(cfg, ('train', 'val'))
        del cfg.model['language_model']
        cfg.model.roi_head = None
        with pytest.raises(ConfigError, match='have different classes'):
            detection.check_detection(cfg, ('train', 'val'))

    def test_a_panoptic_model_in_an_augmented_test(self, data):
        cfg = make(**{'model.roi_head.bbox_head.num_classes': 2})
        cfg.model.semantic_head = dict(type='PanopticFPNHead')
        cfg.model = dict(type='DetTTAModel', module=cfg.model)
        detection.check_detection(cfg, ('test', ))

    def test_a_mask_head_for_all_classes_at_once(self, data):
        option = {'model.roi_head.mask_head.num_classes': 1}
        assert 'mask_head.num_classes=1' in error_of(make(**option))
        check_train(make(**option, **{'model.roi_head.mask_head.class_agnostic': True}))
