"""What the learngene study trains and measures: its data, its models, one function a run."""
import functools
import hashlib
import json
import os
import sys
import time
from pathlib import Path

PACKAGES = ('torch', 'mmengine', 'mmpretrain', 'numpy', 'scikit-learn')
ROOT = Path(__file__).resolve().parents[1]
if str(ROOT) not in sys.path:
    sys.path.insert(0, str(ROOT))

#: The whole study. Learning rates and epochs are those of every arm alike.
SETTINGS = dict(
    image=32, patch=8, digit=[20, 26], train_images=4000, val_images=1000, centre=True, shift=2,
    width=64, heads=2, stages=[3, 3, 4, 3, 3],
    batch=64, lr=2e-3, weight_decay=0.05, clip=1., warmup=0.15, alpha=0.5, tau=1.,
    teacher_epochs=12, epochs=20, tune_epochs=1, tune_lr=5e-4, last_blocks=3,
    depths=[5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15], tuned_depths=[6, 9, 12, 15],
    trained_depths=[6, 12])
#: To try the code: seconds, and nets that have learned nothing.
QUICK = dict(
    SETTINGS, train_images=128, val_images=40, width=16, stages=[1, 2], teacher_epochs=1, epochs=1,
    last_blocks=1, depths=[2, 3], tuned_depths=[3], trained_depths=[2])

#: What trains once a seed, and all else starts from.
SOURCES = {
    'sws': 'auxiliary net, shared by stages',
    'simple': 'plain net, a block a stage',
    'tleg': 'auxiliary net of TLEG',
    'deep': 'plain net',
}
#: How a descendant starts: title, what it starts from, its init_cfg.
ARMS = {
    'sws': ('SWS', 'sws', dict(order='front-mid-last')),
    'sws-flm': ('SWS, front-last-mid', 'sws', dict(order='front-last-mid')),
    'random-sorted': ('random-sorted', 'sws', dict(order='random-sorted')),
    'random': ('random-assigned', 'sws', dict(order='random-assigned')),
    'simple': ('Simple-LG', 'simple', dict(order='front-mid-last')),
    'tleg': ('TLEG', 'tleg', {}),
    'vanilla': ('Vanilla-LG', 'deep', {}),
    'selection': ('weight selection', 'deep', dict(layers='first')),
    'scratch': ('scratch', None, {}),
}


# --- data ----------------------------------------------------------------------------------------


def make_data(folder, settings):
    """Make the scenes of one digit each, or find them made."""
    from scalenet_mm.datasets import make_digit_scenes
    make_digit_scenes(
        str(folder), tasks='seg', num_train=settings['train_images'],
        num_val=settings['val_images'], image_size=settings['image'], digits_per_scene=(1, 1),
        digit_size=tuple(settings['digit']))


