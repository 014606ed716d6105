"""Make deltas, make them whole, and see what a checkpoint holds.

``python tools/delta.py extract WHOLE --base BASE --out DELTA``: what WHOLE has that BASE, the file
that its training started from, has not; as ``.pth`` or ``.safetensors``.
``python tools/delta.py apply DELTA --out WHOLE``: the whole checkpoint again.
``python tools/delta.py inspect FILE``: what any checkpoint file holds.
"""
import argparse
import os.path as osp
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scalenet_mm.checkpoints.base_files import MANIFEST  # noqa: E402
from scalenet_mm.checkpoints.contents import describe_file  # noqa: E402
from scalenet_mm.checkpoints.delta import (  # noqa: E402
    APPLIED,
    apply_delta,
    extract_delta,
    write_checkpoint,
)
from scalenet_mm.checkpoints.files import sha256_of  # noqa: E402
from scalenet_mm.engine import run_cli  # noqa: E402
from scalenet_mm.errors import ConfigError  # noqa: E402

EPILOG = """example:
  python tools/delta.py extract work_dirs/run/epoch_12.pth --base swin.pth --out delta.pth
  python tools/delta.py apply delta.pth --out whole.pth
  python tools/delta.py inspect delta.pth

extract, apply and inspect have a --help of their own.
"""


def main():
    parser = argparse.ArgumentParser(
        prog='tools/delta.py', description=__doc__.splitlines()[0],
        formatter_class=argparse.RawDescriptionHelpFormatter, epilog=EPILOG)
    commands = parser.add_subparsers(dest='command', required=True)
    extract = commands.add_parser('extract', help='make a delta of a whole checkpoint')
    extract.add_argument('whole', help='the checkpoint')
    extract.add_argument('--base', required=True, metavar='FILE',
                         help='what its training started from: a path, a URL or a name of a zoo')
    extract.add_argument('--keep-optimizer', action='store_true',
                         help='keep what a training resumes from (.pth only)')
    apply = commands.add_parser('apply', help='make a delta whole')
    apply.add_argument('delta', help='the delta')
    apply.add_argument('--base', metavar='FILE',
                       help='its base, a file, its folder or a URL. Default: where it was when the '
                       'delta was made, beside the delta, $SCALENET_BASE, or the downloads')
    for command in (extract, apply):
        command.add_argument('--out', required=True, metavar='FILE', help='the file to write')
        command.add_argument('--force', action='store_true', help='overwrite that file')
    inspect = commands.add_parser('inspect', help='tell what a file holds')
    inspect.add_argument('file', help='any checkpoint')
    args = parser.parse_args()

    if args.command == 'inspect':
        print(describe_file(args.file))
        return
    if osp.exists(args.out) and not args.force:
        raise ConfigError(f'--out: {args.out} is there already; give --force to overwrite it')
    if args.command == 'extract' and args.keep_optimizer and args.out.endswith('.safetensors'):
        raise ConfigError('--keep-optimizer: a safetensors file holds no optimizer; give --out the '
                          'ending .pth')
    if args.command == 'extract':
        checkpoint = extract_delta(args.whole, args.base, args.keep_optimizer)
        manifest = checkpoint[MANIFEST]
    else:
        checkpoint = apply_delta(args.delta, args.base)
        manifest = checkpoint['meta'][APPLIED]
    if osp.isfile(args.out) and sha256_of(args.out) == manifest['base']['sha256']:
        raise ConfigError(f'--out: {args.out} is the base, which deltas need: name another file')
    write_checkpoint(checkpoint, args.out)
    print(describe_file(args.out))


if __name__ == '__main__':
    sys.exit(run_cli(main))
