"""Small blocks for the tests of this folder."""
import torch
import torch.nn as nn
import torch.nn.functional as F


class DropPath(nn.Module):

    def __init__(self, drop_prob=0.):
        super().__init__()
        self.drop_prob = drop_prob

    def forward(self, x):
        return x


class Attention(nn.Module):
    """One head, with a bias table as Swin has it and a buffer."""

    def __init__(self, dim):
        super().__init__()
        self.table = nn.Parameter(torch.randn(1, 5, 5) * 0.1)
        self.register_buffer('scale', torch.tensor(dim**-0.5))
        self.register_buffer('mask', None, persistent=False)
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        attention = q @ k.transpose(-2, -1) * self.scale + self.table
        if self.mask is not None:
            attention = attention + self.mask
        return self.proj(attention.softmax(-1) @ v)


class Mlp(nn.Module):

    def __init__(self, dim, hidden):
        super().__init__()
        self.fc1 = nn.Linear(dim, hidden)
        self.fc2 = nn.Linear(hidden, dim)

    def forward(self, x):
        return self.fc2(F.gelu(self.fc1(x)))


class Block(nn.Module):
    """A transformer block."""

    def __init__(self, dim=8, ratio=4):
        super().__init__()
        self.norm1 = nn.LayerNorm(dim)
        self.attn = Attention(dim)
        self.norm2 = nn.LayerNorm(dim)
        self.mlp = Mlp(dim, ratio * dim)
        self.drop_path = DropPath()
        for norm in (self.norm1, self.norm2):  # norms unlike each other and unlike a fresh one
            nn.init.normal_(norm.weight, 1., 0.1)
            nn.init.normal_(norm.bias, 0., 0.1)

    def forward(self, x):
        x = x + self.drop_path(self.attn(self.norm1(x)))
        return x + self.drop_path(self.mlp(self.norm2(x)))


def make_blocks(depth=3, **kwargs):
    return nn.ModuleList([Block(**kwargs) for _ in range(depth)])


def run(blocks, x):
    for block in blocks:
        x = block(x)
    return x


def tokens(dim=8):
    return torch.randn(2, 5, dim)
