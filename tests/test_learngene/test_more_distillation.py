"""Distillation: what a model leaves alone, and half precision."""
import copy
import json
import os

import numpy as np
import pytest
import torch
from distill_toys import (
    batch,
    build,
    distilled,
    draw,
    raw_batch,
    runner_cfg,
    vit,
    write_photos,
)
from mmengine.config import Config
from mmengine.registry import DefaultScope

from scalenet_mm.checkpoints.files import save_file
from scalenet_mm.errors import ConfigError
from scalenet_mm.learngene import DistilledClassifier, TLEGViT
from scalenet_mm.learngene.cache_logits import cache_logits
from scalenet_mm.learngene.distillation_loss import cross_entropy_to, soft_cross_entropy
from scalenet_mm.learngene.teacher_cache import (
    RecordedMixing,
    TeacherCache,
    identify,
    record_mixing,
    write_cache,
)


def test_configs_are_left_as_they_are():
    student, teacher = vit(), vit(24, grown=False)
    preprocessor = dict(mean=[1.] * 3, std=[2.] * 3)
    init_cfg = [dict(type='TruncNormal', layer='Linear', std=0.5)]
    given = dict(student=student, teacher=teacher, data_preprocessor=preprocessor,
                 init_cfg=init_cfg, alpha=0.3)
    before = copy.deepcopy(given)
    model = DistilledClassifier(**given)
    assert given == before
    assert model.data_preprocessor.mean.flatten().tolist() == [1.] * 3
    assert model.init_cfg == init_cfg


def test_special_names_are_not_the_students():
    model = distilled()
    model.student.__dict__['__wrapped__'] = 1
    model.student.__dict__['wrapped'] = 2
    assert model.wrapped == 2
    with pytest.raises(AttributeError):
        model.__wrapped__


def test_no_graph_reaches_the_teacher():
    model = distilled()
    model.teacher.requires_grad_(True)  # whatever else was done to it
    images, samples = batch()
    target = model._teach(images, samples, model.head(model.extract_feat(images)))
    assert not target.requires_grad and target.grad_fn is None
    sum(model.loss(images, samples).values()).backward()
    assert all(p.grad is None for p in model.teacher.parameters())


@pytest.mark.parametrize('spoil, text', [
    (lambda logits: (logits, ), 'gives a tuple'),
    (lambda logits: logits[:, :, None], r'gives a tensor of shape \(4, 3, 1\)'),
])
def test_a_student_without_logits(spoil, text):
    model = distilled()
    forward = model.head.forward
    model.head.forward = lambda feats: spoil(forward(feats))
    with pytest.raises(ConfigError, match=f'the student must give one tensor of logits.*{text}'):
        model.loss(*batch())


def test_a_teacher_in_half_precision_is_softened_in_full():
    model = distilled(alpha=1., tau=0.05)
    images, samples = batch()
    logits = model.teach(images)
    model.teach = lambda inputs: logits.bfloat16()
    got = model.loss(images, samples)['loss_distill']
    own = model.head(model.extract_feat(images))
    torch.testing.assert_close(got, soft_cross_entropy(own, logits.bfloat16().float(), 0.05),
                               rtol=1e-6, atol=1e-6)
    rough = cross_entropy_to(own, torch.softmax(logits.bfloat16() / 0.05, 1).float(), 0.05)
    assert abs(rough - got) > 1e-5  # what rounding before softening would give


def test_a_tleg_net_as_student():
    sizes = dict(embed_dims=16, num_heads=2, feedforward_channels=32)
    student = vit()
    student['backbone'] = dict(type='TLEGViT', arch=sizes, depth=3, img_size=16, patch_size=4)
    model = distilled(student)
    assert isinstance(model.backbone, TLEGViT) and not any('teacher' in n for n in
                                                           model.state_dict())
    images, samples = batch()
    sum(model.loss(images, samples).values()).backward()
    assert all(p.grad is not None for p in model.parameters())
    plain = draw(build(student), seed=2)
    plain.load_state_dict(model.state_dict(), strict=True)
    assert torch.equal(plain(images), model(images))


# --- logits on the disk --------------------------------------------------------------------------

TEACHER = dict(model='a teacher', files=[], size=None)


def samples_of(*indices):
    every = raw_batch(count=6)['data_samples']
    return [every[i] for i in indices]


def cache(folder, *batches, count=6):
    pairs = [(torch.tensor([[float(i)] * 3 for i in indices]), samples_of(*indices))
             for indices in batches]
    return write_cache(str(folder), pairs, count, TEACHER, dict(type='Toy'), 'float32')


def test_the_order_within_a_batch(tmp_path):
    cache(tmp_path / 'cache', (5, 0, 3), (4, 1, 2))
    assert np.load(tmp_path / 'cache' / 'logits.npy')[:, 0].tolist() == [0, 1, 2, 3, 4, 5]


