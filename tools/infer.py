"""Run a classifier, detector or segmentor on images.

What is found is printed, a line for each image. --out-dir draws it, --out saves all of it.
"""
import argparse
import json
import os
import os.path as osp
import sys
import warnings
from pathlib import Path

# The clone's own package, before any that is installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scalenet_mm import ConfigError, DataError, init_model  # noqa: E402
from scalenet_mm.apis import iter_infer  # noqa: E402
from scalenet_mm.apis.images import find_images  # noqa: E402
from scalenet_mm.apis.inference import check_options  # noqa: E402
from scalenet_mm.checkpoints.files import write_whole  # noqa: E402
from scalenet_mm.engine import run_cli  # noqa: E402
from scalenet_mm.engine.arguments import CfgOptionsAction  # noqa: E402


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        prog='tools/infer.py', description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='example:\n  python tools/infer.py work_dirs/digits/upernet.py \\\n'
        '      work_dirs/digits/iter_1000.pth street.jpg photos/ --out-dir pictures')
    parser.add_argument(
        'config', help='the config file, or a name in a package, like mmdet::retinanet/NAME.py')
    parser.add_argument(
        'checkpoint',
        help="weights of any format that the config's model can start from, whole or a delta: a "
        'file or a URL')
    parser.add_argument(
        'images', nargs='+', metavar='IMAGE', help='image files, URLs, and folders of images')
    parser.add_argument(
        '--out-dir', metavar='DIR',
        help='draw what is found, and save the pictures here; label maps go to DIR/label_maps. '
        'Default: nothing is drawn')
    parser.add_argument(
        '--out', metavar='FILE.json',
        help='save what is found: classes and scores, boxes and masks, or shares of the image. '
        'Default: it is only printed')
    parser.add_argument(
        '--device', metavar='NAME',
        help='such as cpu or cuda:0. Default: a GPU if there is one that mmcv can use, too')
    parser.add_argument(
        '--base', metavar='PATH',
        help='the base of a delta: a file, its folder or its URL. Default: where it was when the '
        'delta was made, beside the delta, $SCALENET_BASE, or the downloads')
    parser.add_argument(
        '--batch-size', type=int, default=1, metavar='N',
        help='images at once, where they have the same size. Default: %(default)s')
    parser.add_argument(
        '--score-thr', type=float, default=0.3, metavar='S',
        help='of a detector: what has a lower score is left out. Default: %(default)s')
    parser.add_argument(
        '--topk', type=int, default=5, metavar='K',
        help='of a classifier: how many classes are told. Default: %(default)s')
    parser.add_argument(
        '--skip-unreadable', action='store_true',
        help='pass over images that cannot be read, with a warning. Default: stop at the first')
    parser.add_argument(
        '--cfg-options', nargs='+', action=CfgOptionsAction, metavar='KEY=VALUE',
        help='settings that replace those of CONFIG, as for tools/train.py')
    return parser.parse_args(argv)


def main(argv=None):
    args = parse_args(argv)
    if args.out is not None:
        check_out(args.out)
    check_options(args.batch_size, args.score_thr, args.topk)
    images = find_images(args.images)  # before the model is loaded
    warnings.filterwarnings('ignore', module=r'mm(engine|cv|det|seg|pretrain)\b')
    model = init_model(args.config, args.checkpoint, args.device, args.base, args.cfg_options)
    device = next(model.parameters()).device
    print(f'{type(model).__name__} on {device}, {len(images)} image{"s"[:len(images) > 1]}',
          flush=True)
    results, number = [], 0  # which stays where nothing can be read
    found = iter_infer(
        model, args.images, args.batch_size, args.out_dir, args.score_thr, args.topk,
        args.skip_unreadable)
    try:
        for number, prediction in enumerate(found, 1):
            if args.out is not None:
                results.append(prediction.to_dict())
            print(f'[{number}/{len(images)}] {prediction}', flush=True)
    except BaseException:  # Ctrl-C, too: what took an hour is not thrown away
        if results:
            save(args, model, results, len(images))
        raise
    if images and not number:
        raise DataError(f'none of {len(images)} images could be read; the warnings say why')
    if args.out is not None:
        save(args, model, results, len(images))
    if args.out_dir is not None:
        print(f'pictures: {args.out_dir}')


def save(args, model, results, number):
    """Write what was found so far."""
    classes = (model.dataset_meta or {}).get('classes')
    told = dict(
        config=args.config, checkpoint=args.checkpoint, cfg_options=args.cfg_options or {},
        images=number, classes=list(classes) if classes is not None else None,
        predictions=results)
    text = json.dumps(told, indent=1)
    write_whole(args.out, lambda file: file.write(text.encode()))
    part = f' ({len(results)} of {number} images)' if len(results) < number else ''
    print(f'results: {args.out}{part}')


def check_out(path):
    """Refuse a place that results could not be saved to, before they are made."""
    if not path.endswith('.json'):
        raise ConfigError(f'--out {path}: results are saved as JSON, so the name must end in .json')
    folder = osp.dirname(osp.abspath(osp.expanduser(path)))
    while not osp.exists(folder):
        folder = osp.dirname(folder)
    if osp.isdir(path) or not osp.isdir(folder) or not os.access(folder, os.W_OK):
        raise ConfigError(f'--out {path}: no file can be written there')


if __name__ == '__main__':
    sys.exit(run_cli(main))
