"""Fine-tune DeiT-Tiny on a folder of images, from each start of growth and ungrown.

    python benchmarks/finetune_starts.py --data-root data/cats_dogs \\
        --weights checkpoints/deit_tiny.pth

Every run is ``tools/train.py`` with a five-line config, as a user would have it. A run that is
done, by the same settings, is not done again. ``--sweep`` chooses learning rates: it trains on
five sixths of the training images and tests on the last sixth, with the first seed.
"""
import argparse
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

METRIC = 'accuracy/top1'
#: Of the training images, one in so many is a validation image of the sweep.
SWEEP_PART = 6


@dataclass(frozen=True)
class Arm:
    """One way to fine-tune.

    Args:
        title (str): What the table calls it.
        base (str): Name of the config that the user's config inherits from.
        lr (float): Learning rate.
        sweep (tuple[float]): The rates that ``--sweep`` compares.
        options (tuple[str]): Further ``--cfg-options``.
    """
    title: str
    base: str
    lr: float
    sweep: tuple
    options: tuple = ()


SMALL_PARTS = (3e-4, 1e-3, 3e-3)
ARMS = dict(
    ungrown=Arm('ungrown, adapters and norms', 'scalenet_deit-t-ungrown_20e_folder', 1e-3,
                SMALL_PARTS),
    paper=Arm("grown, paper's start", 'scalenet_deit-t_20e_folder', 1e-3, SMALL_PARTS,
              ('model.backbone.growth.start=paper', )),
    identity=Arm('grown, identity start', 'scalenet_deit-t_20e_folder', 1e-3, SMALL_PARTS),
    split=Arm('grown, split start', 'scalenet_deit-t-split_20e_folder', 3e-3,
              (*SMALL_PARTS, 1e-2, 3e-2)),
    everything=Arm('ungrown, everything trained', 'scalenet_deit-t-ungrown_20e_folder', 3e-5,
                   (1e-5, 3e-5, 1e-4, 3e-4),
                   ('model.backbone.adjustment=None', 'custom_hooks.0.freeze=all')),
    split4=Arm('grown, split from block 4 on', 'scalenet_deit-t-split_20e_folder', 1e-3,
               SMALL_PARTS, ('model.backbone.growth.blocks=[3,4,5,6,7,8,9,10,11]', )),
)


def parse_args(argv=None):
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--data-root', required=True, help='folder with train/ and val/, a folder a class in each')
    parser.add_argument('--weights', required=True, help='DeiT-Tiny, of any known format')
    parser.add_argument('--size', type=int, default=112, help='pixels (%(default)s)')
    parser.add_argument('--epochs', type=int, default=4, help='epochs (%(default)s)')
    parser.add_argument(
        '--val-interval', type=int, default=2, help='epochs between validations (%(default)s)')
    parser.add_argument(
        '--seeds', type=int, nargs='+', default=[0, 1, 2], help='random seeds (%(default)s)')
    parser.add_argument(
        '--arms', nargs='+', choices=ARMS, default=list(ARMS), metavar='ARM',
        help=f'which of {", ".join(ARMS)} (all)')
    parser.add_argument('--lr', type=float, help="learning rate of every arm (default: each arm's)")
    parser.add_argument('--sweep', action='store_true', help='compare learning rates instead')
    parser.add_argument(
        '--out', default='work_dirs/finetune_starts', help='results (%(default)s)')
    parser.add_argument('--jobs', type=int, default=1, help='runs at a time (%(default)s)')
    parser.add_argument('--threads', type=int, default=1, help='threads a run (%(default)s)')
    parser.add_argument(
        '--workers', type=int, default=0, help='processes that load images (%(default)s)')
    parser.add_argument(
        '--cfg-options', nargs='+', default=[], metavar='KEY=VALUE',
        help='further options of every run')
    return parser.parse_args(argv)


def class_names(root):
    """list[str]: The classes of an image folder.

    Raises:
        ConfigError: If there are none.
    """
    from scalenet_mm import ConfigError
    train = Path(root) / 'train'
    names = sorted(p.name for p in train.iterdir() if p.is_dir()) if train.is_dir() else []
    if not names:
        raise ConfigError(f'--data-root: {train} is no folder with one folder for each class')
    return names


def split_training_images(root, folder):
    """Path: A folder of links in which a part of the training images is the validation set."""
    for name in class_names(root):
        images = sorted(p for p in (Path(root) / 'train' / name).iterdir() if p.is_file())
        for index, image in enumerate(images):
            split = 'train' if (index + 1) % SWEEP_PART else 'val'
            link = folder / split / name / image.name
            link.parent.mkdir(parents=True, exist_ok=True)
            if not link.is_symlink():
                link.symlink_to(image.resolve())
    return folder


