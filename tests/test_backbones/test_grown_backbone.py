"""Growing stock backbones of all three toolboxes in place."""
import copy
import warnings

import pytest
import torch
from mmengine.registry import MODELS, DefaultScope

from scalenet_mm import ScaleNetSwin, fast_paths, grow_backbone
from scalenet_mm.backbones import find_block_lists
from scalenet_mm.errors import GrowthError
from scalenet_mm.growth import adjusted_linears, get_drop_path_rate

warnings.simplefilter('ignore')
SWIN = dict(embed_dims=16, depths=(2, 2, 2), num_heads=(2, 2, 4))
VIT = dict(embed_dims=24, num_layers=3, num_heads=2, feedforward_channels=48)


def mmdet_swin(**kwargs):
    from mmdet.models.backbones import SwinTransformer
    return SwinTransformer(**SWIN, strides=(4, 2, 2), out_indices=(0, 1, 2), **kwargs)


def mmseg_swin(**kwargs):
    from mmseg.models.backbones import SwinTransformer
    return SwinTransformer(**SWIN, strides=(4, 2, 2), out_indices=(0, 1, 2), **kwargs)


def mmpretrain_swin(**kwargs):
    from mmpretrain.models.backbones import SwinTransformer
    return SwinTransformer(arch=SWIN, **{'out_indices': (2, ), **kwargs})


def mmpretrain_vit(**kwargs):
    from mmpretrain.models.backbones import VisionTransformer
    return VisionTransformer(arch=VIT, img_size=48, **kwargs)


def mmseg_vit(**kwargs):
    from mmseg.models.backbones import VisionTransformer
    return VisionTransformer(img_size=48, embed_dims=24, num_layers=3, num_heads=2, mlp_ratio=2,
                             final_norm=True, **kwargs)


def convnext(**kwargs):
    from mmpretrain.models.backbones import ConvNeXt
    return ConvNeXt(arch=dict(depths=[2, 2, 2, 2], channels=[8, 12, 16, 24]), linear_pw_conv=True,
                    **kwargs)


def beit(**kwargs):
    from mmpretrain.models.backbones import BEiTViT
    return BEiTViT(arch=VIT, img_size=48, **kwargs)


STOCK = [mmdet_swin, mmseg_swin, mmpretrain_swin, mmpretrain_vit, mmseg_vit, convnext, beit]
SIZE = {mmpretrain_vit: 48, mmseg_vit: 48, beit: 48}


def outputs(backbone, image, size):
    out = backbone(image(2, 3, size, size))
    return [out] if isinstance(out, torch.Tensor) else list(out)


@pytest.mark.parametrize('make', STOCK, ids=lambda make: make.__name__)
def test_identity_start_is_exact(make, randomise, image):
    backbone = randomise(make())
    backbone.eval()
    plain = outputs(backbone, image, SIZE.get(make, 112))
    base_keys = list(backbone.state_dict())
    kept = {k: v.clone() for k, v in backbone.state_dict().items()}
    # torch's MultiheadAttention never calls its output layer, so a gain there could do nothing
    if make is mmseg_vit:
        with pytest.raises(GrowthError, match='output projection of torch.nn.MultiheadAttention'):
            grow_backbone(backbone, dict(start='identity'))
        assert list(backbone.state_dict()) == base_keys
        return
    grown = grow_backbone(backbone, dict(start='identity', stages=None))
    assert grown is backbone
    with fast_paths(False):
        assert all(map(torch.equal, outputs(grown, image, SIZE.get(make, 112)), plain))
    for out, expected in zip(outputs(grown, image, SIZE.get(make, 112)), plain):
        assert (out - expected).abs().max() <= 1e-5 * expected.abs().max()
    state = grown.state_dict()
    assert set(base_keys) < set(state)
    for key, value in kept.items():  # the probe leaves nothing behind
        assert torch.equal(state[key], value), key
    assert any('_r1.' in key for key in state)


