"""The student's loss, and that from outside there is only the student."""
import copy
import pickle

import numpy as np
import pytest
import torch
import torch.nn as nn
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
from mmengine.model import convert_sync_batchnorm, revert_sync_batchnorm

from scalenet_mm.errors import CheckpointError, ConfigError
from scalenet_mm.growth import apply_freezing, fast_paths
from scalenet_mm.learngene import DistilledClassifier


@pytest.fixture(autouse=True)
def plain():
    with fast_paths(False):
        yield


def log_softmax(logits, tau=1.):
    logits = logits / tau
    return logits - torch.log(torch.exp(logits).sum(1, keepdim=True))


def expected(student, teacher, scores, alpha, tau, scaled):
    """Equations 2 to 4."""
    hard = -(scores * log_softmax(student)).sum(1).mean()
    soft = -(torch.exp(log_softmax(teacher, tau)) * log_softmax(student, tau)).sum(1).mean()
    return (1 - alpha) * hard, alpha * soft * (tau**2 if scaled else 1)


class TestLoss:

    @pytest.mark.parametrize('alpha', [0., 0.3, 1.])
    @pytest.mark.parametrize('tau, scaled', [(1., False), (3., False), (3., True)])
    @pytest.mark.parametrize('smoothing', [0., 0.1])
    def test_against_the_equations(self, alpha, tau, scaled, smoothing):
        student = vit()
        if smoothing:
            student['head']['loss'] = dict(
                type='LabelSmoothLoss', label_smooth_val=smoothing, mode='original')
        model = distilled(student, alpha=alpha, tau=tau, scale_by_tau=scaled)
        teacher = build(vit(24, grown=False), seed=1).double().eval()
        model.double().eval()
        images, samples = batch()
        images = images.double()
        losses = model(images, samples, mode='loss')
        scores = torch.eye(CLASSES, dtype=torch.float64)[[0, 1, 2, 0]]
        scores = scores * (1 - smoothing) + smoothing / CLASSES
        hard, soft = expected(model(images), teacher(images), scores, alpha, tau, scaled)
        assert losses['loss_cls'].dtype == torch.float64
        # mmpretrain smooths in float32
        rtol = 1e-7 if smoothing else 1e-12
        torch.testing.assert_close(losses['loss_cls'], hard, rtol=rtol, atol=1e-14)
        assert ('loss_distill' in losses) == bool(alpha)
        if alpha:
            torch.testing.assert_close(losses['loss_distill'], soft, rtol=1e-12, atol=1e-14)
        total, logged = model.parse_losses(losses)
        torch.testing.assert_close(total, hard + soft, rtol=rtol, atol=1e-14)
        assert set(logged) == {'loss', *losses}

    @pytest.mark.parametrize('augment', [
        dict(type='Mixup', alpha=0.8), dict(type='CutMix', alpha=1.),
        dict(type='ResizeMix', alpha=1.)], ids=lambda a: a['type'])
    def test_mixed_batches(self, augment):
        """The teacher sees what the student sees, and the labels are soft."""
        student = dict(vit(), train_cfg=dict(augments=augment))
        model = distilled(
            student, tau=2., data_preprocessor=dict(num_classes=CLASSES)).double()
        teacher = build(vit(24, grown=False), seed=1).double().eval()
        np.random.seed(1)
        torch.manual_seed(1)
        data = model.data_preprocessor(raw_batch(), True)
        images = data['inputs'].double() / 100
        scores = torch.stack([s.gt_score for s in data['data_samples']]).double()
        assert ((scores > 0) & (scores < 1)).any()
        losses = model.eval().loss(images, data['data_samples'])
        hard, soft = expected(model(images), teacher(images), scores, 0.5, 2., False)
        # the scores are float32
        torch.testing.assert_close(losses['loss_cls'], hard, rtol=1e-6, atol=0)
        torch.testing.assert_close(losses['loss_distill'], soft, rtol=1e-12, atol=0)

    def test_the_batch_is_mixed_as_without_a_teacher(self):
        cfg = dict(vit(), train_cfg=dict(augments=dict(type='Mixup', alpha=0.8)))
        mixed = []
        for model in (build(dict(cfg, data_preprocessor=dict(num_classes=CLASSES))),
                      distilled(cfg, data_preprocessor=dict(num_classes=CLASSES))):
            np.random.seed(3)
            torch.manual_seed(3)
            mixed.append(model.data_preprocessor(raw_batch(), True)['inputs'])
        assert torch.equal(*mixed)

    def test_gradients_are_those_of_the_loss(self):
        """And they reach every parameter that trains, as they do without a teacher."""
        model = distilled(alpha=0.4).double().eval()
        images, samples = batch()
        loss, _ = model.parse_losses(model.loss(images.double(), samples))
        loss.backward()
        weight = model.head.layers.head.weight
        step = torch.zeros_like(weight)
        step[1, 3] = 1e-6
        sides = []
        for sign in (1, -1):
            with torch.no_grad():
                weight += sign * step
                sides.append(model.parse_losses(model.loss(images.double(), samples))[0])
                weight -= sign * step
        assert float(sides[0] - sides[1]) / 2e-6 == pytest.approx(
            float(weight.grad[1, 3]), rel=1e-5)
        assert all(p.grad is not None for p in model.parameters())

    def test_the_heads_logits_are_computed_once(self, monkeypatch):
        model = distilled()
        calls = []
        model.head.register_forward_hook(lambda *_: calls.append(1))
        model.loss(*batch())
        assert len(calls) == 1

    def test_what_else_the_head_measures(self):
        student = vit()
        student['head'].update(cal_acc=True, topk=(1, 2))
        losses = distilled(student).loss(*batch())
        assert set(losses) == {'loss_cls', 'loss_distill', 'accuracy_top-1', 'accuracy_top-2'}

    @pytest.mark.parametrize('dtype', [torch.bfloat16, torch.float16])
    def test_mixed_precision(self, dtype):
        model = distilled(tau=2.)
        exact = model.loss(*batch())
        with torch.autocast('cpu', dtype=dtype):
            assert model(batch()[0]).dtype == dtype
            losses = model.loss(*batch())
        for name, value in losses.items():
            assert value.dtype == torch.float32
            torch.testing.assert_close(value, exact[name], rtol=0.05, atol=0.05)

    def test_any_loss_is_in_full_precision(self):

        class Product(nn.Module):

            def forward(self, score, target, **kwargs):
                return (score @ score.T).mean()

        model = distilled()
        model.head.loss_module = Product()
        with torch.autocast('cpu', dtype=torch.bfloat16):
            logits = model(batch()[0])
            loss = model.loss(*batch())['loss_cls']
        assert loss.dtype == torch.float32
        torch.testing.assert_close(loss, (logits.float() @ logits.float().T).mean() / 2)

    def test_no_teacher_at_alpha_0(self):
        cfg = dict(type='DistilledClassifier', student=vit(), alpha=0)
        model = build(cfg, seed=2)
        model.prepare_teacher()
        losses = model.loss(*batch())
        own = build(vit(), seed=2).loss(*batch())
        assert torch.equal(losses['loss_cls'], own['loss']) and set(losses) == {'loss_cls'}
        # not even built
        assert build(dict(cfg, teacher=dict(type='NoSuchModel'))).teacher is None


