"""Run the teacher of a distillation once over the training set, and keep its logits.

    python tools/cache_teacher.py CONFIG OUT

CONFIG is a config whose model is a DistilledClassifier. OUT becomes a folder; training reads it
with --cfg-options model.teacher_cache=OUT, without the teacher. Each image is seen as a test shows
it, without augmentation: what that gives up is said at scalenet_mm.learngene.TeacherCache.
"""
import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scalenet_mm.analysis.inputs import pick_device  # noqa: E402
from scalenet_mm.engine import load_config, run_cli  # noqa: E402
from scalenet_mm.engine.arguments import CfgOptionsAction  # noqa: E402
from scalenet_mm.engine.options import merge_cfg_options  # noqa: E402
from scalenet_mm.engine.preflight import (  # noqa: E402
    check_checkpoint,
    check_data,
    check_toolbox,
)
from scalenet_mm.errors import ConfigError  # noqa: E402
from scalenet_mm.learngene.cache_logits import cache_logits  # noqa: E402
from scalenet_mm.learngene.teacher_cache import DTYPES  # noqa: E402

EPILOG = """example:
  python tools/cache_teacher.py configs/scalenet_deit-b-distill_100e_imagenet.py data/teacher
"""


def parse_args(argv=None):
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        prog='tools/cache_teacher.py', description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=EPILOG)
    parser.add_argument('config', help='the config file')
    parser.add_argument('out', help='the folder to write')
    parser.add_argument(
        '--batch-size', type=int, default=64, metavar='N',
        help='images that the teacher sees at once. Default: 64')
    parser.add_argument(
        '--workers', type=int, default=2, metavar='N',
        help='processes that load images. Default: 2')
    parser.add_argument(
        '--dtype', choices=DTYPES, default='float16',
        help='of the logits on the disk. Default: float16, 2 bytes for each image and class')
    parser.add_argument(
        '--device', metavar='NAME', help='cpu, cuda, cuda:1 ... Default: a GPU if there is one')
    parser.add_argument('--force', action='store_true', help='write over a cache that is there')
    parser.add_argument(
        '--cfg-options', nargs='+', action=CfgOptionsAction, metavar='KEY=VALUE',
        help='settings that replace those of the config, as for tools/train.py')
    args = parser.parse_args(argv)
    if args.batch_size < 1 or args.workers < 0:
        raise ConfigError('--batch-size must be at least 1, --workers at least 0')
    return args


def main(argv=None):
    """Write the cache, and say what is in it."""
    args = parse_args(argv)
    cfg = load_config(args.config)
    if args.cfg_options:
        merge_cfg_options(cfg, args.cfg_options)
    check_toolbox(cfg)
    check_data(cfg, ('train', ))
    check_checkpoint((cfg.get('model') or {}).get('teacher_checkpoint'), 'model.teacher_checkpoint')
    manifest = cache_logits(cfg, args.out, args.batch_size, args.workers, args.dtype,
                            pick_device(args.device), args.force)
    (name, digest), = manifest['teacher']['files'][:1] or [('the config alone', None)]
    images, classes = manifest['shape']
    print(f'{args.out}: {images} images, {classes} classes, {manifest["dtype"]}; teacher {name}'
          f'{f" (SHA-256 {digest[:8]})" if digest else ""}, data set '
          f'{manifest["dataset"]["type"]}')


if __name__ == '__main__':
    sys.exit(run_cli(main))
