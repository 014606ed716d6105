"""Linear CKA between all layers of two models, as heat maps (the paper's Figure 5).

    python tools/analysis_tools/cka.py CONFIG CHECKPOINT --pretrained PRETRAINED

compares the original model with ScaleNet before training, and with ScaleNet as CHECKPOINT has it.
In general the first model is compared with each of the others: with --pretrained it is the
original, else that of CONFIG; if it is alone, with itself. It is estimated on minibatches, without
bias, so memory does not grow with --num-samples; more samples make it less noisy.
"""
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import scalenet_mm  # noqa: E402, F401  registers itself
from scalenet_mm import ConfigError  # noqa: E402
from scalenet_mm.analysis import compare_models, find_blocks  # noqa: E402
from scalenet_mm.analysis.cka import SMALLEST_BATCH  # noqa: E402
from scalenet_mm.analysis.command_line import make_parser, read_task  # noqa: E402
from scalenet_mm.analysis.figures import plot_cka, write  # noqa: E402
from scalenet_mm.analysis.layers import POOLS, check_pool  # noqa: E402
from scalenet_mm.engine import run_cli  # noqa: E402


def parse_args(argv=None):
    parser = make_parser(
        'cka', __doc__, num_samples=512, batch_size=64, split='val',
        pretrained='compare the original model of CONFIG (nothing grown) with the grown one '
        'before training and with that of CHECKPOINT; both others have the weights of FILE')
    parser.add_argument(
        '--pool', choices=POOLS, default='flat',
        help='what represents an image: all its tokens one behind the other, their mean, or the '
        'class token. Default: %(default)s')
    parser.add_argument(
        '--biased', action='store_true',
        help='the biased estimator: the usual CKA of a single batch with all samples, too high '
        'with small batches')
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    least = 2 if args.biased else SMALLEST_BATCH
    if args.batch_size < least:
        raise ConfigError(f'--batch-size must be {least} or more for CKA, got {args.batch_size}; '
                          '64 and more give steady values')
    task = read_task('cka', args)
    models = task.load_models()
    labels = [source.label for source in task.sources]
    for label, model in zip(labels, models):
        check_pool(model, args.pool, label)
    layers = [find_blocks(model.backbone) for model in models]
    batches = task.load_samples(drop_last=True)
    matrices = compare_models(models, layers, task.follow(batches, 'features'), args.pool,
                              not args.biased)

    if len(models) == 1:
        labels, layers = labels * 2, layers * 2
    numbers = task.describe(batches)
    numbers.update(pool=args.pool, estimator='biased' if args.biased else 'unbiased',
                   comparisons=[])
    for label, blocks, matrix in zip(labels[1:], layers[1:], matrices):
        numbers['comparisons'].append(
            dict(rows=labels[0], row_blocks=[b.label for b in layers[0]], columns=label,
                 column_blocks=[b.label for b in blocks], cka=matrix.tolist()))
        print(f'{labels[0]} / {label}: mean CKA {matrix.mean():.3f}, last blocks '
              f'{matrix[-1, -1]:.3f}')
    figures = {'cka.png': plot_cka(labels, layers, matrices)}
    for path in write(task.out, figures, {'cka.json': numbers}):
        print(path)


if __name__ == '__main__':
    sys.exit(run_cli(main))
