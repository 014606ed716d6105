"""Logits on the disk: the same as the teacher's, found again, and refused where they are not."""
import copy
import json
import os
import pickle

import numpy as np
import pytest
import torch
from distill_toys import (
    CLASSES,
    build,
    distilled,
    draw,
    raw_batch,
    runner_cfg,
    vit,
    write_photos,
)
from mmengine.config import Config
from mmengine.dataset import pseudo_collate
from mmengine.registry import DATASETS, DefaultScope
from mmpretrain.structures import DataSample

from scalenet_mm.errors import ConfigError
from scalenet_mm.growth import fast_paths
from scalenet_mm.learngene.cache_logits import cache_logits
from scalenet_mm.learngene.teacher import fingerprint
from scalenet_mm.learngene.teacher_cache import (
    RecordedMixing,
    TeacherCache,
    identify,
    read_manifest,
    write_cache,
)

COUNT = 12


@pytest.fixture(autouse=True)
def plain():
    with fast_paths(False):
        yield
    DefaultScope._instance_dict.clear()


@pytest.fixture(scope='module')
def module_teacher():
    return build(vit(24, grown=False), seed=1).eval()


def logits_of(indices):
    """What stands in the cache of :func:`made`."""
    return torch.stack([torch.tensor([i, -i / 7, 0.123 * i]) for i in indices])


@pytest.fixture
def made(tmp_path, module_teacher):
    """A cache of 12 samples, in two batches that come in another order."""
    batches = []
    for offset in (8, 0, 4):
        samples = raw_batch(offset=offset)['data_samples']
        batches.append((logits_of(range(offset, offset + 4)), samples))
    folder = str(tmp_path / 'cache')
    write_cache(folder, batches, COUNT, fingerprint(module_teacher), dict(type='Toy'), 'float32')
    return folder


def open_cache(folder, teacher):
    return TeacherCache(folder, teacher).open()


class TestLookUp:

    def test_by_index(self, made, module_teacher):
        cache = open_cache(made, module_teacher)
        assert cache.num_classes == 3
        samples = raw_batch(8, offset=3)['data_samples'][::-1]
        logits, mixing = cache.look_up(samples, None)
        assert torch.equal(logits, logits_of(range(10, 2, -1))) and mixing is None

    def test_half_precision(self, tmp_path, module_teacher):
        values = torch.randn(4, 3)
        manifest = write_cache(str(tmp_path / 'half'), [(values, raw_batch()['data_samples'])], 4,
                               fingerprint(module_teacher), {})
        assert manifest['dtype'] == 'float16'
        cache = open_cache(str(tmp_path / 'half'), module_teacher)
        logits, _ = cache.look_up(raw_batch()['data_samples'], None)
        assert logits.dtype == torch.float32 and torch.equal(logits, values.half().float())
        assert os.path.getsize(tmp_path / 'half' / 'logits.npy') == 128 + 4 * 3 * 2

    def test_moved_data_are_the_same(self, made, module_teacher):
        samples = raw_batch()['data_samples']
        for sample in samples:
            sample.set_metainfo(dict(img_path=sample.img_path.replace('/data/', 'C:\\other\\')))
        open_cache(made, module_teacher).look_up(samples, None)

    @pytest.mark.parametrize('what', ['path', 'label', 'order', 'beyond', 'before'])
    def test_another_data_set(self, what, made, module_teacher):
        samples = raw_batch()['data_samples']
        if what == 'path':
            samples[2].set_metainfo(dict(img_path='/data/train/2/other.png'))
        elif what == 'label':
            samples[2].set_gt_label(0)
        elif what == 'order':
            samples[2].set_metainfo(dict(sample_idx=3))
        elif what == 'beyond':
            samples[2].set_metainfo(dict(sample_idx=COUNT))
        else:  # where an array has its last
            samples = raw_batch(offset=COUNT - 4)['data_samples']
            samples[3].set_metainfo(dict(sample_idx=-1))
        with pytest.raises(ConfigError, match='is of another data set: its sample'):
            open_cache(made, module_teacher).look_up(samples, None)

    def test_samples_without_index(self, made, module_teacher):
        with pytest.raises(ConfigError, match='sample_idx'):
            open_cache(made, module_teacher).look_up([DataSample().set_gt_label(0)], None)

    def test_images_without_files_are_known_by_their_labels(self):
        samples = [DataSample(metainfo=dict(sample_idx=i)).set_gt_label(i) for i in (0, 1, 1)]
        indices, own = identify(samples)
        assert indices == [0, 1, 1] and own[0] != own[1] == own[2]

    def test_several_labels(self):
        samples = [DataSample(metainfo=dict(sample_idx=0)).set_gt_label(torch.tensor(labels))
                   for labels in ([1, 2], [1], [2, 1], [1, 2])]
        own = identify(samples)[1]
        assert own[0] == own[3] and len(set(own.tolist())) == 3

    def test_copies_open_it_anew(self, made, module_teacher):
        cache = open_cache(made, module_teacher)
        assert copy.deepcopy(cache) is cache
        other = pickle.loads(pickle.dumps(cache))
        assert torch.equal(other.look_up(raw_batch()['data_samples'], None)[0],
                           logits_of(range(4)))


