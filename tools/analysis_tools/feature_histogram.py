"""Histograms of the features of a model's blocks, beside those of others (the paper's Figure 4).

All values that a block gives are counted: of all images, tokens and channels.

    python tools/analysis_tools/feature_histogram.py CONFIG CHECKPOINT --pretrained PRETRAINED

draws the original model, ScaleNet before training, and ScaleNet as CHECKPOINT has it.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import scalenet_mm  # noqa: E402, F401  registers itself
from scalenet_mm import ConfigError  # noqa: E402
from scalenet_mm.analysis import (  # noqa: E402
    choose_uniformly,
    find_blocks,
    measure_features,
    measure_histograms,
)
from scalenet_mm.analysis.command_line import make_parser, read_task  # noqa: E402
from scalenet_mm.analysis.figures import plot_histograms, write  # noqa: E402
from scalenet_mm.engine import run_cli  # noqa: E402


def parse_args(argv=None):
    parser = make_parser(
        'feature_histogram', __doc__, num_samples=128, batch_size=32, split='val',
        pretrained='add the original model of CONFIG (nothing grown) and the grown one before '
        'training, with the weights of FILE')
    parser.add_argument(
        '--layers', nargs='+', metavar='BLOCK',
        help='the blocks, by their names in the figure (3, 3_r1; 2.3_r1 in the third stage); a '
        'model without one of them leaves it out. Default: --num-layers of each model')
    parser.add_argument(
        '--num-layers', type=int, default=5, metavar='N',
        help='so many blocks in even steps, with the first and the last. Default: %(default)s')
    parser.add_argument(
        '--bins', type=int, default=200, metavar='N',
        help='of each histogram. Default: %(default)s')
    parser.add_argument(
        '--range', nargs=2, type=float, metavar=('LOW', 'HIGH'),
        help='the range of values. Default: as wide as 3 standard deviations of the widest layer; '
        'what lies outside is counted in the numbers')
    return parser.parse_args(argv)


def choose(args, labels, found):
    """list[list[Block]]: The blocks of each model whose features are counted."""
    if args.layers is None:
        return [choose_uniformly(blocks, args.num_layers) for blocks in found]
    unknown = set(args.layers) - {block.label for blocks in found for block in blocks}
    if unknown:
        raise ConfigError(f'--layers: no model has the block(s) {", ".join(sorted(unknown))}; '
                          f'{labels[-1]} has {", ".join(block.label for block in found[-1])}')
    chosen = [[b for b in blocks if b.label in args.layers] for blocks in found]
    for label, blocks, some in zip(labels, found, chosen):
        if not some:
            raise ConfigError(f'--layers: {label} has none of {", ".join(args.layers)}; it has '
                              f'{", ".join(block.label for block in blocks)}')
    return chosen


def check(args):
    if args.num_layers < 1 or args.bins < 1:
        raise ConfigError('--num-layers and --bins must be 1 or more')
    if args.range and not args.range[0] < args.range[1]:
        raise ConfigError(f'--range: LOW must be less than HIGH, got {args.range}')


def choose_range(statistics):
    """tuple[float]: A range, symmetric about 0, that shows nearly all features of all layers."""
    edge = max(abs(one.mean) + 3 * one.std for of_model in statistics for one in of_model)
    furthest = max(max(-one.minimum, one.maximum) for of_model in statistics for one in of_model)
    edge = min(edge, furthest) or 1.
    return -edge, edge


def main(argv=None):
    args = parse_args(argv)
    check(args)
    task = read_task('feature_histogram', args)
    models = task.load_models()
    labels = [source.label for source in task.sources]
    layers = choose(args, labels, [find_blocks(model.backbone) for model in models])
    batches = task.load_samples()
    statistics = [measure_features(model, task.follow(batches, f'{label}, range'), blocks)
                  for label, model, blocks in zip(labels, models, layers)]
    low, high = args.range or choose_range(statistics)
    for label, model, blocks, numbers in zip(labels, models, layers, statistics):
        measure_histograms(model, task.follow(batches, f'{label}, histogram'), blocks, numbers, low,
                           high, args.bins)

    numbers = task.describe(batches)
    for described, blocks, of_model in zip(numbers['models'], layers, statistics):
        described['layers'] = [
            dict(block=block.name, label=block.label, count=one.count, mean=one.mean,
                 std=one.std, minimum=one.minimum, maximum=one.maximum,
                 not_finite=one.not_finite, edges=one.edges, bins=one.bins, below=one.below,
                 above=one.above) for block, one in zip(blocks, of_model)
        ]
        print(f'{described["label"]}: ' + ', '.join(
            f'{b.label} {one.mean:.3g} +- {one.std:.3g}' for b, one in zip(blocks, of_model)))
    figures = {'feature_histogram.png': plot_histograms(labels, layers, statistics)}
    for path in write(task.out, figures, {'feature_histogram.json': numbers}):
        print(path)


if __name__ == '__main__':
    sys.exit(run_cli(main))