class TestOutside:
    """It looks like the plain classifier."""

    def test_names(self):
        model, plain = distilled(), build(vit())
        for names in (lambda m: list(m.state_dict()),
                      lambda m: [n for n, _ in m.named_parameters()],
                      lambda m: [n for n, _ in m.named_buffers()],
                      lambda m: [n for n, _ in m.named_modules()]):
            assert names(model) == names(plain)

    def test_checkpoints_go_both_ways(self):
        model, plain = distilled(), build(vit(), seed=5)
        before = model(batch()[0])
        plain.load_state_dict(model.state_dict(), strict=True)
        assert torch.equal(plain.eval()(batch()[0]), model.eval()(batch()[0]))
        model.load_state_dict(build(vit(), seed=6).state_dict(), strict=True)
        assert not torch.equal(model(batch()[0]), before)

    def test_loading_goes_through_the_students_hooks(self):
        """A ScaleNetViT reads official names through a hook of its own."""
        plain = vit(grown=True, growth=None, adjustment=None)
        state = build(plain, seed=7).state_dict()
        model = distilled(vit())
        before = [h for h in model.student._load_state_dict_pre_hooks.values()]
        assert list(model._load_state_dict_pre_hooks.values()) == before
        report = model.load_state_dict(state, strict=False)
        assert not report.unexpected_keys
        assert torch.equal(model.backbone.layers[1].ln1.weight, model.backbone.layers[0].ln1.weight)

    def test_what_one_replaces_the_other_has(self):
        model = distilled()
        head = nn.Identity()
        model.head = head
        assert model.student.head is head
        model.student.head = nn.Flatten()
        assert isinstance(model.head, nn.Flatten)

    def test_batchnorm_is_converted(self):
        model = distilled(with_batchnorm(), build(with_batchnorm(), seed=1))
        converted = convert_sync_batchnorm(model)
        assert converted is model
        assert isinstance(model.student.backbone.bn1, nn.SyncBatchNorm)
        assert not any(isinstance(m, nn.SyncBatchNorm) for m in model.teacher.modules())
        assert not any(isinstance(m, nn.SyncBatchNorm)
                       for m in revert_sync_batchnorm(model).student.modules())

    @pytest.mark.parametrize('again', [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))],
                             ids=['deepcopy', 'pickle'])
    def test_copies(self, again):
        model = distilled()
        other = again(model)
        assert other.student is not model.student
        assert other.student._modules is other._modules is not model._modules
        assert other.backbone is other.student.backbone
        for a, b in zip(model.parameters(), other.parameters()):
            assert a is not b and torch.equal(a, b)
        other.train()
        assert other.student.training and not other.teacher.training
        expected, got = model.loss(*batch()), other.loss(*batch())
        assert torch.equal(expected['loss_distill'], got['loss_distill'])
        draw(other, 9)
        assert not torch.equal(model.loss(*batch())['loss_cls'], other.loss(*batch())['loss_cls'])

    def test_a_copy_has_the_same_teacher(self):
        model = distilled()
        assert copy.deepcopy(model).teacher is model.teacher

    def test_mode(self):
        model = distilled()
        for mode in (True, False, True):
            assert model.train(mode) is model
            assert model.training == model.student.training == model.backbone.training == mode
        model.eval()
        assert not model.student.training

    def test_unknown_attributes_are_the_students(self):
        model = distilled(with_batchnorm(), build(with_batchnorm(), seed=1))
        assert model.with_neck and model.with_head
        assert model.extract_feat(batch(size=32)[0])[0].shape == (4, 32)
        with pytest.raises(AttributeError, match='no_such_thing'):
            model.no_such_thing
        assert distilled().get_layer_depth('backbone.layers.1.ln1.weight')[0] == 2

    def test_other_modes(self):
        model, plain = distilled().eval(), build(vit(), seed=2).eval()
        images, samples = batch()
        assert torch.equal(model(images), plain(images))
        own, other = model(images, samples, 'predict'), plain(images, batch()[1], 'predict')
        assert all(torch.equal(a.pred_score, b.pred_score) for a, b in zip(own, other))
        with pytest.raises(RuntimeError, match='Invalid mode'):
            model(images, mode='nonsense')

    def test_freezing_presets(self):
        """The same parameters train as without distillation."""
        trains = []
        for model in (distilled(), build(vit())):
            apply_freezing(model, 'paper')
            trains.append([n for n, p in model.named_parameters() if p.requires_grad])
        assert trains[0] == trains[1] and 0 < len(trains[0]) < 50

    def test_init_weights_is_the_students(self):
        student = dict(vit(), init_cfg=dict(type='Constant', layer='LayerNorm', val=0.5))
        teacher = build(vit(24), seed=1)
        torch.manual_seed(0)
        plain = build(student)
        plain.init_weights()
        torch.manual_seed(0)
        model = build(dict(type='DistilledClassifier', student=student, teacher=teacher))
        model.init_weights()
        assert model.is_init and model.init_cfg == student['init_cfg']
        assert all(map(torch.equal, model.state_dict().values(), plain.state_dict().values()))

    def test_building_a_teacher_draws_nothing_from_the_students_numbers(self):
        torch.manual_seed(0)
        build(vit())
        after = torch.rand(1)
        torch.manual_seed(0)
        build(dict(type='DistilledClassifier', student=vit(), teacher=vit(24)))
        assert torch.equal(torch.rand(1), after)

    def test_init_within_another_module(self):
        from mmengine.model import BaseModule, ModuleList
        outer = BaseModule()
        outer.inner = ModuleList([distilled()])
        outer.init_weights()
        assert not any(hasattr(m, '_params_init_info') for m in outer.modules())
        assert not hasattr(outer.inner[0].student, '_params_init_info')


