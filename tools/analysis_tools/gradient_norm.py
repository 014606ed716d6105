r"""Gradient norm of every distinct weight of a model, beside that of others (the paper's Figure 3).

A weight that several blocks share is one weight: a doubled DeiT has 12 independent blocks. Frozen
weights are measured as well.

    python tools/analysis_tools/gradient_norm.py CONFIG CHECKPOINT --pretrained PRETRAINED

Adapters start as nothing, so before training the shared weights have the same gradient with and
without them. To see what adapters make of it, compare trained models, the second trained by a
config with adjustment=None:

    python tools/analysis_tools/gradient_norm.py CONFIG CHECKPOINT --label ScaleNet \
        --compare original UNGROWN_CONFIG PRETRAINED --compare shared SHARED_CONFIG CHECKPOINT
"""
import sys
from dataclasses import asdict
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import scalenet_mm  # noqa: E402, F401  registers itself
from scalenet_mm.analysis import measure_gradients  # noqa: E402
from scalenet_mm.analysis.command_line import UNADJUSTED, make_parser, read_task  # noqa: E402
from scalenet_mm.analysis.figures import plot_gradients, plot_matrices, write  # noqa: E402
from scalenet_mm.engine import run_cli  # noqa: E402
from scalenet_mm.hooks.class_check import check_classes  # noqa: E402


def parse_args(argv=None):
    parser = make_parser(
        'gradient_norm', __doc__, num_samples=256, batch_size=32, split='train',
        pretrained='add the original model of CONFIG (nothing grown) and the shared one (grown, '
        'no adjustment), with the weights of FILE')
    parser.add_argument(
        '--per-matrix', action='store_true',
        help='a second figure, with a panel for each weight matrix of a block')
    parser.add_argument(
        '--linear', action='store_true', help='a linear axis instead of a logarithmic one')
    parser.add_argument(
        '--new-head', action='store_true',
        help='allow checkpoints without the head, which is random then')
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    task = read_task('gradient_norm', args, before=UNADJUSTED, with_labels=True)
    models = task.load_models(needs_head=not args.new_head)
    batches = task.load_samples()
    results = []
    for source, model in zip(task.sources, models):
        check_classes(model, batches.dataset)
        results.append(measure_gradients(model, task.follow(batches, source.label)))
        print(f'{source.label}: loss {results[-1].loss:.4g}, gradient norms of its weights '
              + ' '.join(f'{block.label}:{block.norm:.3g}' for block in results[-1].blocks))

    labels = [source.label for source in task.sources]
    figures = {'gradient_norm.png': plot_gradients(labels, results, args.linear)}
    if args.per_matrix:
        figures['gradient_norm_matrices.png'] = plot_matrices(labels, results, args.linear)
    numbers = task.describe(batches)
    for described, result in zip(numbers['models'], results):
        described.update(asdict(result))
    for path in write(task.out, figures, {'gradient_norm.json': numbers}):
        print(path)


if __name__ == '__main__':
    sys.exit(run_cli(main))
