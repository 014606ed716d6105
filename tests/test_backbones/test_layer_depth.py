"""Depths of parameters, for learning rates that decay from layer to layer."""
import copy
import pickle
import random

import pytest
import torch

from scalenet_mm import ScaleNetSwin, ScaleNetViT, grow_backbone
from scalenet_mm.growth import LayerMap, growth_of, ungrown_name

SWIN = dict(embed_dims=16, depths=(2, 2, 3, 2), num_heads=(1, 1, 2, 2))
VIT = dict(embed_dims=16, num_layers=4, num_heads=2, feedforward_channels=32)


def stock_class(name):
    import mmpretrain.models.backbones as backbones
    return getattr(backbones, name)


def on_meta(cls, **kwargs):
    with torch.device('meta'):
        return cls(**kwargs)


def narrow_swin(arch):
    """The depths of an architecture: the stock Swin cannot be built on 'meta'."""
    return dict(arch={**SWIN, 'depths': ScaleNetSwin.arch_zoo[arch]['depths']})


PAIRS = [
    *((ScaleNetSwin, 'SwinTransformer', narrow_swin(arch)) for arch in ('tiny', 'small', 'base')),
    *((ScaleNetViT, 'VisionTransformer', dict(arch=f'deit-{arch}'))
      for arch in ('tiny', 'small', 'base')),
    (ScaleNetSwin, 'SwinTransformer',
     dict(arch=SWIN, out_indices=(0, 1, 2, 3), use_abs_pos_embed=True)),
    (ScaleNetViT, 'VisionTransformer', dict(arch=VIT, pre_norm=True, out_type='avg_featmap')),
]


@pytest.mark.parametrize('ours, stock, kwargs', PAIRS, ids=range(len(PAIRS)))
def test_depths_are_those_of_the_stock_class(ours, stock, kwargs):
    grown = on_meta(ours, **kwargs)
    with torch.device('cpu' if ours is ScaleNetSwin else 'meta'):
        stock = stock_class(stock)(**kwargs)
    names = [name for name, _ in stock.named_parameters()]
    assert set(names) < {name for name, _ in grown.named_parameters()}
    for name in names:
        assert grown.get_layer_depth(name) == stock.get_layer_depth(name), name
        assert grown.get_layer_depth(f'backbone.{name}', 'backbone.') == \
            stock.get_layer_depth(name), name
    assert grown.get_layer_depth('head.fc.weight', 'backbone.') == \
        stock.get_layer_depth('head.fc.weight', 'backbone.')


def test_repeats_have_the_depth_of_their_source():
    backbone = on_meta(ScaleNetSwin, arch=SWIN, growth=dict(stages=None, start='identity'))
    depth = {n: backbone.get_layer_depth(n)[0] for n, _ in backbone.named_parameters()}
    assert depth['stages.0.blocks.1_r1.norm1.weight'] == 2
    assert depth['stages.2.blocks.0_r1.ffn.layers.1.adapter_up'] == 5
    assert depth['stages.2.blocks.0_r1.ffn.layers.1.gain'] == 5
    assert depth['stages.2.blocks.0.ffn.layers.1.gain'] == 5
    assert depth['stages.2.downsample.reduction.weight'] == 7
    assert set(depth.values()) == set(range(11)) and backbone.get_layer_depth('')[1] == 11


def test_new_blocks():
    order = [[], 0, [0, 2], 1, [], 2, [[1, 0.9], [0, 0.1]], 3, 0]
    backbone = on_meta(ScaleNetViT, arch=VIT, growth=dict(order=order))
    assert backbone.layer_maps[0].counts_as == (0, 0, 2, 1, 1, 2, 1, 3, 0)
    weight = 'layers.{}.attn.qkv.weight'
    # random, first of all; an average; random behind block 1; an average, largest source 1
    found = [backbone.get_layer_depth(weight.format(f'new{i}'))[0] for i in (1, 2, 3, 4)]
    assert found == [1, 3, 2, 2]
    assert backbone.get_layer_depth('layers.0_r1.ln1.weight') == (1, 6)