class TestTeacher:

    def test_it_never_changes(self):
        """Ten steps of training, in train mode, leave it as it is to the last bit."""
        teacher = build(with_batchnorm(), seed=1)
        before = copy.deepcopy(teacher.state_dict())
        model = distilled(with_batchnorm(), teacher)
        optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        model.train()
        images, samples = batch(size=32)
        student = copy.deepcopy(model.state_dict())
        for _ in range(10):
            optimizer.zero_grad()
            model.parse_losses(model.loss(images, samples))[0].backward()
            optimizer.step()
        assert all(map(torch.equal, before.values(), teacher.state_dict().values()))
        assert not all(map(torch.equal, student.values(), model.state_dict().values()))
        assert all(p.grad is None and not p.requires_grad for p in teacher.parameters())

    def test_it_is_nowhere(self):
        model = distilled()
        theirs = {id(t) for t in (*model.teacher.parameters(), *model.teacher.buffers())}
        assert theirs
        assert not theirs & {id(t) for t in (*model.parameters(), *model.buffers())}
        assert not {id(m) for m in model.teacher.modules()} & {id(m) for m in model.modules()}
        assert not any('teacher' in name for name in model.state_dict())

    def test_it_records_no_gradient(self):
        images, samples = batch()
        model = distilled()
        assert not model.teach(images.requires_grad_()).requires_grad
        model.loss(images, samples)['loss_distill'].backward()
        own = images.grad.clone()
        images.grad = None
        loss = distilled(teacher=Constant(model.teach(images))).loss(images, samples)
        loss['loss_distill'].backward()
        torch.testing.assert_close(own, images.grad)  # the student's part alone

    def test_always_in_eval_mode(self):
        teacher = vit(24, grown=False, drop_rate=0.5, drop_path_rate=0.5)
        model = distilled(teacher=build(teacher, seed=1).train())
        for mode in (True, False, True):
            model.train(mode)
            assert not any(m.training for m in model.teacher.modules())
        images, samples = batch()
        model.student.eval()
        values = {float(model.loss(images, samples)['loss_distill']) for _ in range(3)}
        assert len(values) == 1

    def test_it_moves_along(self):
        model = distilled()
        model.double()
        assert {p.dtype for p in model.teacher.parameters()} == {torch.float64}
        model.to(torch.float32)
        assert {p.dtype for p in model.teacher.parameters()} == {torch.float32}
        model.to('meta')
        assert {p.device.type for p in model.teacher.parameters()} == {'meta'}

    def test_classes(self):
        with pytest.raises(ConfigError, match='the student has 3 classes.*the teacher 4'):
            build(dict(type='DistilledClassifier', student=vit(), teacher=vit(24, classes=4)))

    def test_classes_that_no_head_tells(self):
        model = distilled(teacher=nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, 4)))
        with pytest.raises(ConfigError, match='the student gives 3 classes for 4 images, '
                                              'the teacher 4'):
            model.loss(*batch())

    def test_any_module_can_teach(self):
        teacher = nn.Sequential(nn.Flatten(), nn.Linear(3 * 16 * 16, CLASSES))
        model = distilled(teacher=teacher)
        images, samples = batch()
        torch.testing.assert_close(
            model.loss(images, samples)['loss_distill'],
            expected(model(images), teacher(images), 0., 0.5, 1., False)[1])

    def test_one_that_shares_the_students_tensors(self):
        student = build(vit())
        with pytest.raises(ConfigError, match='has tensors of the student'):
            build(dict(type='DistilledClassifier', student=student, teacher=student))

    def test_without_weights(self):
        model = build(dict(type='DistilledClassifier', student=vit(), teacher=vit(24)))
        with pytest.raises(ConfigError, match='teacher_checkpoint'):
            model.loss(*batch())
        with pytest.raises(ConfigError, match='teacher_checkpoint'):
            model.init_weights()

    def test_weights_are_loaded_when_training_begins(self, tmp_path):
        teacher = build(vit(24, grown=False), seed=1)
        path = tmp_path / 'teacher.pth'
        model = build(dict(type='DistilledClassifier', student=vit(),
                           teacher=vit(24, grown=False), teacher_checkpoint=str(path)))
        model.eval()(batch()[0])  # a test needs none
        with pytest.raises(CheckpointError, match='teacher.pth'):
            model.init_weights()
        torch.save(dict(state_dict=teacher.state_dict()), path)
        model.init_weights()
        images, samples = batch()
        assert torch.equal(model.teach(images), teacher.eval()(images))
        model.loss(images, samples)


