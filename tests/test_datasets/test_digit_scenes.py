import hashlib
import json
import os
import os.path as osp
import subprocess
import sys
import time
from collections import Counter

import cv2
import numpy as np
import pytest
from mmengine.config import Config
from mmengine.registry import FUNCTIONS, init_default_scope

from scalenet_mm.datasets import digit_scenes, make_digit_scenes
from scalenet_mm.datasets.digit_scenes import (
    CLASSES,
    MIN_VISIBLE,
    SPLITS,
    encode_rle,
    load_scans,
    render_scene,
)

REPO = osp.dirname(osp.dirname(osp.dirname(osp.abspath(__file__))))
CONFIGS = osp.join(REPO, 'configs', 'quickstart', '_base_')
COMMAND = osp.join(REPO, 'tools', 'dataset_converters', 'digit_scenes.py')
SMALL = dict(num_train=8, num_val=5, cls_num_train=24, cls_num_val=20)


def read_files(root):
    """Hash of every file by its path in the folder."""
    hashes = {}
    for folder, _, names in os.walk(root):
        for name in names:
            path = osp.join(folder, name)
            with open(path, 'rb') as f:
                hashes[osp.relpath(path, root)] = hashlib.sha256(f.read()).hexdigest()
    return hashes


def read_json(*path):
    with open(osp.join(*path), encoding='utf-8') as f:
        return json.load(f)


@pytest.fixture(scope='module')
def small_set(tmp_path_factory):
    root = str(tmp_path_factory.mktemp('data') / 'digit_scenes')
    result = make_digit_scenes(root, **SMALL)
    assert result['generated'] == ['cls', 'det', 'seg']
    return root


# Determinism


def test_bit_identical_whatever_the_order_of_tasks(small_set, tmp_path):
    again = tmp_path / 'again'
    make_digit_scenes(str(again), tasks=('seg', 'det', 'cls'), **SMALL)
    one_by_one = tmp_path / 'one_by_one'
    for task in ('seg', 'cls', 'det'):
        result = make_digit_scenes(str(one_by_one), tasks=task, **SMALL)
        assert result['generated'] == [task]
    expected = read_files(small_set)
    assert len(expected) == 24 + 20 + 13 + 2 + 13 * 2 + 1
    assert read_files(again) == expected
    assert read_files(one_by_one) == expected
    assert sorted(os.listdir(tmp_path)) == ['again', 'one_by_one']


def test_bit_identical_in_another_process(small_set, tmp_path):
    arguments = [str(v) for k, n in SMALL.items() for v in ('--' + k.replace('_', '-'), n)]
    command = [sys.executable, COMMAND, '--root', str(tmp_path / 'set'), *arguments]
    env = dict(os.environ, PYTHONPATH=REPO, PYTHONHASHSEED='7')
    out = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
    assert 'det: 8 training and 5 validation images' in out
    assert read_files(tmp_path / 'set') == read_files(small_set)
    out = subprocess.run(command, env=env, capture_output=True, text=True, check=True).stdout
    assert 'nothing to do' in out

    bad = subprocess.run([*command, '--seed', '1'], env=env, capture_output=True, text=True)
    assert bad.returncode == 2
    assert bad.stderr.startswith('error: ') and '--overwrite' in bad.stderr
    assert 'Traceback' not in bad.stderr


def test_seed_changes_every_image(small_set, tmp_path):
    make_digit_scenes(str(tmp_path / 'set'), tasks='det', seed=1, **SMALL)
    before = {k: v for k, v in read_files(small_set).items() if k.startswith('det')}
    after = read_files(tmp_path / 'set')
    assert not set(before.values()) & set(after.values())


def test_images_differ_within_and_across_splits(small_set):
    files = read_files(osp.join(small_set, 'det'))
    assert len(set(files.values())) == len(files)


# What is in a set


