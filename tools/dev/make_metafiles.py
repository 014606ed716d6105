"""Write model-index.yml, the metafiles and docs/model_zoo.md from what the configs build.

``make metafiles`` computes all of it anew (about a minute and a half of one core); with ``--check``
nothing is written, and files that are not what they should be are named. Nothing is loaded,
downloaded or trained: parameters and FLOPs are counted on models without data, the papers' figures
are those of scalenet_mm.analysis, and what this project measured is read from its documents.
"""
import argparse
import os
import re
import sys
import tempfile
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path
from typing import Optional

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))
sys.path.append(str(Path(__file__).resolve().parent))

import yaml  # noqa: E402
from mmengine.config import utils as config_utils  # noqa: E402
from mmengine.logging import MMLogger  # noqa: E402
from model_zoo import write_page  # noqa: E402

from scalenet_mm import ConfigError  # noqa: E402
from scalenet_mm.analysis import (  # noqa: E402
    SCALENET,
    SWS,
    build_on_meta,
    count_flops,
    count_parameters,
)
from scalenet_mm.engine import load_config, run_cli  # noqa: E402
from scalenet_mm.utils.model_cfg import plain_cfg, student_cfg  # noqa: E402

INDEX = 'model-index.yml'
PAGE = 'docs/model_zoo.md'
HEADER = '# Written by tools/dev/make_metafiles.py from the configs: make metafiles.\n'

SCALENET_PAPER = dict(
    URL='https://arxiv.org/abs/2510.18431',
    Title='ScaleNet: Scaling up Pretrained Neural Networks with Incremental Parameters')
SWS_PAPER = dict(
    URL='https://arxiv.org/abs/2404.16897',
    Title='Exploring Learngene via Stage-wise Weight Sharing for Initializing Variable-sized '
          'Models')

#: Folders below configs with a metafile each, and the collection that their models are in.
FAMILIES = {
    '': 'ScaleNet',
    'ablations': 'ScaleNet',
    'baselines': 'ScaleNet baselines',
    'learngene': 'SWS',
    'quickstart': 'ScaleNet',
    'scratch': 'ScaleNet',
}
#: Collections by the folder whose metafile holds them. README is relative to the metafile, as the
#: package modelindex checks it.
COLLECTIONS = {
    '': dict(
        Name='ScaleNet',
        Metadata=dict(Architecture=['Weight sharing between blocks', 'Parallel adapters']),
        Paper=SCALENET_PAPER,
        README='README.md',
        Code='scalenet_mm/backbones'),
    'baselines': dict(
        Name='ScaleNet baselines',
        Metadata=dict(Architecture=['Whole new blocks']),
        Paper=SCALENET_PAPER,
        README='README.md',
        Code='scalenet_mm/growth/new_block.py'),
    'learngene': dict(
        Name='SWS',
        Metadata=dict(Architecture=['Weight sharing between blocks', 'Learngenes']),
        Paper=SWS_PAPER,
        README='README.md',
        Code='scalenet_mm/learngene'),
}

TOOLBOXES = {'mmpretrain': 'mmpretrain', 'mmdet': 'mmdet', 'mmseg': 'mmseg'}
CLASSIFICATION, DETECTION = 'Image Classification', 'Object Detection'
INSTANCES, SEGMENTATION = 'Instance Segmentation', 'Semantic Segmentation'
#: Data by the last part of a config's name.
DATA = dict(
    imagenet='ImageNet-1k', coco='COCO', ade20k='ADE20K', camvid='CamVid', cifar10='CIFAR-10',
    cifar100='CIFAR-100', food101='Food-101', cars196='Cars-196', digits='digit scenes',
    folder='a folder of your own')
#: What mmdet's and its papers' FLOPs are of, where a config resizes to 1333 x 800 at most.
COCO_SCALE, COCO_SIZE = (1333, 800), (800, 1280)


@dataclass(frozen=True)
class Run:
    """Something that this project trained, and the document's line that has its figures.

    Args:
        config (str): The config, below ``configs/``.
        data (str): What it was trained and tested on.
        document (str): The file whose text is searched.
        line (str): How the line with the figures begins.
        metrics (tuple): (task, metric) of the line's figures, in order from the first.
        command (str): What made them.
        link (str): Where the document tells of it.
        setting (str): How the line above that says with what settings begins; the configs were
            trained as they are if empty. Defaults to ''.
    """
    config: str
    data: str
    document: str
    line: str
    metrics: tuple
    command: str
    link: str
    setting: str = ''


