"""Train a detector on digit scenes, grow it with ScaleNet, train the increments, print AP.

``make quickstart`` runs it. ``--study`` repeats it with three seeds against a control (``make
study``).
"""
import argparse
import contextlib
import json
import os
import statistics
import sys
import time
import warnings
from pathlib import Path

# Threads that wait for each other must not spin: on busy cores that costs twenty times the time.
os.environ.setdefault('OMP_WAIT_POLICY', 'PASSIVE')

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))
warnings.filterwarnings('ignore')

CONFIGS = ROOT / 'configs' / 'quickstart'
BASE = CONFIGS / 'maskrcnn_swin-nano_digits.py'
GROWN = CONFIGS / 'maskrcnn_scalenet_swin-nano_digits.py'
METRICS = {'bbox': 'coco/bbox_mAP', 'segm': 'coco/segm_mAP'}
def parse_args():
    parser = argparse.ArgumentParser(
        prog='tools/quickstart.py', description=__doc__.replace('``', ''),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='example:\n  python tools/quickstart.py --seed 1 --base-epochs 12')
    parser.add_argument(
        '--work-dir', default='work_dirs/quickstart', metavar='DIR',
        help='where results go. Default: %(default)s')
    parser.add_argument(
        '--data-root', default='data/digit_scenes', metavar='DIR',
        help='where the scenes are, or are made. Default: %(default)s')
    parser.add_argument(
        '--seed', type=int, default=0, metavar='N', help='random seed. Default: %(default)s')
    parser.add_argument(
        '--study', action='store_true', help='three seeds, both starts, against a control')
    parser.add_argument(
        '--seeds', type=int, nargs='+', default=[0, 1, 2], metavar='N',
        help='seeds of the study. Default: 0 1 2')
    parser.add_argument(
        '--minutes',
        type=float,
        default=15,
        metavar='MINUTES',
        help="skip training the paper's start, too, if it would end later. Default: %(default)s")
    parser.add_argument(
        '--base-epochs', type=int, metavar='N',
        help="epochs of the first detector. Default: the config's")
    parser.add_argument(
        '--grown-epochs', type=int, metavar='N',
        help="epochs of the grown detector. Default: the config's")
    parser.add_argument(
        '--scenes', type=int, nargs=2, default=[400, 150], metavar=('TRAIN', 'VAL'),
        help='number of scenes. Default: 400 150')
    return parser.parse_args()


class Session:
    """One seed: a base detector and what is grown from it.

    Args:
        args (argparse.Namespace): The command line.
        seed (int): Random seed.
    """

    def __init__(self, args, seed):
        self.args = args
        self.seed = seed
        self.folder = Path(args.work_dir) / f'seed{seed}'
        self.folder.mkdir(parents=True, exist_ok=True)
        self.base_checkpoint = None

    def config(self, path, name, variant=None, epochs=None):
        """Config: A quickstart config for this seed and folder, in a variant of its backbone."""
        from mmengine.config import Config
        cfg = Config.fromfile(path)
        cfg.work_dir = str(self.folder / name)
        cfg.randomness = dict(seed=self.seed)
        cfg.log_level = 'ERROR'
        if variant == 'control':
            cfg.model.backbone.growth = None
        elif variant is not None:
            cfg.model.backbone.growth.start = variant
        if epochs is not None:
            cfg.train_cfg.max_epochs = epochs
            cfg.param_scheduler[-1].T_max = epochs
            cfg.default_hooks.checkpoint.interval = epochs
        for split in ('train', 'val', 'test'):
            loader = cfg[f'{split}_dataloader']
            loader.dataset.data_root = f'{self.args.data_root}/det/'
            # loading takes a hundredth of the time; workers would only take cores away
            loader.update(num_workers=0, persistent_workers=False)
        for split in ('val', 'test'):
            cfg[f'{split}_evaluator'].ann_file = f'{self.args.data_root}/det/annotations/val.json'
        if self.base_checkpoint is not None:
            cfg.load_from = str(self.base_checkpoint)
        return cfg

    def train(self, cfg, label):
        """Train; return the checkpoint's path and the processor time spent, in minutes."""
        from mmengine.runner import Runner
        cfg.custom_hooks = [*cfg.get('custom_hooks', []), dict(type='ProgressHook', label=label)]
        cfg.val_dataloader = cfg.val_cfg = cfg.val_evaluator = None  # tested at the end
        with quiet(self.folder / 'log.txt'):
            runner = Runner.from_cfg(cfg)
            runner.train()
        minutes = next(h.cpu_seconds for h in runner.hooks if hasattr(h, 'cpu_seconds')) / 60
        return Path(cfg.work_dir) / f'epoch_{cfg.train_cfg.max_epochs}.pth', minutes

    def train_base(self):
        """Config: Train the base detector, unless the folder holds it, trained by this config."""
        cfg = self.config(BASE, 'base', epochs=self.args.base_epochs)
        text, record = cfg.pretty_text, self.folder / 'base' / 'trained_by.py'
        self.base_checkpoint = Path(cfg.work_dir) / f'epoch_{cfg.train_cfg.max_epochs}.pth'
        trained = record.is_file() and record.read_text() == text
        if trained and self.base_checkpoint.is_file():
            say(f'  base: found, {self.base_checkpoint}')
            return cfg
        record.unlink(missing_ok=True)
        self.train(cfg, 'base')
        record.write_text(text)
        return cfg

    def test(self, cfg, checkpoint=None):
        """Test; return box and mask AP in percent, and the runner with its model."""
        from mmengine.runner import Runner
        if checkpoint is not None:
            cfg.load_from = str(checkpoint)
        with quiet(self.folder / 'log.txt'):
            runner = Runner.from_cfg(cfg)
            metrics = runner.test()
        return {name: 100 * metrics[key] for name, key in METRICS.items()}, runner


