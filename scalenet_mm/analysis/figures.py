"""Figures of measurements, and writing them beside their numbers."""
import json
import math
import os
import os.path as osp
import tempfile
from collections.abc import Sequence

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from ..errors import ConfigError

DPI = 200
#: Okabe and Ito's colours, which are told apart with any kind of colour vision.
COLOURS = ('#0072B2', '#D55E00', '#009E73', '#CC79A7', '#E69F00', '#56B4E9', '#000000')
MARKERS = ('o', 's', '^', 'D', 'v', 'P', 'X')


def plot_gradients(labels: Sequence, results: Sequence, linear: bool = False) -> Figure:
    """Plot the gradient norm of each block's weights, one line a model (Figure 3).

    Args:
        labels (Sequence[str]): Names of the models.
        results (Sequence[GradientNorms]): What was measured of each.
        linear (bool): Whether the axis of the norms is linear and not logarithmic. Defaults to
            False.

    Returns:
        Figure: The figure.
    """
    places = join_orders([[block.label for block in result.blocks] for result in results])
    figure = Figure(figsize=(max(6.4, 1.6 + 0.3 * len(places)), 4.8), layout='constrained')
    axes = figure.add_subplot()
    lines = [([block.label for block in result.blocks], [block.norm for block in result.blocks])
             for result in results]
    names = [f'{label} (loss {result.loss:.3g})' for label, result in zip(labels, results)]
    _draw_lines(axes, places, lines, names, linear)
    axes.set_ylabel('gradient norm of its weights')
    axes.set_title(f'Gradient of each independent block, {results[0].samples} samples')
    figure.legend(loc='outside lower center', ncols=min(2, len(names)))
    return figure


def plot_matrices(labels: Sequence, results: Sequence, linear: bool = False) -> Figure:
    """Plot the gradient norm of each weight matrix: one panel a matrix of a block.

    Args:
        labels (Sequence[str]): Names of the models.
        results (Sequence[GradientNorms]): What was measured of each.
        linear (bool): As for :func:`plot_gradients`. Defaults to False.

    Returns:
        Figure: The figure.
    """
    places = join_orders([[block.label for block in result.blocks] for result in results])
    matrices = list(dict.fromkeys(
        name for result in results for block in result.blocks for name in block.matrices))
    columns = 2
    rows = math.ceil(len(matrices) / columns)
    width = max(4.6, 1.2 + 0.24 * len(places))
    figure = Figure(figsize=(columns * width, 2.8 * rows + 0.5), layout='constrained')
    for i, matrix in enumerate(matrices):
        axes = figure.add_subplot(rows, columns, i + 1)
        lines = []
        for result in results:
            blocks = [block for block in result.blocks if matrix in block.matrices]
            lines.append(([b.label for b in blocks], [b.matrices[matrix] for b in blocks]))
        _draw_lines(axes, places, lines, labels, linear)
        axes.set_title(matrix)
        axes.set_ylabel('gradient norm')
    figure.legend(*axes.get_legend_handles_labels(), loc='outside upper center',
                  ncols=len(labels))
    return figure


def _draw_lines(axes, places, lines, labels, linear):
    positions = {place: i for i, place in enumerate(places)}
    for i, ((blocks, norms), label) in enumerate(zip(lines, labels)):
        # lines that coincide, as they do before training, are all to be seen
        behind = len(lines) - 1 - i
        axes.plot([positions[b] for b in blocks], norms, label=label,
                  color=COLOURS[i % len(COLOURS)], marker=MARKERS[i % len(MARKERS)],
                  markersize=4 + 1.5 * behind, linewidth=1.2 + 0.9 * behind)
    if linear:
        axes.set_ylim(bottom=0)
    elif any(n > 0 for _, norms in lines for n in norms):
        axes.set_yscale('log')
        lowest, highest = axes.get_ylim()
        few = highest < 200 * lowest
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if few else (1, )))
        axes.yaxis.set_major_formatter('{x:g}')
        axes.yaxis.set_minor_formatter(NullFormatter())
    axes.grid(alpha=0.3, linewidth=0.5)
    _label_blocks(axes.xaxis, places, 26)
    axes.set_xlabel('block that owns the weights')


def plot_histograms(labels: Sequence, layers: Sequence, statistics: Sequence) -> Figure:
    """Plot the distributions of features, one panel a model, one line a layer (Figure 4).

    Args:
        labels (Sequence[str]): Names of the models.
        layers (Sequence[Sequence[Block]]): The chosen blocks of each.
        statistics (Sequence[Sequence[FeatureStatistics]]): Their histograms.

    Returns:
        Figure: The figure.
    """
    columns = min(len(labels), 3)
    rows = math.ceil(len(labels) / columns)
    figure = Figure(figsize=(4.2 * columns + 0.4, 3.5 * rows + 0.5), layout='constrained')
    first = None
    for i, (label, blocks, numbers) in enumerate(zip(labels, layers, statistics)):
        axes = first = figure.add_subplot(rows, columns, i + 1, sharex=first, sharey=first)
        for j, (block, one) in enumerate(zip(blocks, numbers)):
            colour = colormaps['viridis'](0.86 * j / max(len(blocks) - 1, 1))
            axes.stairs(one.density(), one.edges, color=colour, linewidth=1.5,
                        label=f'{block.label} ($\\sigma$ {one.std:.2f})')
        axes.set_title(label)
        axes.set_xlabel('feature value')
        axes.grid(alpha=0.3, linewidth=0.5)
        axes.legend(title='block (its spread)', fontsize='small', title_fontsize='small',
                    loc='upper left')
        if i % columns == 0:
            axes.set_ylabel('density')
        axes.set_xlim(numbers[0].edges[0], numbers[0].edges[-1])
    return figure