QUICKSTART = dict(
    data='digit scenes', document='README.md', command='make quickstart',
    metrics=((DETECTION, 'box AP'), (INSTANCES, 'mask AP')), link='quickstart.md')
PHOTOS = dict(
    data='1,200 photos of cats and dogs', document='docs/imagenet.md', setting='112 px, ',
    metrics=((CLASSIFICATION, 'Top 1 Accuracy'), ), link='imagenet.md#fine-tuning-on-1200-photos',
    command='python benchmarks/finetune_starts.py --data-root data/cats_dogs '
            '--weights checkpoints/deit_tiny.pth')
CAMVID = dict(
    data='CamVid', document='docs/detection_and_segmentation.md', setting='crops of 192 px, ',
    metrics=((SEGMENTATION, 'mIoU'), ), link='detection_and_segmentation.md#camvid',
    command='python benchmarks/camvid_starts.py --weights checkpoints/deit_tiny.pth')
RUNS = (
    Run('quickstart/maskrcnn_swin-nano_digits.py', line='before growing ', **QUICKSTART),
    Run('quickstart/maskrcnn_scalenet_swin-nano_digits.py', line='trained, start=identity ',
        **QUICKSTART),
    Run('scalenet_deit-t-ungrown_20e_folder.py', line='ungrown, adapters and norms ', **PHOTOS),
    Run('scalenet_deit-t_20e_folder.py', line='grown, identity start ', **PHOTOS),
    Run('scalenet_deit-t-split_20e_folder.py', line='grown, split start ', **PHOTOS),
    Run('upernet_scalenet_deit-t-ungrown_2k_camvid.py', line='ungrown, adapters and norms ',
        **CAMVID),
    Run('upernet_scalenet_deit-t_2k_camvid.py', line='grown, identity start ', **CAMVID),
)


@dataclass
class Entry:
    """What a metafile and the page say of a config.

    Args:
        path (str): The config, below ``configs/``.
        tasks (tuple[str]): What the model does.
        data (str): What it is trained on.
        architecture (list[str]): Backbone and model.
        schedule (dict): Epochs or iterations, and batch size if the config says for how many.
        parameters (int): Each shared tensor once.
        added (int): Those that growth and adjustment add.
        trainable (int): Those that train.
        flops (int): Multiply-accumulates of an image.
        size (tuple[int]): Its height and width.
        weights (list[str]): Where the config loads weights from.
        paper (dict): The paper's figures as printed, by table.
        paper_url (str): The paper, empty if it prints nothing.
        runs (list[tuple]): (run, setting, figures) of what was measured.
    """
    path: str
    tasks: tuple
    data: str
    architecture: list
    schedule: dict
    parameters: int
    added: int
    trainable: int
    flops: int
    size: tuple
    weights: list
    paper: dict = field(default_factory=dict)
    paper_url: str = ''
    runs: list = field(default_factory=list)

    @property
    def name(self):
        """str: The model's name, the config's without its ending."""
        return Path(self.path).stem

    @property
    def family(self):
        """str: The folder whose metafile has it."""
        return self.path.split('/')[0] if '/' in self.path else ''

    def as_model(self):
        """dict: The model's entry in a metafile."""
        metadata = dict(
            {'Training Data': self.data}, **self.schedule, Architecture=self.architecture,
            FLOPs=self.flops, Parameters=self.parameters)
        metadata.update({
            'Added Parameters': self.added, 'Trainable Parameters': self.trainable,
            'FLOPs Input Size': ' x '.join(map(str, self.size))})
        if self.weights:
            metadata['Starts From'] = self.weights if len(self.weights) > 1 else self.weights[0]
        if self.runs:
            metadata['Training Resources'] = '2 CPU cores'
            metadata['Results Of'] = self.runs[0][0].command
        model = {'Name': self.name, 'In Collection': FAMILIES[self.family],
                 'Config': f'configs/{self.path}', 'Metadata': metadata}
        results = [
            dict(Task=task, Dataset=run.data + (f' ({setting})' if setting else ''),
                 Metrics={metric: figure})
            for run, setting, figures in self.runs
            for (task, metric), figure in zip(run.metrics, figures)]
        if results:
            model['Results'] = results
        if self.paper:  # a key of its own: what stands under Results is read as the project's
            model['Paper Results'] = dict(
                Paper=self.paper_url,
                **{table: {key: as_number(text) for key, text in figures.items()}
                   for table, figures in self.paper.items()})
        return model