@contextlib.contextmanager
def quiet(log):
    """Send what libraries print to a file."""
    with open(log, 'a') as file, contextlib.redirect_stdout(file):
        yield


def say(text=''):
    print(text, flush=True)


def quickstart(args):
    """Train, grow, train the increments; print the table and draw pictures."""
    started = time.perf_counter()
    session = Session(args, args.seed)
    say('1/4  Training a small Mask R-CNN (Swin, 8 blocks) on digit scenes, from scratch')
    base_cfg = session.train_base()
    before, runner = session.test(base_cfg, session.base_checkpoint)
    rows = [('before growing', runner.model, before)]
    pictures = [('before', runner.model)]
    say(f'     box AP {before["bbox"]:.1f}, mask AP {before["segm"]:.1f}')

    say('2/4  Growing it: every block used twice, 8 -> 16 blocks')
    for start in ('identity', 'paper'):
        ap, runner = session.test(session.config(GROWN, f'right_after_{start}', start))
        rows.append((f'right after, start={start}', runner.model, ap))
        say(f'     start={start}: box AP {ap["bbox"]:.1f}, mask AP {ap["segm"]:.1f}')

    say('3/4  Training the increments: adapters, gains, norms and the final layers')
    took = 0.
    for start in ('identity', 'paper'):
        begun = time.perf_counter()
        if begun + 1.2 * took - started > 60 * args.minutes:
            say(f'     start=paper is left out: it would end after {args.minutes:g} minutes')
            break
        cfg = session.config(GROWN, start, start, args.grown_epochs)
        checkpoint, _ = session.train(cfg, f'start={start}')
        ap, runner = session.test(cfg, checkpoint)
        took = time.perf_counter() - begun
        rows.append((f'trained, start={start}', runner.model, ap))
        if start == 'identity':
            pictures.append(('grown and trained', runner.model))

    say('4/4  Drawing detections')
    paths = draw(pictures, runner.test_dataloader.dataset, session.folder / 'pictures')
    print_table(rows)
    say('\nstart=identity: right after growing the detector is the trained one. start=paper: every '
        'block counts\nfully from the first step. docs/quickstart.md has the study with a control.')
    say(f'Pictures (truth, before, after): {paths[0]} ... {paths[-1].name}')
    say(f'Checkpoints and logs: {session.folder}')
    say(f'{(time.perf_counter() - started) / 60:.1f} minutes')


def print_table(rows):
    """Print parameters and AP of each stage."""
    from scalenet_mm.analysis import count_parameters
    say(f'\n{"":<30}{"parameters":>12}{"added":>10}{"trainable":>11}{"box AP":>9}{"mask AP":>9}')
    for name, model, ap in rows:
        count = count_parameters(model)
        say(f'{name:<30}{count.total:>12,}{count.added:>10,}{count.trainable:>11,}'
            f'{ap["bbox"]:>9.1f}{ap["segm"]:>9.1f}')