def test_splits_share_no_scan_and_are_stratified(small_set):
    manifest = read_json(small_set, 'manifest.json')
    labels = load_scans()[1]
    train, val = (set(manifest['sources'][split]) for split in SPLITS)
    assert not train & val
    assert train | val == set(range(1797))
    for label in range(10):
        share = sum(labels[i] == label for i in val) / (labels == label).sum()
        assert share == pytest.approx(0.25, abs=0.01)
    for task in manifest['tasks'].values():
        for split, pool in zip(SPLITS, (train, val)):
            used = [i for sources in task['images'][split].values() for i in sources]
            assert used and set(used) <= pool


def test_classes_are_balanced(small_set):
    manifest = read_json(small_set, 'manifest.json')
    labels = load_scans()[1]
    for task in manifest['tasks'].values():
        for images in task['images'].values():
            counts = Counter(labels[i] for sources in images.values() for i in sources)
            assert max(counts.values()) - min(counts.get(i, 0) for i in range(10)) <= 1


def test_every_scan_is_used_before_one_is_used_twice():
    labels = load_scans()[1]
    pool = digit_scenes.split_sources(labels, 0, 0.25)['val']
    dealt = digit_scenes._plan(np.random.default_rng(0), labels, pool, [1] * 1000)
    counts = Counter(i for sources in dealt for i in sources)
    assert set(counts) == set(pool) and set(counts.values()) <= {2, 3}


@pytest.mark.parametrize('image_size, count, digit_size', [(128, 6, (20, 64)), (96, 9, (12, 90)),
                                                           (64, 1, (58, 58))])
def test_digits_stay_visible_whole_and_in_size(image_size, count, digit_size):
    scans, labels = load_scans()
    overlapping = 0
    for seed in range(8):
        rng = np.random.default_rng(seed)
        sources = rng.choice(len(scans), count, replace=False)
        image, digits = render_scene(rng, scans, labels, sources, image_size, digit_size)
        assert image.shape == (image_size, image_size, 3) and image.dtype == np.uint8
        assert [d.source for d in digits] == list(sources)
        for i, digit in enumerate(digits):
            assert digit.label == labels[digit.source]
            covered = np.zeros_like(digit.mask)
            for later in digits[i + 1:]:
                covered |= later.mask
            assert np.array_equal(digit.visible, digit.mask & ~covered)
            assert digit.visible.sum() >= MIN_VISIBLE * digit.mask.sum()
            overlapping += digit.visible.sum() < digit.mask.sum()
            # A digit that touches the border might have been cut by it.
            assert not (digit.mask[[0, -1]].any() or digit.mask[:, [0, -1]].any())
            extent = max(np.ptp(np.flatnonzero(digit.mask.any(axis=i))) + 1 for i in (0, 1))
            assert digit_size[0] - 2 <= extent <= digit_size[1] + 2
    assert (overlapping > 0) == (count > 1)


def test_digits_stand_out_from_what_is_around_them():
    scans, labels = load_scans()
    contrasts = []
    for seed in range(20):
        rng = np.random.default_rng(seed)
        image, (digit, ) = render_scene(rng, scans, labels, [seed], 64, (32, 54))
        mask = digit.mask.astype(np.uint8)
        ring = cv2.dilate(mask, np.ones((9, 9))) > cv2.dilate(mask, np.ones((5, 5)))
        grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY).astype(float)
        contrasts.append(abs(grey[digit.mask].mean() - grey[ring].mean()))
    assert min(contrasts) > 25 and np.median(contrasts) > 50


def test_light_digits_on_a_dark_ground():
    scans, labels = load_scans()
    for seed in range(20):
        rng = np.random.default_rng(seed)
        image, (digit, ) = render_scene(rng, scans, labels, [seed], 64, (48, 57), True)
        ring = cv2.dilate(digit.mask.astype(np.uint8), np.ones((5, 5))) == 0
        grey = cv2.cvtColor(image, cv2.COLOR_BGR2GRAY).astype(float)
        assert grey[ring].mean() < 75
        assert grey[digit.mask].mean() > grey[ring].mean() + 50


def test_images_for_classification_are_light_on_dark(small_set):
    for split in SPLITS:
        for name in read_json(small_set, 'manifest.json')['tasks']['cls']['images'][split]:
            grey = cv2.imread(osp.join(small_set, 'cls', split, name), cv2.IMREAD_GRAYSCALE)
            corners = grey[[[0], [-1]], [0, -1]].astype(float)
            assert grey.shape == (64, 64) and np.median(corners) < 85
            assert np.percentile(grey, 92) > np.median(corners) + 40


