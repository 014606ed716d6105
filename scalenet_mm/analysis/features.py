"""Histograms of the features of a model's blocks (the paper's Figure 4), in a stream."""
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field

import torch
import torch.nn as nn

from .layers import outputs_to, run_backbone


@dataclass
class FeatureStatistics:
    """Numbers over all values of one block's features: images, tokens and channels alike.

    Args:
        count (int): How many finite values there were.
        mean (float): Their mean.
        square (float): The sum of their squared distances from the mean.
        minimum (float): The lowest.
        maximum (float): The highest.
        not_finite (int): How many values were not finite; nothing else counts them.
        edges (list[float]): Edges of the histogram's bins; empty until it is taken.
        bins (list[int]): Values in each bin.
        below (int): Values below the first edge.
        above (int): Values at or above the last edge.
    """
    count: int = 0
    mean: float = 0.
    square: float = 0.
    minimum: float = float('inf')
    maximum: float = float('-inf')
    not_finite: int = 0
    edges: list = field(default_factory=list)
    bins: list = field(default_factory=list)
    below: int = 0
    above: int = 0

    @property
    def std(self) -> float:
        """float: Standard deviation."""
        return (self.square / self.count)**0.5 if self.count else 0.

    def add(self, values: torch.Tensor) -> None:
        """Take further values into account, for all but the histogram."""
        finite = values[torch.isfinite(values)].double()
        self.not_finite += values.numel() - finite.numel()
        count = finite.numel()
        if not count:
            return
        mean = finite.mean()
        square = (finite - mean).square().sum().item()
        mean = mean.item()
        # two sets of values joined (Chan, Golub and LeVeque)
        total = self.count + count
        self.square += square + (mean - self.mean)**2 * self.count * count / total
        self.mean += (mean - self.mean) * count / total
        self.count = total
        self.minimum = min(self.minimum, finite.min().item())
        self.maximum = max(self.maximum, finite.max().item())

    def add_to_bins(self, values: torch.Tensor, low: float, high: float, bins: int) -> None:
        """Take further values into account, for the histogram."""
        if not self.bins:
            step = (high - low) / bins
            self.edges = [low + step * i for i in range(bins)] + [high]
            self.bins = [0] * bins
        values = values[torch.isfinite(values)].double()
        places = ((values - low) * (bins / (high - low))).floor().clamp(-1, bins).long() + 1
        below, *inside, above = torch.bincount(places.flatten(), minlength=bins + 2).tolist()
        self.bins = [a + b for a, b in zip(self.bins, inside)]
        self.below += below
        self.above += above

    def density(self) -> list:
        """list[float]: The histogram as a density over all values, those outside included."""
        total = (sum(self.bins) + self.below + self.above) or 1
        return [n / total / (high - low)
                for n, low, high in zip(self.bins, self.edges, self.edges[1:])]


def measure_features(model: nn.Module, batches: Iterable, blocks: Sequence) -> list:
    """Take mean, spread and range of the features of some blocks.

    Args:
        model (nn.Module): A classifier, detector or segmentor in eval mode.
        batches (Iterable[dict]): Batches of a data loader.
        blocks (Sequence[Block]): Some of its blocks.

    Returns:
        list[FeatureStatistics]: One item a block, without histograms.
    """
    statistics = [FeatureStatistics() for _ in blocks]
    with outputs_to(blocks, lambda i, features: statistics[i].add(features)):
        for batch in batches:
            run_backbone(model, batch)
    return statistics


def measure_histograms(model: nn.Module, batches: Iterable, blocks: Sequence,
                       statistics: Sequence, low: float, high: float, bins: int) -> None:
    """Count the features of some blocks in fixed bins: the second pass over the same samples.

    Args:
        model (nn.Module): As for :func:`measure_features`.
        batches (Iterable[dict]): The same batches.
        blocks (Sequence[Block]): The same blocks.
        statistics (Sequence[FeatureStatistics]): What :func:`measure_features` gave; the
            histograms are added to it.
        low (float): First edge.
        high (float): Last edge.
        bins (int): Number of bins between.
    """
    with outputs_to(blocks, lambda i, features: statistics[i].add_to_bins(
            features, low, high, bins)):
        for batch in batches:
            run_backbone(model, batch)


def choose_uniformly(blocks: Sequence, number: int) -> list:
    """list[Block]: So many blocks in even steps, the first and the last among them."""
    number = min(number, len(blocks))
    if number == 1:
        return [blocks[-1]]
    return [blocks[round(i * (len(blocks) - 1) / (number - 1))] for i in range(number)]
