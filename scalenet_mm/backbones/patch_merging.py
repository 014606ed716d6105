"""Patch merging with the names and the channel order of mmcv's, without its unfolding."""
import torch.nn.functional as F
from mmcv.cnn.bricks.transformer import PatchMerging as _PatchMerging


class PatchMerging(_PatchMerging):
    """Put the channels of 2 x 2 neighbours together, normalise them and reduce their number.

    The same numbers as mmcv's, bit for bit. Its ``nn.Unfold`` runs over the map several times;
    two copies of long runs take a quarter of the time.

    Args:
        in_channels (int): Number of channels.
        out_channels (int): Number of channels of the result.
        norm_cfg (dict, optional): The norm; None for none. Defaults to dict(type='LN').
        init_cfg (dict, optional): Initialisation. Defaults to None.
    """

    def __init__(self, in_channels, out_channels, norm_cfg=dict(type='LN'), init_cfg=None):
        super().__init__(in_channels, out_channels, norm_cfg=norm_cfg, init_cfg=init_cfg)

    def forward(self, x, input_size):
        """Merge.

        Args:
            x (torch.Tensor): Map of shape (batch, height * width, in_channels).
            input_size (tuple[int]): Height and width; odd ones are padded by a row or column of
                zeros at the end.

        Returns:
            tuple[torch.Tensor, tuple[int]]: Map of shape (batch, height / 2 * width / 2,
            out_channels), sizes rounded up, and its height and width.
        """
        batch, _, dims = x.shape
        height, width = input_size
        x = x.view(batch, height, width, dims)
        if height % 2 or width % 2:
            x = F.pad(x, (0, 0, 0, width % 2, 0, height % 2))
        rows, cols = (height + 1) // 2, (width + 1) // 2
        # neighbours side by side first, each with its channels in one run; then, patch by patch,
        # channels first, as the weights want it
        x = x.view(batch, rows, 2, cols, 2, dims).transpose(2, 3).reshape(-1, 4, dims)
        x = x.transpose(1, 2).reshape(batch, rows * cols, 4 * dims)
        if self.norm is not None:
            x = self.norm(x)
        return self.reduction(x), (rows, cols)