def test_manifest_records_what_images_show(small_set):
    labels = load_scans()[1]
    manifest = read_json(small_set, 'manifest.json')
    assert manifest['seed'] == 0
    assert manifest['generator_version'] == digit_scenes.GENERATOR_VERSION
    assert manifest['tasks']['det']['images'] == manifest['tasks']['seg']['images']
    for split in SPLITS:
        for name, (source, ) in manifest['tasks']['cls']['images'][split].items():
            assert name.split('/')[0] == str(labels[source])
        coco = read_json(small_set, 'det', 'annotations', f'{split}.json')
        for image in coco['images']:
            shown = [(a['source_index'], a['category_id'] - 1) for a in coco['annotations']
                     if a['image_id'] == image['id']]
            recorded = manifest['tasks']['det']['images'][split][image['file_name']]
            assert shown == [(source, labels[source]) for source in recorded]
            assert 2 <= len(shown) <= 6


def test_coco_boxes_areas_and_masks_agree_with_label_maps(small_set):
    coco_api = pytest.importorskip('pycocotools.coco')
    for split in SPLITS:
        coco = coco_api.COCO(osp.join(small_set, 'det', 'annotations', f'{split}.json'))
        assert [c['name'] for c in coco.loadCats(coco.getCatIds())] == list(CLASSES)
        for image in coco.loadImgs(coco.getImgIds()):
            from_masks = np.zeros((image['height'], image['width']), np.uint8)
            for ann in coco.loadAnns(coco.getAnnIds(image['id'])):
                mask = coco.annToMask(ann).astype(bool)
                rows, cols = np.nonzero(mask)
                assert ann['bbox'] == [cols.min(), rows.min(), np.ptp(cols) + 1, np.ptp(rows) + 1]
                assert ann['area'] == mask.sum() > 0
                assert ann['iscrowd'] == 0
                assert not from_masks[mask].any()  # visible pixels belong to one digit
                from_masks[mask] = ann['category_id']
            name = image['file_name']
            label_map = cv2.imread(
                osp.join(small_set, 'seg', 'ann_dir', split, name), cv2.IMREAD_UNCHANGED)
            assert label_map.dtype == np.uint8 and np.array_equal(label_map, from_masks)
            scene = cv2.imread(osp.join(small_set, 'seg', 'img_dir', split, name))
            assert scene.shape == label_map.shape + (3, )
            assert np.array_equal(scene, cv2.imread(osp.join(small_set, 'det', split, name)))


@pytest.mark.parametrize('mask', [
    np.zeros((3, 4), bool), np.ones((3, 4), bool), np.eye(5, 3, dtype=bool),
    np.random.default_rng(0).random((17, 11)) > 0.5])
def test_rle_decodes_to_the_mask(mask):
    coco_mask = pytest.importorskip('pycocotools.mask')
    rle = encode_rle(mask)
    decoded = coco_mask.decode(coco_mask.frPyObjects(rle, *mask.shape))
    assert np.array_equal(decoded.astype(bool), mask)


# Config fragments and the toolboxes


def load_config(task, root):
    config = Config.fromfile(osp.join(CONFIGS, f'digits_{task}.py'))
    data_root = f"{root}/{dict(classification='cls', detection='det', segmentation='seg')[task]}/"
    for loader in (config.train_dataloader, config.val_dataloader):
        assert loader.dataset.data_root == f'data/digit_scenes/{osp.basename(data_root[:-1])}/'
        loader.dataset.data_root = data_root
        flips = [t for t in loader.dataset.pipeline if t.type == 'RandomFlip']
        assert all(flip.prob == 0 for flip in flips)
    return config


@pytest.fixture
def scope():
    """Choose a toolbox, and leave none chosen."""
    yield init_default_scope
    init_default_scope('mmengine')


