"""Repeats use another block's tensors and own their norms."""
import copy
import functools
import io
import pickle
import types

import pytest
import torch
import torch.nn as nn
from growth_toys import Block, make_blocks, run, tokens
from torch.nn.utils import parametrize

from scalenet_mm.errors import GrowthError
from scalenet_mm.growth import check_ties, grow, make_layer_map, tied_modules

ORDERS = [('interpolate', 2), ('stack', 2), ('cyclic', 3), ([0, 1, 0, 2, 0, 1], 2)]


@pytest.fixture(autouse=True)
def _seed():
    torch.manual_seed(0)


def grown_list(order='interpolate', times=2, depth=3, **kwargs):
    return grow(make_blocks(depth), make_layer_map(depth, order, times), **kwargs)


def shake_norms(blocks):
    """Let every instance's norms differ, as after training."""
    with torch.no_grad():
        for name, parameter in blocks.named_parameters():
            if '.norm' in name:
                parameter.add_(torch.randn_like(parameter) * 0.3)


def unshared(blocks):
    """The same function without any sharing: real copies of the blocks, with each one's norms."""
    chain = nn.ModuleList()
    for source, block in zip(blocks.layer_map.sources, blocks):
        chain.append(copy.deepcopy(blocks._modules[str(source)]))
        chain[-1].norm1.load_state_dict(block.norm1.state_dict())
        chain[-1].norm2.load_state_dict(block.norm2.state_dict())
    return chain


def assert_same_function(blocks, x, expected):
    torch.testing.assert_close(run(blocks, x), expected)


def assert_tied(blocks):
    """Changing a source's tensor changes what its repeats compute with."""
    check_ties(blocks)
    for source, block in zip(blocks.layer_map.sources, blocks):
        original = blocks._modules[str(source)]
        assert block.attn.qkv.weight is original.attn.qkv.weight
        assert block.attn.table is original.attn.table
        assert block.attn.scale is original.attn.scale
        assert block.mlp.fc2.bias is original.mlp.fc2.bias
        if block is not original:
            assert block.norm1.weight is not original.norm1.weight


class TestFunction:

    @pytest.mark.parametrize('order, times', ORDERS)
    def test_forward_and_gradients_are_those_of_repeated_blocks(self, order, times):
        blocks = grown_list(order, times)
        shake_norms(blocks)
        chain, x = unshared(blocks), tokens()
        out, expected = run(blocks, x), run(chain, x)
        assert torch.equal(out, expected)
        out.square().sum().backward()
        expected.square().sum().backward()
        summed = {}
        for source, copied in zip(blocks.layer_map.sources, chain):
            for name, parameter in copied.named_parameters():
                key = f'{source}.{name}'
                summed[key] = summed.get(key, 0) + parameter.grad
        for name, parameter in blocks.named_parameters():
            if '.norm' not in name:
                torch.testing.assert_close(parameter.grad, summed[name])
        for block, copied in zip(blocks, chain):  # norms have a gradient of their own
            torch.testing.assert_close(block.norm1.weight.grad, copied.norm1.weight.grad)
            torch.testing.assert_close(block.norm2.bias.grad, copied.norm2.bias.grad)

    def test_norms_start_as_copies_of_the_source(self):
        blocks = grown_list()
        for source, block in zip(blocks.layer_map.sources, blocks):
            original = blocks._modules[str(source)]
            assert torch.equal(block.norm1.weight, original.norm1.weight)
            assert torch.equal(block.norm2.bias, original.norm2.bias)
        assert_tied(blocks)

    def test_a_repeat_is_an_instance_of_its_class(self):
        blocks = grown_list()
        assert all(isinstance(block, Block) for block in blocks)
        assert all(isinstance(block.attn.qkv, nn.Linear) for block in blocks)

    def test_frozen_norms_and_eval_mode_are_taken_over(self):
        base = make_blocks(2).eval()
        base[0].norm1.weight.requires_grad_(False)
        blocks = grow(base, make_layer_map(2))
        assert not blocks[1].norm1.weight.requires_grad and blocks[1].norm1.bias.requires_grad
        assert not any(module.training for module in blocks.modules())

    def test_sequential_runs_in_execution_order(self):
        base = nn.Sequential(*make_blocks())
        chain = [base[i] for i in (0, 1, 2, 0, 1, 2)]
        x = tokens()
        expected = run(chain, x)
        assert torch.equal(grow(base, make_layer_map(3, 'stack'))(x), expected)