def plot_cka(names: Sequence, layers: Sequence, matrices: Sequence) -> Figure:
    """Plot the similarity of all layers of one model with all of others (Figure 5).

    Args:
        names (Sequence[str]): Name of the first model, and of each that it is compared with.
        layers (Sequence[Sequence[Block]]): Their blocks.
        matrices (Sequence[torch.Tensor]): CKA of (blocks of the first, blocks of the other).

    Returns:
        Figure: The figure.
    """
    height = _length(len(layers[0]))
    widths = [_length(len(blocks)) for blocks in layers[1:]]
    # compressed: panels whose cells are square stay beside each other and the colour bar
    figure = Figure(figsize=(sum(widths) + 1.2 * len(widths) + 0.8, height + 1.2),
                    layout='compressed')
    colours = colormaps['viridis'].with_extremes(bad='0.7')
    panels = figure.subplots(1, len(matrices), squeeze=False, width_ratios=widths)[0]
    for axes, name, blocks, matrix in zip(panels, names[1:], layers[1:], matrices):
        image = axes.imshow(np.asarray(matrix), vmin=0, vmax=1, cmap=colours, origin='lower')
        _label_blocks(axes.xaxis, [b.label for b in blocks], 26)
        _label_blocks(axes.yaxis, [b.label for b in layers[0]], 26)
        axes.set_xlabel(f'block of: {name}')
        axes.set_ylabel(f'block of: {names[0]}')
        axes.set_title(f'{names[0]} / {name}' if name != names[0] else name)
    figure.colorbar(image, ax=list(panels), label='linear CKA')
    return figure


def _length(blocks):
    return min(max(2.6, 0.22 * blocks + 0.6), 7.)


def _label_blocks(axis, labels, most):
    """Write blocks' names at an axis: all of them, or every so many if there are too many."""
    step = math.ceil(len(labels) / most)
    axis.set_ticks(range(0, len(labels), step), labels[::step])
    if axis.axis_name == 'x':
        long = max(map(len, labels)) > 2 and len(labels) > 8
        axis.set_tick_params(rotation=90 if long else 0)
    axis.set_tick_params(labelsize=8)


def join_orders(orders: Sequence) -> list:
    """Join lists of names into one that keeps the order of each as far as it can be.

    Args:
        orders (Sequence[Sequence[str]]): The lists.

    Returns:
        list[str]: Each name once; a name that a list lacks follows what it follows elsewhere.
    """
    joined: list = []
    for order in orders:
        place = 0
        for name in order:
            if name in joined:
                place = joined.index(name) + 1
            else:
                joined.insert(place, name)
                place += 1
    return joined


def check_out(folder: str) -> None:
    """Check, without making it, that a folder can be written to.

    Raises:
        ConfigError: If it can't.
    """
    if osp.exists(folder) and not osp.isdir(folder):
        raise ConfigError(f'--out: {folder!r} is a file; name a folder')
    there = osp.abspath(folder)
    while not osp.exists(there):
        there = osp.dirname(there)
    if not os.access(there, os.W_OK) or not osp.isdir(there):
        raise ConfigError(f'--out: {folder!r} cannot be made: {there!r} cannot be written to')


def write(folder: str, figures: dict, numbers: dict) -> list:
    """Write figures and numbers; a file is either the old or the new one, never a part of it.

    Args:
        folder (str): Where they go; made if it is not there.
        figures (dict[str, Figure]): Figures by file name.
        numbers (dict[str, dict]): What goes into json files, by file name.

    Returns:
        list[str]: The files.
    """
    os.makedirs(folder, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix='.writing_', dir=folder) as unfinished:
        for name, figure in figures.items():
            figure.savefig(osp.join(unfinished, name), dpi=DPI, bbox_inches='tight')
        for name, content in numbers.items():
            with open(osp.join(unfinished, name), 'w') as file:
                json.dump(_without_nan(content), file, indent=1, allow_nan=False)
                file.write('\n')
        # all are complete before the first takes the place of an older one
        for name in [*figures, *numbers]:
            os.replace(osp.join(unfinished, name), osp.join(folder, name))
    return [osp.join(folder, name) for name in [*figures, *numbers]]


def _without_nan(value):
    """JSON knows no NaN and no infinity: null stands for them."""
    if isinstance(value, dict):
        return {k: _without_nan(v) for k, v in value.items()}
    if isinstance(value, (list, tuple)):
        return [_without_nan(v) for v in value]
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value