class TestTeachers:

    def test_another(self, made):
        with pytest.raises(ConfigError, match='another teacher'):
            open_cache(made, build(vit(24, grown=False), seed=2))

    def test_another_size(self, made, module_teacher):
        with pytest.raises(ConfigError, match='teacher_size'):
            TeacherCache(made, module_teacher, size=32).open()

    def test_a_student_that_shows_it_other_images(self, tmp_path):
        """A teacher that normalises nothing has seen them as the student's preprocessor makes
        them."""
        teacher = build(vit(24, grown=False), seed=1)

        def open_for(folder, student, teacher=teacher):
            model = build(dict(type='DistilledClassifier', student=vit(), teacher=teacher,
                               teacher_cache=folder, data_preprocessor=student))
            model.init_weights()

        own = dict(mean=[120.] * 3, std=[60., 61., 62.], to_rgb=True)
        folder, samples = str(tmp_path / 'cache'), raw_batch()['data_samples']
        write_cache(folder, [(logits_of(range(4)), samples)], 4,
                    fingerprint(teacher, student=own), {})
        open_for(folder, own)
        open_for(folder, dict(own, mean=[120.], num_classes=3))
        for other in (dict(own, mean=[120., 120., 121.]), dict(own, std=[62., 61., 60.]),
                      dict(own, to_rgb=False), dict(to_rgb=True), None):
            with pytest.raises(ConfigError, match='another teacher: mean, std and to_rgb of'):
                open_for(folder, other)
        # one with a preprocessor of its own is shown its own images, whatever the student's are
        normalises = build(dict(vit(24, grown=False), data_preprocessor=own), seed=1)
        write_cache(folder, [(logits_of(range(4)), samples)], 4,
                    fingerprint(normalises, student=dict(mean=[1.], std=[1.])), {}, force=True)
        open_for(folder, dict(mean=[9.], std=[9.]), normalises)
        open_for(folder, own)  # of these images
        with pytest.raises(ConfigError, match='mean, std and to_rgb'):
            open_for(folder, dict(mean=[9.], std=[9.]))

    def test_it_is_found_before_training_begins(self, made):
        model = build(dict(type='DistilledClassifier', student=vit(), teacher_cache=made,
                           teacher=build(vit(24, grown=False), seed=2)))
        model.eval()(torch.zeros(1, 3, 16, 16))
        with pytest.raises(ConfigError, match='another teacher'):
            model.init_weights()

    def test_other_classes(self, made, module_teacher):
        model = build(dict(type='DistilledClassifier', student=vit(classes=4), teacher_cache=made,
                           teacher=module_teacher))
        with pytest.raises(ConfigError, match='the student has 4 classes.*the teacher 3'):
            model.init_weights()

    def test_the_teacher_is_not_built(self, tmp_path):
        """Nor is its file needed."""
        cfg = dict(vit(24), type='ImageClassifier')
        folder = str(tmp_path / 'cache')
        checkpoint = 'https://example.com/nowhere-01234567.pth'
        write_cache(folder, [(logits_of(range(4)), raw_batch()['data_samples'])], 4,
                    fingerprint(cfg, checkpoint), {}, 'float32')
        model = build(dict(type='DistilledClassifier', student=vit(), teacher=cfg,
                           teacher_cache=folder, teacher_checkpoint=checkpoint))
        model.init_weights()
        assert model.teacher is None
        data = model.data_preprocessor(raw_batch(), True)
        loss = model.loss(data['inputs'], data['data_samples'])['loss_distill']
        expected = -(torch.softmax(logits_of(range(4)), 1)
                     * torch.log_softmax(model(data['inputs']), 1)).sum(1).mean() / 2
        torch.testing.assert_close(loss, expected)
        with pytest.raises(ConfigError, match='a cache takes its place'):
            model.teach(data['inputs'])


