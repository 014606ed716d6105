"""Resizing of position embeddings and bias tables."""
import pytest
import torch

from scalenet_mm.checkpoints.resize import fit_bias_table, fit_pos_embed, resize_pos_embed
from scalenet_mm.errors import CheckpointError


@pytest.mark.parametrize('mode', ['bicubic', 'bilinear', 'nearest'])
@pytest.mark.parametrize('extra', [0, 1, 2])
def test_pos_embed_as_mmpretrain_does(mode, extra):
    from mmpretrain.models.utils import resize_pos_embed as theirs
    embed = torch.randn(1, extra + 12, 5)
    args = ((3, 4), (5, 2), mode, extra)
    if mode == 'nearest':  # align_corners is not for it
        with pytest.raises(ValueError):
            theirs(embed, *args)
        return
    torch.testing.assert_close(resize_pos_embed(embed, *args), theirs(embed, *args))
    assert torch.equal(resize_pos_embed(embed, *args)[:, :extra], embed[:, :extra])


def test_nothing_to_do_changes_nothing():
    embed = torch.randn(1, 10, 4)
    assert resize_pos_embed(embed, (3, 3), (3, 3)) is embed
    assert fit_pos_embed(embed, embed.shape, (3, 3), 'bicubic', 1) is embed
    table = torch.randn(49, 2)
    assert fit_bias_table(table, table.shape) is table


def test_half_precision_keeps_its_type():
    embed = torch.randn(1, 10, 4).half()
    assert resize_pos_embed(embed, (3, 3), (4, 4)).dtype is torch.float16


def test_a_class_token_that_the_model_has_not_is_left_out():
    embed = torch.randn(1, 10, 4)
    fitted = fit_pos_embed(embed, torch.Size((1, 16, 4)), (4, 4), 'bicubic', 0)
    torch.testing.assert_close(fitted, resize_pos_embed(embed[:, 1:], (3, 3), (4, 4), 'bicubic', 0))


@pytest.mark.parametrize('shape, extra', [((1, 12, 4), 1), ((1, 10, 5), 1), ((10, 4), 1),
                                          ((1, 0, 4), 0), ((1, 3, 4), 0)])
def test_no_square_grid(shape, extra):
    with pytest.raises(CheckpointError, match='position embeddings of shape'):
        fit_pos_embed(torch.ones(shape), torch.Size((1, 16 + extra, 4)), (4, 4), 'bicubic', extra)


@pytest.mark.parametrize('source, target', [(7, 12), (12, 7), (4, 5)])
def test_bias_table_as_mmdet_does(source, target):
    table = torch.randn((2 * source - 1)**2, 3)
    size = 2 * target - 1
    theirs = torch.nn.functional.interpolate(
        table.permute(1, 0).reshape(1, 3, 2 * source - 1, 2 * source - 1), size=(size, size),
        mode='bicubic').view(3, size**2).permute(1, 0).contiguous()
    torch.testing.assert_close(fit_bias_table(table, theirs.shape), theirs)


@pytest.mark.parametrize('shape', [(49, 2), (48, 3), (49, ), (0, 3)])
def test_tables_that_do_not_fit(shape):
    with pytest.raises(CheckpointError, match='relative position bias table of shape'):
        fit_bias_table(torch.ones(shape), torch.Size((81, 3)))
