"""The toolboxes' own ways to infer work with this package's configs, and give the same."""
import warnings

import pytest
import torch
from api_toys import assert_same
from mmengine.registry import DefaultScope

from scalenet_mm import infer, init_model

warnings.filterwarnings('ignore', module='mm')
KINDS = pytest.mark.parametrize('kind', ['whole', 'delta'])


@pytest.fixture(scope='module')
def found_by_infer():
    return {}


@pytest.fixture
def look(found_by_infer):
    """What :func:`infer` gives for a toy."""

    def look(toy):
        if toy.task not in found_by_infer:
            model = init_model(toy.config, toy.whole, 'cpu')
            found_by_infer[toy.task] = [one.sample for one in infer(model, toy.images)]
        return found_by_infer[toy.task]

    return look


@pytest.fixture
def expected(toy, look):
    """What :func:`infer` gives."""
    return look(toy)


def own_functions(toy, path):
    """list[BaseDataElement]: By the toolbox's functions."""
    if toy.task == 'detection':
        from mmdet.apis import inference_detector, init_detector
        return inference_detector(init_detector(toy.config, path, device='cpu'), toy.images)
    if toy.task == 'segmentation':
        from mmseg.apis import inference_model
        from mmseg.apis import init_model as init_segmentor
        return inference_model(init_segmentor(toy.config, path, device='cpu'), toy.images)
    from mmpretrain import ImageClassificationInferencer, get_model
    model = get_model(toy.config, pretrained=path, device='cpu')
    return ImageClassificationInferencer(model)(toy.images, return_datasamples=True)


def own_inferencer(toy, path, config):
    """list[BaseDataElement]: By the toolbox's inferencer, with a config or that of the file."""
    if toy.task == 'detection':
        from mmdet.apis import DetInferencer
        inferencer = DetInferencer(config, path, device='cpu', show_progress=False)
        return inferencer(toy.images, return_datasamples=True)['predictions']
    if toy.task == 'segmentation':
        from mmseg.apis import MMSegInferencer
        return MMSegInferencer(config, path, device='cpu')(toy.images, return_datasamples=True)
    from mmpretrain import ImageClassificationInferencer
    inferencer = ImageClassificationInferencer(config, pretrained=path, device='cpu')
    return inferencer(toy.images, return_datasamples=True)


@KINDS
def test_their_functions(kind, toy, expected):
    found = own_functions(toy, getattr(toy, kind))
    for a, b in zip(expected, found, strict=True):
        assert_same(a, b)


@KINDS
def test_their_inferencers(kind, toy, expected):
    found = own_inferencer(toy, getattr(toy, kind), toy.config)
    for a, b in zip(expected, found, strict=True):
        assert_same(a, b)


@KINDS
@pytest.mark.parametrize('task', ['detection', 'segmentation'])
def test_their_inferencers_with_the_config_in_the_file(kind, task, toys, look):
    """Which they run: for files that one trusts."""
    toy = toys[task]
    for a, b in zip(look(toy), own_inferencer(toy, getattr(toy, kind), None), strict=True):
        assert_same(a, b)


def test_their_functions_take_our_model(toy, expected):
    model = init_model(toy.config, toy.delta, 'cpu')
    DefaultScope.get_instance('other', scope_name=toy.scope)
    if toy.task == 'detection':
        from mmdet.apis import inference_detector
        found = inference_detector(model, toy.images)
    elif toy.task == 'segmentation':
        from mmseg.apis import inference_model
        found = inference_model(model, toy.images)
    else:
        from mmpretrain import ImageClassificationInferencer
        found = ImageClassificationInferencer(model)(toy.images, return_datasamples=True)
    for a, b in zip(expected, found, strict=True):
        assert_same(a, b)


def test_we_take_their_model(toy, expected):
    if toy.task == 'detection':
        from mmdet.apis import init_detector
        model = init_detector(toy.config, toy.whole, device='cpu')
    elif toy.task == 'segmentation':
        from mmseg.apis import init_model as init_segmentor
        model = init_segmentor(toy.config, toy.whole, device='cpu')
    else:
        from mmpretrain import get_model
        model = get_model(toy.config, pretrained=toy.whole)
    for a, b in zip(expected, infer(model, toy.images), strict=True):
        assert_same(a, b.sample)
        assert b.classes is not None


def test_a_distilled_classifier(toys, tmp_path):
    toy = toys['classification']
    (tmp_path / 'distilled.py').write_text(f"""
_base_ = [{toy.config!r}]
student = {{{{_base_.model}}}}
model = dict(_delete_=True, type='DistilledClassifier', student=student, alpha=0.)
""")
    from mmpretrain import ImageClassificationInferencer
    found = ImageClassificationInferencer(
        str(tmp_path / 'distilled.py'), pretrained=toy.whole, device='cpu')(
            toy.images, return_datasamples=True)
    ours = infer(init_model(str(tmp_path / 'distilled.py'), toy.whole, 'cpu'), toy.images)
    for a, b in zip(ours, found, strict=True):
        assert torch.equal(a.sample.pred_score, b.pred_score)
