"""ScaleNet on timm's blocks, in plain modules: the reference that shares no code with scalenet_mm.

A repeat is a deep copy whose parameters, but for the norms', are set to be its source's; an adapter
is two ``nn.Linear`` beside a linear layer.
"""
import copy

import torch.nn as nn


class AdaptedLinear(nn.Module):
    """``linear(x) + up(relu(down(x)))``.

    Args:
        linear (nn.Linear): The layer; its own parameters may be another layer's, too.
        rank (int): Width of the bottleneck.
    """

    def __init__(self, linear, rank):
        super().__init__()
        self.linear = linear
        self.down = nn.Linear(linear.in_features, rank, bias=False)
        self.up = nn.Linear(rank, linear.out_features, bias=False)
        self.act = nn.ReLU()
        nn.init.zeros_(self.up.weight)

    def forward(self, x):
        return self.linear(x) + self.up(self.act(self.down(x)))


def repeat_block(block):
    """nn.Module: A block with norms of its own and the rest of its parameters another's."""
    twin = copy.deepcopy(block)
    for name, module in block.named_modules():
        if not isinstance(module, nn.LayerNorm):
            for key, parameter in module.named_parameters(recurse=False):
                setattr(twin.get_submodule(name), key, parameter)
    return twin


def plain_scalenet(model, times, rank=16):
    """Grow a timm model in place as the paper does, and freeze its base.

    Args:
        model (nn.Module): timm's ViT, all of whose blocks are interpolated, or its Swin, whose
            last stage is stacked.
        times (int): How often each block is used in all.
        rank (int): Width of the adapters. Defaults to 16.

    Returns:
        nn.Module: ``model``.
    """
    if hasattr(model, 'blocks'):
        model.blocks = nn.Sequential(*(
            repeat_block(block) if repeat else block
            for block in model.blocks for repeat in range(times)))
    else:
        last = model.layers[-1]
        last.blocks = nn.Sequential(*(
            repeat_block(block) if repeat else block
            for repeat in range(times) for block in last.blocks))
    for block in plain_blocks(model):
        block.mlp.fc1 = AdaptedLinear(block.mlp.fc1, rank)
        block.mlp.fc2 = AdaptedLinear(block.mlp.fc2, rank)
    model.requires_grad_(False)
    for module in model.modules():
        if isinstance(module, nn.LayerNorm):
            module.requires_grad_(True)
        elif isinstance(module, AdaptedLinear):
            module.down.requires_grad_(True)
            module.up.requires_grad_(True)
    return model


def plain_blocks(model):
    """list[nn.Module]: All blocks of timm's ViT or Swin in the order in which they run."""
    if hasattr(model, 'blocks'):
        return list(model.blocks)
    return [block for layer in model.layers for block in layer.blocks]
