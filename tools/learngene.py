"""Take the learngene out of a trained net, and make models of any depth from it.

``python tools/learngene.py extract CHECKPOINT GENE``: the learngene of an auxiliary net (or, for
comparison, of a plain model), a small file.
``python tools/learngene.py expand GENE DEPTH OUT``: the checkpoint that a descendant of so many
blocks starts from.
``python tools/learngene.py inspect FILE``: what a learngene holds, and its descendants' sizes.
"""
import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scalenet_mm.checkpoints.files import save_file  # noqa: E402
from scalenet_mm.engine import load_config, run_cli  # noqa: E402
from scalenet_mm.errors import ConfigError  # noqa: E402
from scalenet_mm.learngene import ORDERS, extract_gene, read_gene, save_gene  # noqa: E402
from scalenet_mm.learngene.describe import DEPTHS, describe, describe_gene  # noqa: E402
from scalenet_mm.learngene.expand import check_request, expand_checkpoint  # noqa: E402
from scalenet_mm.learngene.gene import LAST_BLOCKS, check_out  # noqa: E402

EPILOG = """example:
  python tools/learngene.py extract work_dirs/aux/epoch_100.pth gene.pth
  python tools/learngene.py expand gene.pth 9 descendant.pth
  python tools/learngene.py inspect gene.pth

extract, expand and inspect have a --help of their own.
"""


def parse_args(argv=None):
    """argparse.Namespace: The command line."""
    parser = argparse.ArgumentParser(
        prog='tools/learngene.py', description=__doc__.replace('``', ''),
        formatter_class=argparse.RawDescriptionHelpFormatter, epilog=EPILOG)
    commands = parser.add_subparsers(dest='command', required=True)
    extract = commands.add_parser('extract', help='take the learngene out of a checkpoint')
    extract.add_argument('checkpoint', help='of a trained net, whole or a delta: a path or URL')
    extract.add_argument('out', metavar='GENE', help='the file to write, *.pth')
    extract.add_argument('--config', metavar='FILE',
                         help="the net's config. Default: the one that the checkpoint holds")
    extract.add_argument('--method', choices=('auto', 'vanilla'), default='auto',
                         help='auto: what the config says, the stages of an auxiliary net (SWS), '
                         'the two sets of weights of a TLEGViT, or all blocks of a plain model '
                         '(Simple-LG); vanilla: the last blocks of a plain model. Default: auto')
    extract.add_argument('--last-blocks', type=int, metavar='N',
                         help=f'with vanilla, how many. Default: {LAST_BLOCKS}')
    expand = commands.add_parser('expand', help='make the checkpoint that a descendant starts from')
    expand.add_argument('gene', metavar='GENE', help='the learngene: a path or URL')
    expand.add_argument('depth', type=int, metavar='DEPTH', help='number of blocks, from 1 on')
    expand.add_argument('out', metavar='OUT', help='the file to write, *.pth')
    expand.add_argument('--order', choices=ORDERS, default=ORDERS[0],
                        help=f'which stages get one block more. Default: {ORDERS[0]}')
    expand.add_argument('--seed', type=int, metavar='N',
                        help='of a random order, and of blocks that the learngene has not '
                        '(Vanilla-LG). Default: none')
    expand.add_argument('--no-head', dest='head', action='store_false',
                        help="leave out the learngene's head")
    expand.add_argument('--num-classes', type=int, metavar='N',
                        help="with --no-head, a new head of zeros for N classes, as mmpretrain's "
                        'ViT starts. Default: no head')
    for command in (extract, expand):
        command.add_argument('--force', action='store_true', help='write over a file')
    inspect = commands.add_parser('inspect', help='tell what a file holds')
    inspect.add_argument('file', help='a learngene, or any checkpoint: a path or URL')
    inspect.add_argument('--depths', type=int, nargs='+', default=list(DEPTHS), metavar='N',
                         help="descendants to tell of. Default: the paper's, "
                         f'{DEPTHS[0]} to {DEPTHS[-1]}')
    inspect.add_argument('--config', metavar='FILE',
                         help='of a checkpoint that is no learngene. Default: the one it holds')
    return parser.parse_args(argv)


def main(argv=None):
    """Run one of the three commands."""
    args = parse_args(argv)
    config = load_config(args.config) if getattr(args, 'config', None) else None
    if args.command == 'inspect':
        wrong = [depth for depth in args.depths if depth < 1]
        if wrong:
            raise ConfigError(f'--depths: a depth is an integer >= 1, got {wrong[0]}')
        print(describe(args.file, args.depths, config))
        return
    check_out(args.out, args.force,
              args.checkpoint if args.command == 'extract' else args.gene)
    if args.command == 'extract':
        gene = extract_gene(args.checkpoint, config, args.method, args.last_blocks)
        save_gene(gene, args.out, args.force)
        gene.name = args.out
        print(describe_gene(gene))
        return
    check_request(args.depth, args.order, args.seed, args.num_classes)
    gene = read_gene(args.gene)
    checkpoint = expand_checkpoint(gene, args.depth, args.order, args.seed, args.head,
                                   args.num_classes)
    save_file(checkpoint, args.out)
    print(describe(args.out))


if __name__ == '__main__':
    sys.exit(run_cli(main))
