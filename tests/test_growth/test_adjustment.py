"""Adapters, LoRA and gains on the linear layers of blocks."""
import pytest
import timm
import torch
import torch.nn as nn
from growth_toys import Block, make_blocks, run, tokens

from scalenet_mm.errors import GrowthError
from scalenet_mm.growth import (
    AdjustmentSpec,
    GrowthSpec,
    adjust_linears,
    adjusted_linears,
    grow,
    make_layer_map,
)
from scalenet_mm.growth.adjustment import find_branch_ends, find_linears, find_mlps, kinds_of
from scalenet_mm.growth.sharing import is_norm

LORA, ADAPTER = dict(type='LoRA'), dict(type='ParallelAdapter')


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def own(module):
    return [p for n, p in module.named_parameters()
            if n.rsplit('.', 1)[-1].startswith(('adapter_', 'lora_'))]


def numel(parameters):
    return sum(p.numel() for p in parameters)


class TestFunction:

    @pytest.mark.parametrize('cfg', [ADAPTER, LORA])
    def test_nothing_changes_at_step_0(self, cfg):
        plain, grown = make_blocks(), make_blocks()
        grown.load_state_dict(plain.state_dict())
        x = tokens()
        grow(plain, make_layer_map(3))
        grow(grown, make_layer_map(3), adjustment=cfg)
        assert torch.equal(run(grown, x), run(plain, x))
        for name, parameter in grown.named_parameters():
            if name.endswith('_up'):
                assert not parameter.any()
            if name.endswith('_down'):
                assert parameter.std() > 0

    @pytest.mark.parametrize('act, act_cfg', [(torch.relu, dict(type='ReLU')),
                                              (nn.functional.gelu, dict(type='GELU')),
                                              (lambda x: x, dict(type='Identity'))])
    def test_adapter_is_equation_9(self, act, act_cfg):
        block = Block()
        adjust_linears(block, AdjustmentSpec(rank=3, act_cfg=act_cfg))
        linear, x = block.mlp.fc1, torch.randn(4, 8)
        nn.init.normal_(linear.adapter_up)
        expected = x @ linear.weight.T + linear.bias + act(
            x @ linear.adapter_down.T) @ linear.adapter_up.T
        torch.testing.assert_close(linear(x), expected)

    def test_lora_is_equation_8(self):
        block = Block()
        adjust_linears(block, AdjustmentSpec(type='LoRA', rank=3))
        linear, x = block.attn.qkv, torch.randn(4, 8)
        nn.init.normal_(linear.lora_up)
        torch.testing.assert_close(
            linear(x), x @ (linear.weight + linear.lora_up @ linear.lora_down).T + linear.bias)

    def test_every_instance_has_its_own(self):
        blocks = grow(make_blocks(2), make_layer_map(2), adjustment=ADAPTER)
        downs = [block.mlp.fc1.adapter_down for block in blocks]
        assert len({id(down) for down in downs}) == 4
        assert not torch.equal(downs[0], downs[1])

    def test_gain_scales_weight_bias_and_adapter(self):
        blocks = grow(make_blocks(1), make_layer_map(1), dict(start='identity'), dict(rank=2))
        linear, x = blocks[0].mlp.fc2, torch.randn(4, 32)
        nn.init.normal_(linear.adapter_up)
        whole = linear(x)
        with torch.no_grad():
            linear.gain.copy_(torch.arange(8.))
        torch.testing.assert_close(linear(x), whole * torch.arange(8.))

    def test_scope(self):
        layer_map = make_layer_map(3, blocks=(1, ))
        def adjusted(scope):
            blocks = grow(make_blocks(), layer_map, adjustment=dict(scope=scope))
            return sorted({name.split('.')[0] for name, _ in adjusted_linears(blocks)})
        assert adjusted('all') == ['0', '1', '1_r1', '2']
        assert adjusted('shared') == ['1', '1_r1']


