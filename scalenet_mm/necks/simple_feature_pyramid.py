"""A feature pyramid from the one map of a plain vision transformer."""
import torch
import torch.nn as nn
import torch.nn.functional as F
from mmengine.model import BaseModule
from mmengine.registry import MODELS

from ..errors import ConfigError

#: strides of the levels that have convolutions of their own; the further ones are pooled
STRIDES = (4, 8, 16, 32)


class ChannelLayerNorm(nn.LayerNorm):
    """Layer norm over the channels of a map of shape (batch, channels, height, width)."""

    def forward(self, x):
        """torch.Tensor: The normalised map, of the same shape."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


@MODELS.register_module()
class SimpleFeaturePyramid(BaseModule):
    """Simple feature pyramid from a plain vision transformer (ViTDet, arXiv 2203.16527, sec. 3).

    All levels come from the last map of the backbone alone. The stride of a level is reached by
    deconvolutions (each doubles the size and halves the channels) or by max pooling; a 1x1 and a
    3x3 convolution, each with layer norm over the channels, follow. From a map of stride 16: two
    deconvolutions, one, none, and pooling by 2. A fifth level, for the RPN, is the fourth at every
    other position, as in mmdet's ``FPN``.

    mmdet 3.3.0 has no such neck: its ViTDet is a project outside of the installed package. mmseg's
    ``Feature2Pyramid`` rescales four maps of a backbone, and has neither the convolutions behind
    nor a fifth level.

    Args:
        in_channels (int): Channels of the map.
        out_channels (int): Channels of every level. Defaults to 256.
        stride (int): Stride of the map, which is the patch size of a plain backbone: 4, 8, 16, 32
            or 64. The levels have strides 4, 8, 16, 32, 64, ... from any. Defaults to 16.
        num_outs (int): Number of levels. Defaults to 5.
        init_cfg (dict, optional): Initialisation; that of torch if None. Defaults to None.

    Raises:
        ConfigError: If an argument does not fit.
    """

    def __init__(self, in_channels, out_channels=256, stride=16, num_outs=5, init_cfg=None):
        super().__init__(init_cfg)
        for name, value in dict(
                in_channels=in_channels, out_channels=out_channels, num_outs=num_outs).items():
            if not isinstance(value, int) or value < 1:
                raise ConfigError(f'SimpleFeaturePyramid: {name} must be a positive number, got '
                                  f'{value!r}; the neck takes the last map of the backbone alone')
        if stride not in (4, 8, 16, 32, 64):
            raise ConfigError('SimpleFeaturePyramid: stride must be 4, 8, 16, 32 or 64, the patch '
                              f'size of the backbone, got {stride!r}')
        deconvolutions = (stride // STRIDES[0]).bit_length() - 1
        if in_channels % 2**deconvolutions:
            raise ConfigError(
                f'SimpleFeaturePyramid: in_channels must be a multiple of {2**deconvolutions}, '
                f'since {deconvolutions} deconvolutions halve them, got {in_channels}')
        self.in_channels = in_channels
        self.out_channels = out_channels
        self.stride = stride
        self.num_outs = num_outs
        self.levels = nn.ModuleList(self._level(level) for level in STRIDES[:num_outs])

    def _level(self, level_stride):
        """nn.Sequential: What makes the level of a stride out of the map."""
        width, layers = self.in_channels, []
        size = self.stride
        while size > level_stride:
            if layers:
                layers += [ChannelLayerNorm(width, eps=1e-6), nn.GELU()]
            layers.append(nn.ConvTranspose2d(width, width // 2, kernel_size=2, stride=2))
            width, size = width // 2, size // 2
        if size < level_stride:
            # an odd map's last row and column count, too, as in mmdet's FPN
            layers.append(nn.MaxPool2d(level_stride // size, ceil_mode=True))
        for kernel_size in (1, 3):
            layers += [
                nn.Conv2d(width, self.out_channels, kernel_size, padding=kernel_size // 2,
                          bias=False),
                ChannelLayerNorm(self.out_channels, eps=1e-6)
            ]
            width = self.out_channels
        return nn.Sequential(*layers)

    def forward(self, inputs) -> tuple:
        """Compute the levels.

        Args:
            inputs (Sequence[torch.Tensor]): Maps of shape (batch, in_channels, height, width), of
                which the last is used.

        Returns:
            tuple[torch.Tensor]: Maps of shape (batch, out_channels, height * stride / s, width *
            stride / s), rounded up, for s = 4, 8, 16, ...

        Raises:
            ConfigError: If the backbone does not give such a map.
        """
        x = inputs[-1]
        if not isinstance(x, torch.Tensor) or x.dim() != 4 or x.shape[1] != self.in_channels:
            got = tuple(x.shape) if isinstance(x, torch.Tensor) else type(x).__name__
            raise ConfigError(
                f'SimpleFeaturePyramid: expected a map of {self.in_channels} channels from the '
                f"backbone, got {got}. ScaleNetViT gives one with out_type='featmap'")
        outs = [level(x) for level in self.levels]
        while len(outs) < self.num_outs:
            outs.append(F.max_pool2d(outs[-1], kernel_size=1, stride=2))
        return tuple(outs)
