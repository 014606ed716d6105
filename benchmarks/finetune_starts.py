"""Fine-tune DeiT-Tiny on a folder of images, from each start of growth and ungrown.

    python benchmarks/finetune_starts.py --data-root data/cats_dogs \\
        --weights checkpoints/deit_tiny.pth

Every run is ``tools/train.py`` with a five-line config, as a user would have it. A run that is
done, by the same settings, is not done again. ``--sweep`` chooses learning rates: it trains on
five sixths of the training images and tests on the last sixth, with the first seed.
"""
import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from _study import (  # noqa: E402, F401
    ROOT,
    SWEEP_PART,
    TIME_HEAD,
    Arm,
    BaseStudy,
    add_run_arguments,
    as_values,
    count_trainable,
    link,
    read_metric,
    run_command,
    say,
    spread,
    time_columns,
)

METRIC = 'accuracy/top1'

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
    add_run_arguments(parser, ARMS, 'work_dirs/finetune_starts')
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
            link(image, folder / split / name / image.name)
    return folder


class Study(BaseStudy):
    """Runs of one command line.

    Args:
        args (argparse.Namespace): The command line.
        folder (Path): Results.
        data_root (Path): Images.
    """
    arms = ARMS

    def __init__(self, args, folder, data_root):
        super().__init__(args, folder, data_root)
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

    def scores(self, work_dir):
        """dict: Top-1 accuracy at the end, the best, and at each validation."""
        top1 = read_metric(work_dir, METRIC)
        return dict(top1=top1[-1], best=max(top1), validations=top1)


def study(args):
    """Train every arm with every seed; write ``results.json`` and print the table."""
    Study(args, Path(args.out), args.data_root).study(
        min(args.val_interval, args.epochs),
        dict(size=args.size, epochs=args.epochs, data_root=str(args.data_root)), print_study)


def print_study(report):
    """Print mean and standard deviation over the seeds."""
    seeds = len(next(iter(report['arms'].values()))['runs'])
    say(f'\n{report["size"]} px, {report["epochs"]} epochs, {seeds} seed(s), mean +- standard '
        f'deviation\n{"":<30}{"top-1":>13}{"best epoch":>13}{TIME_HEAD}')
    for arm in report['arms'].values():
        runs = arm['runs']
        say(f'{arm["title"]:<30}{spread(runs, "top1"):>13}{spread(runs, "best"):>13}'
            f'{time_columns(arm)}')


def sweep(args):
    """Compare learning rates on a part of the training images; write ``sweep.json``."""
    folder = Path(args.out) / 'sweep'
    runs = Study(args, folder, split_training_images(args.data_root, folder / 'images'))
    runs.sweep(args.epochs, 'top1', f'top-1 on a part (1/{SWEEP_PART}) of the training images, '
               f'{args.size} px, {args.epochs} epochs')


def main():
    """Run the command line."""
    args = parse_args()
    run_command(sweep if args.sweep else study, args)


if __name__ == '__main__':
    main()
