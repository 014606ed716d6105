"""Print a config with its bases merged, or a part of it.

For configs of mmpretrain, mmdet and mmseg alike, with the checks and messages of tools/train.py.
"""
import argparse
import os.path as osp
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mmengine.config import Config  # noqa: E402

from scalenet_mm.engine import load_config, run_cli  # noqa: E402
from scalenet_mm.engine.arguments import CfgOptionsAction  # noqa: E402
from scalenet_mm.engine.options import merge_cfg_options  # noqa: E402
from scalenet_mm.errors import ConfigError  # noqa: E402

ENDINGS = ('.py', '.json', '.yaml', '.yml')


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        prog='tools/misc/print_config.py', description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='example:\n  python tools/misc/print_config.py '
        'configs/scalenet_deit-t_100e_imagenet.py \\\n      --key model.backbone custom_hooks')
    parser.add_argument('config', help='the config file')
    parser.add_argument(
        '--key', nargs='+', metavar='KEY',
        help='parts to print, such as model.backbone or train_dataloader.dataset.pipeline.0. '
        'Default: everything')
    parser.add_argument(
        '--save', metavar='FILE',
        help='write the whole config to this file, too: .py, .json or .yaml')
    parser.add_argument('--force', action='store_true', help='write over that file')
    parser.add_argument(
        '--cfg-options', nargs='+', action=CfgOptionsAction, metavar='KEY=VALUE',
        help='settings that replace those of the config, as for tools/train.py')
    return parser.parse_args(argv)


def find(cfg, key):
    """Any: What a dotted key names.

    Raises:
        ConfigError: If there is no such thing.
    """
    found, path = cfg, []
    for name in key.split('.'):
        is_list = isinstance(found, (list, tuple))
        names = list(map(str, range(len(found)) if is_list else getattr(found, 'keys', list)()))
        if name not in names:
            where = '.'.join(path) or 'the config'
            there = f'; it has {", ".join(names)}' if names else ''
            raise ConfigError(f'--key {key}: {where} has no {name!r}{there}')
        found = found[int(name) if is_list else name]
        path.append(name)
    return found


def show(key, value):
    """str: A part of a config as a config would have it."""
    name = key.split('.')[-1]
    name = name if name.isidentifier() else f'item_{name}'
    return f'# {key}\n{Config({name: value}).pretty_text.strip()}'


def main(argv=None):
    args = parse_args(argv)
    cfg = load_config(args.config)
    if args.cfg_options:
        merge_cfg_options(cfg, args.cfg_options)
    if args.save is not None:
        if not args.save.endswith(ENDINGS):
            raise ConfigError(f'--save {args.save}: the name must end in {", ".join(ENDINGS)}')
        if osp.exists(args.save) and not args.force:
            raise ConfigError(f'--save: {args.save} is there already; give --force to overwrite it')
    parts = [show(key, find(cfg, key)) for key in args.key or ()]
    print('\n\n'.join(parts) or cfg.pretty_text.strip())
    if args.save is not None:
        Path(args.save).parent.mkdir(parents=True, exist_ok=True)
        cfg.dump(args.save)


if __name__ == '__main__':
    sys.exit(run_cli(main))