def natural(text):
    """list: What sorts names as one reads them.

    Numbers by their size, models from tiny to large, a model before its variants.
    """
    text = re.sub(r'-([tsbl])(?=[- ])', lambda m: f'-{"tsbl".index(m[1])}', text.replace('_', ' _'))
    return [int(part) if part.isdigit() else part for part in re.split(r'(\d+)', text)]


def find_configs(root=ROOT):
    """list[str]: All configs that can be trained, below ``configs/``, sorted."""
    folder = root / 'configs'
    found = [path.relative_to(folder).as_posix() for path in folder.rglob('*.py')
             if '_base_' not in path.relative_to(folder).parts]
    return sorted(found, key=lambda path: (natural(path.rpartition('/')[0]), natural(path)))


@contextmanager
def toolboxes_metafiles_read_once():
    """Keep the toolboxes' metafiles in memory.

    mmengine reads all of a toolbox's for each ``mmdet::`` base, a second of which most is yaml.
    """
    load = getattr(config_utils, 'load', None)  # a name of its own that another version may change
    if load is None:
        yield
        return
    config_utils.load = lru_cache(maxsize=None)(load)
    try:
        yield
    finally:
        config_utils.load = load


def lacking_toolboxes():
    """list[str]: Toolboxes that are not installed."""
    return [name for name in TOOLBOXES if find_spec(name) is None]


def type_name(cfg):
    """str: A config's ``type``, without a scope."""
    kind = cfg.get('type', '')
    return getattr(kind, '__name__', str(kind)).split('.')[-1]


def tasks_of(cfg):
    """tuple[str]: What a config's model does, in the words of the toolboxes' metafiles."""
    scope = cfg.get('default_scope')
    if scope == 'mmpretrain':
        return (CLASSIFICATION, )
    if scope == 'mmseg':
        return (SEGMENTATION, )
    masks = cfg.model.get('roi_head', {}).get('mask_head') or cfg.model.get('panoptic_head')
    return (DETECTION, INSTANCES) if masks else (DETECTION, )


def image_size(cfg):
    """tuple[int]: Height and width of the image that FLOPs are counted of.

    A classifier's is the crop that it is tested on, a segmentor's the crop that it is trained on,
    a detector's the size that images are brought to, which for COCO is 800 x 1280.

    Raises:
        ConfigError: If the config does not tell.
    """
    scope = cfg.get('default_scope')
    if scope == 'mmseg':
        return tuple(cfg.model.data_preprocessor.size)
    keys = {'mmpretrain': ('crop_size', 'scale'), 'mmdet': ('scale', )}[scope]
    for step in reversed(cfg.test_dataloader.dataset.pipeline):
        for key in keys:
            if step.get(key) is not None:
                size = step[key]
                if scope == 'mmdet':
                    return COCO_SIZE if tuple(size) == COCO_SCALE else tuple(size)[::-1]
                return (size, size) if isinstance(size, int) else tuple(size)
    raise ConfigError('no step of test_dataloader.dataset.pipeline says how large images are')


def weights_of(cfg):
    """list[str]: Files that a config starts from: those of the whole model, else of its parts."""
    if cfg.get('load_from'):
        return [cfg.load_from]
    found = []
    model = student_cfg(cfg.model)
    for part in (model, model.get('backbone', {})):
        given = part.get('init_cfg')
        for init in [given] if isinstance(given, dict) else given or []:
            if init.get('checkpoint'):
                found.append(init['checkpoint'])
        if isinstance(part.get('pretrained'), str):
            found.append(part['pretrained'])
    return found


def schedule_of(cfg):
    """dict: Length of the training, and its batch size if the config tells the number of GPUs."""
    loop = cfg.get('train_cfg') or {}
    schedule = {}
    if loop.get('max_epochs'):
        schedule['Epochs'] = loop['max_epochs']
    elif loop.get('max_iters'):
        schedule['Iterations'] = loop['max_iters']
    if cfg.get('auto_scale_lr', {}).get('base_batch_size'):
        schedule['Batch Size'] = cfg.auto_scale_lr.base_batch_size
    return schedule


