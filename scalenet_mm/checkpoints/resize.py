"""What depends on the image or window size."""
import math

import torch
import torch.nn.functional as F

from ..errors import CheckpointError


def resize_pos_embed(pos_embed: torch.Tensor,
                     src_shape: tuple,
                     dst_shape: tuple,
                     mode: str = 'bicubic',
                     num_extra_tokens: int = 1) -> torch.Tensor:
    """Resize absolute position embeddings.

    Args:
        pos_embed (torch.Tensor): Shape (1, extra tokens + height * width, dims).
        src_shape (tuple[int]): Height and width that it has.
        dst_shape (tuple[int]): Height and width that it should have.
        mode (str): Interpolation. Defaults to 'bicubic'.
        num_extra_tokens (int): Leading tokens that are no patches. Defaults to 1.

    Returns:
        torch.Tensor: Shape (1, extra tokens + new height * new width, dims).
    """
    # an export for any size leaves it open, and a comparison would bind it; nothing changes then
    # where the two are equal
    is_open = any(isinstance(n, torch.SymInt) for n in dst_shape)
    if not is_open and tuple(src_shape) == tuple(dst_shape):
        return pos_embed
    extra, patches = pos_embed[:, :num_extra_tokens], pos_embed[:, num_extra_tokens:]
    patches = patches.reshape(1, *src_shape, -1).permute(0, 3, 1, 2)
    patches = F.interpolate(patches.float(), size=tuple(dst_shape), mode=mode, align_corners=False)
    patches = patches.flatten(2).transpose(1, 2).to(pos_embed.dtype)
    return torch.cat((extra, patches), dim=1)


def fit_pos_embed(pos_embed: torch.Tensor, wanted: torch.Size, dst_shape: tuple, mode: str,
                  num_extra_tokens: int) -> torch.Tensor:
    """Bring a file's position embeddings to a model's size; the file's grid must be square.

    Raises:
        CheckpointError: If they cannot be those of a square grid.
    """
    if pos_embed.shape == wanted:
        return pos_embed
    patches = pos_embed.shape[1] - num_extra_tokens
    if num_extra_tokens == 0 and patches > 1 and math.isqrt(patches)**2 != patches \
            and math.isqrt(patches - 1)**2 == patches - 1:
        pos_embed, patches = pos_embed[:, 1:], patches - 1  # a class token the model has not
    side = math.isqrt(max(patches, 0))
    if (pos_embed.ndim != 3 or side < 1 or side * side != patches
            or pos_embed.shape[-1] != wanted[-1]):
        raise CheckpointError(f'position embeddings of shape {tuple(pos_embed.shape)} do not fit '
                              f'the model, which wants {tuple(wanted)}')
    return resize_pos_embed(pos_embed, (side, side), dst_shape, mode, num_extra_tokens)


def fit_bias_table(table: torch.Tensor, wanted: torch.Size) -> torch.Tensor:
    """Bring a relative position bias table of another window size to a model's size.

    Args:
        table (torch.Tensor): Shape ((2 * window - 1) ** 2, heads).
        wanted (torch.Size): The model's shape.

    Returns:
        torch.Tensor: Bicubically resized.

    Raises:
        CheckpointError: If the number of heads differs.
    """
    if table.shape == wanted:
        return table
    source, target = math.isqrt(table.shape[0]), math.isqrt(wanted[0])
    if (table.ndim != 2 or table.shape[1] != wanted[1] or source < 1
            or source**2 != table.shape[0]):
        raise CheckpointError(f'a relative position bias table of shape {tuple(table.shape)} does '
                              f'not fit the model, which wants {tuple(wanted)}')
    grid = table.T.reshape(1, -1, source, source).float()
    grid = F.interpolate(grid, size=(target, target), mode='bicubic', align_corners=False)
    return grid.reshape(-1, target * target).T.to(table.dtype).contiguous()


def relative_position_index(size: int) -> torch.Tensor:
    """Row of the bias table for each pair of positions in a window.

    Args:
        size (int): Height and width of the window.

    Returns:
        torch.Tensor: Integers of shape (size * size, size * size).
    """
    y, x = torch.meshgrid(torch.arange(size), torch.arange(size), indexing='ij')
    coords = torch.stack((y.flatten(), x.flatten()))
    relative = coords[:, :, None] - coords[:, None, :] + size - 1
    return relative[0] * (2 * size - 1) + relative[1]