class TestMixing:

    @pytest.mark.parametrize('augments', [
        dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.),
        dict(type='CutMix', alpha=1., cutmix_minmax=[0.2, 0.8]),
        dict(type='ResizeMix', alpha=1.)], ids=str)
    @pytest.mark.parametrize('tau', [1., 3.])
    def test_distributions_are_mixed_as_the_labels(self, augments, tau, made, module_teacher):
        """Labels of one class each show the proportions; the teacher's answers follow them."""
        student = dict(vit(), train_cfg=dict(augments=augments))
        model = distilled(student, module_teacher, alpha=1, tau=tau, teacher_cache=made,
                          data_preprocessor=dict(num_classes=CLASSES))
        with torch.no_grad():
            model.head.layers.head.weight *= 30
        np.random.seed(4)
        torch.manual_seed(0)  # each is mixed with another, in a ring
        batch = raw_batch(3, offset=1)  # three samples of three classes
        data = model.data_preprocessor(batch, True)
        scores = torch.stack([s.gt_score for s in data['data_samples']])
        assert ((scores > 0.01) & (scores < 0.99)).any()
        # sample 1 is of class 1, 2 of class 2, 3 of class 0
        parts = scores[:, [1, 2, 0]]
        assert not torch.equal(parts, parts.T)
        target = parts @ torch.softmax(logits_of([1, 2, 3]) / tau, 1)
        logits = model.eval()(data['inputs'])
        expected = -(target * torch.log_softmax(logits / tau, 1)).sum(1).mean()
        got = model.loss(data['inputs'], data['data_samples'])['loss_distill']
        torch.testing.assert_close(got, expected)
        unmixed = -(torch.softmax(logits_of([1, 2, 3]) / tau, 1)
                    * torch.log_softmax(logits / tau, 1)).sum(1).mean()
        assert abs(float(unmixed - got)) > 1e-4

    def test_in_full_precision(self, made, module_teacher):
        student = dict(vit(), train_cfg=dict(augments=dict(type='Mixup', alpha=0.8)))
        model = distilled(student, module_teacher, teacher_cache=made,
                          data_preprocessor=dict(num_classes=CLASSES))
        data = model.data_preprocessor(raw_batch(), True)
        logits = torch.zeros(4, CLASSES)
        expected = model._teach(data['inputs'], data['data_samples'], logits)
        with torch.autocast('cpu', dtype=torch.bfloat16):
            got = model._teach(data['inputs'], data['data_samples'], logits)
        assert torch.equal(got, expected) and got.dtype == torch.float32

    @pytest.mark.parametrize('kind', [torch.bfloat16, torch.float16])
    def test_in_the_context_of_mixed_precision(self, kind, made, module_teacher):
        """AmpOptimWrapper has the preprocessor in its context, too."""
        student = dict(vit(), train_cfg=dict(augments=[
            dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.)]))
        model = distilled(student, module_teacher, teacher_cache=made,
                          data_preprocessor=dict(num_classes=CLASSES))
        for seed in range(6):
            out = []
            for enabled in (False, True):
                np.random.seed(seed)
                torch.manual_seed(seed)
                with torch.autocast('cpu', dtype=kind, enabled=enabled):
                    data = model.data_preprocessor(raw_batch(), True)
                    target = model._teach(data['inputs'], data['data_samples'],
                                          torch.zeros(4, CLASSES))
                scores = torch.stack([s.gt_score for s in data['data_samples']])
                assert scores.dtype == target.dtype == torch.float32
                out.append((scores, target))
            assert torch.equal(out[0][0], out[1][0]) and torch.equal(out[0][1], out[1][1])
        with torch.autocast('cpu', dtype=kind):
            losses = model.loss(data['inputs'], data['data_samples'])
        assert losses['loss_distill'].isfinite()

    def test_batches_are_mixed_as_without_a_cache(self, made, module_teacher):
        cfg = dict(vit(), train_cfg=dict(augments=[
            dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.)], probs=[0.4, 0.4]))
        plain = build(dict(cfg, data_preprocessor=dict(num_classes=CLASSES)))
        model = distilled(cfg, module_teacher, teacher_cache=made,
                          data_preprocessor=dict(num_classes=CLASSES))
        for seed in range(6):
            out = []
            for preprocessor in (plain.data_preprocessor, model.data_preprocessor):
                np.random.seed(seed)
                torch.manual_seed(seed)
                data = preprocessor(raw_batch(), True)
                out.append((data['inputs'],
                            torch.stack([s.gt_score for s in data['data_samples']])))
            assert torch.equal(out[0][0], out[1][0]) and torch.equal(out[0][1], out[1][1])

    def test_a_batch_that_was_not_seen(self, made, module_teacher):
        student = dict(vit(), train_cfg=dict(augments=dict(type='Mixup', alpha=0.8)))
        model = distilled(student, module_teacher, teacher_cache=made,
                          data_preprocessor=dict(num_classes=CLASSES))
        first = model.data_preprocessor(raw_batch(), True)
        model.loss(first['inputs'], first['data_samples'])
        model.data_preprocessor(raw_batch(), True)
        with pytest.raises(ConfigError, match='not known how this batch was mixed'):
            model.loss(first['inputs'], first['data_samples'])

    def test_augments_that_a_hook_exchanges(self, made, module_teacher):
        """As mmpretrain's SwitchRecipeHook does."""
        from mmpretrain.models.utils.batch_augments import RandomBatchAugment
        model = distilled(None, module_teacher, teacher_cache=made,
                          data_preprocessor=dict(num_classes=CLASSES, to_onehot=True))
        model.data_preprocessor.batch_augments = RandomBatchAugment(
            dict(type='Mixup', alpha=0.8))
        data = model.data_preprocessor(raw_batch(), True)
        model.loss(data['inputs'], data['data_samples'])
        model.data_preprocessor.batch_augments = None
        model.data_preprocessor.to_onehot = False
        data = model.data_preprocessor(raw_batch(), True)
        model.loss(data['inputs'], data['data_samples'])

    @pytest.mark.parametrize('function', [
        lambda scores: scores.square() + 0.1, lambda scores: scores * 0.9])
    def test_what_is_no_mixing(self, function):
        mixing = RecordedMixing(lambda inputs, scores: (inputs, function(scores)))
        with pytest.raises(ConfigError, match='does more than to mix'):
            mixing(torch.zeros(2, 3, 4, 4), torch.eye(2))


