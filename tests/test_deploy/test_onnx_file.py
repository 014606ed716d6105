"""ONNX files: equal to the model, each shared tensor once, errors before a file is there."""
import json
from collections import Counter

import onnx
import pytest
import torch
import torch.nn as nn
from deploy_toys import (
    PLAIN,
    STOCK_SWIN,
    STOCK_VIT,
    SWIN,
    VIT,
    assert_close,
    build,
    classifier_cfg,
    grown,
    images,
    run_onnx,
)
from onnxruntime.capi.onnxruntime_pybind11_state import Fail, InvalidArgument

from scalenet_mm import ConfigError
from scalenet_mm.deploy import export_onnx, export_program, onnx_file
from scalenet_mm.errors import ExportError


@pytest.mark.parametrize('cfg, scope, size', (
    (dict(VIT, out_indices=(0, 1), out_type='featmap'), 'mmpretrain', 32),
    (SWIN, 'mmdet', 96),  # large enough for masks that the exporter does not unite
    (grown(STOCK_SWIN), 'mmdet', 16),
    (grown(STOCK_VIT), 'mmpretrain', 32),
), ids=('ScaleNetViT', 'ScaleNetSwin', 'stock Swin', 'stock ViT'))
def test_a_backbone(cfg, scope, size, tmp_path):
    model, path = build(cfg, scope), tmp_path / 'backbone.onnx'
    report = export_onnx(model, str(path), size=size)
    assert report.size == path.stat().st_size and max(report.differences.values()) < 1e-5
    for batch in (1, 2, 7):
        image = images(batch, 3, size, size)
        expected = model(image)
        got = run_onnx(path, image)
        assert list(got) == [f'feat{i}' for i in range(len(expected))] == report.outputs
        for a, b in zip(got.values(), expected):
            assert_close(a, b)
    # an image of another size is an error, not another result
    for other in ((size + 16, size), (size, size // 2), (size + 1, size + 1)):
        with pytest.raises(InvalidArgument, match='invalid dimensions for input: image'):
            run_onnx(path, images(1, 3, *other))
    graph = onnx.load(path).graph
    sizes = Counter(t.raw_data for t in graph.initializer if len(t.raw_data) > 64)
    assert max(sizes.values()) == 1


def test_a_classifier_and_what_the_file_says_of_it(tmp_path):
    model, path = build(classifier_cfg(drop_path_rate=0.5)), tmp_path / 'classifier.onnx'
    model.dataset_meta = dict(classes=('cat', 'dog', 'cow', 'owl'))
    model.train()
    model.backbone.layers[1].eval()
    modes = [m.training for m in model.modules()]
    report = export_onnx(model, str(path), metadata=dict(note='ours'))
    assert [m.training for m in model.modules()] == modes
    model.eval()
    for batch in (1, 4):
        image = images(batch, 3, 32, 32)
        assert_close(run_onnx(path, image)['logits'], model(image, mode='tensor'))
    assert report.outputs == ['logits'] and 'logits' in str(report)

    proto = onnx.load(path)
    about = {entry.key: entry.value for entry in proto.metadata_props}
    assert json.loads(about['preprocessing']) == dict(
        to_rgb=True, mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375])
    assert json.loads(about['classes']) == ['cat', 'dog', 'cow', 'owl']
    assert about['part'] == 'classifier' and about['note'] == 'ours'
    dims = [d.dim_param or d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim]
    assert dims == ['batch', 3, 32, 32]
    # the exporter notes the source line of every operator, with this machine's paths
    assert b'.py' not in path.read_bytes()


def test_shared_weights_stand_once(tmp_path):
    """On a model in which, as in real ones, weights outweigh the description of operators."""
    arch = dict(embed_dims=192, num_layers=2, num_heads=3, feedforward_channels=768)
    sizes, weights = [], []
    for options in (dict(growth=None, adjustment=None), dict()):
        model = build(classifier_cfg(arch=arch, **options))
        report = export_onnx(model, str(tmp_path / 'model.onnx'))
        sizes.append(report.size)
        weights.append(sum(p.numel() * p.element_size() for p in model.parameters()))
    assert weights[0] < weights[1] < 1.15 * weights[0]
    assert sizes[1] <= 1.02 * (sizes[0] + weights[1] - weights[0])
    # nor does a runtime that computes what is constant before it starts keep two of them
    graph = onnx.load(tmp_path / 'model.onnx').graph
    stored = {tensor.name for tensor in graph.initializer}
    transposed = Counter(node.input[0] for node in graph.node if node.op_type == 'Transpose')
    assert {transposed[name] for name in stored} == {0, 1}
    assert sizes[0] <= 1.02 * weights[0]


def test_an_open_image_size(tmp_path):
    model, path = build(dict(VIT, out_type='featmap')), tmp_path / 'any_size.onnx'
    report = export_onnx(model, str(path), size='dynamic')
    assert len({shape[2:] for shape in report.differences}) == 3
    # that of pretraining, where the position embeddings stay as they are, and others
    for shape in ((1, 32, 32), (3, 16, 64), (2, 112, 48)):
        image = images(shape[0], 3, *shape[1:])
        assert_close(run_onnx(path, image)['feat0'], model(image)[0])
    for size in ((40, 32), (32, 40)):
        with pytest.raises(Fail, match='image_size_must_be_a_multiple_of_16'):
            run_onnx(path, images(1, 3, *size))


def test_one_batch_and_one_size(tmp_path):
    model, path = build(SWIN, 'mmdet'), tmp_path / 'fixed.onnx'
    report = export_onnx(model, str(path), size=(24, 40), batch=3, opset=18)
    assert list(report.differences) == [(3, 3, 24, 40)]
    image = images(3, 3, 24, 40)
    assert_close(run_onnx(path, image)['feat1'], model(image)[1])
    assert [entry.version for entry in onnx.load(path).opset_import] == [18]
    with pytest.raises(InvalidArgument):
        run_onnx(path, images(2, 3, 24, 40))


def test_the_size_of_a_swin_cannot_be_left_open(tmp_path):
    for cfg in (SWIN, STOCK_SWIN):
        with pytest.raises(ConfigError, match='cannot be left open.*name height and width'):
            export_onnx(build(cfg, 'mmdet'), str(tmp_path / 'no.onnx'), size='dynamic')
    assert not list(tmp_path.iterdir())


class Treacherous(nn.Module):
    """What is traced is not what runs."""

    def __init__(self, factor, summand=0., batches=range(100)):
        super().__init__()
        self.conv = nn.Conv2d(3, 4, 16, 16)
        self.factor, self.summand, self.batches = factor, summand, batches

    def forward(self, image):
        out = self.conv(image)
        if torch.compiler.is_compiling():
            return [out * self.factor + self.summand]
        if len(image) not in self.batches:
            raise ValueError('too many images')
        return [out]


@pytest.mark.parametrize('factor', (1.01, float('nan')))
def test_a_file_that_differs_is_not_written(factor, tmp_path):
    path = tmp_path / 'model.onnx'
    path.write_text('an earlier one')
    with pytest.raises(ExportError, match='was not written: its outputs would differ'):
        export_onnx(Treacherous(factor), str(path), size=32)
    assert path.read_text() == 'an earlier one' and len(list(tmp_path.iterdir())) == 1
    report = export_onnx(Treacherous(factor), str(path), size=32, check=False)
    assert report.differences == {} and 'not checked' in str(report)


def zeroed(module):
    for parameter in module.parameters():
        nn.init.zeros_(parameter)


def test_a_head_of_zeros(tmp_path):
    """As mmpretrain initialises some."""
    model, path = build(classifier_cfg()), tmp_path / 'model.onnx'
    zeroed(model.head)
    report = export_onnx(model, str(path))
    assert set(report.differences.values()) == {0.} and len(report.differences) == 3
    assert not run_onnx(path, images(2, 3, 32, 32))['logits'].any()


@pytest.mark.parametrize('factor, summand', ((float('nan'), 0.), (1., 1e-3)))
def test_a_file_that_differs_from_zeros_is_not_written(factor, summand, tmp_path):
    model = Treacherous(factor, summand)
    zeroed(model)
    with pytest.raises(ExportError, match='was not written: its outputs would differ'):
        export_onnx(model, str(tmp_path / 'model.onnx'), size=32)
    assert not list(tmp_path.iterdir())


def test_whose_error_it_is(tmp_path):
    with pytest.raises(ValueError, match='^too many images$'):
        export_onnx(Treacherous(1., batches=(1, 2)), str(tmp_path / 'model.onnx'), size=32)
    with pytest.raises(ExportError, match='onnxruntime cannot run the exported Treacherous'):
        onnx_file.compare_with_onnx(export_program(Treacherous(1.), size=32), b'no model')


def test_packages_that_are_missing(tmp_path, monkeypatch):
    missing = set()
    monkeypatch.setattr(onnx_file, '_has', lambda package: package not in missing)
    model, path = Treacherous(1.), str(tmp_path / 'model.onnx')
    for package in ('onnx', 'onnxscript'):
        missing.add(package)
        with pytest.raises(ConfigError, match=f'{package} is not installed.*pip install'):
            export_onnx(model, path)
        missing.clear()
    missing.add('onnxruntime')
    with pytest.raises(ConfigError, match='onnxruntime is not installed.*pip install'):
        export_onnx(model, path, check=True)
    assert not list(tmp_path.iterdir())
    assert export_onnx(model, path, size=32).differences == {}


@pytest.mark.parametrize('options, message', (
    (dict(part='head'), 'part must be one of classifier, backbone'),
    (dict(part='classifier'), 'a ScaleNetViT is no classifier'),
    (dict(size=(32, 32, 3)), 'size must be height and width'),
    (dict(size=0), 'size must be height and width'),
    (dict(batch=0), 'batch must be a number of images'),
    (dict(opset=17), 'opset must be from 18'),
))
def test_options_that_do_not_fit(options, message, tmp_path):
    with pytest.raises(ConfigError, match=message):
        export_onnx(build(VIT), str(tmp_path / 'no.onnx'), **options)


def test_models_that_cannot_be_written(tmp_path, monkeypatch):
    path = str(tmp_path / 'no.onnx')
    with pytest.raises(ConfigError, match=r'torch.float16; make it model.float\(\)'):
        export_onnx(build(VIT).half(), path)
    with pytest.raises(ConfigError, match='no weights'):
        export_onnx(build(VIT).to('meta'), path)
    with pytest.raises(ConfigError, match='no convolution'):
        export_onnx(nn.Linear(2, 2), path)
    headless = {key: value for key, value in classifier_cfg().items() if key != 'head'}
    with pytest.raises(ConfigError, match='has no head'):
        export_onnx(build(headless), path)
    monkeypatch.setattr(onnx_file, '_LARGEST', 10_000)
    with pytest.raises(ConfigError, match='one ONNX file holds 2 at most'):
        export_onnx(build(dict(VIT, arch=PLAIN)), path)