def test_what_an_earlier_attempt_left_is_no_part(tmp_path):
    part = tmp_path / 'cache.part'
    part.mkdir()
    (part / 'stray.npy').write_text('of another teacher')
    cache(tmp_path / 'cache', (0, 1, 2, 3, 4, 5))
    assert sorted(os.listdir(tmp_path / 'cache')) == ['logits.npy', 'manifest.json', 'samples.npy']
    assert os.listdir(tmp_path) == ['cache']


@pytest.mark.parametrize('batches, count', [(((0, 5), ), 5), (((0, 1), (1, 2)), 3)])
def test_indices_that_cannot_be(tmp_path, batches, count):
    with pytest.raises(ConfigError, match='comes twice or is out of range'):
        cache(tmp_path / 'cache', *batches, count=count)


@pytest.mark.parametrize('change, text', [
    (lambda m: m.pop('dtype'), 'is of the format'), (lambda m: m.pop('teacher'), 'of the format'),
    (lambda m: m.update(dtype='float16'), 'holds float32 .*says float16'),
    (lambda m: m.update(shape=[6, 4]), r'says float32 \(6, 4\)'),
    (lambda m: m.update(version=2), 'is of the format'),
])
def test_damaged_manifests(tmp_path, monkeypatch, change, text):
    cache(tmp_path / 'cache', (0, 1, 2, 3, 4, 5))
    monkeypatch.setattr('scalenet_mm.learngene.teacher_cache.check_teacher', lambda *args: None)
    assert TeacherCache(str(tmp_path / 'cache'), None).open().num_classes == 3
    path = tmp_path / 'cache' / 'manifest.json'
    manifest = json.loads(path.read_text())
    change(manifest)
    path.write_text(json.dumps(manifest))
    with pytest.raises(ConfigError, match=text):
        TeacherCache(str(tmp_path / 'cache'), None).open()


def test_names_of_samples():
    samples = [raw_batch(count=1)['data_samples'][0] for _ in range(5)]
    for sample, path in zip(samples, ('/x/cat/1.png', '/y/z/cat/1.png', 'x\\cat\\1.png',
                                      '/x/dog/1.png', '/x/cat/2.png')):
        sample.set_metainfo(dict(img_path=path))
    names = identify(samples)[1].tolist()
    assert names[0] == names[1] == names[2]  # moved, or read on another system
    assert len({names[0], names[3], names[4]}) == 3


def test_mixing_is_recorded_once():
    model = distilled()
    model.data_preprocessor.batch_augments = augments = lambda inputs, scores: (inputs, scores)
    for _ in range(3):
        record_mixing(model.data_preprocessor, None)
    assert model.data_preprocessor.batch_augments.augments is augments


def test_scores_that_are_not_mixed_as_they_say():
    images, scores = torch.ones(2, 3, 4, 4), torch.eye(3)[:2]

    def smooth(inputs, scores):  # of the classes alone: the parts of the samples are whole
        return inputs, torch.cat([scores[:, :3] * 0.9 + 0.1 / 3, scores[:, 3:]], 1)

    with pytest.raises(ConfigError, match='does more than to mix'):
        RecordedMixing(smooth)(images, scores)


@pytest.fixture
def cfg(tmp_path):
    teacher = vit(24, grown=False)
    save_file(dict(state_dict=build(teacher, seed=1).state_dict()), str(tmp_path / 'teacher.pth'))
    model = dict(type='DistilledClassifier', student=vit(), teacher=teacher,
                 teacher_checkpoint=str(tmp_path / 'teacher.pth'))
    yield Config(runner_cfg(write_photos(tmp_path / 'photos'), model, tmp_path / 'work'))
    DefaultScope._instance_dict.clear()


def test_making_mixes_nothing_and_needs_no_weight_of_the_teacher(cfg, tmp_path):
    lines = []
    for name, change in (('plain', {}), ('mixed', dict(train_cfg=dict(
            augments=[dict(type='Mixup', alpha=1.)]))), ('idle', None)):
        if change is None:
            cfg.model.alpha = 0.
        else:
            cfg.model.student.update(change)
        cache_logits(cfg, str(tmp_path / name), 4, 0, 'float32', every=2, say=lines.append)
    stored = [np.load(tmp_path / name / 'logits.npy') for name in ('plain', 'mixed', 'idle')]
    assert np.array_equal(stored[0], stored[1]) and np.array_equal(stored[0], stored[2])
    assert stored[0].std() > 0.01
    assert lines.count('2 of 3 batches') == 3


def test_what_cannot_be_made_is_told_before_any_work(cfg, tmp_path, monkeypatch):

    def build_nothing(*args):
        raise AssertionError('work was done')

    for name in ('_build_model', '_build_dataset'):
        monkeypatch.setattr(f'scalenet_mm.learngene.cache_logits.{name}', build_nothing)
    (tmp_path / 'there').mkdir()
    with pytest.raises(ConfigError, match='exists'):
        cache_logits(cfg, str(tmp_path / 'there'))
    cfg.model.teacher = None
    with pytest.raises(ConfigError, match='has no teacher'):
        cache_logits(cfg, str(tmp_path / 'cache'))