class TestOneTensorOnce:

    def test_state_dict_and_parameters(self):
        base = set(make_blocks().state_dict())
        blocks = grown_list()
        norms = {f'{i}_r1.norm{j}.{k}' for i in range(3) for j in (1, 2)
                 for k in ('weight', 'bias')}
        assert set(blocks.state_dict()) == base | norms
        assert {n for n, _ in blocks.named_parameters()} == {
            n for n in base if not n.endswith('scale')} | norms
        assert len({id(p) for p in blocks.parameters()}) == len(list(blocks.parameters()))
        assert {n for n, _ in blocks.named_buffers()} == {f'{i}.attn.scale' for i in range(3)}

    def test_share_all(self):
        blocks = grown_list(growth=dict(share='all'))
        assert set(blocks.state_dict()) == set(make_blocks().state_dict())
        assert blocks[1].norm1.weight is blocks[0].norm1.weight
        x = tokens()
        assert torch.equal(run(blocks, x), run([b for i in range(3) for b in (blocks[2 * i], ) * 2],
                                               x))

    def test_share_none(self):
        blocks = grown_list(growth=dict(share='none'))
        names = set(make_blocks().state_dict())
        assert set(blocks.state_dict()) == names | {n[0] + '_r1' + n[1:] for n in names}
        assert torch.equal(blocks[0].attn.qkv.weight, blocks[1].attn.qkv.weight)
        assert blocks[0].attn.qkv.weight is not blocks[1].attn.qkv.weight
        assert not list(tied_modules(blocks))
        copy.deepcopy(blocks[1])  # it needs no other block

    def test_an_optimizer_moves_a_shared_tensor_once(self):
        blocks = grown_list('cyclic', 3)
        chain, x = unshared(blocks), tokens()
        before = blocks[0].mlp.fc1.weight.detach().clone()
        optimizer = torch.optim.SGD(blocks.parameters(), lr=0.1)
        run(blocks, x).sum().backward()
        run(chain, x).sum().backward()
        optimizer.step()
        summed = sum(chain[i].mlp.fc1.weight.grad for i in blocks.layer_map.positions(0))
        torch.testing.assert_close(blocks[0].mlp.fc1.weight, before - 0.1 * summed)
        assert_tied(blocks)


class TestTiesHold:
    """Through everything that replaces tensors or modules."""

    @pytest.fixture
    def blocks(self):
        blocks = grown_list()
        shake_norms(blocks)
        return blocks

    @pytest.fixture
    def other(self, blocks):
        """Another state, and what a list with it computes."""
        other = grown_list()
        with torch.no_grad():
            for parameter in other.parameters():
                parameter.normal_(std=0.3)
        x = tokens()
        return other.state_dict(), x, run(other, x).detach()

    def test_load_and_assign(self, blocks, other):
        state, x, expected = other
        blocks.load_state_dict(state, assign=True)
        assert_same_function(blocks, x, expected)
        assert_tied(blocks)

    def test_base_checkpoint_and_assign_ties_no_norms(self, blocks):
        blocks.load_state_dict(make_blocks().state_dict(), assign=True)
        assert_tied(blocks)
        kept = blocks[1].norm1.weight.detach().clone()
        with torch.no_grad():
            blocks[0].norm1.weight.add_(1)
        assert torch.equal(blocks[1].norm1.weight, kept)

    def test_meta_device(self, blocks, other):
        state, x, expected = other
        blocks.to('meta').to_empty(device='cpu').load_state_dict(state)
        assert_same_function(blocks, x, expected)
        assert_tied(blocks)
        with torch.device('meta'):
            blocks = grown_list()
        blocks.load_state_dict(state, assign=True)
        assert_same_function(blocks, x, expected)

    def test_functional_call(self, blocks, other):
        state, x, expected = other
        wrapped = nn.Sequential()
        wrapped.blocks = blocks
        wrapped.forward = lambda x: run(blocks, x)
        out = torch.func.functional_call(wrapped, {f'blocks.{k}': v for k, v in state.items()}, x)
        torch.testing.assert_close(out, expected)

    def test_parametrization_of_the_source(self, blocks):

        class Double(nn.Module):

            def forward(self, weight):
                return 2 * weight

        reference, x = unshared(blocks), tokens()
        parametrize.register_parametrization(blocks[0].mlp.fc1, 'weight', Double())
        with torch.no_grad():
            for copied, source in zip(reference, blocks.layer_map.sources):
                if source == 0:
                    copied.mlp.fc1.weight.mul_(2)
        assert_same_function(blocks, x, run(reference, x))

    @pytest.mark.parametrize('overwrite', [False, True])
    def test_conversion(self, blocks, overwrite):
        before = torch.__future__.get_overwrite_module_params_on_conversion()
        x = tokens()
        expected = run(blocks, x)
        torch.__future__.set_overwrite_module_params_on_conversion(overwrite)
        try:
            blocks.double()
            assert_tied(blocks)
            torch.testing.assert_close(run(blocks, x.double()), expected.double(), atol=1e-5,
                                       rtol=1e-5)
            blocks.half()
        finally:
            torch.__future__.set_overwrite_module_params_on_conversion(before)
        assert_tied(blocks)
        assert blocks[1].attn.qkv.weight.dtype == blocks[1].norm1.weight.dtype == torch.float16

    def test_deepcopy(self, blocks):
        copied, x = copy.deepcopy(blocks), tokens()
        assert torch.equal(run(copied, x), run(blocks, x))
        assert_tied(copied)
        with torch.no_grad():
            blocks[0].mlp.fc1.weight.zero_()
        assert copied[1].mlp.fc1.weight.abs().sum() > 0
        assert type(copied[1]) is type(blocks[1])

    def test_deepcopy_of_a_repeat_alone_is_an_error(self, blocks):
        with pytest.raises(GrowthError, match='copy the whole grown list'):
            copy.deepcopy(blocks[1])
        with pytest.raises(GrowthError, match='copy the whole grown list'):
            copy.deepcopy(blocks[1].mlp.fc1)

    def test_pickle_and_torch_save(self, blocks):
        x = tokens()
        saved = io.BytesIO()
        torch.save(blocks, saved)
        saved.seek(0)
        for other in (pickle.loads(pickle.dumps(blocks)), torch.load(saved, weights_only=False)):
            assert torch.equal(run(other, x), run(blocks, x))
            assert_tied(other)
            assert type(other[1]) is type(blocks[1])

    def test_compile(self, blocks):
        x = tokens()
        compiled = torch.compile(lambda x: run(blocks, x), backend='eager', fullgraph=True)
        assert torch.equal(compiled(x), run(blocks, x))
        with torch.no_grad():
            blocks[0].mlp.fc1.weight.mul_(2)
        assert torch.equal(compiled(x), run(blocks, x))

    def test_a_replaced_submodule_is_named(self, blocks):
        check_ties(blocks)
        blocks[2].mlp.fc1 = nn.Linear(8, 32)
        with pytest.raises(GrowthError, match=r'1 repeat\(s\) .*1_r1\.mlp\.fc1'):
            check_ties(blocks)