def test_mmdet_reads_the_set(small_set, scope):
    pytest.importorskip('mmdet')
    from mmdet.registry import DATASETS, METRICS
    scope('mmdet')
    config = load_config('detection', small_set)
    for loader, split, images in ((config.train_dataloader, 'train', 8),
                                  (config.val_dataloader, 'val', 5)):
        coco = read_json(small_set, 'det', 'annotations', f'{split}.json')
        dataset = DATASETS.build(loader.dataset)
        assert len(dataset) == images
        assert dataset.metainfo['classes'] == CLASSES
        assert len(dataset.metainfo['palette']) == len(CLASSES)
        for i in range(images):
            anns = [a for a in coco['annotations'] if a['image_id'] == i + 1]
            item = dataset[i]
            truth = item['data_samples'].gt_instances
            assert item['inputs'].shape == (3, 128, 128)
            assert truth.labels.tolist() == [int(CLASSES[a['category_id'] - 1]) for a in anns]
            assert truth.masks.masks.sum(axis=(1, 2)).tolist() == [a['area'] for a in anns]
            boxes = truth.bboxes.tensor
            assert [[x1, y1, x2 - x1, y2 - y1] for x1, y1, x2, y2 in boxes.tolist()] == [
                a['bbox'] for a in anns]

    # The evaluator must be able to give the truth itself a perfect score.
    config.val_evaluator.ann_file = osp.join(small_set, 'det', 'annotations', 'val.json')
    metric = METRICS.build(config.val_evaluator)
    metric.dataset_meta = dataset.metainfo
    import torch
    for i in range(len(dataset)):
        sample = dataset[i]['data_samples']
        truth = sample.gt_instances
        found = dict(
            bboxes=truth.bboxes.tensor,
            labels=truth.labels,
            scores=torch.ones(len(truth)),
            masks=truth.masks.to_tensor(torch.bool, 'cpu'))
        metric.process({}, [dict(img_id=sample.img_id, ori_shape=sample.ori_shape,
                                 pred_instances=found)])
    scores = metric.evaluate(len(dataset))
    assert scores['coco/bbox_mAP'] == 1 and scores['coco/segm_mAP'] == 1


def test_mmpretrain_reads_the_set(small_set, scope):
    pytest.importorskip('mmpretrain')
    from mmpretrain.registry import DATASETS, METRICS
    scope('mmpretrain')
    config = load_config('classification', small_set)
    for loader, images in ((config.train_dataloader, 24), (config.val_dataloader, 20)):
        dataset = DATASETS.build(loader.dataset)
        assert len(dataset) == images
        assert tuple(dataset.CLASSES) == CLASSES
        for i in range(images):
            folder = osp.basename(osp.dirname(dataset.get_data_info(i)['img_path']))
            item = dataset[i]
            assert item['inputs'].shape == (3, 64, 64)
            assert item['data_samples'].gt_label.item() == int(folder)
    assert METRICS.build(config.val_evaluator).topk == (1, 5)


def test_mmseg_reads_the_set(small_set, scope):
    pytest.importorskip('mmseg')
    from mmseg.registry import DATASETS, METRICS
    scope('mmseg')
    config = load_config('segmentation', small_set)
    for loader, split, images in ((config.train_dataloader, 'train', 8),
                                  (config.val_dataloader, 'val', 5)):
        dataset = DATASETS.build(loader.dataset)
        assert len(dataset) == images
        assert dataset.metainfo['classes'] == ('background', ) + CLASSES
        assert not dataset.metainfo['reduce_zero_label']
        for i in range(images):
            item = dataset[i]
            assert item['inputs'].shape == (3, 128, 128)
            labels = item['data_samples'].gt_sem_seg.data.numpy()[0]
            assert labels.shape == (128, 128)
            if split == 'val':
                expected = cv2.imread(
                    osp.join(small_set, 'seg', 'ann_dir', split, f'{i:06d}.png'),
                    cv2.IMREAD_UNCHANGED)
                assert np.array_equal(labels, expected)
            assert labels.max() <= 10
    assert METRICS.build(config.val_evaluator).metrics == ['mIoU']


def test_registered(tmp_path):
    result = FUNCTIONS.build(
        dict(type='make_digit_scenes', root=str(tmp_path / 'set'), tasks='seg', num_train=1,
             num_val=1))
    assert result['num_images'] == dict(seg=dict(train=1, val=1))