class Study:
    """Runs of one command line.

    Args:
        args (argparse.Namespace): The command line.
        folder (Path): Results.
        data_root (Path): Images.
    """

    def __init__(self, args, folder, data_root):
        self.args = args
        self.folder = folder
        self.data_root = Path(data_root).absolute()
        self.num_classes = len(class_names(data_root))

    def config(self, arm):
        """Path: The config a user would write, in five lines."""
        text = (f"_base_ = '{ROOT}/configs/{arm.base}.py'\n"
                f'data_root = {str(self.data_root)!r}\n'
                'train_dataloader = dict(dataset=dict(data_root=data_root))\n'
                'val_dataloader = test_dataloader = dict(dataset=dict(data_root=data_root))\n'
                f'model = dict(head=dict(num_classes={self.num_classes}))\n')
        path = self.folder / f'my_{arm.base}.py'
        if not path.is_file() or path.read_text() != text:
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        return path

    def options(self, arm, seed, lr, validate_every):
        """list[str]: The ``--cfg-options`` of a run."""
        args = self.args
        options = [
            f'load_from={Path(args.weights).absolute()}',
            f'randomness.seed={seed}',
            f'optim_wrapper.optimizer.lr={lr}',
            f'train_cfg.max_epochs={args.epochs}',
            f'train_cfg.val_interval={validate_every}',
            # one checkpoint, the last
            f'default_hooks.checkpoint.interval={args.epochs}',
            'default_hooks.checkpoint.save_best=None',
            f'train_dataloader.dataset.pipeline.1.scale={args.size}',
            f'val_dataloader.dataset.pipeline.1.scale={round(args.size * 256 / 224)}',
            f'val_dataloader.dataset.pipeline.2.crop_size={args.size}',
            f'train_dataloader.num_workers={args.workers}',
            f'val_dataloader.num_workers={args.workers}',
        ]
        return [*options, *arm.options, *args.cfg_options]

    def run(self, key, seed, lr, validate_every):
        """dict: Accuracy at each validation and time; from the folder if it is there."""
        arm = ARMS[key]
        name = f'{key}_lr{lr:g}_seed{seed}'
        work_dir = self.folder / name
        config = self.config(arm)
        options = self.options(arm, seed, lr, validate_every)
        settings = dict(config=config.read_text(), options=options, threads=self.args.threads)
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
        top1 = accuracies(work_dir)
        done = dict(key=key, seed=seed, lr=lr, top1=top1[-1], best=max(top1), validations=top1,
                    minutes=minutes, cpu_minutes=cpu_minutes, settings=settings)
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


def accuracies(work_dir):
    """list[float]: Top-1 accuracy of each validation of a run."""
    path, = work_dir.glob('*/vis_data/scalars.json')
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return [record[METRIC] for record in records if METRIC in record]


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


def study(args):
    """Train every arm with every seed; write ``results.json`` and print the table."""
    runs = Study(args, Path(args.out), args.data_root)
    trainable = {
        key: count_trainable(runs.config(ARMS[key]), [*ARMS[key].options, *args.cfg_options])
        for key in args.arms
    }
    rates = {key: args.lr or ARMS[key].lr for key in args.arms}
    results = {}
    for seed in args.seeds:
        for done in runs.run_all([(key, seed, rates[key]) for key in args.arms],
                                 min(args.val_interval, args.epochs)):
            results.setdefault(done['key'], []).append(done)
        report = dict(size=args.size, epochs=args.epochs, data_root=str(args.data_root), arms={
            key: dict(title=ARMS[key].title, lr=rates[key], trainable=trainable[key],
                      runs=[{k: v for k, v in run.items() if k != 'settings'} for run in runs])
            for key, runs in results.items()
        })
        (runs.folder / 'results.json').write_text(json.dumps(report, indent=1))
        print_study(report)


def print_study(report):
    """Print mean and standard deviation over the seeds."""
    seeds = len(next(iter(report['arms'].values()))['runs'])
    say(f'\n{report["size"]} px, {report["epochs"]} epochs, {seeds} seed(s), mean +- standard '
        f'deviation\n{"":<30}{"top-1":>13}{"best epoch":>13}{"trainable":>11}{"lr":>8}'
        f'{"minutes":>9}{"of CPU":>8}')
    for arm in report['arms'].values():
        runs = arm['runs']
        minutes, cpu = (statistics.mean(r[k] for r in runs) for k in ('minutes', 'cpu_minutes'))
        say(f'{arm["title"]:<30}{spread(runs, "top1"):>13}{spread(runs, "best"):>13}'
            f'{arm["trainable"]:>11,}{arm["lr"]:>8g}{minutes:>9.1f}{cpu:>8.1f}')


def spread(runs, key):
    """str: Mean and standard deviation."""
    values = [run[key] for run in runs]
    deviation = statistics.stdev(values) if len(values) > 1 else 0.
    return f'{statistics.mean(values):.1f} +- {deviation:.1f}'


def sweep(args):
    """Compare learning rates on a part of the training images; write ``sweep.json``."""
    folder = Path(args.out) / 'sweep'
    runs = Study(args, folder, split_training_images(args.data_root, folder / 'images'))
    done = runs.run_all([(key, args.seeds[0], lr) for key in args.arms for lr in ARMS[key].sweep],
                        validate_every=args.epochs)  # at the end alone
    say(f'\ntop-1 on a part (1/{SWEEP_PART}) of the training images, {args.size} px, {args.epochs} '
        f'epochs, seed {args.seeds[0]}')
    for key in args.arms:
        cells = [f'lr {r["lr"]:g}: {r["top1"]:.1f}' for r in done if r['key'] == key]
        say(f'{ARMS[key].title:<30}{", ".join(cells)}')
    (folder / 'sweep.json').write_text(json.dumps(
        [{k: v for k, v in run.items() if k != 'settings'} for run in done], indent=1))


def say(text=''):
    """Print at once."""
    print(text, flush=True)


def main():
    """Run the command line."""
    args = parse_args()
    from scalenet_mm import ScaleNetError
    try:
        (sweep if args.sweep else study)(args)
    except ScaleNetError as error:
        sys.exit(f'error: {error}')


if __name__ == '__main__':
    main()
