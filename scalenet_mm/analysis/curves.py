"""Curves of several runs side by side, from what mmengine logged (the paper's Figure 6)."""
import csv
import glob
import json
import math
import os.path as osp
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Dict, List, Optional, Sequence, Tuple

from mmengine.config import Config

from ..errors import ConfigError
from ..utils.model_cfg import student_cfg

SCALARS = osp.join('vis_data', 'scalars.json')

#: What models are judged by: of mmpretrain, mmdet and mmseg.
METRICS = ('accuracy/top1', 'coco/bbox_mAP', 'coco/segm_mAP', 'mIoU')

#: What a label or a comparison of configs leaves aside.
_BESIDE = ('work_dir', 'resume', 'load_from', 'launcher', 'log_level', 'default_hooks',
           'visualizer', 'vis_backends', 'env_cfg')


@dataclass
class Run:
    """What one run logged.

    Args:
        folder (str): Its work folder.
        by_epoch (bool): Whether x counts epochs; iterations else.
        train (dict[str, list]): For each key of the training log, pairs of x and value.
        val (dict[str, list]): For each key of the evaluations, pairs of x and value.
        cfg (Config, optional): The config that was saved with it.
    """
    folder: str
    by_epoch: bool = True
    train: Dict[str, list] = field(default_factory=dict)
    val: Dict[str, list] = field(default_factory=dict)
    cfg: Optional[Config] = None

    @property
    def name(self) -> str:
        """str: The folder's own name."""
        return osp.basename(osp.normpath(osp.abspath(self.folder)))

    @property
    def drop_path(self) -> Optional[float]:
        """float | None: The backbone's drop path rate, if the saved config tells."""
        backbone = self._backbone()
        rate = backbone.get('drop_path_rate', (backbone.get('base') or {}).get('drop_path_rate'))
        return float(rate) if isinstance(rate, (int, float)) else None

    @property
    def arch(self) -> str:
        """str: The architecture, if the saved config names it."""
        backbone = self._backbone()
        arch = backbone.get('arch', (backbone.get('base') or {}).get('arch'))
        return arch if isinstance(arch, str) else ''

    def _backbone(self):
        return (student_cfg((self.cfg or {}).get('model')) or {}).get('backbone') or {}

    def curve(self, key: str, smooth: int = 1) -> List[Tuple[float, float]]:
        """Get the points of a curve.

        Training values are averaged over each epoch, if there are epochs, and then over
        neighbouring points; evaluations are taken as they are.

        Args:
            key (str): What was logged, such as 'loss' or 'accuracy/top1'.
            smooth (int): Number of neighbouring points of a training curve that are averaged.
                Defaults to 1, which is none.

        Returns:
            list[tuple[float, float]]: x and value; empty if it was not logged.
        """
        if key in self.val:
            return self.val[key]
        points = self.train.get(key, [])
        if self.by_epoch:
            of_epoch = defaultdict(list)
            for x, value in points:
                of_epoch[x].append(value)
            points = [(x, sum(v) / len(v)) for x, v in sorted(of_epoch.items())]
        return moving_average(points, smooth)


def moving_average(points: Sequence, window: int) -> list:
    """Average each point with its neighbours; with fewer of them at the ends, on both sides alike.

    Args:
        points (Sequence[tuple[float, float]]): x and value.
        window (int): How many points are averaged; even numbers count as the next odd one.

    Returns:
        list[tuple[float, float]]: The same x, averaged values.
    """
    half = window // 2
    smoothed = []
    for i, (x, _) in enumerate(points):
        reach = min(half, i, len(points) - 1 - i)
        near = [value for _, value in points[i - reach:i + reach + 1]]
        smoothed.append((x, sum(near) / len(near)))
    return smoothed


