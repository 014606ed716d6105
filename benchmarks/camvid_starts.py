"""Fine-tune DeiT-Tiny with UPerNet on CamVid: grown against ungrown, the same parts trained.

    python benchmarks/camvid_starts.py --weights checkpoints/deit_tiny.pth

Every run is ``tools/train.py`` with a shipped config and ``--cfg-options``, as a user would have
it. A run that is done, by the same settings, is not done again. ``--sweep`` chooses learning
rates: it trains on five sixths of the training images and tests on the rest, with the first seed.
"""
import argparse
import re
import statistics
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent))

from _study import (  # noqa: E402
    ROOT,
    SWEEP_PART,
    TIME_HEAD,
    Arm,
    BaseStudy,
    add_run_arguments,
    link,
    read_metric,
    run_command,
    say,
    spread,
    time_columns,
)

METRICS = ('mIoU', 'aAcc')

RATES = (3e-4, 1e-3, 3e-3)
ARMS = dict(
    ungrown=Arm('ungrown, adapters and norms', 'upernet_scalenet_deit-t-ungrown_2k_camvid', 3e-3,
                RATES),
    identity=Arm('grown, identity start', 'upernet_scalenet_deit-t_2k_camvid', 3e-3, RATES),
    paper=Arm("grown, paper's start", 'upernet_scalenet_deit-t_2k_camvid', 3e-3, RATES,
              ('model.backbone.growth.start=paper', )),
)


def parse_args(argv=None):
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        '--data-root', default='data/camvid',
        help='folder with img_dir/{train,val} and ann_dir/{train,val} (%(default)s)')
    parser.add_argument('--weights', required=True, help='DeiT-Tiny, of any known format')
    parser.add_argument('--crop', type=int, default=192, help='pixels (%(default)s)')
    parser.add_argument('--batch', type=int, default=4, help='images a step (%(default)s)')
    parser.add_argument('--iters', type=int, default=300, help='steps (%(default)s)')
    parser.add_argument(
        '--val-interval', type=int, default=300, help='steps between validations (%(default)s)')
    add_run_arguments(parser, ARMS, 'work_dirs/camvid_starts')
    return parser.parse_args(argv)


def training_images(root):
    """list[Path]: The training images.

    Raises:
        ConfigError: If there are none.
    """
    from scalenet_mm import ConfigError
    images = sorted((Path(root) / 'img_dir' / 'train').glob('*.jpg'))
    if not images:
        raise ConfigError(f'--data-root: {root} has no img_dir/train/*.jpg; the layout of CamVid '
                          'is in configs/_base_/camvid.py')
    return images


def split_training_images(root, folder):
    """Path: A folder of links in which a part of the training images is the validation set.

    The images are frames of a few videos. It is the last part of each: frames in between would be
    nearly those that are trained on.
    """
    videos = {}
    for image in training_images(root):
        videos.setdefault(image.name.split('_')[0], []).append(image)
    for images in videos.values():
        for index, image in enumerate(images):
            split = 'train' if index < len(images) * (1 - 1 / SWEEP_PART) else 'val'
            link(image, folder / 'img_dir' / split / image.name)
            label = f'{image.stem}.png'
            link(Path(root) / 'ann_dir' / 'train' / label, folder / 'ann_dir' / split / label)
    return folder


class Study(BaseStudy):
    """Runs of one command line, see :class:`BaseStudy`."""
    arms = ARMS

    def config(self, arm):
        """Path: The shipped config."""
        return ROOT / 'configs' / f'{arm.base}.py'

    def options(self, arm, seed, lr, validate_every):
        """list[str]: The ``--cfg-options`` of a run."""
        args = self.args
        options = [
            f'model.backbone.init_cfg.checkpoint={Path(args.weights).absolute()}',
            f'randomness.seed={seed}',
            f'optim_wrapper.optimizer.lr={lr}',
            f'train_cfg.max_iters={args.iters}',
            f'train_cfg.val_interval={validate_every}',
            # one checkpoint, the last
            f'default_hooks.checkpoint.interval={args.iters}',
            'default_hooks.checkpoint.save_best=None',
            f'train_dataloader.batch_size={args.batch}',
            f'train_dataloader.dataset.pipeline.3.crop_size=({args.crop},{args.crop})',
            f'model.data_preprocessor.size=({args.crop},{args.crop})',
        ]
        for loader in ('train_dataloader', 'val_dataloader'):
            options += [
                f'{loader}.dataset.data_root={self.data_root}',
                f'{loader}.num_workers={args.workers}',
                f'{loader}.persistent_workers={args.workers > 0}',
            ]
        return [*options, *arm.options, *args.cfg_options]

    def scores(self, work_dir):
        """dict: Metrics and IoU of each class at the end, and mIoU at each validation."""
        values = {metric: read_metric(work_dir, metric) for metric in METRICS}
        return dict(**{metric: scores[-1] for metric, scores in values.items()},
                    validations=values['mIoU'],
                    classes=class_ious((work_dir / 'train.txt').read_text()))


def class_ious(log):
    """dict: IoU in percent of each class in the last table that mmseg's IoUMetric printed.

    It stands in no other file of a run. nan where there is no pixel of the class.
    """
    tables = re.split(r'\|\s*Class\s*\|\s*IoU\s*\|.*', log)
    rows = re.findall(r'^\|\s*(\S[^|]*?)\s*\|\s*([\d.]+|nan)\s*\|', tables[-1], re.MULTILINE)
    return {name: float(iou) for name, iou in rows} if len(tables) > 1 else {}


def study(args):
    """Train every arm with every seed; write ``results.json`` and print the tables."""
    training_images(args.data_root)
    Study(args, Path(args.out), args.data_root).study(
        min(args.val_interval, args.iters),
        dict(crop=args.crop, batch=args.batch, iters=args.iters, data_root=str(args.data_root)),
        print_study)


def print_study(report):
    """Print mean and standard deviation over the seeds, and the mean of each class."""
    arms = report['arms'].values()
    seeds = len(next(iter(arms))['runs'])
    say(f'\ncrops of {report["crop"]} px, {report["iters"]} steps of {report["batch"]} images, '
        f'{seeds} seed(s), mean +- standard deviation\n{"":<30}{"mIoU":>13}{"pixels":>13}'
        f'{TIME_HEAD}')
    for arm in arms:
        runs = arm['runs']
        say(f'{arm["title"]:<30}{spread(runs, "mIoU"):>13}{spread(runs, "aAcc"):>13}'
            f'{time_columns(arm)}')
    say('\n' + f'{"IoU":<12}' + ''.join(f'{key:>10}' for key in report['arms']))
    for name in next(iter(arms))['runs'][0]['classes']:
        ious = (statistics.mean(r['classes'][name] for r in arm['runs']) for arm in arms)
        say(f'{name:<12}' + ''.join(f'{iou:>10.1f}' for iou in ious))


def sweep(args):
    """Compare learning rates on a part of the training images; write ``sweep.json``."""
    folder = Path(args.out) / 'sweep'
    runs = Study(args, folder, split_training_images(args.data_root, folder / 'images'))
    runs.sweep(args.iters, 'mIoU', f'mIoU on a part (1/{SWEEP_PART}) of the training images, crops '
               f'of {args.crop} px, {args.iters} steps of {args.batch} images')


def main():
    """Run the command line."""
    args = parse_args()
    run_command(sweep if args.sweep else study, args)


if __name__ == '__main__':
    main()
