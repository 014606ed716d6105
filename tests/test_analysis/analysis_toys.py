"""Tiny models and batches for the tests of gradients, features and CKA."""
import torch
from mmengine.registry import MODELS, init_default_scope

import scalenet_mm  # noqa: F401


def classifier_cfg(growth=None, adjustment=None, **backbone):
    """A model config: a ViT of three blocks with four classes."""
    return dict(
        type='ImageClassifier',
        data_preprocessor=dict(
            type='ClsDataPreprocessor', mean=[0.] * 3, std=[1.] * 3, num_classes=4),
        backbone=dict(
            type='ScaleNetViT',
            arch=dict(embed_dims=16, num_layers=3, num_heads=2, feedforward_channels=32),
            img_size=16,
            patch_size=8,
            growth=growth,
            adjustment=adjustment,
            **backbone),
        head=dict(type='VisionTransformerClsHead', num_classes=4, in_channels=16))


def make_classifier(growth=None, adjustment=None, seed=0, **backbone):
    """The model, with weights large enough for gradients everywhere, in eval mode."""
    init_default_scope('mmpretrain')
    model = MODELS.build(classifier_cfg(growth, adjustment, **backbone))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if not name.endswith(('adapter_up', 'adapter_down', 'gain')):
                parameter.copy_(0.3 * torch.randn(parameter.shape, generator=generator))
    return model.eval()


def make_batches(*sizes, seed=0, labels=True):
    """Batches of random images, as a data loader of mmpretrain gives them."""
    from mmpretrain.structures import DataSample
    generator = torch.Generator().manual_seed(seed)
    images = torch.randn(sum(sizes), 3, 16, 16, generator=generator)
    samples = [DataSample().set_gt_label(i % 4) if labels else DataSample()
               for i in range(sum(sizes))]
    batches, start = [], 0
    for size in sizes:
        batches.append(dict(inputs=images[start:start + size],
                            data_samples=samples[start:start + size]))
        start += size
    return batches