def read_run(folder: str) -> Run:
    """Read what a run logged, over all its resumptions.

    Each start of a run has a time-stamped folder. Where a later one begins, what an earlier one
    logged from there on (before it was stopped) is dropped.

    Args:
        folder (str): The work folder.

    Returns:
        Run: The curves.

    Raises:
        ConfigError: If there is no log.
    """
    if not osp.isdir(folder):
        raise ConfigError(f'no such folder: {folder!r}; name the work folder of a training')
    paths = sorted(glob.glob(osp.join(glob.escape(folder), '*', SCALARS)))
    if osp.isfile(osp.join(folder, SCALARS)):  # one start alone was named
        paths.append(osp.join(folder, SCALARS))
    train: list = []
    val: list = []
    last = None
    for path in paths:
        new_train, new_val = _read_scalars(path)
        if not new_train:  # a test, or stopped before the first log
            continue
        last, (start, step) = path, _position(new_train[0])
        train = [r for r in train if (_position(r) < (start, step) if start is None else
                                      r.get('epoch', 0) < start)]
        first = min([start if start is not None else step, *(r['step'] for r in new_val[:1])])
        val = [r for r in val if r['step'] < first]
        train, val = train + new_train, val + new_val
    if last is None:
        there = 'no */vis_data/scalars.json' if not paths else 'no training in its logs'
        raise ConfigError(f'{folder!r} is no work folder of a training: there is {there}. Name the '
                          'folder that was given as --work-dir (it needs the LocalVisBackend, '
                          'which is the default)')
    by_epoch = 'epoch' in train[-1]
    run = Run(folder, by_epoch, cfg=_read_config(folder, last))
    for records, curves, x in ((train, run.train, 'epoch' if by_epoch else 'step'),
                               (val, run.val, 'step')):
        for record in records:
            for key, value in record.items():
                if key not in ('epoch', 'iter', 'step') and isinstance(value, (int, float)):
                    curves.setdefault(key, []).append((record[x], value))
    for key in ('time', 'data_time'):  # of training and evaluation alike
        run.val.pop(key, None)
    return run


def _position(record):
    """Epoch, if the record tells, and step."""
    return record.get('epoch'), record['step']


def _read_scalars(path):
    """Records of training and of evaluation."""
    train, val = [], []
    with open(path) as file:
        for line in file:
            try:
                record = json.loads(line)
            except ValueError:  # the run was killed while it wrote
                continue
            if 'step' in record:
                (train if 'iter' in record or 'lr' in record else val).append(record)
    return train, val


def _read_config(folder, scalars):
    """The saved config; None if it is not there or needs what is not installed."""
    beside = osp.join(osp.dirname(scalars), 'config.py')
    for path in [beside, *sorted(glob.glob(osp.join(glob.escape(folder), '*.py')))]:
        try:
            return Config.fromfile(path, import_custom_modules=False)
        except Exception:  # whatever a config's code may raise; labels are not worth failing for
            continue
    return None


def make_labels(runs: Sequence[Run]) -> List[str]:
    """Make labels that tell the runs apart: by what differs in their configs.

    Args:
        runs (Sequence[Run]): The runs.

    Returns:
        list[str]: 'drop path 0.1' if the rates differ, 'key=value' if one other setting does, the
        folders' names else or where two labels would be the same.
    """
    labels = [run.name for run in runs]
    leaves = [dict(_iter_leaves(run.cfg)) for run in runs if run.cfg is not None]
    if len(leaves) == len(runs):
        keys = {key for some in leaves for key in some}
        differing = [key for key in keys if len({repr(some.get(key)) for some in leaves}) > 1]
        rates = [run.drop_path for run in runs]
        if None not in rates and len(set(rates)) > 1:
            archs = {run.arch for run in runs}
            labels = [(f'{run.arch}, ' if len(archs) > 1 and run.arch else '') +
                      f'drop path {rate:g}' for run, rate in zip(runs, rates)]
        elif len(differing) == 1:
            labels = [f'{differing[0].split(".")[-1]}={some.get(differing[0])}' for some in leaves]
    return [f'{label} ({run.name})' if labels.count(label) > 1 else label
            for label, run in zip(labels, runs)]


def _iter_leaves(cfg, prefix=''):
    for key, value in cfg.items():
        if prefix or key not in _BESIDE:
            if isinstance(value, dict):
                yield from _iter_leaves(value, f'{prefix}{key}.')
            else:
                yield f'{prefix}{key}', value


def choose_keys(runs: Sequence[Run], keys: Optional[Sequence[str]] = None) -> List[str]:
    """Choose what is drawn.

    Args:
        runs (Sequence[Run]): The runs.
        keys (Sequence[str], optional): What the user asks for. If None, those of :data:`METRICS`
            that every run has, and the loss, that of validation if every run has it. Defaults to
            None.

    Returns:
        list[str]: Keys that each run logged.

    Raises:
        ConfigError: If a run did not log one of them.
    """
    if keys is None:
        validated = all('cross_entropy' in run.val for run in runs)
        metrics = [key for key in METRICS if all(key in run.val for run in runs)]
        keys = [*metrics, 'cross_entropy' if validated else 'loss']
    for run in runs:
        there = sorted({*run.train, *run.val})
        for key in keys:
            if key not in there:
                raise ConfigError(f'{run.folder!r} has no {key!r} in its logs; --keys may name '
                                  f'{", ".join(there)}')
    return list(keys)


