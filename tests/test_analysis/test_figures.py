"""Figures, and how they are written."""
import json

import pytest
import torch

from scalenet_mm import ConfigError
from scalenet_mm.analysis import Block, BlockGradient, FeatureStatistics, GradientNorms
from scalenet_mm.analysis.figures import (
    check_out,
    join_orders,
    plot_cka,
    plot_gradients,
    plot_histograms,
    plot_matrices,
    write,
)


def gradients(*labels):
    blocks = [BlockGradient(f'layers.{label}', label, 1, i + 1., dict(qkv=i + 0.5, fc1=0.))
              for i, label in enumerate(labels)]
    return GradientNorms(8, 1.25, blocks, {})


def blocks(*labels):
    return [Block(f'layers.{label}', label, torch.nn.Identity()) for label in labels]


@pytest.mark.parametrize('orders, expected', (
    ([['0', '1'], ['0', '0_r1', '1', '1_r1']], ['0', '0_r1', '1', '1_r1']),
    ([['0', '0_r1', '1'], ['0', '1', 'new1']], ['0', '0_r1', '1', 'new1']),
    ([['a'], ['b']], ['b', 'a']),
    ([[]], []),
))
def test_joined_orders(orders, expected):
    assert join_orders(orders) == expected


def test_gradients_of_models_with_other_blocks_stand_above_the_right_names():
    figure = plot_gradients(['original', 'copied'], [gradients('0', '1'),
                                                     gradients('0', '0_r1', '1')])
    axes, = figure.axes
    assert [tick.get_text() for tick in axes.get_xticklabels()] == ['0', '0_r1', '1']
    lines = [line.get_xydata().tolist() for line in axes.get_lines()]
    assert lines == [[[0, 1], [2, 2]], [[0, 1], [1, 2], [2, 3]]]
    assert [t.get_text() for t in figure.legends[0].get_texts()] == [
        'original (loss 1.25)', 'copied (loss 1.25)']
    assert axes.get_yscale() == 'log'
    assert plot_gradients(['a'], [gradients('0')], linear=True).axes[0].get_yscale() == 'linear'


def test_a_panel_for_each_matrix():
    figure = plot_matrices(['a'], [gradients('0', '1')])
    assert [axes.get_title() for axes in figure.axes] == ['qkv', 'fc1']
    assert figure.axes[0].get_lines()[0].get_ydata().tolist() == [0.5, 1.5]


def test_histograms_share_their_axes():
    statistics = []
    for scale in (1., 2.):
        one = FeatureStatistics()
        values = torch.linspace(-1, 1, 50) * scale
        one.add(values)
        one.add_to_bins(values, -2., 2., 8)
        statistics.append([one])
    figure = plot_histograms(['before', 'after'], [blocks('0'), blocks('0_r1')], statistics)
    assert [axes.get_title() for axes in figure.axes] == ['before', 'after']
    assert figure.axes[0].get_xlim() == figure.axes[1].get_xlim() == (-2, 2)
    assert figure.axes[0].get_ylim() == figure.axes[1].get_ylim()
    assert '0_r1' in figure.axes[1].get_legend().get_texts()[0].get_text()


def test_heat_maps_name_their_blocks():
    matrix = torch.tensor([[1., 0.5, float('nan')], [0.2, 0.1, 0.]])
    figure = plot_cka(['original', 'grown'], [blocks('0', '1'), blocks('0', '0_r1', '1')],
                      [matrix])
    axes = figure.axes[0]
    assert [t.get_text() for t in axes.get_xticklabels()] == ['0', '0_r1', '1']
    assert [t.get_text() for t in axes.get_yticklabels()] == ['0', '1']
    assert axes.get_xlabel() == 'block of: grown' and axes.get_ylabel() == 'block of: original'
    image, = axes.get_images()
    assert image.get_clim() == (0, 1) and image.get_array()[1, 0] == pytest.approx(0.2)


def test_files_are_written_as_a_whole(tmp_path):
    folder = tmp_path / 'new' / 'folder'
    figure = plot_gradients(['a'], [gradients('0', '1')])
    paths = write(str(folder), {'a.png': figure}, {'a.json': dict(x=[1., float('nan')])})
    assert paths == [str(folder / 'a.png'), str(folder / 'a.json')]
    assert json.loads((folder / 'a.json').read_text()) == dict(x=[1., None])
    assert (folder / 'a.png').read_bytes().startswith(b'\x89PNG')
    before = {p.name: p.read_bytes() for p in folder.iterdir()}
    assert set(before) == {'a.png', 'a.json'}

    # the second file can't be made, so that the first stays as it was, too
    other = plot_gradients(['b'], [gradients('0')])
    with pytest.raises(TypeError):
        write(str(folder), {'a.png': other}, {'a.json': dict(x=object())})
    assert {p.name: p.read_bytes() for p in folder.iterdir()} == before


def test_where_nothing_can_be_written(tmp_path):
    (tmp_path / 'file').write_text('')
    check_out(str(tmp_path / 'a' / 'b'))
    assert not (tmp_path / 'a').exists()
    with pytest.raises(ConfigError, match='is a file; name a folder'):
        check_out(str(tmp_path / 'file'))
    with pytest.raises(ConfigError, match='cannot be written to'):
        check_out(str(tmp_path / 'file' / 'b'))