class TestCounts:

    @pytest.mark.parametrize('dim, rank', [(8, 16), (24, 4)])
    def test_per_block(self, dim, rank):
        block = Block(dim)
        assert adjust_linears(block, AdjustmentSpec(rank=rank)) == ['mlp.fc1', 'mlp.fc2']
        assert numel(own(block)) == 10 * dim * rank
        block = Block(dim)
        names = adjust_linears(block, AdjustmentSpec(type='LoRA', rank=rank))
        assert names == ['attn.qkv', 'attn.proj', 'mlp.fc1', 'mlp.fc2']
        assert numel(own(block)) == 16 * dim * rank

    def test_deit_tiny(self):
        with torch.device('meta'):
            model = timm.create_model('deit_tiny_patch16_224')
            assert numel(model.parameters()) == 5_717_416
            grow(model.blocks, make_layer_map(12), adjustment={})
        assert numel(model.parameters()) == 6_463_912

    def test_deit_base_lora_with_shared_norms(self):
        for rank, expected in ((4, 87_747_304), (8, 88_926_952), (16, 91_286_248)):
            with torch.device('meta'):
                model = timm.create_model('deit_base_patch16_224')
                grow(model.blocks, make_layer_map(12), dict(share='all'),
                     dict(type='LoRA', rank=rank))
            assert numel(model.parameters()) == expected


class TestFinding:

    @pytest.mark.parametrize('model, block, mlp, ends', [
        ('deit_tiny_patch16_224', lambda m: m.blocks[0], ('mlp.fc1', 'mlp.fc2'), 'attn.proj'),
        ('swin_tiny_patch4_window7_224', lambda m: m.layers[0].blocks[1], ('mlp.fc1', 'mlp.fc2'),
         'attn.proj'),
        ('swinv2_tiny_window8_256', lambda m: m.layers[0].blocks[1], ('mlp.fc1', 'mlp.fc2'),
         'attn.proj'),
        ('convnext_tiny', lambda m: m.stages[0].blocks[0], ('mlp.fc1', 'mlp.fc2'), None),
    ])
    def test_timm(self, model, block, mlp, ends):
        with torch.device('meta'):
            block = block(timm.create_model(model))
        assert find_mlps(block) == [mlp]
        assert find_branch_ends(block) == [*([ends] if ends else []), mlp[1]]

    def test_mmpretrain(self):
        pytest.importorskip('mmpretrain')
        from mmpretrain.models.backbones.convnext import ConvNeXtBlock
        from mmpretrain.models.backbones.swin_transformer import SwinBlock
        from mmpretrain.models.backbones.vision_transformer import TransformerEncoderLayer
        ffn = ('ffn.layers.0.0', 'ffn.layers.1')
        for block, mlp, ends in (
            (TransformerEncoderLayer(8, 2, 32), ffn, ['attn.proj', ffn[1]]),
            (TransformerEncoderLayer(8, 2, 24), ffn, ['attn.proj', ffn[1]]),
            (TransformerEncoderLayer(8, 2, 8), ffn, ['attn.proj', ffn[1]]),
            (SwinBlock(8, 2), ffn, ['attn.w_msa.proj', ffn[1]]),
            (ConvNeXtBlock(8), ('pointwise_conv1', 'pointwise_conv2'), ['pointwise_conv2']),
        ):
            assert find_mlps(block) == [mlp]
            assert find_branch_ends(block) == ends

    @pytest.mark.parametrize('ratio', [1, 2, 3, 4])
    def test_ratios(self, ratio):
        block = Block(8, ratio)
        assert find_mlps(block) == [('mlp.fc1', 'mlp.fc2')]
        assert find_branch_ends(block) == ['attn.proj', 'mlp.fc2']

    @pytest.mark.parametrize('ratio', [1, 4])
    def test_separate_projections_are_no_mlp(self, ratio):
        block = Block(8, ratio)
        block.attn = nn.ModuleDict({name: nn.Linear(8, 8) for name in ('q', 'k', 'v', 'out')})
        assert find_mlps(block) == [('mlp.fc1', 'mlp.fc2')]
        assert find_branch_ends(block) == ['attn.out', 'mlp.fc2']

    def test_two_mlps(self):
        block = nn.Sequential(*(nn.Sequential(nn.Linear(8, 24), nn.Linear(24, 8))
                                for _ in range(2)))
        assert find_mlps(block) == [('0.0', '0.1'), ('1.0', '1.1')]
        assert find_branch_ends(block) == ['0.1', '1.1']

    def test_named_layers(self):
        assert find_linears(Block(), ['attn.qkv']) == ['attn.qkv']
        block = Block()
        assert adjust_linears(block, AdjustmentSpec(layers=['attn.qkv'])) == ['attn.qkv']
        assert [name for name, _ in adjusted_linears(block)] == ['attn.qkv']

    def test_kinds(self):
        blocks = grow(make_blocks(1), make_layer_map(1), dict(start='identity'))
        adjust_linears(blocks[0], AdjustmentSpec())
        kinds = kinds_of(blocks, is_norm)
        assert kinds['0.mlp.fc1.adapter_down'] == kinds['0.mlp.fc2.adapter_up'] == 'adapter'
        assert kinds['0.attn.proj.gain'] == kinds['0_r1.mlp.fc2.gain'] == 'gain'
        assert kinds['0_r1.norm1.bias'] == 'norm' and kinds['0.mlp.fc1.weight'] == 'weight'
        assert set(kinds) == {name for name, _ in blocks.named_parameters()}