def final_values(runs: Sequence[Run], key: str) -> List[Tuple[str, float, float, float]]:
    """Values at the end against the drop path rate.

    Args:
        runs (Sequence[Run]): The runs.
        key (str): What was logged.

    Returns:
        list[tuple[str, float, float, float]]: Architecture, drop path rate, last and highest value
        of each run that tells its rate, sorted.
    """
    rows = []
    for run in runs:
        values = [v for _, v in run.curve(key) if not math.isnan(v)]
        if run.drop_path is not None and values:
            rows.append((run.arch, run.drop_path, values[-1], max(values)))
    return sorted(rows)


def write_csv(path: str, header: Sequence[str], rows: Sequence) -> None:
    """Write the numbers of a figure.

    Args:
        path (str): The file.
        header (Sequence[str]): Names of the columns.
        rows (Sequence): The lines.
    """
    with open(path, 'w', newline='') as file:
        writer = csv.writer(file)
        writer.writerow(header)
        writer.writerows(rows)


def plot_curves(runs: Sequence[Run], labels: Sequence[str], keys: Sequence[str], path: str,
                smooth: int = 1) -> None:
    """Draw a panel for each key, a line for each run.

    Args:
        runs (Sequence[Run]): The runs.
        labels (Sequence[str]): Their names in the legend.
        keys (Sequence[str]): What is drawn.
        path (str): The figure.
        smooth (int): See :meth:`Run.curve`. Defaults to 1.
    """
    from matplotlib.figure import Figure  # no window system is needed, and no global state
    figure = Figure(figsize=(5.2 * len(keys), 4), layout='constrained')
    panels = figure.subplots(1, len(keys), squeeze=False)[0]
    colours = _colours(runs)
    for panel, key in zip(panels, keys):
        for run, label, colour in zip(runs, labels, colours):
            points = run.curve(key, smooth)
            panel.plot(*zip(*points), label=label, color=colour, linewidth=1.5,
                       marker='.' if len(points) <= 30 else None)
        of_training = any(key not in run.val for run in runs)
        panel.set_ylabel(describe_key(key, of_training))
        panel.set_xlabel('epoch' if all(run.by_epoch for run in runs) else 'iteration')
        panel.grid(alpha=0.3)
    panels[0].legend(fontsize='small')
    figure.savefig(path, dpi=150)


def plot_final(rows: Sequence, key: str, path: str) -> None:
    """Draw final values against the drop path rate, a line for each architecture.

    Args:
        rows (Sequence): What :func:`final_values` gave.
        key (str): What was logged.
        path (str): The figure.
    """
    from matplotlib.figure import Figure
    figure = Figure(figsize=(5.2, 4), layout='constrained')
    panel = figure.subplots()
    for i, arch in enumerate(sorted({row[0] for row in rows})):
        of_arch = [row[1:] for row in rows if row[0] == arch]
        rates, last, best = zip(*of_arch)
        name = f'{arch}, ' if arch else ''
        panel.plot(rates, last, 'o-', color=f'C{i}', label=f'{name}last epoch')
        panel.plot(rates, best, '^:', color=f'C{i}', alpha=0.5, label=f'{name}highest')
    panel.set_xlabel('drop path rate')
    panel.set_ylabel(describe_key(key))
    panel.grid(alpha=0.3)
    panel.legend(fontsize='small')
    figure.savefig(path, dpi=150)


def describe_key(key: str, of_training: bool = False) -> str:
    """str: What an axis is called."""
    known = {'accuracy/top1': 'top-1 accuracy (%)', 'accuracy/top5': 'top-5 accuracy (%)',
             'coco/bbox_mAP': 'box AP', 'coco/segm_mAP': 'mask AP', 'mIoU': 'mIoU (%)',
             'cross_entropy': 'validation loss (cross entropy)'}
    return known.get(key, f'training {key}' if of_training else key)


def _colours(runs):
    """By drop path from dark to light, if it tells the runs apart; different ones else."""
    from matplotlib import colormaps
    rates = [run.drop_path for run in runs]
    if None not in rates and len(set(rates)) == len(runs):
        ranks = [sorted(rates).index(rate) for rate in rates]
        return [colormaps['viridis'](0.9 * rank / max(len(runs) - 1, 1)) for rank in ranks]
    return [f'C{i}' for i in range(len(runs))]
