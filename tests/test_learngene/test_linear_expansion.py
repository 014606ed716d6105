"""TLEG: the two learngenes against a ViT written out in plain torch, and what trains them."""
import copy
import pickle

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from mmengine.registry import MODELS

from scalenet_mm import ScaleNetViT, fast_paths
from scalenet_mm.analysis.layers import find_blocks
from scalenet_mm.errors import CheckpointError, ConfigError, GrowthError
from scalenet_mm.growth import check_ties, fused, get_drop_path_rate, shared_parameters
from scalenet_mm.learngene.linear_expansion import (
    Expanded,
    TLEGViT,
    expand_blocks,
    expanded_block,
)

ARCH = dict(embed_dims=24, num_heads=2, feedforward_channels=48)
DEPTH = 3


@pytest.fixture(autouse=True)
def any_size(monkeypatch):
    monkeypatch.setattr(fused, 'SMALLEST', 1)


def make(depth=DEPTH, **kwargs):
    """A small TLEG net, no two of whose parameters could be mixed up unseen."""
    net = TLEGViT(ARCH, depth=depth, img_size=32, **kwargs)
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in sorted(net.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            is_norm_weight = parameter.ndim == 1 and name.endswith('weight') and '.1.' not in name
            parameter.copy_(1 + 0.2 * noise if is_norm_weight else 0.1 * noise)
    return net


def images(count=2, seed=1):
    return torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(seed))


def block_of(state, index):
    prefix = f'layers.{index}.'
    return {k[len(prefix):]: v for k, v in state.items() if k.startswith(prefix)}


def descend(net, depth):
    """The plain ViT that a TLEG net expands to."""
    plain = ScaleNetViT({**ARCH, 'num_layers': depth}, img_size=32, growth=None, adjustment=None)
    state = net.state_dict()
    expanded = {k: v for k, v in state.items() if not k.startswith('layers.')}
    for i, block in enumerate(expand_blocks(block_of(state, 0), block_of(state, 1), depth)):
        expanded.update({f'layers.{i}.{k}': v for k, v in block.items()})
    plain.load_state_dict(expanded, strict=True)
    return plain


def plain_torch(state, x, depth):
    """What a TLEG net computes, in torch's functions and no module."""

    def norm(x, weight, bias):
        return F.layer_norm(x, x.shape[-1:], weight, bias, 1e-6)

    x = F.conv2d(x, state['patch_embed.projection.weight'], state['patch_embed.projection.bias'],
                 stride=16)
    x = x.flatten(2).transpose(1, 2)
    x = torch.cat([state['cls_token'].repeat(len(x), 1, 1), x], 1) + state['pos_embed']
    for block in range(depth):
        w = {name: a + block / depth * state[f'layers.1.{name}']
             for name, a in block_of(state, 0).items()}
        y = norm(x, w['ln1.weight'], w['ln1.bias'])
        q, k, v = (y @ w['attn.qkv.weight'].T + w['attn.qkv.bias']).chunk(3, -1)
        heads = []
        for part in (slice(0, 12), slice(12, 24)):
            scores = q[..., part] @ k[..., part].transpose(1, 2) / 12**0.5
            heads.append(scores.softmax(-1) @ v[..., part])
        x = x + torch.cat(heads, -1) @ w['attn.proj.weight'].T + w['attn.proj.bias']
        y = norm(x, w['ln2.weight'], w['ln2.bias'])
        y = F.gelu(y @ w['ffn.layers.0.0.weight'].T + w['ffn.layers.0.0.bias'])
        x = x + y @ w['ffn.layers.1.weight'].T + w['ffn.layers.1.bias']
    return norm(x, state['ln1.weight'], state['ln1.bias'])[:, 0]


@pytest.mark.parametrize('depth', [1, 3, 7])
@pytest.mark.parametrize('fast', [False, True])
@pytest.mark.parametrize('with_cp', [False, True])
def test_equals_plain_torch_with_gradients(depth, fast, with_cp):
    net = make(depth, with_cp=with_cp).double()
    state = {k: v.detach().clone().requires_grad_() for k, v in net.named_parameters()}
    expected = plain_torch(state, images().double(), depth)
    expected.square().sum().backward()
    with fast_paths(fast):
        got = net(images().double())[0]
        got.square().sum().backward()
    torch.testing.assert_close(got, expected, rtol=1e-10, atol=1e-12)
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None, name  # DDP wants each parameter used, at depth 1 too
        torch.testing.assert_close(parameter.grad, state[name].grad, rtol=1e-8, atol=1e-10)


