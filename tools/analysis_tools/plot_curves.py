"""Draw accuracy and loss of several runs in one figure, as in the paper's Figure 6.

Beside figure.png it writes the numbers (figure.csv), and, if the runs differ in drop path, accuracy
at the end against the rate (figure_final.png, figure_final.csv). The loss is that of validation if
the evaluator has dict(type='ValidationLoss'), else that of training.
"""
import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scalenet_mm.analysis import curves  # noqa: E402
from scalenet_mm.engine import run_cli  # noqa: E402
from scalenet_mm.errors import ConfigError  # noqa: E402


def parse_args():
    parser = argparse.ArgumentParser(
        prog='tools/analysis_tools/plot_curves.py', description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='example:\n  python tools/analysis_tools/plot_curves.py work_dirs/dp0.0 '
        'work_dirs/dp0.2 --out figure.png')
    parser.add_argument('work_dirs', nargs='+', metavar='WORK_DIR', help='folders of trainings')
    parser.add_argument(
        '--out', required=True, metavar='FILE', help='the figure: .png, .pdf or .svg')
    parser.add_argument(
        '--labels', nargs='+', metavar='LABEL',
        help='one for each folder. Default: what differs in their configs')
    parser.add_argument(
        '--keys', nargs='+', metavar='KEY',
        help='what to draw, a panel each. Default: accuracy, AP or mIoU, and cross_entropy or '
        'loss')
    parser.add_argument(
        '--smooth', type=int, default=1, metavar='N',
        help='average N neighbouring points of a training curve. Default: %(default)s')
    return parser.parse_args()


def plot(args):
    """Draw what the command line asks for; return the files written."""
    out = Path(args.out)
    if out.suffix not in ('.png', '.pdf', '.svg'):
        raise ConfigError(f'--out {out}: the name must end in .png, .pdf or .svg')
    if args.smooth < 1:
        raise ConfigError(f'--smooth {args.smooth}: give a number of points, 1 or more')
    if args.labels is not None and len(args.labels) != len(args.work_dirs):
        raise ConfigError(f'--labels: {len(args.labels)} for {len(args.work_dirs)} folders')
    runs = [curves.read_run(folder) for folder in args.work_dirs]
    keys = curves.choose_keys(runs, args.keys)
    labels = args.labels or curves.make_labels(runs)
    out.parent.mkdir(parents=True, exist_ok=True)

    written = [out, out.with_suffix('.csv')]
    curves.plot_curves(runs, labels, keys, out, args.smooth)
    rows = [(label, key, x, value) for run, label in zip(runs, labels) for key in keys
            for x, value in run.curve(key)]
    curves.write_csv(written[1], ('run', 'key', 'epoch' if runs[0].by_epoch else 'iteration',
                                  'value'), rows)
    final = curves.final_values(runs, keys[0])
    if len({rate for _, rate, _, _ in final}) > 1:
        figure = out.with_name(f'{out.stem}_final{out.suffix}')
        curves.plot_final(final, keys[0], figure)
        curves.write_csv(figure.with_suffix('.csv'), ('arch', 'drop_path', 'last', 'highest'),
                         final)
        written += [figure, figure.with_suffix('.csv')]
        for arch, rate, last, best in final:
            print(f'{arch:<12} drop path {rate:<5g} {keys[0]}: last {last:.4g}, highest {best:.4g}')
    return written


def main():
    print('written: ' + ', '.join(map(str, plot(parse_args()))))


if __name__ == '__main__':
    sys.exit(run_cli(main))
