"""Window attention against the definition, and its cached mask."""
import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from scalenet_mm.backbones.window_attention import (
    ShiftWindowMSA,
    WindowMSA,
    relative_position_index,
    shift_mask,
)
from scalenet_mm.errors import ConfigError


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