def test_each_tensor_is_blended_once_in_a_forward_pass(monkeypatch):
    net, reads = make(), []
    on_line = Expanded._on_line

    def count(self, name):
        reads.append((id(self), name))
        return on_line(self, name)

    monkeypatch.setattr(Expanded, '_on_line', count)
    for fast in (False, True):
        with fast_paths(fast):
            net(images())
        assert len(reads) == len(set(reads)) == DEPTH * 12
        reads.clear()


def test_is_the_descendant_of_its_depth_to_the_bit():
    net = make()
    with fast_paths(False):
        assert torch.equal(net(images())[0], descend(net, DEPTH)(images())[0])
        # the same learngenes run at another depth, too
        deeper = TLEGViT(ARCH, depth=5, img_size=32)
        deeper.load_state_dict(net.state_dict(), strict=True)
        assert torch.equal(deeper(images())[0], descend(net, 5)(images())[0])
        assert not torch.equal(deeper(images())[0], net(images())[0])


@pytest.mark.parametrize('arch, per_block, rest, printed', [
    ('deit-base', 7_087_872, 590_592 + 768 + 197 * 768 + 2 * 768, 15_688_936),
    ('deit-small', 1_774_464, 295_296 + 384 + 197 * 384 + 2 * 384, None),
])
def test_parameter_counts(arch, per_block, rest, printed):
    with torch.device('meta'):
        counts = [sum(p.numel() for p in TLEGViT(arch, depth=depth).parameters())
                  for depth in (None, 3, 16)]
    assert counts == [2 * per_block + rest] * 3
    if printed:  # 15.7 M in Table 5 of SWS, with the head
        assert counts[0] + 768 * 1000 + 1000 == printed


def test_names_are_those_of_a_plain_vit_of_two_blocks():
    plain = ScaleNetViT({**ARCH, 'num_layers': 2}, img_size=32, growth=None, adjustment=None)
    net = make(9)
    assert list(net.state_dict()) == list(plain.state_dict())
    assert [n for n, _ in net.named_parameters()] == [n for n, _ in plain.named_parameters()]


def test_start():
    torch.manual_seed(0)
    net = TLEGViT(dict(ARCH, embed_dims=96, feedforward_channels=384), depth=4, img_size=32)
    net.init_weights()
    a, b = (block_of(net.state_dict(), i) for i in (0, 1))
    for name in a:
        if a[name].ndim > 1:
            for tensor in (a[name], b[name]):
                assert 0.018 < tensor.std() < 0.021
            assert not torch.equal(a[name], b[name])
        else:
            assert (b[name] == 0).all()
            assert (a[name] == (1 if name in ('ln1.weight', 'ln2.weight') else 0)).all()
    assert 0.018 < net.pos_embed.std() < 0.021 and (net.ln1.weight == 1).all()


def test_trains():
    torch.manual_seed(0)
    net = make(drop_path_rate=0.1)
    net.init_weights()
    before = copy.deepcopy(net.state_dict())
    optimizer = torch.optim.AdamW(net.parameters(), lr=3e-3)
    target, losses = torch.randn(2, 24), []
    for _ in range(25):
        loss = F.mse_loss(net(images())[0], target)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < 0.7 * losses[0]
    for name, value in net.state_dict().items():
        assert not torch.equal(value, before[name]), name


def test_drop_path_rises_over_the_depth():
    net = make(5, drop_path_rate=0.4)
    rates = [get_drop_path_rate(block) for block in net.layers]
    assert rates == pytest.approx([0, 0.1, 0.2, 0.3, 0.4])


def test_drop_path_follows_the_mode_and_checkpointing():
    nets = [make(drop_path_rate=0.5, with_cp=with_cp) for with_cp in (False, True)]
    results = []
    for net in nets:
        torch.manual_seed(3)
        out = net(images(8))[0]
        out.sum().backward()
        results.append((out, [p.grad for p in net.parameters()]))
        assert not torch.equal(out, net(images(8))[0])
        net.eval()
        assert all(not module.training for module in net.modules())
        assert torch.equal(net(images(8))[0], net(images(8))[0])
    assert torch.equal(results[0][0], results[1][0])
    for one, other in zip(results[0][1], results[1][1]):
        torch.testing.assert_close(one, other)


def test_checkpointing_by_mmengine():
    from mmengine.runner.activation_checkpointing import turn_on_activation_checkpointing
    net, twin = make(), make()
    turn_on_activation_checkpointing(net, [b.name for b in find_blocks(net)])
    for model in (net, twin):
        model(images())[0].sum().backward()
    for one, other in zip(net.parameters(), twin.parameters()):
        torch.testing.assert_close(one.grad, other.grad)


