"""Draw samples of a config's data set as the model is given them, with their labels.

For configs of mmpretrain, mmdet and mmseg alike. The folder gets a picture of each sample and
overview.png with all of them. Images are as they come out of the pipeline, cropped, flipped and
recoloured.
"""
import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import scalenet_mm  # noqa: E402, F401  registers itself
from scalenet_mm.analysis.samples import SPLITS  # noqa: E402
from scalenet_mm.apis.browse import browse_dataset  # noqa: E402
from scalenet_mm.engine import load_config, run_cli  # noqa: E402
from scalenet_mm.engine.arguments import CfgOptionsAction  # noqa: E402
from scalenet_mm.engine.options import merge_cfg_options  # noqa: E402


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        prog='tools/misc/browse_dataset.py', description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='example:\n  python tools/misc/browse_dataset.py \\\n'
        '      configs/quickstart/maskrcnn_swin-nano_digits.py pictures --num-samples 8')
    parser.add_argument('config', help='the config file')
    parser.add_argument('out', metavar='FOLDER', help='where the pictures go')
    parser.add_argument(
        '--split', choices=SPLITS, default='train',
        help='whose data loader is used. Default: %(default)s')
    parser.add_argument(
        '--num-samples', type=int, default=16, metavar='N',
        help='samples, drawn at random with the seed. Default: %(default)s')
    parser.add_argument(
        '--seed', type=int, default=0, metavar='N',
        help='of that choice and of random augmentations. Default: %(default)s')
    parser.add_argument(
        '--cfg-options', nargs='+', action=CfgOptionsAction, metavar='KEY=VALUE',
        help='settings that replace those of the config, as for tools/train.py')
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    cfg = load_config(args.config)
    if args.cfg_options:
        merge_cfg_options(cfg, args.cfg_options)
    files = browse_dataset(cfg, args.out, args.split, args.num_samples, args.seed)
    print(f'{files[0]} and {len(files) - 1} pictures of single samples')


if __name__ == '__main__':
    sys.exit(run_cli(main))
