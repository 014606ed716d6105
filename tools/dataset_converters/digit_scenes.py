"""Make the data set of the quickstart configs: scenes of real handwritten digits."""
import argparse
import inspect
import sys

from scalenet_mm.datasets import make_digit_scenes


class HelpFormatter(argparse.ArgumentDefaultsHelpFormatter, argparse.RawDescriptionHelpFormatter):
    """Defaults are added to the help of each option; the example keeps its lines."""


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        description='Make scenes of real handwritten digits for classification, detection and '
        'segmentation.\nNo download; some seconds. A set that is already there is left as it is.',
        prog='tools/dataset_converters/digit_scenes.py',
        formatter_class=HelpFormatter,
        epilog='example:\n  python tools/dataset_converters/digit_scenes.py \\\n'
        '      --root data/small --tasks det --num-train 40',
        allow_abbrev=False)
    parser.add_argument('--root', metavar='DIR', help='folder of the set')
    parser.add_argument(
        '--tasks', nargs='+', metavar='TASK', help='which of cls, det and seg to make')
    parser.add_argument('--num-train', type=int, metavar='N', help='training scenes (det, seg)')
    parser.add_argument('--num-val', type=int, metavar='N', help='validation scenes (det, seg)')
    parser.add_argument('--image-size', type=int, metavar='N', help='side of a scene in pixels')
    parser.add_argument(
        '--digits-per-scene', type=int, nargs=2, metavar=('MIN', 'MAX'),
        help='number of digits in a scene')
    parser.add_argument(
        '--digit-size', type=int, nargs=2, metavar=('MIN', 'MAX'),
        help="a digit's longer side in pixels")
    parser.add_argument('--cls-num-train', type=int, metavar='N', help='training images (cls)')
    parser.add_argument('--cls-num-val', type=int, metavar='N', help='validation images (cls)')
    parser.add_argument(
        '--cls-image-size', type=int, metavar='N',
        help='side of a classification image in pixels')
    parser.add_argument(
        '--val-ratio', type=float, metavar='SHARE',
        help='share of the scans that validation images are made of')
    parser.add_argument('--seed', type=int, metavar='N', help='seed of everything random')
    parser.add_argument(
        '--overwrite', action='store_true',
        help='replace a set of digit scenes that is already there')
    # The function's defaults are the command's: they stand there alone.
    parameters = inspect.signature(make_digit_scenes).parameters
    parser.set_defaults(**{name: p.default for name, p in parameters.items()})
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    try:
        result = make_digit_scenes(**vars(args))
    except (ValueError, OSError, ImportError, RuntimeError) as e:
        print(f'error: {e}', file=sys.stderr)
        sys.exit(2)  # as all tools do
    if not result['generated']:
        print(f"{result['root']} holds this set already; nothing to do.")
    for task, splits in result['num_images'].items():
        print(f"{task}: {splits['train']} training and {splits['val']} validation images")


if __name__ == '__main__':
    main()