class Digits:
    """The digits of a split in memory: each one's pixels, white on black.

    The scenes' colours and clutter are left out: they take a small ViT hours.

    Args:
        folder (Path): Where :func:`make_data` put them.
        split (str): 'train' or 'val'.
        centre (bool): Whether each digit is moved to the middle. Defaults to True.
    """

    def __init__(self, folder, split, centre=True):
        import cv2
        import numpy as np
        import torch
        from mmpretrain.structures import DataSample
        images, self.samples = [], []
        for path in sorted((Path(folder) / 'seg' / 'ann_dir' / split).iterdir()):
            labels = cv2.imread(str(path), cv2.IMREAD_GRAYSCALE)
            moves = (0, 0)
            if centre:
                ends = [np.flatnonzero(labels.any(axis=axis))[[0, -1]] for axis in (1, 0)]
                moves = [(len(labels) - first - last - 1) // 2 for first, last in ends]
            images.append(np.roll(labels > 0, moves, axis=(0, 1)))
            # the background is label 0
            self.samples.append(DataSample().set_gt_label(int(labels.max()) - 1))
        self.images = torch.from_numpy(np.stack(images)).unsqueeze(1).float() * 255
        self.labels = torch.cat([sample.gt_label for sample in self.samples])

    def batch(self, indices, shift=0):
        """dict: What a data loader would give, each image moved at random by up to ``shift``."""
        import torch
        images = self.images[indices]
        if shift:
            size = images.shape[-1]
            images = torch.nn.functional.pad(images, (shift, ) * 4)
            starts = torch.randint(0, 2 * shift + 1, (len(images), 2, 1))
            rows, cols = (starts + torch.arange(size)).unbind(1)
            images = images[torch.arange(len(images))[:, None, None], 0, rows[:, :, None],
                            cols[:, None, :]].unsqueeze(1)
        return dict(inputs=images, data_samples=[self.samples[i] for i in indices])


# --- models --------------------------------------------------------------------------------------


def classifier(backbone, head, **more):
    """dict: The config of a classifier of digits."""
    return dict(
        type='ImageClassifier', backbone=backbone, head=head,
        data_preprocessor=dict(
            type='ClsDataPreprocessor', num_classes=10, mean=[127.5], std=[127.5]), **more)


def teacher_cfg():
    """dict: The ancestry model, mmpretrain's LeNet-5."""
    return classifier(
        dict(type='LeNet5'),
        dict(type='LinearClsHead', num_classes=10, in_channels=120,
             loss=dict(type='CrossEntropyLoss', loss_weight=1.)),
        neck=dict(type='GlobalAveragePooling'))


def vit_cfg(settings, depth, init_cfg=None, **backbone):
    """dict: A ViT of so many blocks."""
    width = settings['width']
    backbone = {
        **dict(type='ScaleNetViT', growth=None, adjustment=None), **backbone,
        'arch': dict(embed_dims=width, num_layers=depth, num_heads=settings['heads'],
                     feedforward_channels=4 * width),
        'img_size': settings['image'], 'patch_size': settings['patch'], 'in_channels': 1}
    more = {} if init_cfg is None else dict(init_cfg=init_cfg)
    return classifier(
        backbone,
        dict(type='VisionTransformerClsHead', num_classes=10, in_channels=width,
             loss=dict(type='CrossEntropyLoss', loss_weight=1.)), **more)


def source_cfg(settings, name):
    """dict: A net of :data:`SOURCES`, of as many blocks as all stages have together."""
    stages, depth = settings['stages'], sum(settings['stages'])
    if name == 'sws':
        growth = dict(order='interpolate', times=tuple(stages), share='all', depth=depth)
        return vit_cfg(settings, len(stages), growth=growth)
    if name == 'tleg':
        return vit_cfg(settings, depth, type='TLEGViT')
    return vit_cfg(settings, len(stages) if name == 'simple' else depth)


def build(cfg, seed):
    """nn.Module: A classifier that has its first weights.

    Blocks of nets that nothing trained start from Xavier's weights: 0.02, the deviation of larger
    ViTs, is so little at this width that training stands still for epochs. (Vanilla-LG's random
    blocks are as its expansion draws them, with 0.02.)
    """
    import torch
    from mmengine.registry import MODELS, DefaultScope
    torch.manual_seed(seed)
    with DefaultScope.overwrite_default_scope('mmpretrain'):
        model = MODELS.build(cfg)
        model.init_weights()
    student = cfg.get('student', cfg)
    if 'ViT' in student['backbone']['type'] and 'init_cfg' not in student:
        for name, parameter in model.backbone.named_parameters():
            if name.startswith('layers.') and parameter.ndim > 1:
                torch.nn.init.xavier_uniform_(parameter)
    return model


# --- training ------------------------------------------------------------------------------------


def train(model, digits, epochs, lr, settings):
    """Train a classifier: AdamW, warm-up, cosine; list[float]: the mean loss of each epoch."""
    import torch
    from mmengine.optim import CosineAnnealingLR, LinearLR, build_optim_wrapper
    wrapper = build_optim_wrapper(model, dict(
        type='OptimWrapper',
        optimizer=dict(type='AdamW', lr=lr, weight_decay=settings['weight_decay']),
        clip_grad=dict(max_norm=settings['clip']),
        paramwise_cfg=dict(norm_decay_mult=0., bias_decay_mult=0.)))
    steps = len(digits.samples) // settings['batch']
    warm = max(1, round(settings['warmup'] * epochs * steps))
    schedules = [
        LinearLR(wrapper, start_factor=0.01, by_epoch=False, begin=0, end=warm),
        CosineAnnealingLR(wrapper, T_max=max(1, epochs * steps - warm), eta_min=lr / 100,
                          by_epoch=False, begin=warm, end=epochs * steps)]
    model.train()
    losses = []
    for _ in range(epochs):
        total = 0.
        order = torch.randperm(len(digits.samples))[:steps * settings['batch']]
        for indices in order.view(steps, -1):
            logs = model.train_step(digits.batch(indices, settings['shift']), wrapper)
            total += logs['loss'].item()
            for schedule in schedules:
                schedule.step()
        losses.append(total / steps)
    return losses


def evaluate(model, digits):
    """dict: Accuracy in percent, and the loss."""
    import torch
    model.eval()
    indices = range(len(digits.samples))
    with torch.no_grad():
        logits = torch.cat([
            model(**model.data_preprocessor(digits.batch(indices[i:i + 250])), mode='tensor')
            for i in range(0, len(indices), 250)])
    loss = torch.nn.functional.cross_entropy(logits, digits.labels)
    return dict(accuracy=(logits.argmax(1) == digits.labels).double().mean().item() * 100,
                loss=loss.item())


def count(model):
    """int: The parameters."""
    return sum(parameter.numel() for parameter in model.parameters())


def save(model, cfg, path, epochs):
    """Write what mmengine's checkpoints have and a learngene needs."""
    from mmengine.config import Config

    from scalenet_mm.checkpoints.files import save_file
    cfg = Config(dict(model=cfg, default_scope='mmpretrain')).pretty_text
    classes = tuple('0123456789')
    save_file(dict(meta=dict(cfg=cfg, epoch=epochs, dataset_meta=dict(classes=classes)),
                   state_dict=model.state_dict()), str(path))


# --- runs ----------------------------------------------------------------------------------------


def run_teacher(digits, out, settings, seed):
    """dict: Train the teacher."""
    model = build(teacher_cfg(), seed)
    losses = train(model, digits['train'], settings['teacher_epochs'], settings['lr'], settings)
    save(model, teacher_cfg(), out / 'teacher.pth', settings['teacher_epochs'])
    return dict(parameters=count(model), losses=losses, **evaluate(model, digits['val']))


def run_source(digits, out, settings, seed, name):
    """dict: Train a net of :data:`SOURCES` by distillation, and take its learngene out."""
    from scalenet_mm.learngene import extract_gene, save_gene
    student = source_cfg(settings, name)
    cfg = dict(
        type='DistilledClassifier', student=student, teacher=teacher_cfg(),
        teacher_checkpoint=str(out / 'teacher.pth'), alpha=settings['alpha'], tau=settings['tau'])
    model = build(cfg, seed)
    losses = train(model, digits['train'], settings['epochs'], settings['lr'], settings)
    checkpoint = out / f'{name}_seed{seed}.pth'
    save(model, cfg, checkpoint, settings['epochs'])
    how = dict(method='vanilla', last_blocks=settings['last_blocks']) if name == 'deep' else {}
    save_gene(extract_gene(str(checkpoint), **how), str(out / f'{name}_seed{seed}_gene.pth'))
    return dict(parameters=count(model), losses=losses, **evaluate(model, digits['val']))


def draw_seed(seed, depth):
    """int: Seed of what an initialisation draws; with one for all depths all would begin alike."""
    return 100 * seed + depth


def descendant_cfg(out, settings, seed, name, depth):
    """dict: A classifier that starts as an arm of :data:`ARMS` says."""
    _, source, start = ARMS[name]
    if source is None:
        return vit_cfg(settings, depth)
    if name == 'selection':
        start = dict(start, type='WeightSelection', checkpoint=str(out / f'deep_seed{seed}.pth'))
    else:
        start = dict(start, type='Learngene', seed=draw_seed(seed, depth),
                     checkpoint=str(out / f'{source}_seed{seed}_gene.pth'))
    return vit_cfg(settings, depth, init_cfg=start)


def run_descendants(digits, out, settings, seed, name):
    """dict: Measure descendants of every depth as they start and some after tuning."""
    found = {}
    for depth in settings['depths']:
        model = build(descendant_cfg(out, settings, seed, name, depth), seed)
        found[depth] = dict(parameters=count(model), start=evaluate(model, digits['val']))
        if depth in settings['tuned_depths']:
            train(model, digits['train'], settings['tune_epochs'], settings['tune_lr'], settings)
            found[depth]['tuned'] = evaluate(model, digits['val'])
    return dict(depths=found)


def run_trained(digits, out, settings, seed, depth):
    """dict: Train a plain net of a depth from scratch, for as long as the auxiliary nets."""
    model = build(vit_cfg(settings, depth), seed)
    losses = train(model, digits['train'], settings['epochs'], settings['lr'], settings)
    return dict(parameters=count(model), losses=losses, **evaluate(model, digits['val']))


KINDS = dict(teacher=run_teacher, source=run_source, descendants=run_descendants,
             trained=run_trained)
#: The settings that runs depend on, of every kind and of one kind.
_FOR_ALL = ('image', 'digit', 'train_images', 'val_images', 'centre', 'shift', 'batch',
            'weight_decay', 'clip', 'warmup')
_NET = ('patch', 'width', 'heads')
_FOR = dict(
    teacher=('lr', 'teacher_epochs'),
    source=(*_NET, 'stages', 'lr', 'epochs', 'alpha', 'tau', 'last_blocks'),
    trained=(*_NET, 'lr', 'epochs'),
    descendants=(*_NET, 'depths', 'tuned_depths', 'tune_epochs', 'tune_lr'))
#: What this process has read: folder and centre -> digits by split.
_READ = {}


def tasks(settings, seeds, arms=tuple(ARMS)):
    """list[dict]: All runs: name, kind, arguments, names of the runs they need, rough cost.

    Args:
        settings (dict): Of the study.
        seeds (list[int]): The seeds.
        arms (Sequence[str]): Which of :data:`ARMS`. With fewer than all there are only the nets
            that they start from. Defaults to all.
    """
    stages, depth = len(settings['stages']), sum(settings['stages'])
    # what all others wait for comes first
    found = [dict(name='teacher', kind='teacher', args=[0], needs=[], cost=float('inf'))]
    for seed in seeds:
        for name in (name for name in SOURCES if name in {ARMS[arm][1] for arm in arms}):
            blocks = stages if name == 'simple' else depth
            found.append(dict(name=f'{name}_seed{seed}', kind='source', args=[seed, name],
                              needs=['teacher'], cost=settings['epochs'] * blocks))
        for trained in settings['trained_depths'] if len(arms) == len(ARMS) else ():
            found.append(dict(name=f'trained-{trained}_seed{seed}', kind='trained',
                              args=[seed, trained], needs=[], cost=settings['epochs'] * trained))
        for name, source in ((name, ARMS[name][1]) for name in arms):
            found.append(dict(name=f'descendants-{name}_seed{seed}', kind='descendants',
                              args=[seed, name],
                              needs=[f'{source}_seed{seed}'] if source else [],
                              cost=settings['tune_epochs'] * sum(settings['tuned_depths'])))
    return found


def files(name, out):
    """list[Path]: What a run leaves for others."""
    if name == 'teacher':
        return [out / 'teacher.pth']
    if name.split('_')[0] in SOURCES:
        return [out / f'{name}.pth', out / f'{name}_gene.pth']
    return []


def relevant(task, out, settings):
    """dict: What a run depends on: settings, versions, code, and the files that it starts from."""
    from importlib import metadata
    names = [*_FOR_ALL, *_FOR[task['kind']]]
    return dict(
        {name: settings[name] for name in names},
        versions={name: metadata.version(name) for name in PACKAGES},
        code=code(),
        starts_from={file.name: sha(file) for need in task['needs']
                     for file in files(need, out) if file.is_file()})


def kept(task, out, settings):
    """dict | None: A run's record, if it was done with these settings and its files are there."""
    path = out / f'{task["name"]}.json'
    if not path.is_file():
        return None
    record = json.loads(path.read_text())
    same = record['settings'] == relevant(task, out, settings)
    same = same and record['files'] == {
        file.name: sha(file) for file in files(task['name'], out) if file.is_file()}
    return record if same else None


@functools.cache
def code():
    """str: A hash of the package and of this file: what other code has measured is not kept."""
    digest = hashlib.sha256()
    for path in [*sorted((ROOT / 'scalenet_mm').rglob('*.py')), Path(__file__)]:
        digest.update(path.read_bytes())
    return digest.hexdigest()


def sha(path):
    """str: A sum of a file."""
    return hashlib.sha256(Path(path).read_bytes()).hexdigest()


def run_task(task, out, data, settings):
    """dict: Do a run, with one thread, and write its record."""
    import torch
    from speed import quiet

    import scalenet_mm  # noqa: F401  registers
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with quiet():
            return _run_task(task, Path(out), data, settings)
    finally:
        torch.set_num_threads(threads)


def _run_task(task, out, data, settings):
    read = str(data), settings['centre']
    if read not in _READ:
        _READ[read] = {split: Digits(data, split, settings['centre']) for split in ('train', 'val')}
    started, cpu = time.perf_counter(), time.process_time()
    found = KINDS[task['kind']](_READ[read], out, settings, *task['args'])
    record = dict(
        name=task['name'], kind=task['kind'], args=task['args'], **found,
        seconds=time.perf_counter() - started, cpu_seconds=time.process_time() - cpu,
        settings=relevant(task, out, settings),
        files={file.name: sha(file) for file in files(task['name'], out)})
    path = out / f'{task["name"]}.json'
    path.with_suffix('.tmp').write_text(json.dumps(record, indent=1))
    os.replace(path.with_suffix('.tmp'), path)
    return json.loads(path.read_text())