@pytest.mark.parametrize('make', STOCK, ids=lambda make: make.__name__)
def test_growth_changes_the_function_and_trains(make, randomise, image):
    backbone = randomise(make())
    backbone.eval()
    plain = outputs(backbone, image, SIZE.get(make, 112))
    grow_backbone(backbone)
    after = outputs(backbone, image, SIZE.get(make, 112))
    assert [a.shape for a in after] == [p.shape for p in plain]
    assert not torch.allclose(after[-1], plain[-1], atol=1e-4)
    sum(a.pow(2).sum() for a in after).backward()
    ups = [linear.adapter_up.grad for _, linear in adjusted_linears(backbone)]
    assert len(ups) >= 2 and all(grad.abs().sum() > 0 for grad in ups)


@pytest.mark.parametrize('make', [mmdet_swin, mmseg_swin])
def test_equals_scalenet_swin(make, randomise, image):
    """Growing the stock class gives the same model as the class of the package."""
    grown = grow_backbone(make(), dict(stages=None, order='interpolate'))
    ours = ScaleNetSwin(**SWIN, strides=(4, 2, 2), out_indices=(0, 1, 2),
                        growth=dict(stages=None, order='interpolate'))
    assert list(ours.state_dict()) and set(ours.state_dict()) == set(grown.state_dict())
    randomise(grown)
    ours.load_state_dict(grown.state_dict())
    grown.eval(), ours.eval()
    for a, b in zip(ours(image(1, 3, 57, 80)), grown(image(1, 3, 57, 80))):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=2e-5)


@pytest.mark.parametrize('make', [mmpretrain_vit, mmseg_vit, beit])
def test_out_indices_move_to_the_last_instances(make, randomise, image):
    backbone = randomise(make(out_indices=[0, 2]))
    backbone.eval()
    grow_backbone(backbone, 'paper', None)
    assert list(backbone.out_indices) == [1, 5]
    assert len(outputs(backbone, image, 48)) == 2


@pytest.mark.parametrize('make', [mmpretrain_vit, mmseg_vit])
def test_the_final_norm_stays_behind_the_last_block(make, randomise, image):
    backbone = randomise(make())
    backbone.eval()
    grow_backbone(backbone, 'paper', None)
    seen = {}
    backbone.layers[-1].register_forward_hook(lambda *args: seen.update(block=args[2]))
    backbone.ln1.register_forward_hook(lambda *args: seen.update(norm_in=args[1][0], out=args[2]))
    out = outputs(backbone, image, 48)[0]
    assert seen['norm_in'] is seen['block']
    expected = seen['out'][:, 0] if make is mmpretrain_vit else seen['out'][:, 1:].permute(
        0, 2, 1).reshape(out.shape)
    assert torch.equal(out, expected)


def test_drop_path_rises_over_the_whole_backbone():
    backbone = grow_backbone(mmdet_swin(drop_path_rate=0.2), dict(stages=None))
    rates = [get_drop_path_rate(b) for s in backbone.stages for b in s.blocks]
    assert rates == pytest.approx(torch.linspace(0, 0.2, 12).tolist())
    # ... also when only a part of it is a target
    backbone = grow_backbone(mmdet_swin(drop_path_rate=0.2), targets=r'stages\.2\.blocks')
    rates = [get_drop_path_rate(b) for s in backbone.stages for b in s.blocks]
    assert rates == pytest.approx(torch.linspace(0, 0.2, 8).tolist())


def test_targets_choose_lists():
    backbone = mmdet_swin()
    names = [name for name, _ in find_block_lists(backbone)]
    assert names == ['stages.0.blocks', 'stages.1.blocks', 'stages.2.blocks']
    grow_backbone(backbone, dict(stages=None), targets=[r'stages\.[01]\.blocks'])
    assert [len(stage.blocks) for stage in backbone.stages] == [4, 4, 2]
    with pytest.raises(GrowthError, match=r"'layers' matches none.*stages\.0\.blocks"):
        find_block_lists(mmdet_swin(), ['layers'])