class TestOddBlocks:

    def test_a_buffer_that_is_none(self):
        blocks = make_blocks(2)
        blocks[1].attn.mask = torch.full((5, 5), 0.5).tril()
        grow(blocks, make_layer_map(2))
        assert blocks[1].attn.mask is None
        assert torch.equal(blocks[3].attn.mask, blocks[2].attn.mask)
        run(blocks, tokens())
        blocks[1].attn.mask = torch.zeros(5, 5)  # lazily made, for itself and not saved
        assert not any('mask' in key for key in blocks.state_dict())

    def test_linear_without_bias(self):
        blocks = make_blocks(1)
        blocks[0].mlp.fc1 = nn.Linear(8, 32, bias=False)
        assert grow(blocks, make_layer_map(1))[1].mlp.fc1.bias is None
        run(blocks, tokens())

    @pytest.mark.parametrize('norm', [nn.BatchNorm1d, nn.SyncBatchNorm])
    @pytest.mark.parametrize('share', ['weights', 'none'])
    def test_batch_norm(self, norm, share):
        blocks = make_blocks()
        blocks[1].attn.bn = norm(8)
        with pytest.raises(GrowthError, match=r"block '1' holds a BatchNorm \(attn.bn\)"):
            grow(blocks, make_layer_map(3), dict(share=share))
        grow(blocks, make_layer_map(3, blocks=(0, 2)), dict(share=share))  # not repeated

    def test_widths_that_differ(self):
        blocks = nn.ModuleList([nn.Sequential(nn.LayerNorm(8), nn.Linear(8, 16))])
        with pytest.raises(GrowthError, match="block '0' takes 8 features and gives 16"):
            grow(blocks, make_layer_map(1))
        blocks = nn.ModuleList([nn.Conv2d(3, 4, 1)])
        with pytest.raises(GrowthError, match="takes 3 features and gives 4"):
            grow(blocks, make_layer_map(1))

    def test_a_first_layer_that_does_not_take_the_input(self):
        # as in SwinV2, whose position MLP comes first, and in MLP-Mixer
        blocks = make_blocks(1)
        blocks[0]._modules = {'position_mlp': nn.Linear(2, 4), **blocks[0]._modules}
        assert len(grow(blocks, make_layer_map(1))) == 2

    @pytest.mark.parametrize('share', ['weights', 'all', 'none'])
    def test_a_shape_that_changes_when_run(self, share):
        blocks = nn.ModuleList([nn.Conv2d(4, 4, 3, stride=2, padding=1)])
        grow(blocks, make_layer_map(1), dict(share=share))
        with pytest.raises(GrowthError, match=r'Conv2d turns an input of shape \(1, 4, 8, 8\) '
                           r'into \(1, 4, 4, 4\)'):
            run(blocks, torch.zeros(1, 4, 16, 16))

    def test_blocks_that_take_and_give_tuples(self):

        class Pair(Block):

            def forward(self, pair):
                return super().forward(pair[0]), pair[1]

        blocks = grow(nn.ModuleList([Pair()]), make_layer_map(1))
        x, size = run(blocks, (tokens(), 3))
        assert x.shape == (2, 5, 8) and size == 3

    @pytest.mark.parametrize('hide', [
        lambda block: nn.Linear(2, 2).weight,
        lambda block: [nn.Linear(2, 2)],
        lambda block: {'a': (torch.zeros(1), )},
        lambda block: types.SimpleNamespace(inner=nn.Linear(2, 2)),
        lambda block: block.mlp.forward,
        lambda block: functools.partial(block.mlp.forward),
    ], ids=['parameter', 'list', 'dict', 'object', 'method', 'partial'])
    def test_tensors_in_plain_attributes(self, hide):
        blocks = make_blocks()
        blocks[1].__dict__['hidden'] = hide(blocks[1])
        with pytest.raises(GrowthError, match='Block.hidden holds a module or tensor outside'):
            grow(blocks, make_layer_map(3))

    def test_a_forward_replaced_on_the_instance(self):
        blocks = make_blocks()
        forward = blocks[0].mlp.forward
        blocks[0].mlp.forward = lambda x: forward(x)
        with pytest.raises(GrowthError, match='forward of a Mlp was replaced'):
            grow(blocks, make_layer_map(3))

    def test_something_that_cannot_be_copied(self):
        blocks = make_blocks()
        blocks[0].generator = (i for i in range(3))
        with pytest.raises(GrowthError, match='cannot be copied'):
            grow(blocks, make_layer_map(3))

    def test_blocks_compiled_before_growing(self):
        blocks, x = make_blocks(1), tokens()
        blocks[0].compile(backend='eager')
        grow(blocks, make_layer_map(1))
        shake_norms(blocks)
        torch.testing.assert_close(blocks[1](x), unshared(blocks)[1](x))

    def test_plain_attributes_belong_to_each_instance(self):
        blocks = make_blocks(1)
        blocks[0].shift = [1]
        grow(blocks, make_layer_map(1))
        blocks[1].shift.append(2)
        assert blocks[0].shift == [1] and blocks[1].shift == [1, 2]