def measure(path, root=ROOT):
    """Build a config's model without data, and count.

    Args:
        path (str): The config, below ``configs/``.
        root (Path): The repository. Defaults to this one.

    Returns:
        Entry: All but the paper's figures and what was measured.
    """
    with toolboxes_metafiles_read_once():
        cfg = load_config(str(root / 'configs' / path))
    return measure_config(path, cfg)


#: Models that were counted, by their configs.
COUNTED: dict = {}
#: What changes neither a model's tensors nor what it computes when it is tested.
NO_MATTER = ('init_cfg', 'drop_path_rate')


def _structure(value):
    """A model's config without what does not matter."""
    if isinstance(value, dict):
        return {key: _structure(v) for key, v in value.items() if key not in NO_MATTER}
    return [_structure(v) for v in value] if isinstance(value, (list, tuple)) else value


def count_model(cfg, size):
    """tuple[ParameterCount, int]: Parameters and FLOPs, of models that are alike once."""
    key = repr((_structure(plain_cfg(cfg.model)), cfg.get('custom_hooks'),
                cfg.get('default_scope'), size))
    if key not in COUNTED:
        model = build_on_meta(cfg)
        COUNTED[key] = count_parameters(model), count_flops(model, (3, *size))
    return COUNTED[key]


def measure_config(path, cfg):
    """Entry: As :func:`measure`, of a config that is read."""
    size = image_size(cfg)
    count, flops = count_model(cfg, size)
    student = student_cfg(cfg.model)
    data = DATA[Path(path).stem.rpartition('_')[2]]
    return Entry(
        path=path, tasks=tasks_of(cfg), data=data,
        architecture=[type_name(student.backbone), type_name(student)],
        schedule=schedule_of(cfg), parameters=count.total, added=count.added,
        trainable=count.trainable, flops=flops, size=size,
        weights=weights_of(cfg))


def as_number(text):
    """float | int | str: A printed figure."""
    try:
        return float(text) if '.' in text else int(text)
    except ValueError:
        return text


def paper_figures(path):
    """tuple[dict, str]: What a paper prints of a config, by table, and the paper's URL."""
    found, url = {}, ''
    for paper, source in ((SCALENET, SCALENET_PAPER), (SWS, SWS_PAPER)):
        for row in paper.rows:
            # rows that only a command line makes of the config are not the config's
            if row.config != path or 'option' in row.notes:
                continue
            score = 'box AP' if row.table == 'VIII' else 'Top 1 Accuracy'
            figures = {'Parameters (M)': row.params, 'GFLOPs': row.flops, score: row.score,
                       'Hours': row.hours}
            figures = {key: text for key, text in figures.items() if text}
            table = 'Figure 4' if row.table == 'F4' else f'Table {row.table}'
            if found.setdefault(table, figures) != figures:
                raise ConfigError(f'{path}: {table} has several rows of it, with other figures')
            url = source['URL']
    return found, url


def read_run(run, root=ROOT):
    """tuple[str, list[float]]: Setting and figures of a run, from the document that has them.

    Raises:
        ConfigError: If the document does not have the line.
    """
    lines = (root / run.document).read_text(encoding='utf-8').splitlines()
    setting = ''
    if run.setting:
        starts = [i for i, line in enumerate(lines) if line.startswith(run.setting)]
        if not starts:
            raise ConfigError(f'{run.document} has no line that begins with {run.setting!r}: '
                              'correct RUNS in tools/dev/make_metafiles.py')
        setting = lines[starts[0]].removesuffix(' +- standard deviation')
        lines = lines[starts[0]:]
    for line in lines:
        if line.startswith(run.line):
            text = re.sub(r'\+- [\d.]+', '', line[len(run.line):])
            figures = re.findall(r'(?<![\d,.])\d+\.\d+(?![\d,])', text)
            if len(figures) >= len(run.metrics):
                return setting, [float(x) for x in figures[:len(run.metrics)]]
    raise ConfigError(f'{run.document} has no line {run.line.strip()!r} with '
                      f'{len(run.metrics)} figures: correct RUNS in tools/dev/make_metafiles.py')


def complete(entry, root=ROOT):
    """Entry: With the paper's figures and what was measured."""
    entry.paper, entry.paper_url = paper_figures(entry.path)
    entry.runs = [(run, *read_run(run, root)) for run in RUNS if run.config == entry.path]
    return entry


class _Dumper(yaml.SafeDumper):
    """Writes what is used twice twice, without anchors."""

    def ignore_aliases(self, data):
        return True


