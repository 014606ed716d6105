"""SWS in small: descendants of many depths from one learngene, on handwritten digits.

    python benchmarks/learngene_digits.py [--seeds 0 1 2] [--jobs 2] [--write-docs]
    python benchmarks/learngene_digits.py --arms simple sws --set alpha=0 --out work_dirs/try

`make learngene` runs it all: it makes the data, trains a teacher and by its help an auxiliary net
whose blocks are shared by stages, takes the learngene out, initialises descendants from it and
measures them straight after initialisation and after an epoch of fine-tuning; the same with what
SWS is compared to, all with equal epochs and rates. Images are in memory, and one loop over
mmengine's train_step trains every net. A run that was done with the same settings is kept in the
folder of --out and not repeated. There are also results.json and learngene.png; --write-docs puts
tables and picture into docs/learngene.md.
"""
import argparse
import json
import multiprocessing
import os
import sys
import time
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT), str(Path(__file__).resolve().parent)]

import _learngene_report as report  # noqa: E402
import _learngene_runs as runs  # noqa: E402
from _study import run_command, say  # noqa: E402


def parse_args(argv=None):
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--seeds', type=int, nargs='+', default=[0, 1, 2], help='random seeds (%(default)s)')
    parser.add_argument(
        '--jobs', type=int, default=len(os.sched_getaffinity(0)),
        help='runs at a time, a thread each (%(default)s)')
    parser.add_argument(
        '--arms', nargs='+', choices=runs.ARMS, metavar='ARM', default=list(runs.ARMS),
        help=f'which of {", ".join(runs.ARMS)} (all)')
    parser.add_argument(
        '--set', nargs='+', default=[], metavar='KEY=VALUE', dest='changes',
        help='other settings, such as alpha=0 epochs=40 depths=[6,12]; give another --out, too')
    parser.add_argument('--quick', action='store_true', help='tiny nets: to try the code')
    parser.add_argument('--data-root', help='images (data/learngene_digits)')
    parser.add_argument('--out', help='results (work_dirs/learngene)')
    parser.add_argument(
        '--write-docs', action='store_true', help='write docs/learngene.md and its picture')
    args = parser.parse_args(argv)
    args.settings = dict(runs.QUICK if args.quick else runs.SETTINGS)
    for change in args.changes:
        key, _, value = change.partition('=')
        if key not in args.settings:
            parser.error(f'--set {change}: there are only {", ".join(args.settings)}')
        try:
            args.settings[key] = json.loads(value)
        except ValueError:
            parser.error(f'--set {change}: the value must be a number, numbers in [ ], true or '
                         'false')
    if args.write_docs and (args.quick or args.changes or len(set(args.arms)) < len(runs.ARMS)):
        parser.error('--write-docs is for the whole study, without --quick, --set and --arms')
    if args.jobs < 1:
        parser.error('--jobs must be at least 1')
    args.seeds, args.arms = (list(dict.fromkeys(given)) for given in (args.seeds, args.arms))
    args.data_root = args.data_root or 'data/learngene_digits' + '_quick' * args.quick
    args.out = args.out or 'work_dirs/learngene' + '_quick' * args.quick
    return args


def environment(jobs) -> dict:
    """dict: What the figures depend on."""
    import platform
    from importlib import metadata

    from speed import commit, processor
    return dict(
        date=time.strftime('%Y-%m-%d'), processor=processor(),
        cores=len(os.sched_getaffinity(0)), jobs=jobs, commit=commit(),
        versions={'python': platform.python_version(),
                  **{name: metadata.version(name) for name in runs.PACKAGES}})


def run_all(tasks, out, data, settings, jobs):
    """Do all runs that are not kept, each as soon as those that it needs are done.

    Args:
        tasks (list[dict]): See ``tasks`` of the runs.
        out (Path): Results.
        data (Path): Images.
        settings (dict): Of the study.
        jobs (int): Processes; with 1 there is only this one.

    Returns:
        list[dict]: The record of each run, in order.
    """
    # by seed, so that some are whole when it is stopped; long ones first, so that all end together
    waiting = sorted(tasks, key=lambda task: (task['args'][0], -task['cost']))
    records, running = {}, {}

    def finish(task, record, was_kept=False):
        records[task['name']] = record
        score = f', {record["accuracy"]:.1f} %' if 'accuracy' in record else ''
        how = 'kept' if was_kept else f'{record["seconds"]:.0f} s'
        say(f'{time.strftime("%H:%M:%S")} {len(records)}/{len(tasks)} {task["name"]}: '
            f'{how}{score}')

    # a process that is forked from one with threads may hang
    pool = ProcessPoolExecutor(jobs, multiprocessing.get_context('spawn')) if jobs > 1 else None
    try:
        while len(records) < len(tasks):
            ready = [task for task in waiting if all(need in records for need in task['needs'])]
            for task in ready:
                if len(running) == jobs:
                    break
                waiting.remove(task)
                record = runs.kept(task, out, settings)
                if record is not None:
                    finish(task, record, True)
                elif pool is None:
                    finish(task, runs.run_task(task, out, data, settings))
                else:
                    running[pool.submit(runs.run_task, task, out, data, settings)] = task
            if running and (len(running) == jobs or not ready):
                for future in wait(running, return_when=FIRST_COMPLETED).done:
                    finish(running.pop(future), future.result())
    finally:
        if pool is not None:
            pool.shutdown(cancel_futures=True)
    return [records[task['name']] for task in tasks]


def study(args):
    """Run the study; return its results."""
    settings = args.settings
    out, data = Path(args.out), Path(args.data_root)
    out.mkdir(parents=True, exist_ok=True)
    # also of the processes that are started; idle threads that spin take the other ones' core
    os.environ.update(OMP_NUM_THREADS='1', OMP_WAIT_POLICY='PASSIVE')
    started = time.perf_counter()
    runs.make_data(data, settings)
    done = run_all(runs.tasks(settings, args.seeds, args.arms), out, data, settings, args.jobs)
    results = dict(environment=environment(args.jobs), settings=settings, seeds=args.seeds,
                   runs=[{k: v for k, v in run.items() if k not in ('settings', 'files')}
                         for run in done])
    (out / 'results.json').write_text(json.dumps(results, indent=1))
    report.draw(results, out / 'learngene.png')
    say('\n' + report.as_text(results))
    if args.write_docs:
        report.write_docs(results, ROOT / 'docs')
    say(f'{(time.perf_counter() - started) / 60:.1f} minutes; results: {out / "results.json"}')
    return results


def main(argv=None):
    """Run the command line."""
    return run_command(study, parse_args(argv))


if __name__ == '__main__':
    main()
