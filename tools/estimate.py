"""Hours and memory of a config's training before it is launched.

Usage: ``python tools/estimate.py CONFIG [--gpus 8] [--iters 10] [--batch-size N] [--data]``
"""
import sys
from pathlib import Path

# The clone's own package, before any that is installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import scalenet_mm  # noqa: E402, F401  registers itself, so that stock configs can name its hooks
from scalenet_mm.engine import run_cli  # noqa: E402
from scalenet_mm.engine.estimate import run_estimate  # noqa: E402

if __name__ == '__main__':
    sys.exit(run_cli(run_estimate))