@pytest.mark.parametrize('start', ['identity', 'paper'])
def test_one_stage_as_target_leaves_the_outputs_where_they_are(start, randomise, image):
    """out_indices name stages there, and no blocks."""
    backbone = randomise(mmdet_swin())
    backbone.eval()
    plain = outputs(backbone, image, 112)
    grow_backbone(backbone, dict(start=start), targets=r'stages\.1\.blocks')
    assert backbone.out_indices == (0, 1, 2)
    # the paper's order for a backbone of several stages
    assert backbone.layer_maps[0].sources == (0, 1, 0, 1)
    after = outputs(backbone, image, 112)
    assert [a.shape for a in after] == [p.shape for p in plain]
    assert torch.equal(after[0], plain[0])
    assert torch.equal(after[2], plain[2]) == (start == 'identity')


class CountingBackbone(torch.nn.Module):
    """Returns what it has behind its second block from the end, counted by position."""

    def __init__(self):
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 8, 32, 32)
        self.stages = torch.nn.ModuleList([torch.nn.ModuleList(
            PostNormBlock() for _ in range(2)) for _ in range(2)])

    def forward(self, x):
        x = self.stem(x).flatten(2).transpose(1, 2)
        blocks = [block for stage in self.stages for block in stage]
        outs = []
        for i, block in enumerate(blocks):
            x = block(x)
            outs += [x] if i > 2 else []
        return outs


def test_a_backbone_that_counts_its_blocks_is_refused():
    with pytest.raises(GrowthError, match='its code counts blocks in a way'):
        grow_backbone(CountingBackbone())


def test_four_dimensional_position_embeddings():
    """They are no convolution's weight, which tells the probe the image's channels."""
    from mmpretrain.models.backbones import ViTSAM
    arch = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32,
                global_attn_indexes=(0, 1))
    backbone = ViTSAM(arch, img_size=64, out_channels=0, use_rel_pos=False)
    assert next(p for p in backbone.parameters() if p.ndim == 4).shape[1] != 3
    assert len(grow_backbone(backbone, dict(start='identity')).layers) == 4


@pytest.mark.parametrize('make', [mmdet_swin, mmpretrain_vit])
def test_growing_twice_is_refused(make):
    with pytest.raises(GrowthError, match='is grown already'):
        grow_backbone(grow_backbone(make()))


def test_resnet_is_refused():
    from mmdet.models.backbones import ResNet
    with pytest.raises(GrowthError, match='no list of transformer blocks was found in ResNet'):
        grow_backbone(ResNet(18))


def test_convolutional_mlps_are_refused_clearly():
    from mmseg.models.backbones import MixVisionTransformer
    backbone = MixVisionTransformer(embed_dims=8, num_heads=[1, 1, 1, 1])
    keys = list(backbone.state_dict())
    with pytest.raises(GrowthError, match='adjustment'):
        grow_backbone(backbone)
    assert list(backbone.state_dict()) == keys


def test_blocks_without_linear_layers_are_refused_clearly():
    from mmpretrain.models.backbones import ConvNeXt
    backbone = ConvNeXt(arch=dict(depths=[2, 2, 2, 2], channels=[8, 12, 16, 24]),
                        linear_pw_conv=False)
    with pytest.raises(GrowthError, match='no list of transformer blocks.*linear layers'):
        grow_backbone(backbone)


def test_post_norm_has_no_identity_start():
    """SwinV2's norm stands behind the branch: a gain of zero does not silence its bias.

    Seen with fresh weights too, whose norms have no bias yet.
    """
    from mmpretrain.models.backbones import SwinTransformerV2
    arch = dict(embed_dims=16, depths=[2, 2], num_heads=[2, 2], extra_norm_every_n_blocks=0)

    def make():
        return SwinTransformerV2(arch, img_size=64, window_size=[8, 8], out_indices=(1, ))

    with pytest.raises(GrowthError, match="does not start as an identity.*start='paper'"):
        grow_backbone(make(), dict(start='identity', stages=None))
    assert len(grow_backbone(make(), dict(stages=None)).stages[0].blocks) == 4


