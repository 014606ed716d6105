#!/usr/bin/env python
"""Print the versions found, what is missing or does not work together, and the fix.

Works in an environment where scalenet_mm, torch or the toolboxes are missing or broken. The exit
code is 1 if there is an error, 0 if there are warnings at most.

Example:
    python tools/check_env.py
    python tools/check_env.py --json
"""
import argparse
import importlib.util
import os
import sys
from pathlib import Path


def load_env():
    """Load `scalenet_mm/utils/env.py` by its path: importing the package needs torch."""
    root = Path(__file__).resolve().parents[1]  # the clone, or .mim in an installed package
    package = root.parent if root.name == '.mim' else root / 'scalenet_mm'
    path = package / 'utils' / 'env.py'
    spec = importlib.util.spec_from_file_location('scalenet_mm_env', path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up there
    spec.loader.exec_module(module)
    return module


def main():
    parser = argparse.ArgumentParser(
        prog='tools/check_env.py',
        description='Print the versions found, what is missing or does not work together, and the '
        'fix.\nThe exit status is 1 if there is an error.',
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='example:\n  python tools/check_env.py --no-imports')
    parser.add_argument('--json', action='store_true', help='print json instead of a table')
    parser.add_argument('--no-imports', action='store_true',
                        help='look at the versions only; takes a moment instead of some seconds')
    args = parser.parse_args()
    if sys.version_info < (3, 8):
        sys.exit('scalenet_mm needs Python 3.10 or newer; this is ' + sys.version.split()[0])
    env = load_env()
    found = env.collect(imports=not args.no_imports)
    findings = env.diagnose(found)
    print(env.as_json(found, findings) if args.json else env.report(found, findings))
    return env.exit_code(findings)


if __name__ == '__main__':
    try:
        status = main()
        if sys.stdout is not None:  # as after >&-
            sys.stdout.flush()
    except BrokenPipeError:  # ... | head
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        status = 141
    sys.exit(status)
