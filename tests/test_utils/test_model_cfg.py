"""Where the backbone and the head are in a model's config."""
import pytest
from mmengine.config import Config

from scalenet_mm.learngene import DistilledClassifier
from scalenet_mm.utils.model_cfg import is_distilled, plain_cfg, student_cfg, student_key

STUDENT = dict(type='ImageClassifier', backbone=dict(type='A'))


@pytest.mark.parametrize('kind', [
    'DistilledClassifier', 'mmengine.DistilledClassifier', DistilledClassifier])
def test_a_distilled_one(kind):
    cfg = Config(dict(model=dict(type=kind, student=STUDENT, data_preprocessor=dict(a=1)))).model
    assert is_distilled(cfg) and student_key(cfg) == 'model.student'
    student_cfg(cfg)['backbone']['type'] = 'B'
    assert cfg.student.backbone.type == 'B'  # the same dict
    plain = plain_cfg(cfg)
    assert plain == dict(type='ImageClassifier', backbone=dict(type='B'),
                         data_preprocessor=dict(a=1))
    plain.backbone.type = 'C'
    assert cfg.student.backbone.type == 'B'  # a copy
    assert 'data_preprocessor' not in cfg.student


def test_what_the_student_names_itself_stays():
    cfg = dict(type='DistilledClassifier', init_cfg=dict(type='X'), data_preprocessor=dict(a=1),
               student=dict(STUDENT, data_preprocessor=dict(a=2)))
    assert plain_cfg(cfg) == dict(STUDENT, data_preprocessor=dict(a=2), init_cfg=dict(type='X'))


@pytest.mark.parametrize('cfg', [STUDENT, dict(STUDENT, student=dict()), {}, None])
def test_others(cfg):
    assert not is_distilled(cfg) and student_cfg(cfg) is cfg and student_key(cfg) == 'model'
    assert plain_cfg(cfg) == cfg


def test_one_whose_student_is_no_config():
    cfg = dict(type='DistilledClassifier', student=object())
    assert student_cfg(cfg) is cfg