class Constant(nn.Module):
    """A teacher that says the same of all images."""

    def __init__(self, logits):
        super().__init__()
        self.register_buffer('logits', logits)

    def forward(self, images):
        return self.logits


class TestStudent:

    def test_distilled_itself(self):
        inner = dict(type='DistilledClassifier', student=vit(), teacher=vit(24))
        for student in (inner, build(inner)):
            with pytest.raises(ConfigError, match='itself distilled'):
                build(dict(type='DistilledClassifier', student=student, teacher=vit(24)))

    def test_without_head(self):
        with pytest.raises(ConfigError, match='has no head'):
            build(dict(type='DistilledClassifier', student={**vit(), 'head': None},
                       teacher=vit(24)))

    @pytest.mark.parametrize('head', [
        dict(type='MultiLabelLinearClsHead', num_classes=3, in_channels=16),
        dict(type='ArcFaceClsHead', num_classes=3, in_channels=16)], ids=lambda h: h['type'])
    def test_with_a_head_that_cannot_be_split(self, head):
        with pytest.raises(ConfigError, match=head['type']):
            build(dict(type='DistilledClassifier', student={**vit(), 'head': head},
                       teacher=vit(24)))

    def test_no_config(self):
        with pytest.raises(ConfigError, match='student must be the config'):
            DistilledClassifier('resnet', vit(24))
        with pytest.raises(ConfigError, match='there is no teacher'):
            build(dict(type='DistilledClassifier', student=vit()))
        with pytest.raises(ConfigError, match='alpha=2'):
            build(dict(type='DistilledClassifier', student=vit(), teacher=vit(24), alpha=2))

    def test_its_own_preprocessor_takes_precedence(self):
        own = dict(vit(), data_preprocessor=dict(mean=[1.] * 3, std=[1.] * 3))
        for student, mean in ((own, 1.), (vit(), 2.)):
            model = distilled(student, data_preprocessor=dict(mean=[2.] * 3, std=[1.] * 3))
            assert float(model.data_preprocessor.mean[0]) == mean
            assert model.student.data_preprocessor is model.data_preprocessor

    def test_what_cannot_be_given_for_a_built_one(self):
        with pytest.raises(ConfigError, match='data_preprocessor cannot be given'):
            build(dict(type='DistilledClassifier', student=build(vit()), teacher=vit(24),
                       data_preprocessor=dict(num_classes=3)))
