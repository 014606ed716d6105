"""Growing lists of blocks, and loading checkpoints into them."""
from collections import OrderedDict

import pytest
import torch
import torch.nn as nn
from growth_toys import Block, make_blocks, run, tokens
from mmengine.runner.checkpoint import load_state_dict as mmengine_load_state_dict

from scalenet_mm.errors import GrowthError
from scalenet_mm.growth import (
    GrowthSpec,
    check_targets_called,
    grow,
    grow_stages,
    growth_of,
    is_grown,
    make_layer_map,
)

IDENTITY = dict(start='identity')


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def grown_list(times=2, growth=None, adjustment=None, depth=2, **kwargs):
    return grow(make_blocks(depth), make_layer_map(depth, times=times, **kwargs), growth,
                adjustment)


def torch_load(model, state):
    model.load_state_dict(state)


def mmengine_load(model, state):
    mmengine_load_state_dict(model, state, strict=True)


both_loaders = pytest.mark.parametrize('load', [torch_load, mmengine_load])


class Model(nn.Module):
    """A list of blocks that is not at the top."""

    def __init__(self, blocks):
        super().__init__()
        self.stem = nn.Linear(8, 8)
        self.blocks = blocks


def randomise(module):
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.normal_()
    return module


class TestList:

    @pytest.mark.parametrize('kind', [nn.ModuleList, nn.Sequential])
    def test_access_is_by_execution_order(self, kind):
        blocks = kind(*([list(make_blocks(3))] if kind is nn.ModuleList else make_blocks(3)))
        originals = list(blocks)
        assert grow(blocks, make_layer_map(3, blocks=(0, 2))) is blocks
        names = ['0', '0_r1', '1', '2', '2_r1']
        assert list(dict(blocks.named_children())) == names
        assert len(blocks) == 5 and isinstance(blocks, kind) and is_grown(blocks)
        assert [blocks[i] for i in range(5)] == list(blocks) == list(blocks.children())
        assert [blocks[0], blocks[2], blocks[3]] == originals
        assert blocks[-1] is blocks[4] is blocks.get_submodule('2_r1')
        assert list(blocks[1:3]) == list(blocks)[1:3] and list(blocks[::2]) == list(blocks)[::2]
        with pytest.raises(IndexError):
            blocks[5]

    @pytest.mark.parametrize('change', [
        lambda b: b.__setitem__(1, Block()), lambda b: b.__delitem__(1),
        lambda b: b.append(Block()), lambda b: b.insert(0, Block()), lambda b: b.pop(0),
        lambda b: b.extend([Block()]), lambda b: b.__iadd__([Block()])])
    def test_it_cannot_be_rearranged(self, change):
        blocks = grown_list()
        before = list(blocks.named_children())
        with pytest.raises(GrowthError, match='cannot be replaced, added or removed'):
            change(blocks)
        assert list(blocks.named_children()) == before

    def test_growth_of(self):
        model = Model(grown_list())
        assert [(n, b is model.blocks, m.sources) for n, b, m in growth_of(model)] == [
            ('blocks', True, (0, 0, 1, 1))]
        assert not list(growth_of(Model(make_blocks())))
        # adapters alone count too
        model = Model(make_blocks(2))
        assert [m.is_identity for m in grow_stages([model.blocks], None, {})] == [True]
        assert [n for n, _, _ in growth_of(model)] == ['blocks']


