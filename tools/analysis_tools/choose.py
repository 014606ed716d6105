"""Which model? Published accuracy against parameters, FLOPs and latency of the alternatives.

``python tools/analysis_tools/choose.py --batch-size 32`` times the models of each group in turns,
in one run. Top-1 is the paper's; latency is this machine's, and only its ratio to the first model
of the group says much about another machine. Nothing is loaded or downloaded.
"""
import argparse
import sys
from pathlib import Path
from statistics import median

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

import torch  # noqa: E402
from mmengine.logging import MMLogger  # noqa: E402
from mmengine.registry import MODELS, init_default_scope  # noqa: E402

from scalenet_mm import ConfigError  # noqa: E402
from scalenet_mm.analysis import (  # noqa: E402
    PAPER_ROWS,
    count_flops,
    count_parameters,
    describe_device,
    measure_latency,
    median_ratio,
)
from scalenet_mm.engine import load_config, run_cli  # noqa: E402

#: Each group: a plain model, it grown, and the next larger plain one.
GROUPS = {
    'deit-t': (('DeiT-Tiny', 'ungrown'), ('DeiT-Tiny', 'ScaleNet'), ('DeiT-Small', 'ungrown')),
    'deit-s': (('DeiT-Small', 'ungrown'), ('DeiT-Small', 'ScaleNet'), ('DeiT-Base', 'ungrown')),
    'swin-t': (('Swin-Tiny', 'ungrown'), ('Swin-Tiny', 'ScaleNet'), ('Swin-Small', 'ungrown')),
    'swin-s': (('Swin-Small', 'ungrown'), ('Swin-Small', 'ScaleNet'), ('Swin-Base', 'ungrown')),
}


def rows_of(group):
    """list[PaperRow]: The models of a group, as Table I has them."""
    table = {(row.model, row.label): row for row in PAPER_ROWS if row.table == 'I'}
    return [table[key] for key in GROUPS[group]]


def build(path, device):
    """nn.Module: The config's classifier with random weights, in eval mode."""
    cfg = load_config(str(path))
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    return MODELS.build(cfg.model).to(device).eval()


@torch.inference_mode()
def compare(rows, folder, device, batch_size, rounds):
    """list[list[str]]: A line for each model."""
    image = torch.randn(batch_size, 3, 224, 224, device=device)
    models = {row.config: build(folder / row.config, device) for row in rows}
    calls = {name: lambda model=model: model(image, mode='tensor')
             for name, model in models.items()}
    times = measure_latency(calls, rounds)
    lines = []
    for row in rows:
        model, seconds = models[row.config], times[row.config]
        ratio = median_ratio(seconds, times[rows[0].config])
        name = row.model if row.label == 'ungrown' else f'{row.model}, grown'
        lines.append([name, row.score, f'{count_parameters(model).total / 1e6:.2f}',
                      f'{count_flops(model) / 1e9:.2f}', f'{ratio:.2f}',
                      f'{median(seconds) / batch_size * 1e3:.2f}'])
    return lines


def main():
    parser = argparse.ArgumentParser(
        prog='tools/analysis_tools/choose.py', description=__doc__.replace('``', ''),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='example:\n  python tools/analysis_tools/choose.py --group swin-t --batch-size 8')
    parser.add_argument('--group', nargs='+', choices=list(GROUPS), default=list(GROUPS),
                        metavar='GROUP',
                        help=f'the model that may grow. Default: all, {" ".join(GROUPS)}')
    parser.add_argument('--batch-size', type=int, metavar='N',
                        help='images at once. Default: 64 on a GPU, 1 on the CPU')
    parser.add_argument('--rounds', type=int, default=10, metavar='N',
                        help='how often each model is timed. Default: 10')
    parser.add_argument('--device', choices=('cuda', 'cpu'),
                        default='cuda' if torch.cuda.is_available() else 'cpu',
                        help='where. Default: a GPU if there is one; here %(default)s')
    parser.add_argument('--configs', type=Path, default=ROOT / 'configs', metavar='FOLDER',
                        help='where the configs are. Default: those of this project, %(default)s')
    args = parser.parse_args()
    batch_size = args.batch_size or (64 if args.device == 'cuda' else 1)
    MMLogger.get_instance('choose', log_level='WARNING')
    if args.device == 'cuda' and not torch.cuda.is_available():
        raise ConfigError('--device cuda: there is no GPU here')
    if batch_size < 1 or args.rounds < 1:
        raise ConfigError('--batch-size and --rounds must be at least 1')
    for row in (row for group in args.group for row in rows_of(group)):
        if not (args.configs / row.config).is_file():
            raise ConfigError(f'no such config: {args.configs / row.config}')
    print(f'{describe_device(args.device)}; batches of {batch_size}, median of {args.rounds} '
          'rounds in turns; top-1 as published')
    for group in args.group:
        header = ['', 'top-1', 'M params', 'GFLOPs', 'latency', 'ms/image']
        print()
        for line in (header, *compare(rows_of(group), args.configs, args.device, batch_size,
                                      args.rounds)):
            print(f'{line[0]:<20}' + ''.join(f'{cell:>10}' for cell in line[1:]), flush=True)


if __name__ == '__main__':
    sys.exit(run_cli(main))
