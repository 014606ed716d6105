"""Float32 matrix products by torch's own choice and by oneDNN, in turn, in GFLOP/s.

    python benchmarks/products.py [--threads 1] [--rounds 15]

The shapes are those of a training step at batch 4 and 224 px: linear layers of DeiT and Swin
forward, their input's and their weight's gradient, and the narrow products of adapters of rank 16.
It tells what `scalenet_mm.growth.products` gains on a processor, and whether its rule (oneDNN on
AVX-512 that is not Intel's) is right there.
"""
import argparse
import sys
from pathlib import Path
from statistics import median

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from scalenet_mm.analysis.latency import measure_latency, median_ratio  # noqa: E402
from scalenet_mm.growth import products  # noqa: E402

#: (what, rows, inputs, outputs)
SHAPES = (
    ('DeiT-Small fc1', 788, 384, 1536),
    ('DeiT-Small fc2', 788, 1536, 384),
    ('DeiT-Base fc1', 788, 768, 3072),
    ('Swin-Tiny stage 1 fc1', 12544, 96, 384),
    ('Swin-Tiny stage 4 fc1', 196, 768, 3072),
    ('DeiT-Small fc2, adapter down', 788, 1536, 16),
    ('DeiT-Small fc1, adapter up', 788, 16, 1536),
    ('Swin-Tiny stage 1 fc2, adapter down', 12544, 384, 16),
)


def make_calls(rows: int, inputs: int, outputs: int) -> dict:
    """The three products of a linear layer's training step, by each library.

    Args:
        rows (int): Number of tokens.
        inputs (int): Width of the input.
        outputs (int): Width of the result.

    Returns:
        dict[tuple[str, str], Callable]: By product and library.
    """
    x, weight, grad = (torch.randn(*shape) for shape in (
        (rows, inputs), (outputs, inputs), (rows, outputs)))
    forms = {
        'forward': lambda: products.linear(x, weight),
        "input's gradient": lambda: products.linear(grad, weight.t()),
        "weight's gradient": lambda: products.outer(grad, x),
    }

    def by(library, form):

        def call():
            with torch.no_grad(), products.products(library):
                form()

        return call

    return {(name, library): by(library, form) for name, form in forms.items()
            for library in ('native', 'onednn')}


def measure(shapes, rounds: int):
    """Yield a row ``(shape, product, native GFLOP/s, oneDNN GFLOP/s, time ratio)`` for each."""
    for shape in shapes:
        _, rows, inputs, outputs = shape
        times = measure_latency(make_calls(rows, inputs, outputs), rounds, warmup=3)
        for name in dict.fromkeys(product for product, _ in times):
            native, onednn = times[name, 'native'], times[name, 'onednn']
            rates = (2e-9 * rows * inputs * outputs / median(t) for t in (native, onednn))
            yield shape, name, *rates, median_ratio(onednn, native)


def main(args=None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--threads', type=int, help="threads (default: torch's)")
    parser.add_argument('--rounds', type=int, default=15, help='rounds (%(default)s)')
    args = parser.parse_args(args)
    if args.threads:
        torch.set_num_threads(args.threads)
    if not products.has_onednn():
        sys.exit('this torch has no oneDNN')
    print(f'{torch.backends.cpu.get_cpu_capability()}, {torch.get_num_threads()} threads; '
          f"the rule takes {'oneDNN' if products.onednn_is_faster() else 'torch as it is'} here")
    print(f'{"":38}{"":19}{"torch":>8}{"oneDNN":>8}{"time, oneDNN / torch":>22}')
    for (what, *_), name, native, onednn, ratio in measure(SHAPES, args.rounds):
        print(f'{what:38}{name:19}{native:8.0f}{onednn:8.0f}{ratio:22.2f}')


if __name__ == '__main__':
    main()
