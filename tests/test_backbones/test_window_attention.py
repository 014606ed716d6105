"""Window attention against the definition, its fast path against the plain one, its mask."""
import copy

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from scalenet_mm.backbones import window_attention
from scalenet_mm.backbones.window_attention import (
    ShiftWindowMSA,
    WindowMSA,
    relative_position_index,
    shift_mask,
)
from scalenet_mm.errors import ConfigError
from scalenet_mm.growth.fast_path import fast_paths


def test_window_attention_is_softmax_with_bias(randomise, image):
    attention = randomise(WindowMSA(12, 3, 4)).double()
    x = image(6, 16, 12).double()
    qkv = (x @ attention.qkv.weight.T + attention.qkv.bias).view(6, 16, 3, 3, 4)
    query, key, value = qkv.permute(2, 0, 3, 1, 4)
    logits = query @ key.transpose(-2, -1) * 4**-0.5
    for i in range(16):
        for j in range(16):
            row = (i // 4 - j // 4 + 3) * 7 + i % 4 - j % 4 + 3
            logits[:, :, i, j] += attention.relative_position_bias_table[row]
    expected = (logits.softmax(-1) @ value).transpose(1, 2).reshape(6, 16, 12)
    expected = expected @ attention.proj.weight.T + attention.proj.bias
    torch.testing.assert_close(attention(x), expected)


def test_qk_scale(randomise, image):
    attention = randomise(WindowMSA(12, 3, 4))
    scaled = randomise(WindowMSA(12, 3, 4, qk_scale=5.))
    x = image(1, 16, 12)
    assert (attention(x) - scaled(x)).abs().max() > 1e-5
    scaled.scale = 4**-0.5
    assert torch.equal(attention(image(1, 16, 12)), scaled(image(1, 16, 12)))


def test_relative_position_index_counts_every_offset():
    index = relative_position_index(3)
    assert index.shape == (9, 9)
    assert index.unique().numel() == 25
    assert (index.diagonal() == 12).all()
    assert (index + index.T == 24).all()  # the opposite offset


def test_shift_mask_separates_regions():
    mask = shift_mask(8, 8, 4, 2, torch.device('cpu'))
    assert mask.shape == (4, 16, 16)
    assert set(mask.unique().tolist()) == {-100., 0.}
    assert (mask[0] == 0).all()  # a window inside sees all of itself
    # in the last window four regions of 2 x 2 meet
    assert ((mask[3] == 0).sum(-1) == 4).all()
    assert (mask[1] == mask[1].T).all()


def test_a_token_sees_only_its_region(randomise, image):
    """A change in one place reaches its shifted window and nothing across the seam."""
    attention = randomise(ShiftWindowMSA(8, 2, 4, shift_size=2))
    x = image(1, 64, 8)
    changed = x.clone()
    changed.view(1, 8, 8, 8)[0, 0, 0] += 1
    moved = (attention(x, (8, 8)) - attention(changed, (8, 8))).abs().sum(-1).view(8, 8) > 1e-7
    expected = torch.zeros(8, 8, dtype=torch.bool)
    expected[:2, :2] = True
    assert torch.equal(moved, expected)


def test_shift_mask_is_made_once():
    assert shift_mask(8, 4, 4, 2, torch.device('cpu')) is shift_mask(8, 4, 4, 2,
                                                                     torch.device('cpu'))


def test_a_mask_made_while_tracing_is_not_kept(randomise, image):
    """torch.export and FLOPs counters run the model on tensors without data."""
    attention = randomise(ShiftWindowMSA(8, 2, 3, shift_size=1))
    with FakeTensorMode(allow_non_fake_inputs=True):
        attention(torch.randn(1, 36, 8), (6, 6))
    assert type(attention(image(1, 36, 8), (6, 6))) is torch.Tensor


def test_a_mask_made_in_inference_mode_serves_training(randomise, image):
    attention = randomise(ShiftWindowMSA(8, 2, 5, shift_size=2))
    with torch.inference_mode():
        attention(image(1, 100, 8), (10, 10))
    attention(image(1, 100, 8), (10, 10)).sum().backward()
    assert attention.w_msa.relative_position_bias_table.grad.abs().sum() > 0


@pytest.mark.parametrize('size', [(4, 4), (4, 9)])
def test_maps_as_small_as_a_window_are_not_shifted_on_request(size, randomise, image):
    x = image(2, size[0] * size[1], 8)
    shifted = randomise(ShiftWindowMSA(8, 2, 4, shift_size=2, pad_small_map=True))
    plain = randomise(ShiftWindowMSA(8, 2, 4, shift_size=2, pad_small_map=False))
    never = randomise(ShiftWindowMSA(8, 2, 4))
    assert torch.equal(plain(x, size), never(x, size))
    assert not torch.allclose(shifted(x, size), never(x, size))


def test_smaller_maps_are_padded_or_refused(randomise, image):
    x = image(1, 12, 8)
    assert randomise(ShiftWindowMSA(8, 2, 4))(x, (3, 4)).shape == x.shape
    refusing = ShiftWindowMSA(8, 2, 4, pad_small_map=False)
    with pytest.raises(ConfigError, match='3 x 4 is smaller than the window of 4.*pad_small_map'):
        refusing(x, (3, 4))


def test_heads_must_divide_the_width():
    with pytest.raises(ConfigError, match='embed_dims 10 is not divisible by num_heads 3'):
        WindowMSA(10, 3, 4)


# --- the fast path against the plain one ---------------------------------------------------------


@pytest.fixture
def fast_calls(monkeypatch):
    """How often attention went by the fast path."""
    calls, attend = [], window_attention.attend

    def counting(*args):
        calls.append(args)
        return attend(*args)

    monkeypatch.setattr(window_attention, 'attend', counting)
    return calls


MAPS = [(8, 12), (9, 14), (4, 4), (3, 5), (4, 11), (1, 1), (17, 4)]


def both_ways(module, run):
    """What ``run`` gives on the fast path and on the plain one, and the gradients."""
    results = []
    for enabled in (True, False):
        module.zero_grad()
        with fast_paths(enabled):
            results.append((*run(), *(p.grad for p in module.parameters())))
    return results


@pytest.mark.parametrize('pad_small_map', [True, False])
@pytest.mark.parametrize('shift', [0, 2])
@pytest.mark.parametrize('dtype, tolerance', [
    (torch.float64, dict(rtol=1e-12, atol=1e-12)),
    (torch.float32, dict(rtol=1e-5, atol=2e-5)),
    (torch.bfloat16, dict(rtol=0.1, atol=0.15)),
], ids=['float64', 'float32', 'bfloat16'])
def test_fast_equals_plain(dtype, tolerance, shift, pad_small_map, randomise, image, fast_calls):
    attention = randomise(ShiftWindowMSA(
        16, 4, 4, shift_size=shift, pad_small_map=pad_small_map)).to(dtype)
    for size in [size for size in MAPS if pad_small_map or min(size) >= 4]:
        x = image(3, size[0] * size[1], 16).to(dtype)

        def run():
            leaf = x.clone().requires_grad_()
            out = attention(leaf, size)
            out.backward(image(*out.shape, seed=1).to(dtype))
            return out.detach(), leaf.grad

        before = len(fast_calls)
        fast, plain = both_ways(attention, run)
        assert len(fast_calls) == before + 1
        for got, expected in zip(fast, plain):
            assert got.dtype == dtype and expected.any()
            torch.testing.assert_close(got, expected, **tolerance)
        with torch.no_grad():
            torch.testing.assert_close(attention(x, size), plain[0], **tolerance)
        with torch.inference_mode():
            torch.testing.assert_close(attention(x, size), plain[0], **tolerance)


def test_fast_equals_plain_with_a_frozen_base(randomise, image, fast_calls):
    attention = randomise(ShiftWindowMSA(16, 4, 4, shift_size=2)).requires_grad_(False)

    def run():
        leaf = image(2, 126, 16).requires_grad_()
        attention(leaf, (9, 14)).sin().sum().backward()
        return (leaf.grad, )

    (fast, *none), (plain, *_) = both_ways(attention, run)
    assert none == [None] * 5 and fast_calls
    torch.testing.assert_close(fast, plain, rtol=1e-5, atol=1e-5)


def test_fast_equals_plain_under_autocast(randomise, image, fast_calls):
    attention = randomise(ShiftWindowMSA(16, 4, 4, shift_size=2))

    def run():
        with torch.autocast('cpu', dtype=torch.bfloat16):
            leaf = image(2, 126, 16).requires_grad_()
            out = attention(leaf, (9, 14))
        out.float().sin().sum().backward()
        return out.detach(), leaf.grad

    fast, plain = both_ways(attention, run)
    assert fast_calls and fast[0].dtype == torch.bfloat16
    for got, expected in zip(fast, plain):
        torch.testing.assert_close(got, expected, rtol=0.05, atol=0.05 * expected.abs().max())


def test_drop_path_drops_whole_images(randomise, image, fast_calls):
    attention = randomise(ShiftWindowMSA(
        16, 4, 4, shift_size=2, dropout_layer=dict(type='DropPath', drop_prob=0.5)))
    torch.manual_seed(0)
    out = attention(image(32, 63, 16), (9, 7))
    dropped = (out == 0).flatten(1).all(1)
    assert fast_calls and 4 < dropped.sum() < 28
    kept = attention.eval()(image(32, 63, 16), (9, 7))
    torch.testing.assert_close(out[~dropped], 2 * kept[~dropped], rtol=1e-4, atol=1e-5)


def test_dropped_attention_weights_take_the_plain_path(randomise, image, fast_calls):
    attention = randomise(ShiftWindowMSA(16, 4, 4, shift_size=2, attn_drop_rate=0.5))
    x = image(1, 64, 16)
    assert not torch.allclose(attention(x, (8, 8)), attention(x, (8, 8)))
    assert not fast_calls
    attention.eval()
    assert torch.equal(attention(x, (8, 8)), attention(x, (8, 8))) and len(fast_calls) == 2


@pytest.mark.parametrize('name', ['w_msa', 'w_msa.qkv', 'w_msa.proj'])
def test_a_hook_sees_windows_and_each_once(name, randomise, image, fast_calls):
    attention, seen = randomise(ShiftWindowMSA(16, 4, 4, shift_size=2)), []
    x = image(1, 63, 16)
    expected = attention(x, (9, 7))
    assert fast_calls
    fast_calls.clear()
    attention.get_submodule(name).register_forward_hook(
        lambda module, args, out: seen.append(args[0].shape))
    torch.testing.assert_close(attention(x, (9, 7)), expected)
    assert seen == [(3 * 2, 16, 16)] and not fast_calls


def test_tracing_takes_the_plain_path(randomise, image, fast_calls):
    attention = randomise(ShiftWindowMSA(8, 2, 4, shift_size=2)).requires_grad_(False)
    x = image(1, 63, 8)
    window_attention._cached_shift_mask.cache_clear()
    traced = torch.jit.trace(lambda x: attention(x, (9, 7)), x)
    assert 'Rearrange' not in str(traced.graph)
    fast_calls.clear()  # torch's check of the trace runs the module, too
    exported = torch.export.export(attention, (x, (9, 7))).module()
    with FakeTensorMode(allow_non_fake_inputs=True):
        attention(torch.randn(1, 63, 8), (9, 7))
    assert not fast_calls
    for run in (traced, lambda x: exported(x, (9, 7))):
        torch.testing.assert_close(run(x), attention(x, (9, 7)), rtol=1e-5, atol=1e-5)


def replace_by_data(table, values):
    table.data = values


def write_without_a_version(table, values):
    table.data.copy_(values)


def step(table, values):
    table.requires_grad_()
    table.grad = table.detach() - values
    torch.optim.SGD([table], lr=1.).step()
    table.requires_grad_(False)


@pytest.mark.parametrize('change', [replace_by_data, write_without_a_version, step])
def test_nothing_computed_from_weights_is_kept(change, randomise, image, fast_calls):
    """Whatever way the table changes, frozen or not, the next call sees it."""
    attention = randomise(ShiftWindowMSA(8, 2, 4, shift_size=2)).requires_grad_(False).eval()
    x = image(1, 63, 8)
    before = attention(x, (9, 7))
    table = attention.w_msa.relative_position_bias_table
    values = 3 * image(*table.shape, seed=5)
    change(table, values.clone())
    after = attention(x, (9, 7))
    assert (after - before).abs().max() > 1e-2
    with fast_paths(False):
        torch.testing.assert_close(after, attention(x, (9, 7)), rtol=1e-5, atol=1e-5)
    assert set(copy.deepcopy(attention).__dict__) == set(ShiftWindowMSA(8, 2, 4).__dict__)
