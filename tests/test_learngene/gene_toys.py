"""Small classifiers, and the checkpoints that a training of them would leave."""
import copy

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope

from scalenet_mm.checkpoints.files import save_file

ARCH = dict(embed_dims=24, num_layers=3, num_heads=2, feedforward_channels=48)
STAGES = (2, 3, 2)
CLASSES = ('ant', 'bee', 'cat', 'dog', 'elk')
SHARED = dict(times=STAGES, share='all', depth=7)


def make_cfg(num_classes=5, init_cfg=None, head=None, **backbone):
    """A classifier's config, ungrown unless asked otherwise."""
    backbone = dict(type='ScaleNetViT', arch=ARCH, img_size=32, patch_size=8, growth=None,
                    adjustment=None, **backbone) if 'type' not in backbone else backbone
    model = dict(
        type='ImageClassifier',
        backbone=copy.deepcopy(backbone),
        head=head or dict(type='VisionTransformerClsHead', num_classes=num_classes,
                          in_channels=24),
        init_cfg=copy.deepcopy(init_cfg))
    return Config(dict(default_scope='mmpretrain', model=model))


def auxiliary_cfg(**kwargs):
    """The config of an auxiliary net of stages 2, 3 and 2."""
    cfg = make_cfg(**kwargs)
    cfg.model.backbone.growth = SHARED
    return cfg


def tleg_cfg(depth=4):
    backbone = dict(type='TLEGViT', arch=ARCH, depth=depth, img_size=32, patch_size=8)
    return make_cfg(**backbone)


def build(cfg):
    init_default_scope('mmpretrain')
    return MODELS.build(copy.deepcopy(cfg.model))


def randomise(model, seed=0):
    """Draw every parameter, so that no two could be mixed up unseen."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for _, parameter in sorted(model.named_parameters()):
            parameter.copy_(0.2 * torch.randn(parameter.shape, generator=generator))
    return model


def save_trained(path, cfg, text=True, **rest):
    """Save what a training of a config would, with random weights; give the model."""
    model = randomise(build(cfg))
    meta = dict(epoch=3, iter=99, dataset_meta=dict(classes=CLASSES))
    if text:
        meta['cfg'] = cfg.pretty_text
    optimizer = dict(state={0: dict(exp_avg=torch.ones(1000))}, param_groups=[])
    save_file(dict(meta=meta, state_dict=model.state_dict(), optimizer=optimizer, **rest),
              str(path))
    return model


def image(batch=2, size=32, seed=0):
    return torch.randn(batch, 3, size, size, generator=torch.Generator().manual_seed(seed))


# --- plain torch, for comparison -----------------------------------------------------------------


def run_block(x, block, heads):
    """A transformer block from its tensors alone."""

    def norm(value, name):
        return torch.nn.functional.layer_norm(
            value, value.shape[-1:], block[f'{name}.weight'], block[f'{name}.bias'], 1e-6)

    def linear(value, name):
        return value @ block[f'{name}.weight'].T + block[f'{name}.bias']

    batch, tokens, width = x.shape
    qkv = linear(norm(x, 'ln1'), 'attn.qkv').reshape(batch, tokens, 3, heads, width // heads)
    query, key, value = (part.transpose(1, 2) for part in qkv.unbind(2))
    weights = (query @ key.transpose(-2, -1) / (width // heads)**0.5).softmax(-1)
    x = x + linear((weights @ value).transpose(1, 2).reshape(batch, tokens, width), 'attn.proj')
    hidden = torch.nn.functional.gelu(linear(norm(x, 'ln2'), 'ffn.layers.0.0'))
    return x + linear(hidden, 'ffn.layers.1')


def run_classifier(state, sources, images, heads=2):
    """Logits of a plain ViT whose blocks use, one after the other, those that are named."""
    own = {k.removeprefix('backbone.'): v for k, v in state.items()}
    patch = own['patch_embed.projection.weight']
    x = torch.nn.functional.conv2d(images, patch, own['patch_embed.projection.bias'],
                                   stride=patch.shape[-1])
    x = x.flatten(2).transpose(1, 2)
    x = torch.cat((own['cls_token'].expand(len(x), -1, -1), x), 1) + own['pos_embed']
    for source in sources:
        prefix = f'layers.{source}.'
        x = run_block(x, {k.removeprefix(prefix): v for k, v in own.items()
                          if k.startswith(prefix)}, heads)
    x = torch.nn.functional.layer_norm(x, x.shape[-1:], own['ln1.weight'], own['ln1.bias'], 1e-6)
    return x[:, 0] @ own['head.layers.head.weight'].T + own['head.layers.head.bias']