class TestFiles:

    def test_nothing_is_overwritten(self, made, module_teacher, tmp_path):
        batches = [(logits_of(range(4)), raw_batch()['data_samples'])]
        own = fingerprint(module_teacher)
        with pytest.raises(ConfigError, match='--force'):
            write_cache(made, batches, 4, own, {})
        assert read_manifest(made)['shape'] == [12, 3]
        write_cache(made, batches, 4, own, {}, force=True)
        assert read_manifest(made)['shape'] == [4, 3]
        assert sorted(os.listdir(tmp_path)) == ['cache']
        (tmp_path / 'mine').mkdir()
        (tmp_path / 'mine' / 'thesis.txt').write_text('')
        with pytest.raises(ConfigError, match='is no cache'):
            write_cache(str(tmp_path / 'mine'), batches, 4, own, {}, force=True)
        assert os.listdir(tmp_path / 'mine') == ['thesis.txt']

    @pytest.mark.parametrize('force', [False, True])
    def test_one_that_fails_leaves_what_was_there(self, force, made, module_teacher, tmp_path):
        folder = made if force else str(tmp_path / 'new')

        def failing():
            yield logits_of(range(4)), raw_batch()['data_samples']
            raise RuntimeError('power cut')

        with pytest.raises(RuntimeError, match='power cut'):
            write_cache(folder, failing(), COUNT, fingerprint(module_teacher), {}, force=force)
        if force:
            open_cache(folder, module_teacher)
        else:
            with pytest.raises(ConfigError, match='was begun and not finished'):
                open_cache(folder, module_teacher)
            batches = [(logits_of(range(4)), raw_batch()['data_samples'])]
            write_cache(folder, batches, 4, fingerprint(module_teacher), {})
            assert not os.path.exists(folder + '.part')

    def test_samples_that_do_not_come_or_come_twice(self, tmp_path, module_teacher):
        one = (logits_of(range(4)), raw_batch()['data_samples'])
        for batches, what in (([one], '8 of 12 samples did not come'),
                              ([one, one], 'sample 0 of 12 comes twice')):
            with pytest.raises(ConfigError, match=what):
                write_cache(str(tmp_path / 'c'), batches, 12, fingerprint(module_teacher), {})
            assert not os.path.exists(tmp_path / 'c')

    @pytest.mark.parametrize('value, what', [
        (1e5, 'too large for float16; use --dtype float32'), (float('nan'), 'no numbers')])
    def test_logits_that_do_not_fit(self, value, what, tmp_path, module_teacher):
        batches = [(torch.full((4, 3), value), raw_batch()['data_samples'])]
        with pytest.raises(ConfigError, match=what):
            write_cache(str(tmp_path / 'c'), batches, 4, fingerprint(module_teacher), {})

    @pytest.mark.parametrize('damage', ['cut', 'gone', 'pickled', 'other', 'manifest', 'version'])
    def test_damaged(self, damage, made, module_teacher):
        logits, manifest = os.path.join(made, 'logits.npy'), os.path.join(made, 'manifest.json')
        if damage == 'cut':
            os.truncate(logits, os.path.getsize(logits) - 4)
        elif damage == 'gone':
            os.remove(logits)
        elif damage == 'pickled':
            np.save(logits, np.array([{}], dtype=object), allow_pickle=True)
        elif damage == 'other':
            np.save(logits, np.zeros((12, 4), np.float32))
        elif damage == 'manifest':
            with open(manifest, 'w') as file:
                file.write('{')
        else:
            content = json.load(open(manifest))
            json.dump({**content, 'version': 99}, open(manifest, 'w'))
        with pytest.raises(ConfigError, match='make (it|the cache) again'):
            open_cache(made, module_teacher)

    def test_no_cache_at_all(self, tmp_path, module_teacher):
        with pytest.raises(ConfigError, match='is no cache of logits'):
            open_cache(str(tmp_path), module_teacher)