def test_the_probe_uses_the_size_that_the_backbone_was_made_for():
    """As the stock configs' windows of 12 on images of 384; mmpretrain would refuse 224."""
    backbone = mmpretrain_swin(window_size=12, img_size=192)
    assert len(grow_backbone(backbone).stages[2].blocks) == 4


def test_the_probe_keeps_modes_and_gradients():
    backbone = mmdet_swin(frozen_stages=1)
    backbone.train()
    modes = {n: m.training for n, m in backbone.named_modules()}
    grow_backbone(backbone)
    assert all(m.training == modes[n] for n, m in backbone.named_modules() if n in modes)
    assert not backbone.patch_embed.training and backbone.stages[2].training
    assert all(p.grad is None for p in backbone.parameters())


@pytest.mark.parametrize('scope, base', [
    ('mmdet', dict(type='SwinTransformer', **SWIN, strides=(4, 2, 2), out_indices=(0, 1, 2))),
    ('mmseg', dict(type='SwinTransformer', **SWIN, strides=(4, 2, 2), out_indices=(0, 1, 2))),
    ('mmpretrain', dict(type='SwinTransformer', arch=SWIN, out_indices=(2, ))),
])
def test_builds_from_a_config_in_every_scope(scope, base):
    by_hand = {'mmdet': mmdet_swin, 'mmseg': mmseg_swin, 'mmpretrain': mmpretrain_swin}[scope]
    cfg = dict(type='GrownBackbone', base=base, growth=dict(stages=None),
               adjustment=dict(rank=4))
    given = copy.deepcopy(cfg)
    with DefaultScope.overwrite_default_scope(scope):
        built = MODELS.build(cfg)
    assert cfg == given
    assert type(built).__module__.startswith(f'{scope}.')
    expected = grow_backbone(by_hand(), dict(stages=None), dict(rank=4))
    assert list(built.state_dict()) == list(expected.state_dict())
    assert [p.shape for p in built.parameters()] == [p.shape for p in expected.parameters()]


def test_config_init_cfg_takes_the_place_of_the_base():
    init_cfg = dict(type='Pretrained', checkpoint='weights.pth')
    built = MODELS.build(dict(
        type='GrownBackbone', init_cfg=init_cfg,
        base=dict(type='mmpretrain.VisionTransformer', arch=VIT, img_size=48,
                  init_cfg=dict(type='Pretrained', checkpoint='other.pth'))))
    assert built.init_cfg == init_cfg


def test_adapters_alone():
    backbone = grow_backbone(mmpretrain_vit(), None, dict(rank=4))
    assert len(backbone.layers) == 3
    assert len(list(adjusted_linears(backbone))) == 6


class PostNormBlock(torch.nn.Module):
    """A norm behind the branch; a fresh one has no bias, so that it looks silent."""

    def __init__(self):
        super().__init__()
        self.fc1, self.fc2 = torch.nn.Linear(8, 16), torch.nn.Linear(16, 8)
        self.norm = torch.nn.LayerNorm(8)

    def forward(self, x):
        return x + self.norm(self.fc2(self.fc1(x).relu()))


class PostNormBackbone(torch.nn.Module):

    def __init__(self):
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 8, 32, 32)
        self.layers = torch.nn.ModuleList([PostNormBlock(), PostNormBlock()])

    def forward(self, x):
        x = self.stem(x).flatten(2).transpose(1, 2)
        for layer in self.layers:
            x = layer(x)
        return x


def test_a_fresh_post_norm_does_not_pass_for_an_identity():
    with pytest.raises(GrowthError, match='does not start as an identity'):
        grow_backbone(PostNormBackbone(), dict(start='identity'))
    assert len(grow_backbone(PostNormBackbone()).layers) == 4