class TestTorchEncoderLayer:

    def make(self):
        return nn.ModuleList([
            nn.TransformerEncoderLayer(8, 2, 32, dropout=0., norm_first=True, batch_first=True)
            for _ in range(2)
        ])

    def test_forward(self):
        blocks, x = self.make(), tokens()
        expected = run([blocks[i] for i in (0, 0, 1, 1)], x)
        grow(blocks, make_layer_map(2))
        torch.testing.assert_close(run(blocks, x), expected)
        blocks.eval()
        with torch.no_grad():  # torch's fused path reads the tied tensors too
            torch.testing.assert_close(run(blocks, x), expected)
        assert blocks[1].self_attn.in_proj_weight is blocks[0].self_attn.in_proj_weight

    def test_adapters_count_in_eval_mode_too(self):
        blocks, x = self.make(), tokens()
        grow(blocks, make_layer_map(2), adjustment=dict(rank=2))
        assert sorted(n for n, _ in blocks.named_parameters() if 'adapter_up' in n) == [
            f'{b}.linear{i}.adapter_up' for b in ('0', '0_r1', '1', '1_r1') for i in (1, 2)]
        for name, parameter in blocks.named_parameters():
            if 'adapter_up' in name:
                nn.init.normal_(parameter)
        expected = run(blocks, x)
        blocks.eval()
        with torch.no_grad():
            torch.testing.assert_close(run(blocks, x), expected)

    @pytest.mark.parametrize('options', [
        dict(adjustment=dict(type='LoRA')), dict(growth=dict(start='identity'))])
    def test_out_proj_is_refused(self, options):
        with pytest.raises(GrowthError, match='self_attn.out_proj is the output projection of '
                           'torch.nn.MultiheadAttention'):
            grow(self.make(), make_layer_map(2), **options)
