"""How a teacher is built, loaded, shown images, and told from another."""
import copy
import pickle
import re

import numpy as np
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from distill_toys import (
    CLASSES,
    batch,
    build,
    distilled,
    draw,
    raw_batch,
    vit,
    with_batchnorm,
)
from mmengine.config import Config
from mmpretrain.models import ClsDataPreprocessor
from torch.utils._python_dispatch import TorchDispatchMode

from scalenet_mm.errors import CheckpointError, ConfigError
from scalenet_mm.growth import fast_paths
from scalenet_mm.learngene.teacher import Teacher, fingerprint, tell_teachers_apart
from scalenet_mm.learngene.teacher_cache import TeacherCache

LEVIT = dict(
    type='ImageClassifier',
    backbone=dict(type='LeViT', arch='128s', img_size=64, patch_size=16, out_indices=(2, )),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LeViTClsHead', num_classes=CLASSES, in_channels=384, distillation=True))


@pytest.fixture(autouse=True)
def plain():
    with fast_paths(False):
        yield


def save(model, path, key='state_dict'):
    torch.save({key: model.state_dict()}, path)
    return str(path)


class TestConfigs:

    def test_a_dict_a_file_and_a_name(self, tmp_path):
        preprocessor = dict(num_classes=3, mean=[1.] * 3, std=[2.] * 3)
        path = tmp_path / 'teacher.py'
        Config(dict(model=vit(24), data_preprocessor=preprocessor)).dump(path)
        for given in (dict(vit(24), data_preprocessor=preprocessor), str(path)):
            teacher = Teacher(given)
            assert teacher.num_classes == CLASSES
            assert float(teacher.module.data_preprocessor.std[0]) == 2
        named = Teacher('mmpretrain::resnet/resnet18_8xb16_cifar10.py')
        assert named.num_classes == 10
        assert float(named.module.data_preprocessor.mean[0]) == pytest.approx(125.307)

    def test_of_a_distilled_config_it_is_the_student(self):
        teacher = Teacher(dict(
            type='DistilledClassifier', student=vit(24), teacher='nowhere.py',
            data_preprocessor=dict(mean=[1.] * 3, std=[2.] * 3)))
        assert type(teacher.module).__name__ == 'ImageClassifier'
        assert float(teacher.module.data_preprocessor.mean[0]) == 1

    def test_the_config_is_left_as_it_is(self):
        cfg = dict(vit(24), train_cfg=dict(augments=dict(type='Mixup', alpha=0.8)))
        before = copy.deepcopy(cfg)
        teacher = Teacher(cfg)
        assert cfg == before and teacher.module.data_preprocessor.batch_augments is None

    @pytest.mark.parametrize('given, what', [
        ('nowhere.py', "teacher='nowhere.py' cannot be read"),
        ('mmpretrain::no/such.py', "teacher='mmpretrain::no/such.py' cannot be read"),
        (dict(backbone=dict()), 'must be the config of a classifier'),
        (7, 'must be the config of a classifier')])
    def test_none(self, given, what):
        with pytest.raises(ConfigError, match=what):
            Teacher(given)

    def test_a_file_without_a_model(self, tmp_path):
        (tmp_path / 'data.py').write_text('a = 1\n')
        with pytest.raises(ConfigError, match='a config without a model'):
            Teacher(str(tmp_path / 'data.py'))


class TestWeights:

    def test_of_a_file(self, tmp_path):
        model = build(vit(24, grown=False), seed=1).eval()
        for key in ('state_dict', 'model'):
            teacher = Teacher(vit(24, grown=False), save(model, tmp_path / f'{key}.pth', key))
            teacher.load_weights()
            assert torch.equal(teacher.logits(batch()[0], None), model(batch()[0]))

    def test_under_official_names(self, tmp_path):
        model = build(vit(24, grown=False), seed=1).eval()
        state = {}
        for key, value in model.state_dict().items():
            key = key.removeprefix('backbone.').replace('.projection', '.proj')
            key = key.replace('ffn.layers.0.0', 'mlp.fc1').replace('ffn.layers.1', 'mlp.fc2')
            key = key.replace('.ln1', '.norm1').replace('.ln2', '.norm2')
            key = key.replace('layers.', 'blocks.').replace('head.blocks.head', 'head')
            state[key.replace('ln1.', 'norm.')] = value
        torch.save(dict(model=state), tmp_path / 'official.pth')
        teacher = Teacher(vit(24, grown=False), str(tmp_path / 'official.pth'))
        teacher.load_weights()
        assert torch.equal(teacher.logits(batch()[0], None), model(batch()[0]))

    def test_of_levit(self, tmp_path):
        """In eval mode it keeps a tensor made of its weights that no state dict has."""
        model = build(LEVIT, seed=1)
        for name, parameter in model.named_parameters():
            if name.endswith('attention_biases'):
                nn.init.normal_(parameter, std=20.)
        model.eval()
        images = batch(size=64)[0]
        teacher = Teacher(LEVIT, save(model, tmp_path / 'levit.pth'))
        teacher.load_weights()
        with torch.no_grad():
            expected = model(images)
        torch.testing.assert_close(teacher.logits(images, None), expected, rtol=1e-5, atol=1e-6)
        teacher.apply(lambda t: t.double() if t.is_floating_point() else t)
        kept = [m.ab for m in teacher.module.modules() if hasattr(m, 'ab')]
        assert len(kept) == 11 and all(t.dtype == torch.float64 for t in kept)
        torch.testing.assert_close(
            teacher.logits(images.double(), None).float(), expected, rtol=1e-4, atol=1e-5)

    def test_of_its_own_init_cfg(self, tmp_path):
        model = build(vit(24, grown=False), seed=1).eval()
        cfg = dict(vit(24, grown=False), init_cfg=dict(
            type='Pretrained', checkpoint=save(model, tmp_path / 'own.pth')))
        teacher = Teacher(cfg)
        with pytest.raises(ConfigError, match='no weights'):
            teacher.logits(batch()[0], None)
        teacher.load_weights()
        assert torch.equal(teacher.logits(batch()[0], None), model(batch()[0]))

    @pytest.mark.parametrize('lost', ['head.layers.head.weight', 'backbone.layers.1.ln1.weight'])
    def test_of_a_part(self, lost, tmp_path):
        state = build(vit(24, grown=False), seed=1).state_dict()
        del state[lost]
        torch.save(dict(state_dict=state), tmp_path / 'part.pth')
        teacher = Teacher(vit(24, grown=False), str(tmp_path / 'part.pth'))
        with pytest.raises(CheckpointError, match='teacher_checkpoint'):
            teacher.load_weights()
        assert not teacher.ready

    @pytest.mark.parametrize('other', [vit(24, classes=4, grown=False), vit(32, grown=False)])
    def test_of_another(self, other, tmp_path):
        teacher = Teacher(
            vit(24, grown=False), save(build(other, seed=1), tmp_path / 'other.pth'))
        with pytest.raises(CheckpointError, match='teacher_checkpoint'):
            teacher.load_weights()

    def test_loading_draws_nothing(self, tmp_path):
        """Neither does the initialisation that comes before a Pretrained."""
        path = save(build(vit(24, grown=False), seed=1), tmp_path / 'own.pth')
        cfg = dict(vit(24, grown=False), init_cfg=dict(type='Pretrained', checkpoint=path))
        torch.manual_seed(0)
        Teacher(cfg).load_weights()
        after = torch.rand(1)
        torch.manual_seed(0)
        assert torch.equal(torch.rand(1), after)

    def test_a_module_is_trusted(self):
        model = build(vit(24), seed=1).train()
        teacher = Teacher(model)
        assert teacher.ready and not model.training
        assert not any(p.requires_grad for p in model.parameters())

    def test_it_stays_in_eval_mode_whoever_has_it(self):
        """The module's owner may go on with it; its statistics must not move while it teaches."""
        own = build(with_batchnorm(), seed=1)
        teacher = Teacher(own)
        images = batch(size=32)[0]
        expected = teacher.logits(images, None)
        before = {k: v.clone() for k, v in own.state_dict().items()}
        for part in (own, own.backbone, own.backbone.bn1):
            part.train()
            assert torch.equal(teacher.logits(images, None), expected)
            assert not any(m.training for m in own.modules())
        assert all(torch.equal(value, before[k]) for k, value in own.state_dict().items())

    def test_levit_is_settled_only_when_it_must_be(self):
        own = build(LEVIT, seed=1)
        for name, parameter in own.named_parameters():
            if name.endswith('attention_biases'):
                nn.init.normal_(parameter, std=20.)
        teacher = Teacher(own)
        images = batch(size=64)[0]
        attention = next(m for m in own.modules() if hasattr(m, 'ab'))
        kept, expected = attention.ab, teacher.logits(images, None)
        assert attention.ab is kept
        own.train()
        assert torch.equal(teacher.logits(images, None), expected)
        assert attention.ab is not kept

    def test_random_ones_to_measure(self):
        teacher = Teacher(vit(24))
        teacher.use_random_weights()
        assert teacher.logits(batch()[0], None).shape == (4, CLASSES)

    def test_synchronised_norms_become_plain(self):
        """Older versions of torch refuse them on a CPU, in eval mode too."""
        model = nn.SyncBatchNorm.convert_sync_batchnorm(build(with_batchnorm(), seed=1))
        teacher = Teacher(model)
        assert not any(isinstance(m, nn.SyncBatchNorm) for m in teacher.module.modules())
        plain = build(with_batchnorm(), seed=1).eval()
        images = batch(size=32)[0]
        torch.testing.assert_close(teacher.logits(images, None), plain(images))

    def test_pickled(self):
        teacher = Teacher(build(vit(24), seed=1))
        other = pickle.loads(pickle.dumps(teacher))
        assert torch.equal(other.logits(batch()[0], None), teacher.logits(batch()[0], None))


MEAN, STD = [123.675, 116.28, 103.53], [58.395, 57.12, 57.375]
PREPROCESSORS = {
    'same': dict(mean=MEAN, std=STD, to_rgb=True),
    'other numbers': dict(mean=[127.5, 120., 10.], std=[127.5, 3., 60.], to_rgb=True),
    'other order': dict(mean=MEAN[::-1], std=STD[::-1], to_rgb=False),
    'both': dict(mean=[127.5, 120., 10.], std=[127.5, 3., 60.], to_rgb=False),
}


def two(student, teacher, **options):
    """DistilledClassifier: Whose two models have these preprocessors."""
    own = build(dict(vit(24, grown=False), data_preprocessor=teacher), seed=1)
    # not the preprocessor, whose tensors are buffers outside of the state dict
    return distilled(teacher=own, data_preprocessor=student, **options), own


class TestImages:

    @pytest.mark.parametrize('student', [*PREPROCESSORS.values(), dict(to_rgb=True), dict()],
                             ids=[*PREPROCESSORS, 'raw rgb', 'raw bgr'])
    @pytest.mark.parametrize('teacher', PREPROCESSORS.values(), ids=PREPROCESSORS)
    def test_as_its_own_preprocessor_makes_them(self, student, teacher):
        model, own = two(student, teacher)
        images = model.data_preprocessor(raw_batch(), False)['inputs']
        direct = own.data_preprocessor(raw_batch(), False)['inputs']
        converted = model._teacher.convert(images, model.data_preprocessor)
        torch.testing.assert_close(converted, direct, rtol=0, atol=2e-5)
        if student == teacher:
            assert converted is images  # to the bit
        else:
            assert not torch.allclose(converted, images, atol=0.01)
        torch.testing.assert_close(model.teach(images), own(direct), rtol=0, atol=1e-4)

    def test_mixed_ones(self):
        """Mixing is linear, so that it does not matter what comes first."""
        student = dict(vit(), train_cfg=dict(augments=dict(type='Mixup', alpha=0.8)))
        own = build(dict(vit(24), data_preprocessor=PREPROCESSORS['both']))
        model = distilled(student, own, data_preprocessor=dict(
            PREPROCESSORS['same'], num_classes=3, batch_augments=dict(
                augments=dict(type='Mixup', alpha=0.8))))
        direct = copy.deepcopy(own.data_preprocessor)
        direct.batch_augments, direct.to_onehot = model.data_preprocessor.batch_augments, True
        direct.num_classes = 3
        images = []
        for preprocessor in (model.data_preprocessor, direct):
            np.random.seed(0)
            torch.manual_seed(0)
            images.append(preprocessor(raw_batch(), True)['inputs'])
        converted = model._teacher.convert(images[0], model.data_preprocessor)
        torch.testing.assert_close(converted, images[1], rtol=0, atol=1e-4)

    def test_one_without_normalisation_takes_the_students(self):
        model, _ = two(PREPROCESSORS['both'], dict())
        images = batch()[0]
        assert model._teacher.convert(images, model.data_preprocessor) is images

    @pytest.mark.parametrize('size', [24, (12, 20)])
    def test_size(self, size):
        model, own = two(PREPROCESSORS['same'], PREPROCESSORS['same'], teacher_size=size)
        images = batch()[0]
        converted = model._teacher.convert(images, model.data_preprocessor)
        pair = (size, size) if isinstance(size, int) else size
        torch.testing.assert_close(converted, F.interpolate(
            images, pair, mode='bilinear', align_corners=False, antialias=True))
        assert converted.shape[-2:] == pair

    def test_size_of_the_teachers_own(self):
        """A teacher for 32 x 32 teaches a student of 16 x 16."""
        teacher = build(vit(24, grown=False, img_size=32), seed=1)
        model = distilled(teacher=teacher, teacher_size=32)
        images, samples = batch()
        larger = F.interpolate(
            images, (32, 32), mode='bilinear', align_corners=False, antialias=True)
        assert torch.equal(model.teach(images), teacher(larger))
        model.loss(images, samples)

    @pytest.mark.parametrize('pads', [
        (dict(pad_size_divisor=32), dict()), (dict(), dict(pad_size_divisor=32)),
        (dict(pad_size_divisor=32), dict(pad_size_divisor=32, pad_value=1))])
    def test_padding_that_cannot_be_undone(self, pads):
        model, _ = two(dict(PREPROCESSORS['same'], **pads[0]),
                       dict(PREPROCESSORS['same'], **pads[1]))
        with pytest.raises(ConfigError, match='padding is not undone'):
            model.loss(*batch())

    @pytest.mark.parametrize('size', [
        'abc', '128', [128], (16, 16, 16), 0, -3, (16, 0), 8.5, True, [16, None], []], ids=str)
    def test_sizes_that_are_none(self, size):
        for make in (lambda: Teacher(vit(24), size=size),
                     lambda: fingerprint(vit(24), size=size),
                     lambda: TeacherCache('nowhere', vit(24), size=size),
                     lambda: distilled(alpha=0, teacher_size=size)):
            with pytest.raises(ConfigError, match=rf'teacher_size.*got {re.escape(repr(size))}'):
                make()

    def test_the_numbers_are_copied_once_for_a_device(self):
        model, _ = two(PREPROCESSORS['same'], PREPROCESSORS['both'])
        images = batch()[0]

        def copies(images):
            with Copies() as mode:
                converted = model._teacher.convert(images, model.data_preprocessor)
            return mode.number, converted

        (first, one), (again, other) = copies(images), copies(images)
        assert first > 0 and again == 0 and torch.equal(one, other)
        # in half precision, or on another device, they are others
        half = copies(images.bfloat16())[1]
        assert half.dtype == torch.bfloat16
        torch.testing.assert_close(half.float(), one, atol=0.2, rtol=0.05)
        shapes = copies(images.to('meta'))[1]
        assert shapes.device.type == 'meta' and copies(images)[0] == 0

    def test_padding_with_other_numbers(self):
        pad = dict(pad_size_divisor=32)
        model, _ = two(dict(PREPROCESSORS['same'], **pad), dict(PREPROCESSORS['both'], **pad))
        with pytest.raises(ConfigError, match='padding is not undone'):
            model.loss(*batch())
        model, _ = two(dict(PREPROCESSORS['same'], **pad), dict(PREPROCESSORS['same'], **pad))
        model.loss(*batch())

    def test_another_class(self):
        model, _ = two(Other(mean=MEAN, std=STD), PREPROCESSORS['same'])
        with pytest.raises(ConfigError, match='use one class for both'):
            model.teach(batch()[0])

    def test_logits_that_are_none(self):
        headless = build({**vit(24), 'head': None})
        for teacher, what in ((nn.Identity(), 'a tensor of shape'), (headless, 'a tuple'),
                              (nn.Sequential(nn.Flatten(), Several()), 'a tuple')):
            with pytest.raises(ConfigError, match=f'one tensor of logits.*{what}'):
                distilled(teacher=teacher).teach(batch()[0])


class Copies(TorchDispatchMode):
    """Count the copies to another type or device."""
    number = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.number += func is torch.ops.aten._to_copy.default
        return func(*args, **(kwargs or {}))


class Other(ClsDataPreprocessor):
    pass


class Several(nn.Module):

    def forward(self, x):
        return x, x


class TestFingerprint:

    def test_it_tells_what_matters(self, tmp_path):
        cfg = vit(24)
        first = save(build(cfg, seed=1), tmp_path / 'first.pth')
        second = save(build(cfg, seed=2), tmp_path / 'second.pth')
        own = fingerprint(cfg, first)
        assert tell_teachers_apart(own, fingerprint(copy.deepcopy(cfg), first)) is None
        assert 'config' in tell_teachers_apart(own, fingerprint(vit(32), first))
        assert 'content' in tell_teachers_apart(own, fingerprint(cfg, second))
        assert 'teacher_size' in tell_teachers_apart(own, fingerprint(cfg, first, 32))
        normalised = dict(cfg, data_preprocessor=PREPROCESSORS['same'])
        assert 'config' in tell_teachers_apart(own, fingerprint(normalised, first))
        # training's settings, and where the file lies, do not
        assert tell_teachers_apart(
            own, fingerprint(dict(cfg, train_cfg=dict(augments=[])), first)) is None
        (tmp_path / 'moved').mkdir()
        moved = tmp_path / 'moved' / 'renamed.pth'
        moved.write_bytes(open(first, 'rb').read())
        assert tell_teachers_apart(own, fingerprint(cfg, str(moved))) is None

    def test_a_file_that_is_not_here_is_known_by_its_name(self):
        one, other = (fingerprint(vit(24), f'https://example.com/{name}-0a1b2c3d.pth')
                      for name in ('net', 'other'))
        assert one['files'] == [['net-0a1b2c3d.pth', None]]
        assert 'other-0a1b2c3d.pth' in tell_teachers_apart(one, other)
        assert tell_teachers_apart(one, one) is None
        here = dict(one, files=[['net-0a1b2c3d.pth', 'ab']])
        assert tell_teachers_apart(one, here) is None

    def test_of_weights_that_the_config_names(self, tmp_path):
        paths = [save(build(vit(24), seed=seed), tmp_path / f'{seed}.pth') for seed in (1, 2)]
        one, other = (fingerprint(dict(vit(24), init_cfg=dict(type='Pretrained', checkpoint=p)))
                      for p in paths)
        assert 'content' in tell_teachers_apart(one, other)
        assert 'files' in tell_teachers_apart(one, fingerprint(vit(24)))

    def test_of_a_module(self):
        model = build(vit(24), seed=1)
        one = fingerprint(model)
        assert one == fingerprint(copy.deepcopy(model)) and one['files'] == []
        with torch.no_grad():
            next(model.parameters()).flatten()[0] += 1e-3
        assert 'weights' in tell_teachers_apart(one, fingerprint(model))

    def test_of_how_its_images_are_normalised(self):
        def images(teacher, student):
            return fingerprint(teacher, student=student)['images']

        own, other = PREPROCESSORS['same'], PREPROCESSORS['other order']
        expected = dict(mean=pytest.approx(MEAN), std=pytest.approx(STD), to_rgb=True)
        with_own = dict(vit(24), data_preprocessor=own)
        for teacher in (with_own, build(with_own)):
            assert images(teacher, other) == images(teacher, None) == expected
        plain, none = build(vit(24)), dict(mean=None, std=None, to_rgb=False)
        for teacher in (vit(24), plain):
            assert images(teacher, None) is None
            assert images(teacher, {}) == images(teacher, plain.data_preprocessor) == none
            # the same of a config and of what is built of it
            assert images(teacher, own) == images(teacher, build(with_own).data_preprocessor) \
                == expected
            # who knows what others do
            assert images(teacher, dict(own, type='Other')) is None
            assert images(teacher, nn.Identity()) is None
        a, b, unknown = (fingerprint(vit(24), student=s) for s in (own, other, None))
        assert 'of its images' in tell_teachers_apart(a, b)
        unknown_of_old = {k: v for k, v in a.items() if k != 'images'}
        for one in (unknown, unknown_of_old):
            assert tell_teachers_apart(a, one) is tell_teachers_apart(one, b) is None

    def test_of_half_precision(self):
        assert fingerprint(draw(build(vit(24))).bfloat16()) != fingerprint(draw(build(vit(24))))
