"""Tiny models to export, and what runs the files."""
import numpy as np
import onnxruntime
import torch
from mmengine.registry import MODELS, init_default_scope

import scalenet_mm  # noqa: F401

PLAIN = dict(embed_dims=24, num_layers=2, num_heads=2, feedforward_channels=48)
VIT = dict(type='ScaleNetViT', arch=PLAIN, img_size=32)
SWIN = dict(type='ScaleNetSwin', embed_dims=16, depths=(2, 1), num_heads=(2, 2), window_size=2,
            pretrain_img_size=16, out_indices=(0, 1), growth=dict(stages=(0, )),
            adjustment=dict(rank=4))
#: as mmdet has it, for a hook or ``GrownBackbone`` to grow
STOCK_SWIN = dict(type='mmdet.SwinTransformer', embed_dims=16, depths=(2, ), num_heads=(2, ),
                  strides=(4, ), window_size=2, pretrain_img_size=16, out_indices=(0, ))
STOCK_VIT = dict(type='mmpretrain.VisionTransformer', arch=PLAIN, img_size=32, out_indices=(0, 1),
                 out_type='featmap')


def grown(base, **kwargs):
    """The config of a stock backbone that is grown."""
    return dict(type='GrownBackbone', base=base, growth=dict(order='stack', stages=(0, )), **kwargs)


def classifier_cfg(**backbone):
    """A model config: a ViT with four classes."""
    return dict(
        type='ImageClassifier',
        data_preprocessor=dict(
            type='ClsDataPreprocessor', mean=[123.675, 116.28, 103.53], std=[58.395, 57.12, 57.375],
            num_classes=4, to_rgb=True),
        backbone={**VIT, **backbone},
        head=dict(type='VisionTransformerClsHead', num_classes=4,
                  in_channels=backbone.get('arch', PLAIN)['embed_dims']))


def build(cfg, scope='mmpretrain', seed=0):
    """Build a model with weights that hide nothing, in eval mode."""
    init_default_scope(scope)
    model = MODELS.build(cfg)
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            is_norm_weight = parameter.ndim == 1 and name.endswith('weight')
            parameter.copy_(1 + 0.2 * noise if is_norm_weight else 0.1 * noise)
    model.eval()  # of stock backbones it returns nothing
    return model


def images(*shape, seed=1):
    """Random images."""
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed))


def run_onnx(path, image):
    """dict: The outputs by name."""
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(str(path), options)
    names = [output.name for output in session.get_outputs()]
    return dict(zip(names, session.run(names, {'image': image.numpy()})))


def assert_close(got, expected):
    """Equal but for rounding, and not by being zero."""
    expected = expected.detach().numpy()
    assert got.shape == expected.shape and np.abs(expected).max() > 1e-2
    assert np.abs(got - expected).max() <= 1e-5 * np.abs(expected).max()
