"""Publish a checkpoint: ``python tools/model_converters/publish_model.py IN OUT``.

It keeps what a model needs ('meta' and 'state_dict', which holds the averaged weights if the
training averaged), drops what only resuming needs, and puts the first eight digits of the file's
SHA-256 into its name: OUT-xxxxxxxx.pth. A delta stays a delta. Absolute paths in the config and the
manifest are shortened to their last part.
"""
import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scalenet_mm.checkpoints import load_file  # noqa: E402
from scalenet_mm.checkpoints.publish import PUBLISHED_KEYS, publish, select  # noqa: E402
from scalenet_mm.engine import run_cli  # noqa: E402


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog='tools/model_converters/publish_model.py', description=__doc__.replace('``', ''),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='example:\n  python tools/model_converters/publish_model.py '
        'work_dirs/run/epoch_12.pth mine.pth')
    parser.add_argument('source', metavar='IN', help='the checkpoint')
    parser.add_argument('out', metavar='OUT', help='*.pth or *.safetensors')
    parser.add_argument(
        '--save-keys', nargs='+', metavar='KEY',
        help=f'what to keep. Default: {" ".join(PUBLISHED_KEYS)}')
    parser.add_argument(
        '--no-ema', action='store_true',
        help='publish the weights that were trained and not their averages')
    parser.add_argument('--force', action='store_true', help='write over a file')
    args = parser.parse_args(argv)
    checkpoint = load_file(args.source)  # a delta stays one
    selected = select(checkpoint, args.source, args.save_keys, averaged=not args.no_ema)
    path = publish(selected, args.out, args.force)
    dropped = [key for key in checkpoint if key not in selected]
    left_out = ', '.join(map(str, dropped)) or 'nothing'
    print(f'{path}: {Path(path).stat().st_size:,} bytes; kept {", ".join(selected)}'
          + (f'; left out {left_out}' if 'state_dict' in checkpoint else ''))
    if 'ema_state_dict' in checkpoint:
        what = 'trained weights (--no-ema)' if args.no_ema else 'averaged weights (EMA)'
        print(f'its state_dict holds the {what}')
    if 'delta' in selected:
        base = selected['delta']['base']
        print(f'it is a delta: it needs {base["name"]} (SHA-256 {base["sha256"]})')


if __name__ == '__main__':
    sys.exit(run_cli(main))
