"""What the fine-tuning studies share: arms, runs of tools/train.py that are kept, one table."""
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

#: Of the training images, one in so many is a validation image of the sweep.
SWEEP_PART = 6


@dataclass(frozen=True)
class Arm:
    """One way to fine-tune.

    Args:
        title (str): What the table calls it.
        base (str): Name of the config.
        lr (float): Learning rate.
        sweep (tuple[float]): The rates that ``--sweep`` compares.
        options (tuple[str]): Further ``--cfg-options``.
    """
    title: str
    base: str
    lr: float
    sweep: tuple
    options: tuple = ()


def add_run_arguments(parser, arms, out):
    """Add the arguments that every study has.

    Args:
        parser (argparse.ArgumentParser): Where to.
        arms (dict[str, Arm]): The arms by name.
        out (str): Folder of the results if none is given.
    """
    parser.add_argument(
        '--seeds', type=int, nargs='+', default=[0, 1, 2], help='random seeds (%(default)s)')
    parser.add_argument(
        '--arms', nargs='+', choices=arms, default=list(arms), metavar='ARM',
        help=f'which of {", ".join(arms)} (all)')
    parser.add_argument('--lr', type=float, help="learning rate of every arm (default: each arm's)")
    parser.add_argument('--sweep', action='store_true', help='compare learning rates instead')
    parser.add_argument('--out', default=out, help='results (%(default)s)')
    parser.add_argument('--jobs', type=int, default=1, help='runs at a time (%(default)s)')
    parser.add_argument('--threads', type=int, default=1, help='threads a run (%(default)s)')
    parser.add_argument(
        '--workers', type=int, default=0, help='processes that load images (%(default)s)')
    parser.add_argument(
        '--cfg-options', nargs='+', default=[], metavar='KEY=VALUE',
        help='further options of every run')


class BaseStudy:
    """Runs of one command line.

    Args:
        args (argparse.Namespace): The command line.
        folder (Path): Results.
        data_root (Path): Images.
    """
    #: name -> Arm
    arms = {}

    def __init__(self, args, folder, data_root):
        self.args = args
        self.folder = folder
        self.data_root = Path(data_root).absolute()

    def config(self, arm):
        """Path: The config of an arm."""
        raise NotImplementedError

    def options(self, arm, seed, lr, validate_every):
        """list[str]: The ``--cfg-options`` of a run."""
        raise NotImplementedError

    def scores(self, work_dir):
        """dict: What a run's record keeps of its validations."""
        raise NotImplementedError

    def run(self, key, seed, lr, validate_every):
        """dict: Scores and time of a run; from the folder if it is there."""
        arm = self.arms[key]
        name = f'{key}_lr{lr:g}_seed{seed}'
        work_dir = self.folder / name
        config = self.config(arm)
        options = self.options(arm, seed, lr, validate_every)
        settings = dict(config=resolved(config), options=options, threads=self.args.threads)
        record = work_dir / 'result.json'
        if record.is_file():
            done = json.loads(record.read_text())
            if done['settings'] == settings:
                return done
        if work_dir.is_dir():
            shutil.rmtree(work_dir)
        work_dir.mkdir(parents=True)
        say(f'{time.strftime("%H:%M:%S")} {name}')
        minutes, cpu_minutes = self._train(config, options, work_dir)
        done = dict(key=key, seed=seed, lr=lr, **self.scores(work_dir), minutes=minutes,
                    cpu_minutes=cpu_minutes, settings=settings)
        record.write_text(json.dumps(done, indent=1))
        return done

    def _train(self, config, options, work_dir):
        """Run ``tools/train.py``; return minutes on the clock and of the processor."""
        from scalenet_mm import ScaleNetError
        command = [sys.executable, str(ROOT / 'tools' / 'train.py'), str(config), '--work-dir',
                   str(work_dir), '--cfg-options', *options]
        environment = dict(os.environ, OMP_NUM_THREADS=str(self.args.threads),
                           OMP_WAIT_POLICY='PASSIVE')
        started = time.perf_counter()
        with open(work_dir / 'train.txt', 'w') as log:
            process = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, env=environment)
            _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            lines = (work_dir / 'train.txt').read_text().strip().splitlines()
            raise ScaleNetError(f'a run failed, see {work_dir / "train.txt"}: {lines[-1]}')
        return (time.perf_counter() - started) / 60, (usage.ru_utime + usage.ru_stime) / 60

    def run_all(self, runs, validate_every):
        """list[dict]: Several runs, ``--jobs`` at a time."""
        with ThreadPoolExecutor(self.args.jobs) as pool:
            return list(pool.map(lambda run: self.run(*run, validate_every), runs))

    def study(self, validate_every, settings, show):
        """Train every arm with every seed; write ``results.json`` and print a table a seed.

        Args:
            validate_every (int): Epochs or iterations between validations.
            settings (dict): What the report says besides.
            show (Callable[[dict], None]): Prints the report.
        """
        args = self.args
        trainable = {
            key: count_trainable(self.config(self.arms[key]),
                                 [*self.arms[key].options, *args.cfg_options])
            for key in args.arms
        }
        rates = {key: args.lr or self.arms[key].lr for key in args.arms}
        results = {}
        for seed in args.seeds:
            for done in self.run_all([(key, seed, rates[key]) for key in args.arms],
                                     validate_every):
                results.setdefault(done['key'], []).append(done)
            report = dict(**settings, arms={
                key: dict(title=self.arms[key].title, lr=rates[key], trainable=trainable[key],
                          runs=[without_settings(run) for run in runs])
                for key, runs in results.items()
            })
            (self.folder / 'results.json').write_text(json.dumps(report, indent=1))
            show(report)

    def sweep(self, validate_every, score, title):
        """Compare learning rates with the first seed; write ``sweep.json`` and print.

        Args:
            validate_every (int): All epochs or iterations: only the end counts.
            score (str): What of a run's record is compared.
            title (str): Line above the table.
        """
        seed = self.args.seeds[0]
        done = self.run_all(
            [(key, seed, lr) for key in self.args.arms for lr in self.arms[key].sweep],
            validate_every)
        say(f'\n{title}, seed {seed}')
        for key in self.args.arms:
            cells = [f'lr {r["lr"]:g}: {r[score]:.1f}' for r in done if r['key'] == key]
            say(f'{self.arms[key].title:<30}{", ".join(cells)}')
        (self.folder / 'sweep.json').write_text(
            json.dumps([without_settings(run) for run in done], indent=1))