def as_yaml(data):
    """str: Data as a metafile's text."""
    return HEADER + yaml.dump(data, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=4096)


def metafile_of(folder):
    """str: A family's metafile, relative to the repository."""
    return f'configs/{folder}/metafile.yml' if folder else 'configs/metafile.yml'


def write_texts(entries):
    """Write down what is known of all configs.

    Args:
        entries (list[Entry]): In order.

    Returns:
        dict[str, str]: Text of each file, by its path relative to the repository.

    Raises:
        ConfigError: If two configs have one name, or a config is in no family.
    """
    names = {}
    for entry in entries:
        if entry.family not in FAMILIES:
            raise ConfigError(f'configs/{entry.path}: FAMILIES of tools/dev/make_metafiles.py has '
                              f'no folder {entry.family!r}')
        other = names.setdefault(entry.name.lower(), entry)
        if other is not entry:
            raise ConfigError(f'configs/{entry.path} and configs/{other.path} have one name, by '
                              'which models are found: rename one of them')
    texts = {INDEX: as_yaml(dict(Import=[metafile_of(folder) for folder in FAMILIES]))}
    for folder in FAMILIES:
        data = {}
        if folder in COLLECTIONS:
            data['Collections'] = [COLLECTIONS[folder]]
        data['Models'] = [entry.as_model() for entry in entries if entry.family == folder]
        texts[metafile_of(folder)] = as_yaml(data)
    texts[PAGE] = write_page(entries)
    return texts


def differing(texts, root=ROOT):
    """list[str]: What is wrong with the files that there are, one line each."""
    wrong = []
    for name, text in texts.items():
        path = root / name
        if not path.is_file():
            wrong.append(f'{name} is missing')
            continue
        old, new = path.read_text(encoding='utf-8').splitlines(), text.splitlines()
        if old != new:
            place = next((i for i, pair in enumerate(zip(old, new)) if pair[0] != pair[1]),
                         min(len(old), len(new)))
            now, should = (lines[place].strip() if place < len(lines) else 'the end'
                           for lines in (old, new))
            wrong.append(f'{name}:{place + 1} is {now!r}, should be {should!r}')
    return wrong + [f'{name} belongs to no family' for name in strangers(texts, root)]


def strangers(texts, root=ROOT):
    """list[str]: Metafiles that nothing writes."""
    found = (path.relative_to(root).as_posix() for path in root.glob('configs/**/metafile.yml'))
    return sorted(set(found) - set(texts))


def write_all(texts, root=ROOT):
    """Write all files or none: each beside its place first, then all are put there."""
    written = {}
    try:
        for name, text in texts.items():
            target = root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            handle, temporary = tempfile.mkstemp(dir=target.parent, prefix=f'.{target.name}.')
            written[temporary] = target
            with open(handle, 'w', encoding='utf-8') as file:
                file.write(text)
            os.chmod(temporary, 0o644)
    except BaseException:
        for temporary in written:
            os.unlink(temporary)
        raise
    for temporary, target in written.items():
        os.replace(temporary, target)
    for name in strangers(texts, root):
        (root / name).unlink()


def main(argv: Optional[list] = None):
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--check', action='store_true',
                        help='write nothing; end with an error if a file is not up to date')
    args = parser.parse_args(argv)
    lacking = lacking_toolboxes()
    if lacking:
        raise ConfigError(f'{", ".join(lacking)} is not installed, and configs of it cannot be '
                          'counted: use the environment of make env')
    # models say a line each when they are built
    MMLogger.get_instance('make_metafiles', log_level='ERROR')
    paths, entries = find_configs(), []
    on_terminal = sys.stderr is not None and sys.stderr.isatty()
    for i, path in enumerate(paths):
        if on_terminal:
            print(f'\r{i + 1}/{len(paths)} configs', end='', file=sys.stderr)
        entries.append(complete(measure(path)))
    if on_terminal:
        print(file=sys.stderr)
    texts = write_texts(entries)
    wrong = differing(texts)
    if args.check and wrong:
        raise ConfigError('\n  '.join(['not up to date; run make metafiles:', *wrong]))
    if not args.check and wrong:
        write_all(texts)
    print(f'{len(entries)} configs in {len(FAMILIES)} metafiles: '
          + ('written' if wrong else 'up to date'))


if __name__ == '__main__':
    sys.exit(run_cli(main))