class TestRefusals:

    @pytest.mark.parametrize('cfg, message', [
        (dict(type='Adapter'), r"adjustment.type must be one of .*got 'Adapter'"),
        (dict(rank=0), 'adjustment.rank must be an integer >= 1, got 0'),
        (dict(rank=-4), 'adjustment.rank'),
        (dict(rank=True), 'adjustment.rank'),
        (dict(rank=8.), 'adjustment.rank'),
        (dict(scope='some'), 'adjustment.scope must be one of'),
        (dict(layers='attn'), "adjustment.layers must be 'auto', 'mlp', 'all' or a list"),
        (dict(layers=None), 'adjustment.layers must be a list of names'),
        (dict(layers=[1]), 'adjustment.layers must be a list of names'),
        (dict(ranks=4), "adjustment has no option 'ranks'; the options are type, rank"),
        ('ParallelAdapter', 'adjustment must be a dict or None'),
        (dict(act_cfg=dict(type='Linear')), 'adjustment.act_cfg must name an activation'),
        (dict(act_cfg=dict(type='Relu')), 'adjustment.act_cfg must name an activation'),
        (dict(act_cfg=None), 'adjustment.act_cfg must name an activation'),
        (dict(act_cfg=dict(type='ReLU', slope=1)), "adjustment.act_cfg: .*'slope'"),
        (dict(act_cfg=dict(type='PReLU')), 'PReLU has parameters of its own'),
        (dict(act_cfg=dict(type='GLU')), 'GLU changes the shape'),
        (dict(act_cfg=dict(type='GELU', approximate='well')), 'act_cfg: .* does not run'),
    ])
    def test_specs(self, cfg, message):
        with pytest.raises(GrowthError, match=message):
            AdjustmentSpec.from_cfg(cfg)

    def test_a_spec_and_none_pass(self):
        assert AdjustmentSpec.from_cfg(None) is None
        spec = AdjustmentSpec()
        assert AdjustmentSpec.from_cfg(spec) is spec
        assert (spec.type, spec.rank, spec.act_cfg, spec.scope) == (
            'ParallelAdapter', 16, dict(type='ReLU'), 'all')

    def test_adjusting_twice(self):
        block = Block()
        adjust_linears(block, AdjustmentSpec(), 'blocks.3')
        with pytest.raises(GrowthError, match='blocks.3.mlp.fc1 has a ParallelAdapter already'):
            adjust_linears(block, AdjustmentSpec(), 'blocks.3')
        adjust_linears(block, AdjustmentSpec(type='LoRA'))  # both at once is no mistake

    def test_layers_that_are_not_there(self):
        with pytest.raises(GrowthError, match=r"names \['fc1'\], which 2 \(Block\) does not have; "
                           r"its linear layers are \['attn.qkv'"):
            adjust_linears(Block(), AdjustmentSpec(layers=['fc1']), '2')
        with pytest.raises(GrowthError, match='no linear layer for an adjustment was found'):
            adjust_linears(nn.Sequential(nn.Linear(4, 8)), AdjustmentSpec())

    def test_gains_without_an_mlp(self):
        # nothing tells where the first branch ends: a gain on the last alone would be wrong
        block = Block()
        block.mlp = nn.ModuleDict(dict(w12=nn.Linear(8, 40), w3=nn.Linear(20, 8)))
        with pytest.raises(GrowthError, match="only be grown with start='paper'"):
            grow(nn.ModuleList([block]), make_layer_map(1), dict(start='identity'))


