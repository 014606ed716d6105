"""Speed and memory of grown models beside their peers: in one run, in turn, medians of ratios.

    python benchmarks/speed.py [--only step bytes] [--rounds 10] [--threads 2] [--write-docs]

`make bench` installs peft for it and runs it all. Sections: step, forward, bytes, maskrcnn,
building, cost, profile; `compile` (torch.compile, some minutes of compiling) and, on a GPU,
`batches` run when they are named:

    python benchmarks/speed.py --only compile
    python benchmarks/speed.py --device cuda --only step forward bytes cost batches

On a GPU everything runs under autocast in bfloat16. The results go to the folder of --out: a json
with all times, in which a section stays as it is until it runs again, and a picture of the growth
of cost; --write-docs puts all that is there into docs/performance.md.
"""
import argparse
import contextlib
import json
import os
import platform
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]

SECTIONS = ('step', 'forward', 'bytes', 'maskrcnn', 'building', 'cost', 'profile')
#: Only when they are named.
FURTHER = ('compile', 'batches')
PACKAGES = ('torch', 'mmengine', 'mmcv', 'mmpretrain', 'mmdet', 'timm', 'peft')


def parse_args(argv=None):
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--only', nargs='+', choices=SECTIONS + FURTHER, metavar='SECTION', default=SECTIONS,
        help=f'which of {", ".join(SECTIONS + FURTHER)} (default: all but the last two)')
    parser.add_argument('--rounds', type=int, default=8, help='rounds of a step (%(default)s)')
    parser.add_argument('--threads', type=int, help="threads (default: torch's)")
    parser.add_argument('--device', choices=('cpu', 'cuda'), default='cpu')
    parser.add_argument('--quick', action='store_true', help='tiny models: to try the code')
    parser.add_argument(
        '--out', help='results (work_dirs/speed; speed_cuda on a GPU, speed_quick with --quick)')
    parser.add_argument(
        '--write-docs', action='store_true', help='write docs/performance.md and its picture')
    args = parser.parse_args(argv)
    if args.rounds < 1:
        parser.error('--rounds must be at least 1')
    if args.out is None:
        args.out = 'work_dirs/speed' + '_cuda' * (args.device == 'cuda') + '_quick' * args.quick
    if args.write_docs:
        if args.quick or args.device == 'cuda':
            parser.error('--write-docs is for models of full size on CPU')
        missing = [name for name in SECTIONS
                   if name not in args.only and name not in last_results(args.out)['sections']]
        if missing:
            parser.error(f'--write-docs also needs {", ".join(missing)}, of which {args.out} has '
                         'no results: run them with it, or before')
    return args


def last_results(folder) -> dict:
    """dict: The sections that a folder holds, each as it was run last."""
    path = Path(folder) / 'speed.json'
    return json.loads(path.read_text()) if path.is_file() else dict(sections={})


def environment(args) -> dict:
    """dict: What the figures depend on."""
    from importlib import metadata

    import torch
    versions = {'python': platform.python_version()}
    for name in PACKAGES:
        try:
            versions[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            versions[name] = _extra_version(name)
    return dict(
        date=time.strftime('%Y-%m-%d'), versions=versions, processor=processor(),
        cores=len(os.sched_getaffinity(0)), threads=torch.get_num_threads(),
        vectors=torch.backends.cpu.get_cpu_capability(), device=args.device,
        gpu=torch.cuda.get_device_name() if args.device == 'cuda' else None,
        dtype='bfloat16 (autocast)' if args.device == 'cuda' else 'float32', commit=commit(),
        rounds=args.rounds, quick=args.quick)


def _extra_version(name):
    """str | None: The version of a package in the folder of `make bench`."""
    from importlib import metadata

    from _speed_models import EXTRA
    found = next(iter(metadata.distributions(name=name, path=[str(EXTRA)])), None)
    return found and found.version


def processor() -> str:
    """str: The processor's name."""
    try:
        lines = Path('/proc/cpuinfo').read_text().splitlines()
        return next(line.split(':')[1].strip() for line in lines if line.startswith('model name'))
    except (OSError, StopIteration):
        return platform.processor() or platform.machine()


def commit():
    """str | None: The commit, with a + if files were changed since; None outside of a clone."""
    def git(*words):
        return subprocess.run(['git', *words], cwd=ROOT, capture_output=True, text=True,
                              check=True).stdout.strip()
    try:
        return git('rev-parse', '--short=10', 'HEAD') + '+' * bool(
            git('status', '--porcelain', '--untracked-files=no'))
    except (OSError, subprocess.CalledProcessError):
        return None


def run(args) -> dict:
    """dict: What the folder of ``--out`` holds now: this run's sections, and others' last runs."""
    os.environ.setdefault('KINETO_LOG_LEVEL', '5')  # the profiler complains of a missing GPU
    import _speed_gpu
    import _speed_report
    import _speed_sections as sections
    import torch
    if args.threads:
        torch.set_num_threads(args.threads)
    if args.device == 'cuda' and not torch.cuda.is_available():
        sys.exit('error: --device cuda: torch sees no GPU')
    bench = sections.Bench(
        args.rounds, 1 if args.quick else 4, quick=args.quick, device=args.device,
        amp=args.device == 'cuda', say=say)
    functions = dict(
        step=sections.step, forward=sections.forward, bytes=sections.count_bytes,
        maskrcnn=sections.maskrcnn, building=sections.building, cost=sections.cost,
        profile=sections.profile, compile=sections.compiled, batches=_speed_gpu.batches)
    here, new = environment(args), dict(sections={})
    out = Path(args.out)
    out.mkdir(parents=True, exist_ok=True)
    say(_speed_report.environment_line(here))
    for name in args.only:
        start = time.perf_counter()
        say(f'{name} ...')
        bench.left_out = []
        with quiet():
            measured = functions[name](bench)
        new['sections'][name] = dict(measured, environment=here, left_out=bench.left_out)
        # by way of json, whose keys are words; written now, lest a later section's error lose it
        results = json.loads(json.dumps(_speed_report.merge(last_results(out), new)))
        (out / 'speed.json').write_text(json.dumps(results, indent=1))
        say(f'  {time.perf_counter() - start:.0f} s')
    say('\n' + _speed_report.as_text(new))
    if 'cost' in new['sections']:
        _speed_report.draw(new['sections']['cost'], out / 'speed.png')
    if args.write_docs:
        _speed_report.write_docs(results, ROOT / 'docs')
    say(f'results: {out / "speed.json"}')
    return results


@contextlib.contextmanager
def quiet():
    """Keep mmengine from logging how every model begins."""
    from mmengine.logging import MMLogger
    logger = MMLogger.get_current_instance()
    level = logger.level
    logger.setLevel('ERROR')
    try:
        yield
    finally:
        logger.setLevel(level)


def say(text=''):
    """Print at once."""
    print(text, flush=True)


def main(argv=None):
    """Run the command line."""
    return run(parse_args(argv))


if __name__ == '__main__':
    main()