# Finding, replacing, interrupting


def no_more_drawing(*args, **kwargs):
    raise AssertionError('a finished set was made again')


def test_finished_set_is_found(small_set, monkeypatch):
    monkeypatch.setattr(digit_scenes, 'load_scans', no_more_drawing)
    before = read_files(small_set)
    result = make_digit_scenes(small_set, **SMALL)
    assert result['generated'] == [] and result['root'] == small_set
    assert result['num_images']['cls'] == dict(train=24, val=20)
    # Options of the tasks that are not asked for do not matter.
    result = make_digit_scenes(small_set, tasks='det', **dict(SMALL, cls_num_train=1))
    assert result['generated'] == []
    assert read_files(small_set) == before


def test_other_parameters_are_refused_and_overwrite_replaces(tmp_path):
    root = str(tmp_path / 'set')
    make_digit_scenes(root, tasks=('det', 'seg'), **SMALL)
    before = read_files(root)
    for change, said in ((dict(seed=3), 'seed: 0 there, 3 asked for'),
                         (dict(val_ratio=0.5), 'val_ratio: 0.25 there, 0.5 asked for'),
                         (dict(image_size=96), 'det image_size: 128 there, 96 asked for'),
                         (dict(num_train=9), r'det num: \[8, 5\] there, \[9, 5\] asked for')):
        with pytest.raises(FileExistsError, match=f'{said}.*overwrite=True.*another root'):
            make_digit_scenes(root, tasks='det', **{**SMALL, **change})
    assert read_files(root) == before

    result = make_digit_scenes(root, tasks='det', seed=3, overwrite=True, **SMALL)
    assert result['generated'] == ['det'] and sorted(os.listdir(root)) == ['det', 'manifest.json']
    assert read_json(root, 'manifest.json')['seed'] == 3
    assert os.listdir(tmp_path) == ['set']


def test_set_of_another_generator_version_is_refused(tmp_path, monkeypatch):
    root = str(tmp_path / 'set')
    make_digit_scenes(root, tasks='det', **SMALL)
    monkeypatch.setattr(digit_scenes, 'GENERATOR_VERSION', digit_scenes.GENERATOR_VERSION + 1)
    with pytest.raises(FileExistsError, match='generator_version'):
        make_digit_scenes(root, tasks='det', **SMALL)


def test_older_images_for_classification_leave_the_other_tasks_valid(tmp_path, monkeypatch):
    root = str(tmp_path / 'set')
    with monkeypatch.context() as older:
        older.setattr(digit_scenes, 'CLS_VERSION', digit_scenes.CLS_VERSION - 1)
        make_digit_scenes(root, tasks=('cls', 'det'), **SMALL)
    assert make_digit_scenes(root, tasks='det', **SMALL)['generated'] == []
    with pytest.raises(FileExistsError, match='cls version: 1 there, 2 asked for'):
        make_digit_scenes(root, **SMALL)


def test_missing_file_is_noticed_and_mended(tmp_path):
    root = str(tmp_path / 'set')
    make_digit_scenes(root, tasks='seg', **SMALL)
    before = read_files(root)
    os.remove(osp.join(root, 'seg', 'ann_dir', 'val', '000002.png'))
    with pytest.raises(FileExistsError, match=r"1 of 26 files.*val/000002.png.*overwrite=True"):
        make_digit_scenes(root, tasks='seg', **SMALL)
    make_digit_scenes(root, tasks='seg', overwrite=True, **SMALL)
    assert read_files(root) == before


@pytest.mark.parametrize('overwrite', [False, True])
def test_foreign_folder_or_file_is_left_alone(tmp_path, overwrite):
    folder = tmp_path / 'photos'
    folder.mkdir()
    (folder / 'mine.txt').write_text('precious')
    file = tmp_path / 'file'
    file.write_text('precious')
    manifest = tmp_path / 'other'
    manifest.mkdir()
    (manifest / 'manifest.json').write_text('["of something else"]')
    for path in (folder, file, manifest):
        before = read_files(tmp_path)
        with pytest.raises(FileExistsError, match='not a set of digit scenes.*another root'):
            make_digit_scenes(str(path), overwrite=overwrite, **SMALL)
        assert read_files(tmp_path) == before


