"""Distillation: what a model leaves alone, and half precision."""
import copy

import pytest
import torch
from distill_toys import batch, build, distilled, draw, vit

from scalenet_mm.learngene import DistilledClassifier, TLEGViT
from scalenet_mm.learngene.distillation_loss import cross_entropy_to, soft_cross_entropy


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