class TestRefusals:

    @pytest.mark.parametrize('cfg, message', [
        (dict(share='weight'), r"growth.share must be one of .*got 'weight'"),
        (dict(time=2), "growth has no option 'time'; the options are order, times, stages"),
        (dict(times=0), 'growth.times'),
        (dict(order='zigzag'), 'growth.order'),
        (dict(order=5), 'growth.order'),
        ([2], 'growth must be a dict or None'),
    ])
    def test_specs(self, cfg, message):
        with pytest.raises(GrowthError, match=message):
            GrowthSpec.from_cfg(cfg)

    def test_growing_twice(self):
        blocks = grown_list()
        with pytest.raises(GrowthError, match='grown already'):
            grow(blocks, make_layer_map(4))

    @pytest.mark.parametrize('blocks, message', [
        (Block(), 'only a ModuleList or Sequential .* got a Block'),
        (nn.Sequential(OrderedDict(a=Block(), b=Block())), r"named 0, 1, ..., got \['a', 'b'\]"),
        (make_blocks(3), 'the layer map is for 2 blocks, the list holds 3'),
    ])
    def test_lists(self, blocks, message):
        with pytest.raises(GrowthError, match=message):
            grow(blocks, make_layer_map(2))

    def test_one_module_twice_in_the_list(self):
        block, x = Block(), tokens()
        blocks = grow(nn.ModuleList([block, block]), make_layer_map(2))
        assert torch.equal(run(blocks, x), run([block] * 4, x))

    @staticmethod
    def snapshot(stages):
        return [(type(m), list(m._modules), list(m._parameters), m.__dict__.keys())
                for stage in stages for m in stage.modules()], [
                    (n, id(p), p.clone()) for stage in stages
                    for n, p in stage.named_parameters()]

    @pytest.mark.parametrize('spoil, growth, adjustment', [
        (lambda b: setattr(b.attn, 'bn', nn.BatchNorm1d(8)), {}, {}),
        (lambda b: b.__dict__.update(hidden=nn.Linear(2, 2)), {}, {}),
        (lambda b: b.mlp.register_module('fc2', nn.Linear(32, 8, bias=False)), IDENTITY,
         dict(layers=['mlp.fc3'])),
        (lambda b: setattr(b, 'mlp', nn.Identity()), IDENTITY, None),
        (lambda b: setattr(b, 'mlp', nn.Identity()), {}, {}),
    ])
    def test_nothing_changes_when_the_second_stage_refuses(self, spoil, growth, adjustment):
        stages = [make_blocks(2), make_blocks(2)]
        spoil(stages[1][1])
        modules, parameters = self.snapshot(stages)
        rng = torch.get_rng_state()
        with pytest.raises(GrowthError):
            grow_stages(stages, growth, adjustment)
        after_modules, after_parameters = self.snapshot(stages)
        assert after_modules == modules
        assert [p[:2] for p in after_parameters] == [p[:2] for p in parameters]
        assert all(torch.equal(a[2], b[2]) for a, b in zip(after_parameters, parameters))
        assert torch.equal(torch.get_rng_state(), rng)
        assert not any(map(is_grown, stages))


class TestLoadingABase:

    @both_loaders
    @pytest.mark.parametrize('share', ['weights', 'all', 'none'])
    def test_repeats_are_filled_and_increments_stay(self, load, share):
        base = Model(randomise(make_blocks(2)))
        model = Model(grown_list(3, dict(start='identity', share=share), {}))
        start = {n: p.clone() for n, p in model.named_parameters()}
        state = base.state_dict()
        keys = list(state)
        load(model, state)
        assert list(state) == keys, "the caller's state dict was changed"
        for source, block in zip(model.blocks.layer_map.sources, model.blocks):
            assert torch.equal(block.norm2.bias, base.blocks[source].norm2.bias)
            assert torch.equal(block.mlp.fc1.weight, base.blocks[source].mlp.fc1.weight)
        for name, parameter in model.named_parameters():
            if name.endswith(('_down', '_up', 'gain')):
                assert torch.equal(parameter, start[name])
        x = tokens()
        assert torch.equal(run(model.blocks, x), run(base.blocks, x))

    def test_buffers_of_copies_too(self):
        base = make_blocks(1)
        base[0].attn.scale.fill_(3)
        blocks = grown_list(growth=dict(share='none'), depth=1)
        blocks.load_state_dict(base.state_dict())
        assert blocks[1].attn.scale == 3

    @both_loaders
    def test_a_base_of_another_depth_fails(self, load):
        with pytest.raises(RuntimeError, match='blocks.2.'):
            load(Model(grown_list(depth=2)), Model(make_blocks(3)).state_dict())
        with pytest.raises(RuntimeError, match='blocks.2.'):
            load(Model(grown_list(depth=3)), Model(make_blocks(2)).state_dict())

    @both_loaders
    def test_a_missing_base_key_fails(self, load):
        state = Model(make_blocks(2)).state_dict()
        del state['blocks.1.mlp.fc1.weight']
        with pytest.raises(RuntimeError, match='blocks.1.mlp.fc1.weight'):
            load(Model(grown_list(adjustment={})), state)

    def test_a_file_without_the_list_fills_nothing(self):
        model = Model(grown_list())
        state = nn.ModuleDict(dict(stem=nn.Linear(8, 8))).state_dict()
        missing, unexpected = model.load_state_dict(state, strict=False)
        assert not unexpected
        assert missing == [f'blocks.{name}' for name in model.blocks.state_dict()]