def test_empty_folder_and_link_are_filled(tmp_path):
    (tmp_path / 'disk').mkdir()
    (tmp_path / 'set').symlink_to(tmp_path / 'disk')
    make_digit_scenes(str(tmp_path / 'set'), tasks='det', **SMALL)
    assert (tmp_path / 'set').is_symlink()
    assert (tmp_path / 'disk' / 'manifest.json').is_file()


@pytest.mark.parametrize('error', [RuntimeError, KeyboardInterrupt, OSError])
@pytest.mark.parametrize('after', [3, 40, 81])
def test_interruption_leaves_nothing(tmp_path, monkeypatch, error, after):
    real, calls = digit_scenes._write_png, []

    def failing(path, image):
        calls.append(path)
        if len(calls) > after:
            raise error('pulled the plug')
        real(path, image)

    monkeypatch.setattr(digit_scenes, '_write_png', failing)
    parent = tmp_path / 'data'
    with pytest.raises(error):
        make_digit_scenes(str(parent / 'set'), **SMALL)
    assert len(calls) == after + 1
    assert os.listdir(parent) == []
    monkeypatch.undo()
    assert make_digit_scenes(str(parent / 'set'), **SMALL)['generated'] == ['cls', 'det', 'seg']


@pytest.mark.parametrize('place', ['_write_json', '_write_png', 'rename'])
@pytest.mark.parametrize('overwrite', [False, True])
def test_interruption_keeps_the_set_that_was_there(tmp_path, monkeypatch, place, overwrite):
    root = str(tmp_path / 'set')
    make_digit_scenes(root, tasks='cls', **SMALL)
    before = read_files(root)

    if place == 'rename':
        real = os.rename

        def failing(source, target):
            if osp.basename(source) in ('set', 'det') and '.tmp-' in source:
                raise OSError('pulled the plug')
            real(source, target)

        monkeypatch.setattr(os, 'rename', failing)
    else:

        def failing(*args):
            raise OSError('pulled the plug')

        monkeypatch.setattr(digit_scenes, place, failing)
    with pytest.raises(OSError, match='pulled the plug'):
        make_digit_scenes(root, tasks='det', overwrite=overwrite, **SMALL)
    assert read_files(root) == before and os.listdir(tmp_path) == ['set']


def test_half_added_task_is_replaced(tmp_path):
    root = tmp_path / 'set'
    make_digit_scenes(str(root), tasks='cls', **SMALL)
    (root / 'det').mkdir()
    (root / 'det' / 'half.png').write_text('')
    assert make_digit_scenes(str(root), tasks='det', **SMALL)['generated'] == ['det']
    assert not (root / 'det' / 'half.png').exists()
    assert (root / 'det' / 'annotations' / 'val.json').is_file()


def test_leftover_of_a_killed_run_is_removed_once_old(tmp_path):
    old, young = tmp_path / '.set.tmp-old', tmp_path / '.set.tmp-young'
    for path in (old, young):
        (path / 'set').mkdir(parents=True)
    long_ago = time.time() - 2 * digit_scenes.STALE_AFTER
    os.utime(old, (long_ago, long_ago))
    make_digit_scenes(str(tmp_path / 'set'), tasks='det', num_train=1, num_val=1)
    assert sorted(os.listdir(tmp_path)) == ['.set.tmp-young', 'set']


@pytest.mark.parametrize('same', [True, False])
def test_another_process_is_faster(tmp_path, monkeypatch, same):
    root = str(tmp_path / 'set')
    real = digit_scenes._write_scenes

    def overtaken(*args):
        monkeypatch.undo()
        make_digit_scenes(root, tasks='det', seed=0 if same else 1, **SMALL)
        return real(*args)

    monkeypatch.setattr(digit_scenes, '_write_scenes', overtaken)
    if same:
        make_digit_scenes(root, tasks='det', **SMALL)
    else:
        with pytest.raises(FileExistsError, match='seed: 1 there, 0 asked for'):
            make_digit_scenes(root, tasks='det', **SMALL)
    assert os.listdir(tmp_path) == ['set']