def draw(models, dataset, folder, count=4, scale=3, threshold=0.5):
    """Draw truth and detections side by side.

    Args:
        models (list[tuple[str, nn.Module]]): Titles and detectors.
        dataset (Dataset): The test set.
        folder (Path): Where the pictures go.
        count (int): Number of pictures. Defaults to 4.
        scale (int): Enlargement. Defaults to 3.
        threshold (float): Lowest score drawn. Defaults to 0.5.

    Returns:
        list[Path]: The pictures.
    """
    import cv2
    import numpy as np
    import torch
    from mmengine.dataset import pseudo_collate
    folder.mkdir(parents=True, exist_ok=True)
    palette = dataset.metainfo['palette']
    paths = []
    for index in range(count):
        item = dataset[index]
        sample = item['data_samples']
        panels = [('truth', sample.gt_instances)]
        for title, model in models:
            model.eval()
            with torch.no_grad():
                found = model.test_step(pseudo_collate([item]))[0].pred_instances
            panels.append((title, found[found.scores >= threshold]))
        drawn = []
        for title, instances in panels:
            image = cv2.imread(sample.img_path)
            image = cv2.resize(image, None, fx=scale, fy=scale, interpolation=cv2.INTER_NEAREST)
            masks = instances.masks
            masks = masks.masks if hasattr(masks, 'masks') else masks.cpu().numpy()
            boxes = instances.bboxes
            boxes = getattr(boxes, 'tensor', boxes).cpu().numpy()
            for box, mask, label in zip(boxes, masks, instances.labels.tolist()):
                colour = palette[label][::-1]
                mask = cv2.resize(mask.astype(np.uint8), image.shape[1::-1]) > 0
                image[mask] = 0.5 * image[mask] + 0.5 * np.array(colour)
                x1, y1, x2, y2 = (box * scale).round().astype(int).tolist()
                cv2.rectangle(image, (x1, y1), (x2, y2), colour, 2)
                cv2.putText(image, dataset.metainfo['classes'][label], (x1 + 3, y1 + 20),
                            cv2.FONT_HERSHEY_SIMPLEX, 0.7, (255, 255, 255), 2)
            bar = np.full((28, image.shape[1], 3), 255, np.uint8)
            cv2.putText(bar, title, (6, 20), cv2.FONT_HERSHEY_SIMPLEX, 0.6, (0, 0, 0), 1)
            drawn.append(np.vstack([bar, image]))
        paths.append(folder / f'{index}.png')
        cv2.imwrite(str(paths[-1]), np.hstack(drawn))
    return paths


def study(args):
    """Several seeds: growing against a control, for equal iterations and for equal time.

    The control is the ungrown detector with the same adapters, norms and final layers trained.
    A seed that is done already in the work folder, by the same configs, is not done again.
    """
    results = {}
    for seed in args.seeds:
        path = Path(args.work_dir) / f'seed{seed}' / 'study.json'
        session = Session(args, seed)
        settings = dict(grown=session.config(GROWN, 'grown', epochs=args.grown_epochs).pretty_text,
                        base=session.config(BASE, 'base', epochs=args.base_epochs).pretty_text)
        done = json.loads(path.read_text()) if path.is_file() else {}
        if done.get('settings') != settings:
            say(f'seed {seed}')
            done = dict(settings=settings, runs=study_seed(session))
            path.write_text(json.dumps(done, indent=1))
        for name, run in done['runs'].items():
            results.setdefault(name, []).append(run)
        print_study(results)


def study_seed(session):
    """dict: AP, epochs and processor time of each run of one seed."""
    args = session.args
    cfg = session.train_base()
    runs = {'before growing': session.test(cfg, session.base_checkpoint)[0]}

    def run(name, variant, epochs):
        cfg = session.config(GROWN, name.replace(' ', '_'), variant, epochs)
        checkpoint, minutes = session.train(cfg, name)
        ap, _ = session.test(cfg, checkpoint)
        runs[name] = dict(ap, epochs=cfg.train_cfg.max_epochs, minutes=minutes)

    run('grown, identity start', 'identity', args.grown_epochs)
    run("grown, paper's start", 'paper', args.grown_epochs)
    run('control, equal iterations', 'control', args.grown_epochs)
    equal = runs['control, equal iterations']
    ratio = runs['grown, identity start']['minutes'] / equal['minutes']
    run('control, equal time', 'control', round(equal['epochs'] * ratio))
    return runs


def print_study(results):
    """Print mean and spread (standard deviation) over the seeds."""
    seeds = len(next(iter(results.values())))
    say(f'\n{seeds} seed(s), mean +- standard deviation'
        f'\n{"":<28}{"box AP":>14}{"mask AP":>14}{"epochs":>10}{"CPU minutes":>13}')
    for name, runs in results.items():
        cells = [spread([r[m] for r in runs]) for m in METRICS]
        extra = [f'{statistics.mean(r[k] for r in runs):.1f}' if k in runs[0] else ''
                 for k in ('epochs', 'minutes')]
        say(f'{name:<28}{cells[0]:>14}{cells[1]:>14}{extra[0]:>10}{extra[1]:>13}')


def spread(values):
    """str: Mean and standard deviation."""
    deviation = statistics.stdev(values) if len(values) > 1 else 0.
    return f'{statistics.mean(values):.1f} +- {deviation:.1f}'


def main():
    args = parse_args()
    say('0/4  Loading the libraries and making scenes of handwritten digits')
    from scalenet_mm import ScaleNetError, make_digit_scenes
    train, val = args.scenes
    try:
        make_digit_scenes(root=args.data_root, tasks=('det', ), num_train=train, num_val=val)
        (study if args.study else quickstart)(args)
    except (FileExistsError, ScaleNetError) as error:
        print(f'error: {error}', file=sys.stderr)
        sys.exit(2)  # as all tools do


if __name__ == '__main__':
    main()
