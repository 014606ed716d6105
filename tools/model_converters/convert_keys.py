"""Convert a Swin or ViT (DeiT) between the names of OpenMMLab, timm and the official releases.

``python tools/model_converters/convert_keys.py IN OUT --to timm``. IN may be of any of the formats,
a whole model or a backbone alone; classifier heads come along. What growth added has no name
elsewhere: --part ungrown leaves it out, and says so.
"""
import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scalenet_mm.checkpoints import add_base, read_checkpoint  # noqa: E402
from scalenet_mm.checkpoints.containers import serialise  # noqa: E402
from scalenet_mm.checkpoints.convert import TARGETS, convert_checkpoint  # noqa: E402
from scalenet_mm.checkpoints.files import write_whole  # noqa: E402
from scalenet_mm.checkpoints.publish import refuse_overwriting  # noqa: E402
from scalenet_mm.engine import run_cli  # noqa: E402
from scalenet_mm.engine.arguments import add_base_argument  # noqa: E402

SHOWN = 4


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog='tools/model_converters/convert_keys.py', description=__doc__.replace('``', ''),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='example:\n  python tools/model_converters/convert_keys.py epoch_100.pth timm.pth '
        '--to timm --part ungrown')
    parser.add_argument('source', metavar='IN', help='the checkpoint, also a delta')
    parser.add_argument('out', metavar='OUT', help='*.pth or *.safetensors')
    parser.add_argument('--to', choices=TARGETS, required=True, help='whose names OUT has')
    parser.add_argument(
        '--part', choices=('ungrown', ), help='leave out repeats, new blocks, '
        'adapters and gains. Default: everything is converted')
    parser.add_argument(
        '--backbone-only', action='store_true',
        help="leave out the head; OpenMMLab's names are then without 'backbone.'")
    add_base_argument(parser)
    parser.add_argument('--force', action='store_true', help='write over a file')
    args = parser.parse_args(argv)
    refuse_overwriting([args.out], args.force)
    if args.base:
        add_base(args.base)
    converted = convert_checkpoint(
        read_checkpoint(args.source), args.source, args.to, args.part, args.backbone_only)
    content = serialise(converted.content, args.out)
    write_whole(args.out, lambda file: file.write(content))
    print(f'{args.out}: {converted}')
    for what, keys in converted.lost.items():
        more = f', ... ({len(keys)} in all)' if len(keys) > SHOWN else ''
        print(f'  left out, {what}: {", ".join(keys[:SHOWN])}{more}')
    if converted.family == 'swin' and args.to == 'official':
        print('  attn_mask, which depends on the image size, is not in it: the official code '
              'computes it, and loads with strict=False')


if __name__ == '__main__':
    sys.exit(run_cli(main))