class TestStart:

    def test_paper_adds_no_gains(self):
        blocks = grow(make_blocks(), make_layer_map(3), dict(start='paper'), {})
        assert not [n for n, _ in blocks.named_parameters() if n.endswith('gain')]

    @pytest.mark.parametrize('order', ['interpolate', 'stack'])
    @pytest.mark.parametrize('times', [2, 3])
    @pytest.mark.parametrize('cfg', [None, ADAPTER, LORA])
    def test_identity_equals_the_ungrown_list(self, order, times, cfg):
        blocks, x = make_blocks(), tokens()
        expected = run(blocks, x)
        grow(blocks, make_layer_map(3, order, times), dict(start='identity'), cfg)
        assert len(blocks) == 3 * times
        assert torch.equal(run(blocks, x), expected)

    @pytest.mark.parametrize('times, start, values', [
        (2, 'identity', (1., 0.)),
        (2, dict(type='split', share=0.5), (0.5, 0.5)),
        (2, dict(type='split', share=0.1), (0.9, 0.1)),
        (3, dict(type='split', share=0.5), (0.5, 0.25, 0.25)),
        (3, dict(type='split', share=0), (1., 0., 0.)),
    ])
    def test_values_and_counts(self, times, start, values):
        layer_map = make_layer_map(3, times=times, blocks=(1, ))
        blocks = grow(make_blocks(), layer_map, dict(start=start))
        gains = {n: p for n, p in blocks.named_parameters() if n.endswith('gain')}
        # 2 D a block, in the shared group only
        assert numel(gains.values()) == times * 2 * 8
        for position, value in zip(layer_map.positions(1), values):
            for end in ('attn.proj', 'mlp.fc2'):
                gain = gains[f'{layer_map.names[position]}.{end}.gain']
                assert torch.equal(gain, torch.full((8, ), value))

    @pytest.mark.parametrize('start', [
        'half', None, 0.5, {}, dict(type='split'), dict(type='split', share=1.5),
        dict(type='split', share=-0.1), dict(type='split', share='a'),
        dict(type='split', share=float('nan')), dict(type='cut', share=0.5),
        dict(type='split', share=0.5, more=1)])
    def test_refusals(self, start):
        with pytest.raises(GrowthError, match='growth.start'):
            GrowthSpec(start=start)

    @pytest.mark.parametrize('cfg', [ADAPTER, LORA])
    def test_gradient_reaches_a_repeat_by_the_second_step(self, cfg):
        blocks, x = make_blocks(2), tokens()
        grow(blocks, make_layer_map(2), dict(start='identity'), cfg)
        for name, parameter in blocks.named_parameters():
            parameter.requires_grad_(name.rsplit('.', 1)[-1].startswith(
                ('adapter', 'lora', 'gain')))
        optimizer = torch.optim.SGD([p for p in blocks.parameters() if p.requires_grad], lr=0.1)
        ups = [p for n, p in blocks.named_parameters() if '_r1' in n and n.endswith('_up')]
        gains = [p for n, p in blocks.named_parameters() if '_r1' in n and n.endswith('gain')]
        for step in range(2):
            optimizer.zero_grad()
            run(blocks, x).square().sum().backward()
            assert all(gain.grad.any() for gain in gains)
            assert all(up.grad.any() for up in ups) == (step == 1)
            optimizer.step()
        assert all(up.any() for up in ups)


@pytest.mark.parametrize('device, dtype', [('meta', torch.float32), ('cpu', torch.bfloat16)])
def test_new_parameters_follow_the_weight(device, dtype):
    blocks = make_blocks(1).to(device=device, dtype=dtype)
    grow(blocks, make_layer_map(1), dict(start='identity'), LORA)
    adjust_linears(blocks[1], AdjustmentSpec())
    assert {(p.device.type, p.dtype) for p in blocks.parameters()} == {(device, dtype)}
    if device == 'cpu':
        assert run(blocks, tokens().to(dtype)).dtype == dtype


@pytest.mark.parametrize('cfg', [ADAPTER, LORA])
def test_autocast(cfg):
    blocks = grow(make_blocks(1), make_layer_map(1), dict(start='identity'), cfg)
    with torch.autocast('cpu', torch.bfloat16):
        assert blocks[1].mlp(tokens()).dtype == torch.bfloat16
        run(blocks, tokens()).sum().backward()
    assert blocks[1].mlp.fc2.gain.grad.dtype == torch.float32
