"""Programs of ``torch.export``: equal outputs, each shared tensor once."""
import io

import pytest
import torch
from deploy_toys import STOCK_SWIN, STOCK_VIT, SWIN, VIT, build, classifier_cfg, grown, images

from scalenet_mm import ConfigError, GrowthError, fast_paths
from scalenet_mm.backbones.grown_backbone import tensors_in
from scalenet_mm.deploy import export_program
from scalenet_mm.errors import ExportError

LORA = dict(type='LoRA', rank=2)


@pytest.mark.parametrize('cfg, scope, size', (
    (dict(VIT, growth=dict(start='identity'), adjustment=LORA, with_cp=True), 'mmpretrain', 32),
    (dict(VIT, growth=dict(share='none')), 'mmpretrain', 32),
    (dict(SWIN, growth=dict(stages=(0, ), start='identity'), adjustment=LORA, with_cp=True),
     'mmdet', 16),
    (dict(SWIN, use_abs_pos_embed=True), 'mmseg', 16),
    (grown(dict(STOCK_SWIN, with_cp=True)), 'mmdet', 16),
    (grown(STOCK_VIT, adjustment=LORA), 'mmpretrain', 32),
), ids=('ViT, gains, LoRA, cp', 'ViT, nothing shared', 'Swin, gains, LoRA, cp',
        'Swin, position embeddings', 'stock Swin, cp', 'stock ViT, LoRA'))
def test_a_backbone(cfg, scope, size):
    model = build(cfg, scope)
    exported = export_program(model, size=size)
    state = exported.program.state_dict
    # each tensor once, under the model's name, and the model's own (not a copy)
    wanted = model.state_dict(keep_vars=True)
    assert {f'model.{name}': id(value) for name, value in wanted.items()} == {
        name: id(value) for name, value in state.items()}
    assert all(value.numel() == 1 for value in exported.program.constants.values())
    run = exported.program.module()
    for batch in (1, 3):
        image = images(batch, 3, size, size)
        with fast_paths(False):  # a program holds the plain form
            expected = list(tensors_in(model(image)))
        assert all(map(torch.equal, run(image), expected))
    with pytest.raises(AssertionError):
        run(images(1, 3, size + 16, size))


def test_a_file_holds_each_tensor_once():
    sizes, weights = [], []
    for growth in (dict(growth=None, adjustment=None), dict()):
        arch = dict(embed_dims=192, num_layers=2, num_heads=3, feedforward_channels=768)
        model = build(classifier_cfg(arch=arch, **growth))
        exported = export_program(model)
        file = io.BytesIO()
        torch.export.save(exported.program, file)
        sizes.append(file.tell())
        weights.append(sum(p.numel() * p.element_size() for p in model.parameters()))
        file.seek(0)
        image = images(2, 3, 32, 32)
        loaded, = torch.export.load(file).module()(image)
        with fast_paths(False):
            assert torch.equal(loaded, model(image, mode='tensor'))
    assert weights[0] < weights[1] < 1.15 * weights[0]
    # what describes the operators is a tenth here and nothing in models of real size
    assert sizes[1] < sizes[0] + 2 * (weights[1] - weights[0])


def test_an_open_image_size():
    model = build(dict(VIT, out_type='featmap'))
    run = export_program(model, size='dynamic').program.module()
    for shape in ((1, 32, 32), (2, 48, 64)):
        image = images(shape[0], 3, *shape[1:])
        torch.testing.assert_close(run(image)[0], model(image)[0])
    with pytest.raises((AssertionError, RuntimeError)):
        run(images(1, 3, 40, 32))


class Untraceable(torch.nn.Conv2d):

    def forward(self, image):
        if torch.compiler.is_compiling():
            raise NotImplementedError('not while tracing')
        return super().forward(image)


def test_what_torch_cannot_trace():
    model = Untraceable(3, 4, 16, 16)
    with pytest.raises(ExportError, match='torch.export cannot do Untraceable: not while tracing'):
        export_program(model, size=32)


def test_a_size_that_the_model_does_not_take():
    model = build(dict(type='mmpretrain.SwinTransformer', window_size=4, out_indices=(0, ),
                       arch=dict(embed_dims=16, depths=[2], num_heads=[2])))
    with pytest.raises(ConfigError, match=r'takes no images of the shape \(2, 3, 8, 8\)'):
        export_program(model, size=8)


def test_broken_ties_are_an_error():
    model = build(VIT)
    model.layers[0].attn.qkv = torch.nn.Linear(24, 72)
    with pytest.raises(GrowthError, match='no longer share'):
        export_program(model)