class TestMaking:
    """From a config, its data and its teacher."""

    @pytest.fixture
    def cfg(self, tmp_path):
        root = write_photos(tmp_path / 'photos')
        teacher = dict(vit(24, grown=False), data_preprocessor=dict(
            mean=[10.] * 3, std=[99.] * 3, to_rgb=True))
        checkpoint = tmp_path / 'teacher.pth'
        torch.save(dict(state_dict=build(teacher, seed=1).state_dict()), checkpoint)
        model = dict(type='DistilledClassifier', student=vit(), teacher=teacher,
                     teacher_checkpoint=str(checkpoint))
        return Config(runner_cfg(root, model, tmp_path / 'work'))

    @pytest.mark.parametrize('batch_size', [5, 12])
    def test_against_the_teacher_itself(self, cfg, batch_size, tmp_path):
        folder, lines = str(tmp_path / 'cache'), []
        cfg.model.teacher_cache = folder  # it is what is to be made
        manifest = cache_logits(cfg, folder, batch_size, 0, 'float32', say=lines.append)
        assert manifest['shape'] == [COUNT, CLASSES]
        assert manifest['dataset']['type'] == 'CustomDataset'
        assert manifest['dataset']['classes'] == ['c0', 'c1', 'c2']
        assert manifest['dataset']['pipeline'] == ['LoadImageFromFile', 'PackInputs']
        assert {'torch', 'scalenet_mm'} <= set(manifest['versions'])
        assert {'mmpretrain', 'onedl-mmpretrain'} & set(manifest['versions'])
        with DefaultScope.overwrite_default_scope('mmpretrain'):
            dataset = DATASETS.build(dict(
                cfg.train_dataloader.dataset, pipeline=cfg.test_dataloader.dataset.pipeline))
        teacher = draw(build(cfg.model.teacher), seed=1).eval()
        data = teacher.data_preprocessor(pseudo_collate([dataset[i] for i in range(COUNT)]), False)
        stored = np.load(os.path.join(folder, 'logits.npy'))
        with torch.no_grad():
            torch.testing.assert_close(torch.from_numpy(stored), teacher(data['inputs']),
                                       rtol=1e-4, atol=1e-5)
        predicted = stored.argmax(1) == [i // 4 for i in range(COUNT)]
        assert lines[-1] == f'the teacher is right for {predicted.mean():.2%} of 12 images'

    def test_training_takes_it(self, cfg, tmp_path):
        from mmengine.runner import Runner
        folder = str(tmp_path / 'cache')
        cache_logits(cfg, folder, say=lambda line: None)
        cfg.model.teacher_cache = folder
        os.remove(cfg.model.teacher_checkpoint)
        cfg.experiment_name = tmp_path.name
        runner = Runner.from_cfg(cfg)
        runner.train()
        assert runner.model.teacher is None
        assert runner.message_hub.get_scalar('train/loss_distill').data[0].shape == (6, )

    def test_another_order_is_found(self, cfg, tmp_path):
        from mmengine.runner import Runner
        folder = str(tmp_path / 'cache')
        cache_logits(cfg, folder, say=lambda line: None)
        cfg.model.teacher_cache = folder
        os.remove(tmp_path / 'photos' / 'train' / 'c0' / '00.png')
        cfg.experiment_name = tmp_path.name
        with pytest.raises(ConfigError, match='is of another data set'):
            Runner.from_cfg(cfg).train()

    def test_wrapped_data_sets(self, cfg, tmp_path):
        inner = cfg.train_dataloader.dataset
        cfg.train_dataloader.dataset = dict(type='ConcatDataset', datasets=[inner, inner])
        with pytest.raises(ConfigError, match='wraps others'):
            cache_logits(cfg, str(tmp_path / 'cache'))

    def test_configs_without_teacher(self, cfg, tmp_path):
        plain = copy.deepcopy(cfg)
        plain.model = vit()
        with pytest.raises(ConfigError, match='has no teacher'):
            cache_logits(plain, str(tmp_path / 'cache'))
        for name in ('test', 'val'):
            cfg.pop(f'{name}_dataloader')
        with pytest.raises(ConfigError, match='no pipeline of a test_dataloader'):
            cache_logits(cfg, str(tmp_path / 'cache'))
