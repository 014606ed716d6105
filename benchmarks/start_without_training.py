"""Accuracy of a pretrained classifier right after growing, without training, by start.

    python benchmarks/start_without_training.py configs/scalenet_deit-t_100e_imagenet.py \\
        checkpoints/deit_tiny.pth --data-root data/imagenet_sample --images 250

The config's growth is kept but for ``start`` (ungrown, identity, paper's, and split with several
shares) and ``blocks`` (for split, the first blocks left alone). What is measured already in the
file of ``--out``, by the same settings, is not measured again.
"""
import argparse
import contextlib
import copy
import hashlib
import json
import os
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

METRIC = 'accuracy/top1'
UNGROWN, IDENTITY, PAPER = 'ungrown', 'identity start', "paper's start"


def parse_args(argv=None):
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('config', help='a grown classifier')
    parser.add_argument('checkpoint', help='its pretrained weights')
    parser.add_argument('--data-root', help="images; the config's otherwise")
    parser.add_argument('--images', type=int, help='only so many, spread evenly over the set')
    parser.add_argument(
        '--shares', type=float, nargs='+', default=[0.1, 0.2, 0.3, 0.4, 0.5],
        help="the repeats' shares (%(default)s)")
    parser.add_argument(
        '--first-blocks', type=int, nargs='+', default=[0, 1, 3, 6],
        help='how many of the first blocks are left alone (%(default)s)')
    parser.add_argument(
        '--out', default='work_dirs/start_without_training.json', help='results (%(default)s)')
    parser.add_argument(
        '--cfg-options', nargs='+', default=[], metavar='KEY=VALUE',
        help='settings that replace those of the config')
    return parser.parse_args(argv)


def read_config(args):
    """Config: The config with the command line's data."""
    from scalenet_mm.engine import load_config
    from scalenet_mm.engine.arguments import parse_train_args
    from scalenet_mm.engine.options import merge_cfg_options
    cfg = load_config(args.config)
    dataset = cfg.test_dataloader.dataset
    if args.data_root is not None:
        dataset.data_root = args.data_root
    if args.cfg_options:
        options = parse_train_args(['a config', '--cfg-options', *args.cfg_options]).cfg_options
        merge_cfg_options(cfg, options)
    cfg.load_from = args.checkpoint
    cfg.work_dir = str(Path(args.out).with_suffix(''))
    # loading takes a small part of the time
    cfg.test_dataloader.update(num_workers=0, persistent_workers=False)
    cfg.train_dataloader = cfg.train_cfg = cfg.optim_wrapper = cfg.param_scheduler = None
    cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None
    cfg.log_level = 'ERROR'
    return cfg


def spread_evenly(cfg, count):
    """Take only some of the images, in place; a set is sorted by class, so not the first ones.

    Args:
        cfg (Config): The config.
        count (int): The number of images.

    Raises:
        ConfigError: If there are not so many.
    """
    from mmengine.registry import DATASETS, init_default_scope

    from scalenet_mm import ConfigError
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    total = len(DATASETS.build(cfg.test_dataloader.dataset))
    if not 1 <= count <= total:
        raise ConfigError(f'--images: the set has {total} images, so 1 to {total}, got {count}')
    cfg.test_dataloader.dataset.indices = [i * total // count for i in range(count)]


def base_depth(cfg):
    """int: Pretrained depth of the one list of blocks that the config grows.

    Raises:
        ConfigError: If it grows none, or several.
    """
    import torch
    from mmengine.registry import MODELS, init_default_scope

    from scalenet_mm import ConfigError
    from scalenet_mm.growth import growth_of
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    depths = [m.base_depth for _, _, m in growth_of(model) if not m.is_identity]
    if len(depths) != 1:
        raise ConfigError(f'{cfg.filename} grows {len(depths)} lists of blocks; this benchmark '
                          'is for a config that grows one, a DeiT or one stage of a Swin')
    return depths[0]


def variants(args, depth):
    """dict[str, dict | None]: What is laid over the config's growth, by row; None: ungrown."""
    rows = {UNGROWN: None, IDENTITY: dict(start='identity'), PAPER: dict(start='paper')}
    for share in args.shares:
        for first in args.first_blocks:
            growth = dict(start=dict(type='split', share=share))
            if first:
                growth['blocks'] = list(range(first, depth))
            rows[cell_name(share, first)] = growth
    return rows


def cell_name(share, first):
    """str: The name of a split start."""
    return f'split {share:g}, first {first} alone'


def measure(cfg, growth):
    """float: Top-1 accuracy with a variant's growth."""
    from mmengine.runner import Runner
    cfg = copy.deepcopy(cfg)
    backbone = cfg.model.backbone
    if growth is None:
        backbone.growth = backbone.adjustment = None
    else:
        given = backbone.get('growth')
        given = dict(given) if isinstance(given, dict) else {}
        backbone.growth = {**given, **growth}
    with open(os.devnull, 'w') as null, contextlib.redirect_stdout(null):
        return Runner.from_cfg(cfg).test()[METRIC]


def run(args):
    """Measure what is not measured yet; write the file after each row, print the table."""
    from scalenet_mm import ConfigError
    from scalenet_mm.engine.preflight import check_test
    cfg = read_config(args)
    check_test(cfg)
    if args.images is not None:
        spread_evenly(cfg, args.images)
    depth = base_depth(cfg)
    if not all(0 <= first < depth for first in args.first_blocks):
        raise ConfigError(f'--first-blocks: there are {depth} blocks, so 0 to {depth - 1} can be '
                          f'left alone, got {args.first_blocks}')
    text = cfg.pretty_text
    settings = dict(config=args.config, checkpoint=args.checkpoint, images=args.images,
                    digest=hashlib.sha256(text.encode()).hexdigest())
    out = Path(args.out)
    top1 = {}
    if out.is_file():
        done = json.loads(out.read_text())
        top1 = done['top1'] if done['settings'] == settings else {}
    rows = variants(args, depth)
    for name, growth in rows.items():
        if name not in top1:
            top1[name] = measure(cfg, growth)
            out.parent.mkdir(parents=True, exist_ok=True)
            out.write_text(json.dumps(dict(settings=settings, top1=top1), indent=1))
            print(f'{name:<28}{top1[name]:6.1f}', flush=True)
    print_table(args, top1)


def print_table(args, top1):
    """Print shares down, blocks left alone across."""
    print('\ntop-1 right after growing, without training')
    for name in (UNGROWN, IDENTITY, PAPER):
        print(f'{name:<28}{top1[name]:6.1f}')
    print(f'\n{"split: share of the repeat":<28}first blocks left alone\n{"":<28}' +
          ''.join(f'{first:6}' for first in args.first_blocks))
    for share in args.shares:
        cells = [top1[cell_name(share, first)] for first in args.first_blocks]
        print(f'{share:<28g}' + ''.join(f'{cell:6.1f}' for cell in cells), flush=True)


def main():
    """Run the command line."""
    args = parse_args()
    from scalenet_mm import ScaleNetError
    try:
        run(args)
    except ScaleNetError as error:
        sys.exit(f'error: {error}')


if __name__ == '__main__':
    main()