def resolved(config):
    """str: A config with its bases, so that a change in one of them is another setting."""
    from scalenet_mm.engine import load_config
    return json.dumps(load_config(str(config)).to_dict(), default=str)


def without_settings(run):
    """dict: A run's record, as reports have it."""
    return {key: value for key, value in run.items() if key != 'settings'}


def read_metric(work_dir, metric):
    """list[float]: A metric at each validation of a run."""
    path, = work_dir.glob('*/vis_data/scalars.json')
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return [record[metric] for record in records if metric in record]


def link(image, path):
    """Make a link to an image."""
    path.parent.mkdir(parents=True, exist_ok=True)
    if path.is_symlink() and path.resolve() != image.resolve():
        path.unlink()  # of other images
    if not path.is_symlink():
        path.symlink_to(image.resolve())


def as_values(options):
    """dict: What ``--cfg-options`` makes of its words."""
    from scalenet_mm.engine.arguments import parse_train_args
    return parse_train_args(['a config', '--cfg-options', *options]).cfg_options if options else {}


def count_trainable(config, options):
    """int: The parameters that train."""
    from scalenet_mm.analysis import build_on_meta, count_parameters
    from scalenet_mm.engine import load_config
    cfg = load_config(str(config))
    cfg.merge_from_dict(as_values(options))
    return count_parameters(build_on_meta(cfg)).trainable


def time_columns(arm):
    """str: Trainable parameters, learning rate and mean minutes of an arm, of 36 characters."""
    minutes, cpu = (statistics.mean(r[k] for r in arm['runs']) for k in ('minutes', 'cpu_minutes'))
    return f'{arm["trainable"]:>11,}{arm["lr"]:>8g}{minutes:>9.1f}{cpu:>8.1f}'


#: The head of these columns.
TIME_HEAD = f'{"trainable":>11}{"lr":>8}{"minutes":>9}{"of CPU":>8}'


def spread(runs, key):
    """str: Mean and standard deviation."""
    values = [run[key] for run in runs]
    deviation = statistics.stdev(values) if len(values) > 1 else 0.
    return f'{statistics.mean(values):.1f} +- {deviation:.1f}'


def say(text=''):
    """Print at once."""
    print(text, flush=True)


def run_command(function, args):
    """Call a study's function; an error is one line."""
    from scalenet_mm import ScaleNetError
    try:
        function(args)
    except ScaleNetError as error:
        sys.exit(f'error: {error}')