@pytest.mark.parametrize('seed', range(8))
def test_every_block_of_a_random_map_has_its_sources_depth(seed):
    draw = random.Random(seed)
    order = [*range(4), *(draw.choice([draw.randrange(4), [], draw.sample(range(4), 2)])
                          for _ in range(6))]
    draw.shuffle(order)
    backbone = on_meta(ScaleNetViT, arch=VIT, growth=dict(order=order))
    layer_map, = backbone.layer_maps
    for name, parameter in backbone.layers.named_parameters():
        position = layer_map.names.index(name.split('.')[0])
        depth, number = backbone.get_layer_depth(f'layers.{name}')
        assert number == 6 and 1 <= depth <= 4
        source = layer_map.sources[position]
        if isinstance(source, int):
            assert depth == source + 1
        elif source:
            assert depth == max(i for i, _ in source) + 1
        elif position:
            before = layer_map.names[position - 1]
            assert depth == backbone.get_layer_depth(f'layers.{before}.ln1.weight')[0]


def test_ungrown_names():
    model = torch.nn.ModuleDict(dict(backbone=on_meta(ScaleNetViT, arch=VIT)))
    assert ungrown_name(model, 'backbone.layers.3_r1.ln1.weight') == 'backbone.layers.3.ln1.weight'
    for name in ('backbone.layers.3.ln1.weight', 'backbone.layers.9_r1.ln1', 'head.3_r1', ''):
        assert ungrown_name(model, name) == name
    assert LayerMap((0, 1, 0), 2).counts_as == (0, 1, 0)


def mmpretrain_swin():
    return stock_class('SwinTransformer')(arch=SWIN)


def mmpretrain_vit():
    return stock_class('VisionTransformer')(arch=VIT, img_size=32)


def convnext():
    return stock_class('ConvNeXt')(arch=dict(depths=[2, 2, 4, 2], channels=[8, 12, 16, 24]))


def beit():
    return stock_class('BEiTViT')(arch=VIT, img_size=32)


class TestStockBackbones:

    @pytest.mark.parametrize('make', [mmpretrain_swin, mmpretrain_vit, convnext, beit],
                             ids=lambda make: make.__name__)
    def test_the_grown_one_knows_its_repeats(self, make):
        stock = make()
        grown = grow_backbone(make(), dict(stages=None, start='identity'), probe=False)
        for name, _ in stock.named_parameters():
            assert grown.get_layer_depth(name) == stock.get_layer_depth(name), name
        repeats = [n for n, _ in grown.named_parameters() if '_r1.' in n]
        assert repeats
        for name in repeats:
            depth = stock.get_layer_depth('backbone.' + name.replace('_r1', ''), 'backbone.')
            assert grown.get_layer_depth(f'backbone.{name}', 'backbone.') == depth, name
        assert grown.get_layer_depth('head.x', 'backbone.') == \
            stock.get_layer_depth('head.x', 'backbone.')

    @pytest.mark.parametrize('copied', [copy.deepcopy, lambda m: pickle.loads(pickle.dumps(m))],
                             ids=['deepcopy', 'pickle'])
    def test_copies_speak_of_themselves(self, copied):
        grown = grow_backbone(mmpretrain_vit(), probe=False)
        twin = copied(grown)
        assert twin.get_layer_depth('layers.2_r1.ln1.weight') == (3, 6)
        assert twin.get_layer_depth.args[0] is twin
        assert type(twin) is type(grown) is stock_class('VisionTransformer')

    def test_old_names_of_swin_are_still_read(self):
        """mmpretrain converts them for its very own class only."""
        stock = mmpretrain_swin()
        state = dict(stock.state_dict())
        for name in ('weight', 'bias'):
            state[f'norm.{name}'] = state.pop(f'norm3.{name}') + 1
        grown = grow_backbone(mmpretrain_swin(), probe=False)
        missing, unexpected = grown.load_state_dict(state, strict=False)
        assert not unexpected and not [n for n in missing if 'norm3' in n and 'blocks' not in n]
        assert torch.equal(grown.norm3.weight, stock.norm3.weight + 1)

    def test_a_backbone_without_the_method_gets_none(self):
        from mmdet.models.backbones import SwinTransformer
        grown = grow_backbone(SwinTransformer(**SWIN), probe=False)
        assert not hasattr(grown, 'get_layer_depth') and list(growth_of(grown))
