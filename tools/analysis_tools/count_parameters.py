"""Print what each config builds: ``python tools/analysis_tools/count_parameters.py CONFIG ...``.

Nothing is loaded or downloaded; the freezing rules of the config's AdapterInjectionHook are
applied.
"""
import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from scalenet_mm.analysis import (  # noqa: E402
    build_on_meta,
    count_parameters,
    parameter_table,
)
from scalenet_mm.engine import load_config, run_cli  # noqa: E402


def main():
    parser = argparse.ArgumentParser(
        prog='tools/analysis_tools/count_parameters.py', description=__doc__.replace('``', ''),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='example:\n  python tools/analysis_tools/count_parameters.py '
        'configs/maskrcnn_scalenet_swin-t_1x_coco.py --full')
    parser.add_argument('configs', nargs='+', metavar='CONFIG', help='config files')
    parser.add_argument('--full', action='store_true', help='one table for each config')
    args = parser.parse_args()
    width = max(len(Path(path).stem) for path in args.configs) + 2
    if not args.full:
        print(f'{"parameters":<{width}}{"total":>13}{"added":>13}{"trainable":>13}')
    for path in args.configs:
        model = build_on_meta(load_config(path))
        if args.full:
            print(path, parameter_table(model), '', sep='\n')
            continue
        count = count_parameters(model)
        print(f'{Path(path).stem:<{width}}{count.total:>13,}{count.added:>13,}'
              f'{count.trainable:>13,}')


if __name__ == '__main__':
    sys.exit(run_cli(main))
