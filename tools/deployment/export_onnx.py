"""Write a classifier, or the backbone of any model, to an ONNX file.

The input is 'image', normalised as the file's metadata says ('preprocessing'); the output 'logits'
or, of a backbone, 'feat0', 'feat1', ... in the order of its out_indices. Weights that several
blocks share stand in the file once. Where onnxruntime is installed, the outputs are compared with
the model's before the file is written.
"""
import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import scalenet_mm  # noqa: E402, F401  registers itself
from scalenet_mm import ConfigError  # noqa: E402
from scalenet_mm.analysis.inputs import RANDOM, ModelSource, load_model  # noqa: E402
from scalenet_mm.deploy import DYNAMIC, PARTS, export_onnx  # noqa: E402
from scalenet_mm.engine import load_config, run_cli  # noqa: E402
from scalenet_mm.engine.arguments import CfgOptionsAction  # noqa: E402
from scalenet_mm.engine.options import merge_cfg_options  # noqa: E402


def parse_args(argv=None):
    parser = argparse.ArgumentParser(
        prog='tools/deployment/export_onnx.py', description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='example:\n  python tools/deployment/export_onnx.py \\\n'
        '      configs/scalenet_deit-t_100e_imagenet.py epoch_100.pth deit.onnx --size dynamic')
    parser.add_argument('config', help='the config file')
    parser.add_argument(
        'checkpoint',
        help="weights of any format that the config's model can start from, a file or a URL; or "
        f'the word {RANDOM!r} for random weights')
    parser.add_argument('out', help='the ONNX file')
    parser.add_argument(
        '--part', choices=PARTS,
        help='what is exported. Default: the classifier if the model is one, else the backbone')
    parser.add_argument(
        '--size', nargs='+', metavar='N',
        help='height and width of the images, or one number for both; or the word dynamic, which '
        'plain vision transformers allow, for multiples of their patches. Default: the size that '
        'the backbone was made for')
    parser.add_argument(
        '--batch', default=DYNAMIC, metavar='N',
        help='images at once. Default: %(default)s, any number')
    parser.add_argument(
        '--opset', type=int, metavar='N', help="version of ONNX's operators. Default: torch's")
    check = parser.add_mutually_exclusive_group()
    check.add_argument(
        '--check', action='store_true', default=None,
        help='compare with the model by onnxruntime, or fail. Default: where it is installed')
    check.add_argument(
        '--no-check', dest='check', action='store_false', help='do not compare')
    parser.add_argument(
        '--cfg-options', nargs='+', action=CfgOptionsAction, metavar='KEY=VALUE',
        help='settings that replace those of CONFIG, as for tools/train.py')
    args = parser.parse_args(argv)
    args.batch = _number(args.batch, '--batch')
    if args.size is not None:
        if len(args.size) > 2 or (len(args.size) == 2 and DYNAMIC in args.size):
            raise ConfigError(f'--size must be one number, two or {DYNAMIC!r}, got '
                              f'{" ".join(args.size)}')
        numbers = [_number(word, '--size') for word in args.size]
        args.size = numbers[0] if len(numbers) == 1 else numbers
    return args


def _number(word, option):
    if word == DYNAMIC:
        return word
    if not word.isdecimal():
        raise ConfigError(f'{option} must be a number or {DYNAMIC!r}, got {word!r}')
    return int(word)


def main(argv=None):
    args = parse_args(argv)
    cfg = load_config(args.config)
    if args.cfg_options:
        merge_cfg_options(cfg, args.cfg_options)
    source = ModelSource(Path(args.config).stem, cfg, args.config, args.checkpoint)
    source.check()
    is_classifier = cfg.get('default_scope') == 'mmpretrain' and args.part != 'backbone'
    model = load_model(source, needs_head=is_classifier)
    print(export_onnx(model, args.out, args.part, args.size, args.batch, args.opset, args.check))


if __name__ == '__main__':
    sys.exit(run_cli(main))