# Bad input


@pytest.mark.parametrize('options, said', [
    (dict(tasks='boxes'), r"tasks must name .*'cls', 'det', 'seg'.*unknown: \['boxes'\]"),
    (dict(tasks=()), 'tasks must name .* none was given'),
    (dict(num_train=0), 'num_train must be an integer of at least 1, got 0'),
    (dict(num_val=2.5), 'num_val must be an integer of at least 1, got 2.5'),
    (dict(cls_num_train=True), 'cls_num_train must be an integer'),
    (dict(cls_num_val=-1), 'cls_num_val must be an integer of at least 1, got -1'),
    (dict(seed=-1), 'seed must be an integer of at least 0, got -1'),
    (dict(val_ratio=1.0), 'val_ratio must be a number between 0 and 1, got 1.0'),
    (dict(digits_per_scene=3), r'digits_per_scene must be a pair \(smallest, largest\), got 3'),
    (dict(digits_per_scene=(0, 3)), r'digits_per_scene\[0\] must be .* at least 1, got 0'),
    (dict(digits_per_scene=(5, 2)), r'digits_per_scene must be .*\(5, 2\); swap them'),
    (dict(digit_size=(4, 20)), r'digit_size\[0\] must be .* at least 8, got 4'),
    (dict(image_size=60), 'image_size=60 holds digits of 54 at most. Raise image_size to 78 or'),
    (dict(image_size='big'), "image_size must be an integer of at least 16, got 'big'"),
    (dict(digits_per_scene=(2, 40)), 'too many for image_size=128. Raise image_size to 200, or'),
    (dict(cls_image_size=10), 'cls_image_size must be an integer of at least 24, got 10'),
    (dict(root=''), "root must be the path of a folder, got ''"),
])
def test_bad_arguments_are_named(tmp_path, options, said):
    with pytest.raises(ValueError, match=said):
        make_digit_scenes(**dict(dict(root=str(tmp_path / 'set')), **options))
    assert os.listdir(tmp_path) == []


def test_advised_sizes_are_accepted(tmp_path):
    # The sizes that the errors above advise must themselves work.
    make_digit_scenes(
        str(tmp_path / 'a'), tasks='det', num_train=4, num_val=4, image_size=200,
        digits_per_scene=(40, 40))
    make_digit_scenes(str(tmp_path / 'b'), tasks='det', num_train=4, num_val=4, image_size=78)
    make_digit_scenes(
        str(tmp_path / 'c'), tasks='cls', cls_num_train=4, cls_num_val=4, cls_image_size=24)


def test_impossible_arrangement_is_an_error(monkeypatch):
    monkeypatch.setattr(digit_scenes, '_place', lambda *args: None)
    with pytest.raises(RuntimeError, match='3 digits of at least 20 pixels.*Raise image_size'):
        render_scene(np.random.default_rng(0), *load_scans(), [0, 1, 2], 128, (20, 64))


def test_without_scikit_learn(tmp_path, monkeypatch):
    code = ("import sys; sys.modules['sklearn'] = None; sys.modules['sklearn.datasets'] = None\n"
            'from scalenet_mm.datasets import make_digit_scenes\n'
            "print('imported')\n"
            f'make_digit_scenes({str(tmp_path / "set")!r})')
    env = dict(os.environ, PYTHONPATH=REPO)
    out = subprocess.run([sys.executable, '-c', code], env=env, capture_output=True, text=True)
    assert out.stdout.startswith('imported') and out.returncode == 1
    assert 'pip install scikit-learn' in out.stderr.splitlines()[-1]
    assert os.listdir(tmp_path) == []


def test_default_set_takes_seconds(tmp_path):
    start = time.process_time()
    result = make_digit_scenes(str(tmp_path / 'set'))
    assert time.process_time() - start < 60
    assert result['num_images'] == dict(
        cls=dict(train=2000, val=500), det=dict(train=400, val=150), seg=dict(train=400, val=150))