def test_autocast():
    net = make()
    with torch.autocast('cpu', dtype=torch.bfloat16):
        out = net(images())[0]
    out.float().sum().backward()
    torch.testing.assert_close(out.float(), net(images())[0], rtol=0.05, atol=0.05)
    for parameter in net.parameters():
        assert parameter.grad.dtype == torch.float32 and parameter.grad.isfinite().all()


def test_copies_are_whole_and_their_own():
    net = make()
    expected = net(images())[0]
    for twin in (copy.deepcopy(net), pickle.loads(pickle.dumps(net))):
        assert torch.equal(twin(images())[0], expected)
        with torch.no_grad():
            for parameter in twin.parameters():
                parameter.mul_(1.5)
        assert not torch.equal(twin(images())[0], expected)
        assert torch.equal(net(images())[0], expected)
        twin(images())[0].sum().backward()
        assert all(p.grad is not None for p in twin.parameters())
        assert all(p.grad is None for p in net.parameters())
    with pytest.raises(GrowthError, match='cannot be deep-copied without it'):
        copy.deepcopy(net.layers[0])


def test_replaced_tensors_are_seen():
    net, other = make(), make()
    with torch.no_grad():
        for parameter in other.parameters():
            parameter.add_(0.01)
    with torch.device('meta'):
        empty = TLEGViT(ARCH, depth=DEPTH, img_size=32)
    empty.load_state_dict(other.state_dict(), strict=True, assign=True)
    assert torch.equal(empty(images())[0], other(images())[0])
    got = torch.func.functional_call(net, dict(other.named_parameters()), (images(), ))[0]
    assert torch.equal(got, other(images())[0])


def test_compiles_as_one_graph():
    net = make()
    compiled = torch.compile(net, backend='eager', fullgraph=True)
    with fast_paths(False):
        torch.testing.assert_close(compiled(images())[0], net(images())[0])


def test_ddp(tmp_path):
    from torch import distributed
    distributed.init_process_group(
        'gloo', init_method=f'file://{tmp_path}/store', rank=0, world_size=1)
    try:
        net = make(1)
        wrapped = torch.nn.parallel.DistributedDataParallel(net)  # an error if one is unused
        for _ in range(3):
            wrapped(images())[0].sum().backward()
    finally:
        distributed.destroy_process_group()


def test_outputs_are_counted_as_blocks_run():
    net = make(4, out_indices=(0, 2, -1), out_type='raw')
    plain = descend(net, 4)
    blocks = []
    for block in plain.layers:
        block.register_forward_hook(lambda module, args, out: blocks.append(out))
    with fast_paths(False):
        outs, _ = net(images()), plain(images())
    assert len(outs) == 3
    assert torch.equal(outs[0], blocks[0]) and torch.equal(outs[1], blocks[2])
    assert torch.equal(outs[2], plain.ln1(blocks[3]))
    with pytest.raises(ConfigError, match='from 0 to 3, got 4'):
        make(4, out_indices=4)


def test_analysis_finds_the_blocks_that_run():
    found = find_blocks(make(4))
    assert [b.name for b in found] == [f'layers.expanded.{i}' for i in range(4)]


def test_layer_depth_is_that_of_the_last_block_for_both():
    net = make(4)
    assert net.get_layer_depth('backbone.patch_embed.projection.bias', 'backbone.') == (0, 6)
    for name in ('layers.0.ln1.weight', 'layers.1.attn.qkv.weight'):
        assert net.get_layer_depth(f'backbone.{name}', 'backbone.') == (4, 6)
    assert net.get_layer_depth('backbone.ln1.weight', 'backbone.') == (5, 6)
    assert net.get_layer_depth('head.weight', 'backbone.') == (5, 6)


def test_is_registered_for_every_toolbox():
    net = MODELS.build(dict(type='TLEGViT', arch='deit-tiny', depth=2))
    assert isinstance(net, TLEGViT) and len(net.layers) == 2
    assert MODELS.get('TLEGViT') is TLEGViT


def test_depth_of_arch():
    assert len(TLEGViT({**ARCH, 'num_layers': 6}).layers) == 6
    assert len(TLEGViT({**ARCH, 'num_layers': 6}, depth=2).layers) == 2
    assert len(TLEGViT('deit-tiny').layers) == 12


