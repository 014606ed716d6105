"""Streaming statistics and histograms of features."""
import numpy as np
import pytest
import torch
from analysis_toys import make_batches, make_classifier

from scalenet_mm.analysis import (
    FeatureStatistics,
    choose_uniformly,
    find_blocks,
    measure_features,
    measure_histograms,
)


def test_chunks_give_what_the_whole_gives():
    values = torch.randn(1000, generator=torch.Generator().manual_seed(0)) * 3 + 500
    statistics = FeatureStatistics()
    for chunk in values.split([1, 300, 99, 600]):
        statistics.add(chunk.view(-1, 1))
        statistics.add_to_bins(chunk, 495., 506., 22)
    whole = values.double().numpy()
    assert statistics.count == 1000
    assert statistics.mean == pytest.approx(whole.mean())
    assert statistics.std == pytest.approx(whole.std())
    assert (statistics.minimum, statistics.maximum) == (whole.min(), whole.max())
    counts, edges = np.histogram(whole, 22, (495., 506.))
    assert statistics.bins == counts.tolist()
    assert statistics.edges == pytest.approx(edges.tolist())
    assert statistics.below == (whole < 495).sum() > 0
    assert statistics.above == (whole >= 506).sum() > 0
    inside = sum(d * 0.5 for d in statistics.density())
    assert inside == pytest.approx(1 - (statistics.below + statistics.above) / 1000)


def test_values_that_are_not_finite_are_counted_apart():
    statistics = FeatureStatistics()
    statistics.add(torch.tensor([1., float('nan'), 3., float('inf'), float('-inf')]))
    statistics.add(torch.tensor([float('nan')]))
    statistics.add_to_bins(torch.tensor([1., float('nan'), 3., float('inf')]), 0., 4., 4)
    assert (statistics.count, statistics.mean, statistics.std) == (2, 2., 1.)
    assert statistics.not_finite == 4
    assert statistics.bins == [0, 1, 0, 1] and statistics.above == statistics.below == 0


def test_all_values_of_a_blocks_output_are_counted():
    model = make_classifier(dict(order='interpolate', times=2))
    blocks = find_blocks(model.backbone)
    chosen = [blocks[1], blocks[-1]]
    assert [b.label for b in chosen] == ['0_r1', '2_r1']
    batches = make_batches(3, 2)
    statistics = measure_features(model, batches, chosen)
    measure_histograms(model, batches, chosen, statistics, -1., 1., 10)

    kept = []
    handle = model.backbone.layers[-1].register_forward_hook(lambda m, a, out: kept.append(out))
    with torch.no_grad():
        model.backbone(torch.cat([batch['inputs'] for batch in batches]))
    handle.remove()
    values = kept[0].double()
    last = statistics[-1]
    assert last.count == values.numel() == 5 * 5 * 16
    assert last.mean == pytest.approx(values.mean().item(), rel=1e-4)
    assert last.std == pytest.approx(values.std(correction=0).item(), rel=1e-4)
    assert sum(last.bins) == ((values >= -1) & (values < 1)).sum().item()
    assert last.below + last.above + sum(last.bins) == last.count
    assert not model.backbone.layers[-1]._forward_hooks


@pytest.mark.parametrize('number, expected', (
    (1, [23]), (2, [0, 23]), (4, [0, 8, 15, 23]), (24, list(range(24))), (99, list(range(24)))))
def test_uniform_choice(number, expected):
    assert choose_uniformly(list(range(24)), number) == expected
