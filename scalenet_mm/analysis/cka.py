"""Linear CKA between all layers of two models (the paper's Figure 5), in minibatches.

Centred kernel alignment (Kornblith et al. 2019) of two layers is

    CKA(K, L) = HSIC(K, L) / sqrt(HSIC(K, K) HSIC(L, L)),

with the Gram matrices K = X X' and L = Y Y' of their features, one row an image. Whole Gram
matrices grow with the square of the number of images. So, after Nguyen, Raghu and Kornblith (2021),
each of the three HSICs is the mean of an estimate on every minibatch, by the unbiased estimator of
Song et al. (2012). Being unbiased it does not depend on the batch size but for noise, and what is
kept is one number for each pair of layers, however many images there are.
"""
from collections.abc import Iterable, Sequence
from typing import Any

import torch
import torch.nn as nn

from ..errors import ConfigError
from .layers import outputs_to, pool_features, run_backbone

#: The unbiased estimator divides by (n - 2) and (n - 3).
SMALLEST_BATCH = 4


def gram_matrix(features: torch.Tensor) -> torch.Tensor:
    """Multiply the features of each image with those of each other.

    Args:
        features (torch.Tensor): Of shape (images, ...).

    Returns:
        torch.Tensor: Of shape (images, images), in double precision. The mean over the images is
        taken off first, which changes no HSIC and keeps what matters from being rounded away.
    """
    features = features.flatten(1).double()
    features = features - features.mean(dim=0)
    return features @ features.T


def _centred(gram, unbiased):
    """A Gram matrix such that the inner product of two of them is their HSIC."""
    images = len(gram)
    if not unbiased:
        rows = gram.mean(dim=0)
        centred = gram - rows[:, None] - rows[None, :] + gram.mean()
        return centred.flatten() / (images - 1)
    # U-centring (Szekely and Rizzo 2014); the inner product is Song's HSIC_1
    gram = gram - torch.diag(gram.diagonal())
    rows = gram.sum(dim=0) / (images - 2)
    centred = gram - rows[:, None] - rows[None, :] + gram.sum() / ((images - 1) * (images - 2))
    centred.fill_diagonal_(0.)
    return centred.flatten() / (images * (images - 3))**0.5


class MinibatchCKA:
    """Linear CKA between every layer of one model and every layer of another.

    Args:
        unbiased (bool): Whether to use the unbiased estimator of HSIC. The biased one gives
            Kornblith's CKA if all images are in one batch, and too high a value with small
            batches. Defaults to True.
    """

    def __init__(self, unbiased: bool = True):
        self.unbiased = unbiased
        self.batches = 0
        self._between: Any = 0.  # tensors from the first batch on
        self._first: Any = 0.
        self._second: Any = 0.

    def update(self, first: Sequence, second: Sequence) -> None:
        """Take a batch into account.

        Args:
            first (Sequence[torch.Tensor]): Gram matrix of each layer of the first model, see
                :func:`gram_matrix`.
            second (Sequence[torch.Tensor]): The same of the second model, for the same images.

        Raises:
            ConfigError: If the batch is too small for the estimator.
        """
        images = len(first[0])
        if images < (SMALLEST_BATCH if self.unbiased else 2):
            raise ConfigError(f'CKA needs batches of {SMALLEST_BATCH} images or more, got {images}')
        first = torch.stack([_centred(gram, self.unbiased) for gram in first])
        second = torch.stack([_centred(gram, self.unbiased) for gram in second])
        self.batches += 1
        self._between = self._between + first @ second.T
        self._first = self._first + first.square().sum(dim=1)
        self._second = self._second + second.square().sum(dim=1)

    def compute(self) -> torch.Tensor:
        """torch.Tensor: CKA of shape (layers of the first model, layers of the second).

        NaN for a layer that gives all images the same features.
        """
        return self._between / (self._first[:, None] * self._second[None, :]).sqrt()


def linear_cka(first: torch.Tensor, second: torch.Tensor, unbiased: bool = False) -> float:
    """Linear CKA of two sets of features as a whole.

    Args:
        first (torch.Tensor): Features of shape (images, ...).
        second (torch.Tensor): Others of the same images; their number may differ.
        unbiased (bool): See :class:`MinibatchCKA`. Defaults to False.

    Returns:
        float: The CKA.
    """
    cka = MinibatchCKA(unbiased)
    cka.update([gram_matrix(first)], [gram_matrix(second)])
    return cka.compute().item()


def compare_models(models: Sequence,
                   blocks: Sequence,
                   batches: Iterable,
                   pool: str = 'flat',
                   unbiased: bool = True) -> list:
    """Compare all layers of one model with all layers of others.

    Args:
        models (Sequence[nn.Module]): Models in eval mode; the first is compared with each of the
            others, or with itself if it is the only one.
        blocks (Sequence[Sequence[Block]]): The blocks of each model.
        batches (Iterable[dict]): Batches of a data loader, all of one size.
        pool (str): See :func:`pool_features`. Defaults to 'flat'.
        unbiased (bool): See :class:`MinibatchCKA`. Defaults to True.

    Returns:
        list[torch.Tensor]: For each comparison CKA of shape (blocks of the first model, blocks of
        the other).

    Raises:
        ConfigError: If there are no batches, or features are not finite.
    """
    others = range(1, len(models)) if len(models) > 1 else (0, )
    comparisons = {i: MinibatchCKA(unbiased) for i in others}
    for batch in batches:
        grams = [_grams_of(*one, batch, pool) for one in zip(models, blocks)]
        for i, cka in comparisons.items():
            cka.update(grams[0], grams[i])
    if not comparisons[others[0]].batches:
        raise ConfigError('there are no samples to compare the models on')
    return [cka.compute().cpu() for cka in comparisons.values()]


def _grams_of(model: nn.Module, blocks, batch, pool):
    grams = {}

    def keep(i, features):
        if not torch.isfinite(features).all():
            raise ConfigError(f'block {blocks[i].name} gives features that are not finite (NaN or '
                              'infinite), of which there is no CKA')
        grams[i] = gram_matrix(pool_features(features, blocks[i], pool))

    with outputs_to(blocks, keep):
        run_backbone(model, batch)
    return [grams[i] for i in range(len(blocks))]