class TestLoadingAGrown:

    @both_loaders
    @pytest.mark.parametrize('share', ['weights', 'all', 'none'])
    def test_both_ways(self, load, share):
        cfg = dict(growth=dict(start='identity', share=share), adjustment={})
        trained, model = (Model(grown_list(**cfg)) for _ in range(2))
        state = randomise(trained).state_dict()
        load(model, state)
        assert list(model.state_dict()) == list(state)
        assert all(torch.equal(v, state[k]) for k, v in model.state_dict().items())

    @both_loaders
    @pytest.mark.parametrize('key', ['blocks.1_r1.mlp.fc2.adapter_up', 'blocks.0.attn.proj.gain',
                                     'blocks.0_r1.norm1.weight', 'blocks.0.mlp.fc1.adapter_down'])
    def test_one_missing_key_fails(self, load, key):
        cfg = dict(growth=IDENTITY, adjustment={})
        state = Model(grown_list(**cfg)).state_dict()
        del state[key]
        with pytest.raises(RuntimeError, match=key):
            load(Model(grown_list(**cfg)), state)

    @both_loaders
    def test_a_deeper_one_fails(self, load):
        with pytest.raises(RuntimeError, match='0_r2'):
            load(Model(grown_list(2)), Model(grown_list(3)).state_dict())

    @both_loaders
    def test_other_increments_fail(self, load):
        state = Model(grown_list(adjustment={})).state_dict()
        with pytest.raises(RuntimeError, match='adapter_down'):
            load(Model(grown_list()), state)
        with pytest.raises(RuntimeError, match='lora_down'):
            load(Model(grown_list(adjustment=dict(type='LoRA'))), state)
        with pytest.raises(RuntimeError, match='size mismatch'):
            load(Model(grown_list(adjustment=dict(rank=4))), state)
        with pytest.raises(RuntimeError, match='gain'):
            load(Model(grown_list(growth=IDENTITY, adjustment={})), state)

    @both_loaders
    @pytest.mark.parametrize('cfg', [{}, dict(type='LoRA')])
    def test_twice_to_three_times(self, load, cfg):
        growth = dict(start=dict(type='split', share=0.3))
        trained = Model(randomise(grown_list(2, growth, cfg)))
        model = Model(grown_list(3, growth, cfg))
        load(model, trained.state_dict())
        kind = 'lora' if cfg else 'adapter'
        for source in (0, 1):
            last = trained.blocks.get_submodule(f'{source}_r1')
            for name in (f'{source}_r1', f'{source}_r2'):
                block = model.blocks.get_submodule(name)
                assert torch.equal(block.norm1.weight, last.norm1.weight)
                for end in ('down', 'up'):
                    assert torch.equal(getattr(block.mlp.fc1, f'{kind}_{end}'),
                                       getattr(last.mlp.fc1, f'{kind}_{end}'))
            assert torch.equal(model.blocks.get_submodule(f'{source}_r1').mlp.fc2.gain,
                               last.mlp.fc2.gain)
            assert torch.equal(model.blocks.get_submodule(f'{source}_r2').mlp.fc2.gain,
                               torch.full((8, ), 0.15))


class TestCheckTargetsCalled:

    def test_all_called(self):
        blocks = grown_list(adjustment={})
        check_targets_called(blocks, lambda: run(blocks, tokens()))

    def test_idle_layers_are_named_and_hooks_removed(self):
        blocks = grown_list(adjustment={})
        blocks[1].mlp.forward = lambda x: x
        with pytest.raises(GrowthError, match=r'2 adjusted layer\(s\) are never called .*'
                           r'0_r1.mlp.fc1, 0_r1.mlp.fc2'):
            check_targets_called(blocks, lambda: run(blocks, tokens()))
        assert not any(m._forward_hooks for m in blocks.modules())

    def test_hooks_are_removed_after_an_error(self):
        blocks = grown_list(adjustment={})
        with pytest.raises(ZeroDivisionError):
            check_targets_called(blocks, lambda: 1 / 0)
        assert not any(m._forward_hooks for m in blocks.modules())


def test_an_ungrown_file_with_adapters_grows_into_gains():
    """Adapters trained on the ungrown model, then grown from an identity: gains are filled in."""
    plain = grown_list(times=1, adjustment=dict(rank=2))
    for name, parameter in plain.named_parameters():
        if name.endswith('adapter_up'):
            nn.init.normal_(parameter)
    grown = grown_list(growth=IDENTITY, adjustment=dict(rank=2))
    x = tokens()
    assert not torch.equal(run(grown, x), run(plain, x))
    grown.load_state_dict(plain.state_dict(), strict=True)
    assert torch.equal(run(grown, x), run(plain, x))
    # a file of a grown model with another start, though, is a partial one
    with pytest.raises(RuntimeError, match='gain'):
        grown.load_state_dict(grown_list(adjustment=dict(rank=2)).state_dict(), strict=True)
