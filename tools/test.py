"""Evaluate a model of mmpretrain, mmdet or mmseg.

Usage: ``python tools/test.py config.py checkpoint.pth [--out PATH]``
"""
import sys
from pathlib import Path

# The clone's own package, before any that is installed.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import scalenet_mm  # noqa: E402, F401  registers itself, so that stock configs can name its hooks
from scalenet_mm.engine import run_cli, test  # noqa: E402

if __name__ == '__main__':
    sys.exit(run_cli(test))
