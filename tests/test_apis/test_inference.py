"""One call for three tasks: what it reads, what it gives, and that it is what a test gives."""
import json
from pathlib import Path

import mmcv
import mmengine
import numpy as np
import pytest
import torch
from api_toys import assert_same
from PIL import Image

from scalenet_mm import ConfigError, DataError, Prediction, engine, infer, init_model
from scalenet_mm.apis import iter_infer


class Models(dict):
    """The model of each toy, made when it is asked for."""

    def __init__(self, toys):
        super().__init__()
        self.toys = toys

    def __missing__(self, task):
        toy = self.toys[task]
        self[task] = init_model(toy.config, toy.whole, 'cpu')
        return self[task]


@pytest.fixture(scope='module')
def models(toys):
    return Models(toys)


@pytest.fixture
def model(toy, models):
    return models[toy.task]


# --- equal to a test -----------------------------------------------------------------------------


@pytest.mark.parametrize('kind', ['whole', 'delta'])
def test_as_in_a_test(kind, toy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    path = getattr(toy, kind)
    out = 'labels' if toy.task == 'segmentation' else 'results.pkl'
    engine.test([toy.config, path, '--work-dir', 'w', '--out', out, '--cfg-options',
                 f'experiment_name={tmp_path.name}_{kind}'])
    found = infer(init_model(toy.config, path, 'cpu'), toy.images)
    if toy.task == 'segmentation':
        for one in found:
            labels = mmcv.imread(f'labels/{Path(one.path).name}', flag='unchanged')
            assert np.array_equal(labels, one.labels())
        assert len({one.labels().tobytes() for one in found}) > 1
        return
    tested = {item['img_path']: item for item in mmengine.load('results.pkl')}
    for one in found:
        item = tested[one.path]
        if toy.task == 'classification':
            assert torch.equal(item['pred_score'], one.sample.pred_score)
            continue
        theirs, ours = item['pred_instances'], one.sample.pred_instances
        for key in ('bboxes', 'scores', 'labels'):
            assert torch.equal(theirs[key], ours[key])
        one.score_thr = 0.
        told = [dict(mask, counts=mask['counts'].encode()) for mask in one.to_dict()['masks']]
        assert told == theirs['masks'] and told


def test_batches_do_not_matter(toy, model):
    images = [mmcv.imread(path) for path in toy.images[:3]]
    images.insert(1, images[0][:100, :90])
    images += [images[0][20:], images[0][:50]]
    single = infer(model, images)
    batched = infer(model, images, batch_size=2)
    for a, b in zip(single, batched):
        assert a.name == b.name and a.sample.ori_shape == b.sample.ori_shape
        if toy.task == 'classification':
            torch.testing.assert_close(a.sample.pred_score, b.sample.pred_score)
        elif toy.task == 'segmentation':
            assert (a.labels() == b.labels()).mean() > 0.999
        else:
            # not padded for another's sake; the drawn weights enlarge what is rounded
            assert a.sample.batch_input_shape == b.sample.batch_input_shape
            torch.testing.assert_close(a.sample.pred_instances.bboxes,
                                       b.sample.pred_instances.bboxes, rtol=0, atol=0.5)


def test_results_come_in_order_and_early(models, toys, monkeypatch):
    """No pile of results waits for an image of an odd size."""
    model, toy = models['segmentation'], toys['segmentation']
    image = mmcv.imread(toy.images[0])
    images = [image[:50], *[image] * 20]
    read = []
    from scalenet_mm.apis.images import Pipeline
    original = Pipeline._read
    monkeypatch.setattr(Pipeline, '_read',
                        lambda self, image: read.append(image) or original(self, image))
    stream = iter_infer(model, images, batch_size=2)
    assert next(stream).labels().shape[0] == 50 and len(read) < 12
    assert [one.name for one in stream] == [f'{i:06d}.png' for i in range(1, 21)]


# --- what is told --------------------------------------------------------------------------------


def test_plain_data(toy, model):
    one = infer(model, toy.images[0], score_thr=0.02, topk=3)[0]
    assert isinstance(one, Prediction) and one.task == toy.task
    told = json.loads(json.dumps(one.to_dict()))
    image = mmcv.imread(toy.images[0])
    assert told['path'] == toy.images[0] and told['size'] == list(image.shape[:2])
    if toy.task == 'classification':
        scores = one.sample.pred_score
        assert [item['label'] for item in told['top']] == scores.topk(3).indices.tolist()
        assert told['top'][0]['name'] == str(told['top'][0]['label'])
        assert told['top'][0]['score'] == pytest.approx(float(scores.max()))
    elif toy.task == 'detection':
        from pycocotools import mask
        found = one.sample.pred_instances
        kept = int((found.scores >= 0.02).sum())
        assert kept and len(told['boxes']) == len(told['masks']) == len(told['names']) == kept
        assert told['scores'] == sorted(told['scores'], reverse=True)
        assert told['names'] == [str(label) for label in told['labels']]
        assert np.allclose(told['boxes'][0], found.bboxes[found.scores.argmax()], atol=0.01)
        assert np.array_equal(mask.decode(told['masks'][0]),
                              found.masks[found.scores.argmax()].numpy())
    else:
        assert sum(item['pixels'] for item in told['classes']) == one.labels().size
        first = told['classes'][0]
        assert first['pixels'] == (one.labels() == first['label']).sum()
        assert first['name'] == (['background', *'0123456789'])[first['label']]
        assert 'seg_logits' not in one.sample
        assert infer(model, toy.images[0], logits=True)[0].sample.seg_logits.data.shape[0] == 11
    assert str(one).startswith(f'{toy.images[0]}: ') and len(str(one).splitlines()) == 1


def test_below_the_threshold(models, toys):
    one = infer(models['detection'], toys['detection'].images[0])[0]
    one.score_thr = 1.1
    told = one.to_dict()
    assert told['boxes'] == told['masks'] == [] and 'nothing found' in str(one)
    assert len(one.sample.pred_instances)  # all of it


# --- what is read --------------------------------------------------------------------------------


def test_files_folders_and_arrays(toy, model, tmp_path):
    (tmp_path / 'more' / 'inner').mkdir(parents=True)
    for name in ('more/b.PNG', 'more/inner/a.png', 'alone.png'):
        (tmp_path / name).write_bytes(Path(toy.images[0]).read_bytes())
    (tmp_path / 'more' / 'notes.txt').write_text('no image')
    array = mmcv.imread(toy.images[0])
    found = infer(model, [tmp_path / 'more', str(tmp_path / 'alone.png'), array])
    assert [one.name for one in found] == ['b.PNG', 'inner/a.png', 'alone.png', '000003.png']
    assert found[3].path is None and found[3].to_dict()['name'] == '000003.png'
    for one in found[1:]:
        assert_same(found[0].sample, one.sample)


@pytest.mark.parametrize('mode', ['L', 'RGBA', 'I;16', 'exif'])
def test_odd_files_as_the_data_set_reads_them(mode, toy, model, tmp_path):
    grey = np.asarray(Image.open(toy.images[0]).convert('L'))[:, :50]
    path = tmp_path / 'image.png'
    if mode == 'L':
        Image.fromarray(grey).save(path)
        array = grey
    elif mode == 'RGBA':
        rgba = np.dstack([grey, grey // 2, grey // 3, np.full_like(grey, 99)])
        Image.fromarray(rgba, 'RGBA').save(path)
        array = rgba[..., [2, 1, 0, 3]]
    elif mode == 'I;16':
        array = grey.astype(np.uint16) * 256 + 7
        Image.fromarray(array).save(path)
    else:
        path = tmp_path / 'image.jpg'
        exif = Image.Exif()
        exif[274] = 6  # to be turned by 90 degrees
        Image.fromarray(grey).save(path, exif=exif, quality=100)
        array = mmcv.imread(path)
        assert array.shape[:2] == grey.shape[::-1]
    by_file, by_array = infer(model, [path, array])
    assert by_file.sample.ori_shape == array.shape[:2]
    assert_same(by_file.sample, by_array.sample)


def test_one_channel_and_alpha_are_not_confused(toys, models):
    """Or the test above would pass if all became black."""
    image = mmcv.imread(toys['segmentation'].images[0])
    found = infer(models['segmentation'], [image, image[..., 0], image[..., ::-1].copy()])
    labels = {one.labels().tobytes() for one in found}
    assert len(labels) == 3


@pytest.mark.parametrize('content, fault', [
    (b'', 'is empty'), (b'<html>', 'holds a web page'), (None, 'is cut off or damaged')])
def test_a_file_that_is_no_image_is_named(content, fault, models, toys, tmp_path):
    model, good = models['classification'], toys['classification'].images[0]
    path = tmp_path / 'bad.png'
    path.write_bytes(Path(good).read_bytes()[:60] if content is None else content)
    with pytest.raises(DataError, match=rf'an image cannot be read: \S+bad.png {fault}'):
        infer(model, [good, path])
    found = infer(model, [good, path, good], batch_size=2, skip_unreadable=True)
    assert [one.path for one in found] == [good, good]


@pytest.mark.parametrize('images, error', [
    ('nowhere.png', 'there is no image nowhere.png: it does not exist'),
    ('', 'there is no image'),
    (3, 'images must be files, folders or arrays, got int'),
    ([None], 'got NoneType'),
    ([torch.zeros(3, 4, 4)], 'got Tensor; of a tensor'),
    (np.zeros((4, 4, 2), np.uint8), r'image 0 is an array of shape \(4, 4, 2\)'),
    (np.zeros((4, 0, 3), np.uint8), r'shape \(4, 0, 3\)'),
    (np.zeros((4, 4, 3), np.float32), 'image 0 is an array of float32; it must be uint8'),
])
def test_what_is_no_image(images, error, models):
    with pytest.raises(DataError, match=error):
        infer(models['classification'], images)


def test_transforms_that_fail_name_the_image(models, toys):
    """As at a strip of which resizing would leave no row."""
    good, strip = toys['segmentation'].images[0], np.full((2, 700, 3), 90, np.uint8)
    with pytest.raises(DataError, match=r'pipeline fail at 000001.png \(700 x 2 pixels\): error: '):
        infer(models['segmentation'], [good, strip])
    found = infer(models['segmentation'], [good, strip, good], skip_unreadable=True)
    assert [one.path for one in found] == [good, good]


def test_linked_folders_are_looked_into_once(models, toys, tmp_path):
    for name in ('top/b.png', 'elsewhere/a.png'):
        (tmp_path / name).parent.mkdir()
        (tmp_path / name).write_bytes(Path(toys['classification'].images[0]).read_bytes())
    (tmp_path / 'top/sub').symlink_to(tmp_path / 'elsewhere')
    (tmp_path / 'top/sub2').symlink_to(tmp_path / 'elsewhere')
    (tmp_path / 'elsewhere/back').symlink_to(tmp_path / 'top')
    found = infer(models['classification'], tmp_path / 'top')
    assert [one.name for one in found] == ['b.png', 'sub/a.png']


def test_an_empty_folder(models, tmp_path):
    with pytest.raises(DataError, match='holds no images'):
        infer(models['classification'], tmp_path)
    assert infer(models['classification'], []) == []


@pytest.mark.parametrize('option, value', [
    ('batch_size', 0), ('batch_size', 1.5), ('topk', 0), ('score_thr', 2), ('score_thr', True)])
def test_options(option, value, models):
    with pytest.raises(ConfigError, match=f'^{option} must be'):
        infer(models['classification'], [], **{option: value})


# --- pictures ------------------------------------------------------------------------------------


def test_pictures(toy, model, tmp_path):
    names = [Path(path).name for path in toy.images[:2]]
    found = infer(model, [*toy.images[:2], toy.images[0]], out_dir=tmp_path / 'out',
                  score_thr=0.02)
    assert [Path(one.picture).name for one in found] == [*names, f'{names[0][:-4]}_2.png']
    for one in found:
        plain = mmcv.imread(one.path)
        drawn = mmcv.imread(one.picture)
        factor = -(-200 // min(plain.shape[:2]))
        height = plain.shape[0] * factor
        assert drawn.shape[1] == plain.shape[1] * factor and drawn.shape[0] >= height
        assert (drawn.shape[0] > height) == (toy.task == 'segmentation')  # the legend
        large = plain.repeat(factor, axis=0).repeat(factor, axis=1)
        assert (drawn[:height] != large).any(axis=2).mean() > 0.005
        assert one.to_dict()['picture'] == one.picture
        if toy.task == 'segmentation':
            labels = mmcv.imread(one.label_map, flag='unchanged')
            assert np.array_equal(labels, one.labels())
            # the colours of the classes, half laid over the image
            palette = np.array(model.dataset_meta['palette'])[one.labels()][..., ::-1]
            mixed = (plain * 0.5 + palette * 0.5).astype(np.uint8)
            assert np.abs(drawn[:height][::factor, ::factor].astype(int) - mixed).max() <= 1
    again = infer(model, [mmcv.imread(path) for path in toy.images[:1]], out_dir=tmp_path / 'a',
                  score_thr=0.02)[0]
    assert np.array_equal(mmcv.imread(again.picture), mmcv.imread(found[0].picture))


def test_no_picture_is_written_over_an_image(models, toys, tmp_path):
    path = tmp_path / 'x.png'
    path.write_bytes(Path(toys['classification'].images[0]).read_bytes())
    content = path.read_bytes()
    with pytest.raises(ConfigError, match='would be written over an image'):
        infer(models['classification'], path, out_dir=tmp_path)
    with pytest.raises(ConfigError, match='is a file; name a folder'):
        infer(models['classification'], path, out_dir=path)
    assert path.read_bytes() == content


def test_no_label_map_is_written_over_anything(models, toys, tmp_path):
    """Neither an image, nor the truth of a data set, nor the picture of another image."""
    model, source = models['segmentation'], Path(toys['segmentation'].images[0])
    folder = tmp_path / 'data'
    for name in ('images/a.png', 'labels/a.png', 'label_maps/a.png'):
        (folder / name).parent.mkdir(parents=True)
        (folder / name).write_bytes(source.read_bytes())
    one, = infer(model, folder / 'images/a.png', out_dir=folder)
    assert one.label_map == str(folder / 'label_maps/a.png')
    assert (folder / 'labels/a.png').read_bytes() == source.read_bytes()
    (folder / 'label_maps/a.png').write_bytes(source.read_bytes())
    with pytest.raises(ConfigError, match=r'the label map \S+a.png would be written over an image'):
        infer(model, folder / 'label_maps/a.png', out_dir=folder)
    assert (folder / 'label_maps/a.png').read_bytes() == source.read_bytes()

    (folder / 'a.png').write_bytes(source.read_bytes())  # beside label_maps/a.png
    for images in (folder, [folder / 'label_maps/a.png', folder / 'a.png']):
        found = infer(model, images, out_dir=tmp_path / 'out')
        assert len({path for one in found for path in (one.picture, one.label_map)}) == 2 * len(
            found)
        for one in found:
            assert np.array_equal(mmcv.imread(one.label_map, flag='unchanged'), one.labels())
            assert mmcv.imread(one.picture).shape[2] == 3


def test_a_strip_is_drawn(models, tmp_path):
    """Enlarged until its shorter side is as long as others', it would be no JPEG any more."""
    path = str(tmp_path / 'strip.jpg')
    mmcv.imwrite(np.full((4, 1700, 3), 90, np.uint8), path)
    one, = infer(models['classification'], path, out_dir=tmp_path / 'out')
    assert mmcv.imread(one.picture).shape == (8, 3400, 3)


def test_colours_without_names(models, toys, tmp_path):
    """Classes without names have numbers, and a palette is drawn."""
    model = models['segmentation']
    meta = model.dataset_meta
    model.dataset_meta = dict(classes=None, palette='random')
    try:
        one = infer(model, toys['segmentation'].images[0], out_dir=tmp_path / 'out')[0]
    finally:
        model.dataset_meta = meta
    assert one.to_dict()['classes'][0]['name'] is None and Path(one.picture).is_file()
