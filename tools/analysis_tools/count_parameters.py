"""Print what each config builds: ``python tools/analysis_tools/count_parameters.py CONFIG ...``.

Nothing is loaded or downloaded; the freezing rules of the config's AdapterInjectionHook are
applied.
"""
import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

import torch  # noqa: E402
from mmengine.registry import MODELS, init_default_scope  # noqa: E402

from scalenet_mm import ScaleNetError  # noqa: E402
from scalenet_mm.analysis import count_parameters, parameter_table  # noqa: E402
from scalenet_mm.engine import load_config  # noqa: E402
from scalenet_mm.growth import apply_freezing  # noqa: E402


def build(path):
    """nn.Module: The config's model without data, frozen by its rules."""
    cfg = load_config(path)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    with torch.device('meta'):
        model = MODELS.build(cfg.model)
    for hook in cfg.get('custom_hooks') or []:
        if hook.get('type') == 'AdapterInjectionHook' and hook.get('freeze', 'paper') is not None:
            apply_freezing(model, hook.get('freeze', 'paper'))
    return model


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument('configs', nargs='+', metavar='CONFIG')
    parser.add_argument('--full', action='store_true', help='one table for each config')
    args = parser.parse_args()
    if not args.full:
        print(f'{"parameters":<44}{"total":>13}{"added":>13}{"trainable":>13}')
    try:
        for path in args.configs:
            model = build(path)
            if args.full:
                print(path, parameter_table(model), '', sep='\n')
                continue
            count = count_parameters(model)
            print(f'{Path(path).stem:<44}{count.total:>13,}{count.added:>13,}'
                  f'{count.trainable:>13,}')
    except ScaleNetError as error:
        sys.exit(f'error: {error}')


if __name__ == '__main__':
    main()
