"""Print the papers' tables beside what the configs build.

``python tools/analysis_tools/paper_tables.py --table I VI --format markdown``, and of stage-wise
weight sharing ``--paper sws --table 2``. Nothing is trained, loaded or downloaded: parameters and
FLOPs are counted, scores and hours are the paper's.
"""
import argparse
import copy
import sys
from importlib.util import find_spec
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from mmengine.hub import get_config  # noqa: E402
from mmengine.logging import MMLogger  # noqa: E402

from scalenet_mm import ConfigError  # noqa: E402
from scalenet_mm.analysis import (  # noqa: E402
    SCALENET,
    SWS,
    Measured,
    build_on_meta,
    count_flops,
    count_parameters,
    render,
)
from scalenet_mm.engine import load_config, run_cli  # noqa: E402
from scalenet_mm.utils.model_cfg import student_cfg  # noqa: E402

PAPERS = {paper.name: paper for paper in (SCALENET, SWS)}


def choose_tables(asked, tables=SCALENET.tables):
    """tuple[list, list]: The tables to print, and those left out as their toolbox is missing.

    Raises:
        ConfigError: If a table that was asked for is not the paper's, or needs a toolbox that is
            not installed.
    """
    for name in asked or ():
        if name not in tables:
            other = [paper.name for paper in PAPERS.values() if name in paper.tables]
            hint = f'; --paper {other[0]} has it' if other else ''
            raise ConfigError(f'--table {name}: the tables are {", ".join(tables)}{hint}')
    lacking = {name: toolbox for name in tables
               for toolbox in ['mmdet' if name == 'VIII' else 'mmpretrain']
               if find_spec(toolbox) is None}
    if asked is None:
        return [name for name in tables if name not in lacking], list(lacking)
    for name in asked:
        if name in lacking:
            raise ConfigError(f'--table {name} needs {lacking[name]}, which is not installed: '
                              f'pip install {lacking[name]}')
    return asked, []


def check_configs(names, folder):
    """Raise if configs are missing, before any is built."""
    missing = [name for name in names if '::' not in name and not (folder / name).is_file()]
    if missing:
        raise ConfigError(f'{len(missing)} configs of the tables are not in {folder}:\n  '
                          + '\n  '.join(missing)
                          + '\n--configs names the folder, --table other tables')


def measure(name, folder):
    """Measured: What a config builds."""
    cfg = get_config(name) if '::' in name else load_config(str(folder / name))
    model = build_on_meta(cfg)
    count = count_parameters(model)
    flops = plain = None
    if cfg.get('default_scope') == 'mmpretrain':
        flops = plain = count_flops(model)
        backbone = student_cfg(cfg.model).backbone
        if backbone.get('adjustment', 'paper') is not None and backbone.type != 'TLEGViT':
            cfg = copy.deepcopy(cfg)
            # every one of our backbones takes it
            student_cfg(cfg.model).backbone.adjustment = None
            cfg.custom_hooks = []
            plain = count_flops(build_on_meta(cfg))
    return Measured(count.total, count.trainable, flops, plain)


def main():
    parser = argparse.ArgumentParser(
        prog='tools/analysis_tools/paper_tables.py', description=__doc__.replace('``', ''),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='example:\n  python tools/analysis_tools/paper_tables.py --table VI')
    parser.add_argument('--paper', choices=tuple(PAPERS), default='scalenet',
                        help='; '.join(f'{p.name}: {p.title}' for p in PAPERS.values())
                        + '. Default: scalenet')
    parser.add_argument('--table', nargs='+', type=str.upper, metavar='NUMBER',
                        help='; '.join(f'{p.name}: some of {", ".join(p.tables)}'
                                       for p in PAPERS.values()) + '. Default: all')
    parser.add_argument('--format', choices=('text', 'markdown', 'csv'), default='text',
                        help='of the table. Default: text')
    parser.add_argument('--configs', type=Path, default=ROOT / 'configs', metavar='FOLDER',
                        help='where the configs are. Default: those of this project, %(default)s')
    args = parser.parse_args()
    paper = PAPERS[args.paper]
    tables, left_out = choose_tables(args.table, paper.tables)
    if left_out:
        print(f'left out, as their toolbox is not installed: {", ".join(left_out)}',
              file=sys.stderr)
    rows = [row for row in paper.rows if row.table in tables]
    names = list(dict.fromkeys(name for row in rows for name in row.configs))
    # models say a line each when they are built
    MMLogger.get_instance('paper_tables', log_level='WARNING')
    check_configs(names, args.configs)
    measured = {}
    on_terminal = sys.stderr is not None and sys.stderr.isatty()
    for i, name in enumerate(names):
        if on_terminal:
            print(f'\r{i + 1}/{len(names)} configs', end='', file=sys.stderr)
        measured[name] = measure(name, args.configs)
    if on_terminal:
        print('\r' + ' ' * 20 + '\r', end='', file=sys.stderr)
    print(render(rows, measured, args.format, paper))


if __name__ == '__main__':
    sys.exit(run_cli(main))