@pytest.mark.parametrize('kwargs, error, text', [
    (dict(growth=dict(times=2)), GrowthError, 'growth=.*depth'),
    (dict(growth='paper'), GrowthError, 'growth=.*cannot be honoured'),
    (dict(adjustment='paper'), GrowthError, 'adjustment=.*Leave adjustment out'),
    (dict(num_layers=4), ConfigError, 'num_layers.*depth'),
    (dict(frozen_stages=1), ConfigError, 'frozen_stages cannot be honoured'),
    (dict(depth=0), GrowthError, 'integer >= 1, got 0'),
    (dict(depth=2.5), GrowthError, 'integer >= 1, got 2.5'),
    (dict(depth=True), GrowthError, 'integer >= 1, got True'),
    (dict(arch=dict(ARCH), depth=None), ConfigError, 'as depth or as num_layers'),
    (dict(arch='vast'), ConfigError, "unknown arch 'vast'"),
    (dict(embed_dims=24), ConfigError, 'embed_dims cannot be given'),
])
def test_refuses(kwargs, error, text):
    with pytest.raises(error, match=text):
        TLEGViT(**{**dict(arch='deit-tiny'), **kwargs})


def test_without_biases():
    net = make(qkv_bias=False).double()
    assert 'layers.0.attn.qkv.bias' not in net.state_dict()
    state = {k: v.detach() for k, v in net.named_parameters()}
    zeros = {f'layers.{i}.attn.qkv.bias': torch.zeros(72).double() for i in (0, 1)}
    torch.testing.assert_close(net(images().double())[0],
                               plain_torch({**state, **zeros}, images().double(), DEPTH))


def test_no_tensor_counts_as_shared():
    # every block uses a blend, which is in no other
    assert shared_parameters(make()) == []


def test_layers_of_other_kinds():
    for layer in (nn.Conv2d(3, 3, 1), nn.PReLU()):
        blocks = [nn.Sequential(nn.Linear(3, 3), layer) for _ in range(2)]
        with pytest.raises(GrowthError, match=f'a {type(layer).__name__} cannot be expanded'):
            expanded_block(*blocks, 0.5)


def test_refuses_to_be_grown_afterwards():
    from scalenet_mm import grow_backbone
    with pytest.raises(GrowthError):
        grow_backbone(make(), growth=dict(times=2), adjustment=None)


def test_expand_blocks():
    a = dict(w=torch.tensor([1., 2.]), b=torch.tensor([3.]))
    b = dict(b=torch.tensor([4.]), w=torch.tensor([8., -8.]))
    blocks = expand_blocks(a, b, 4)
    assert [block['w'].tolist() for block in blocks] == [[1, 2], [3, 0], [5, -2], [7, -4]]
    assert [block['b'].item() for block in blocks] == [3, 4, 5, 6]
    assert all(list(block) == ['w', 'b'] for block in blocks)
    blocks[0]['w'].zero_()  # nothing is shared, though the first block equals A
    assert a['w'].tolist() == [1, 2]
    assert len(expand_blocks(a, b, 1)) == 1


@pytest.mark.parametrize('b, text', [
    (dict(w=torch.ones(3), b=torch.ones(1)), r'differ in w: \(2,\) and \(3,\)'),
    (dict(w=torch.ones(2)), r'differ in b: \(1,\) and None'),
    (dict(w=torch.ones(2), b=torch.ones(1), c=torch.ones(1)), r'differ in c: None and \(1,\)'),
])
def test_expand_blocks_of_two_kinds(b, text):
    with pytest.raises(CheckpointError, match=text):
        expand_blocks(dict(w=torch.ones(2), b=torch.ones(1)), b, 4)


@pytest.mark.parametrize('depth', [0, -1, 1.5, True, None])
def test_expand_blocks_to_no_depth(depth):
    with pytest.raises(GrowthError, match='integer >= 1'):
        expand_blocks({}, {}, depth)


@pytest.mark.parametrize('index', ['0', '1'])
def test_a_replaced_learngene_is_named(index):
    """Its blocks would go on with the one that is no longer there."""
    model = TLEGViT(arch=ARCH, depth=3, img_size=32, patch_size=16)
    check_ties(model)
    check_ties(copy.deepcopy(model))
    setattr(model.layers, index, copy.deepcopy(getattr(model.layers, index)))
    with pytest.raises(GrowthError, match='no longer share with a block.*layers.expanded.0'):
        check_ties(model)


def test_blocks_are_not_copied_without_their_slope():
    layers = TLEGViT(arch=ARCH, depth=3, img_size=32, patch_size=16).layers
    with pytest.raises(GrowthError, match='cannot be deep-copied without it'):
        copy.deepcopy(nn.ModuleList([getattr(layers, '0'), layers[2]]))
    copy.deepcopy(nn.ModuleList([getattr(layers, '0'), getattr(layers, '1'), layers[2]]))
