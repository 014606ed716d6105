"""The text of docs/model_zoo.md, from what make_metafiles.py knows of the configs."""
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath

INTRO = '''\
# Model zoo

<!-- Written by tools/dev/make_metafiles.py from the configs; change tools/dev/model_zoo.py. -->

Every config, what it builds, what the paper prints of it and what this project measured.

```bash
make metafiles                               # counts anew, writes the metafiles and this page
python tools/dev/make_metafiles.py --check   # writes nothing, names what is out of date
```

There are {count} configs. **No weights are published**: nothing has been trained on ImageNet, COCO
or ADE20K by this project. What a config starts from stands [below](#weights-to-start-from).

| column | |
| --- | --- |
| M | parameters in millions, with heads, a shared tensor once |
| added | those of them that adapters, gains and repeats own, in millions |
| trainable | those that train by the config's rules, in millions |
| GFLOPs | 10^9 multiply-accumulates of one image: products and convolutions, heads included |
| paper | the paper's score, never ours, with the tables that print it |
| measured | ours, with a link to how |

What the paper prints of sizes stands beside ours [in its tables](imagenet.md#the-tables). The exact
numbers are in the metafiles (`model-index.yml` lists them), with the size of the image: a
classifier's test crop (224 x 224), a segmentor's training crop (512 x 512 for ADE20K), 800 x 1280
for COCO, as in the toolboxes' own tables. Regions count with as many as `test_cfg` lets pass:
1,000 for a box head, 100 for a mask head of mmdet's. A Swin pads its windows, so its FLOPs depend
on the size not only by the number of pixels. A distilled model is counted without its teacher.
Counted so, stock models have their published figures: Mask R-CNN with Swin-T 267 and with Swin-S
359, RetinaNet with ResNet-50 239, UPerNet with Swin-T on 512 x 2048 945.
'''

USE = '''\
## By name

mmpretrain finds classifiers by name once it knows the index. In a clone:

```python
from mmpretrain.apis import ModelHub, get_model, list_models

ModelHub.register_model_index('model-index.yml', config_prefix='.')
print(list_models('scalenet_deit-t', exclude_patterns=['*folder']))
model = get_model('scalenet_deit-t_100e_imagenet', head=dict(num_classes=10))
```

Of an installed package, the index and `config_prefix` are in `scalenet_mm/.mim`. All names are
listed, those of detectors and segmentors too; `get_model` is for classifiers.
`pretrained=True` warns that there are no weights and goes on with random ones; a file of yours can
be named instead (`pretrained='epoch_100.pth'`). `inference_model` takes its kind of task from
measured results, which most entries do not have, and says so; use [infer](inference.md).

With openmim (0.3.9 was tried, from a folder of its own) and the package installed from its wheel:

<!-- test: skip needs openmim, which is no part of the environment -->
```bash
mim search scalenet_mm --config scalenet_deit-b_100e_imagenet
mim search scalenet_mm --dataset coco --condition 'parameters<50000000' --field parameters flops
mim search scalenet_mm --dataset imagenet-1k --sort parameters --field parameters
```

`mim download` needs weights, which no entry has: its error names the field, `{'weight'}`. The
papers' figures are under `Paper Results` of a metafile's entry, where neither mim nor mmpretrain
takes them for measured ones; `Results` has only what this project measured.

In Python, `modelindex` reads it:

```python
from modelindex.load_model_index import load

index = load('model-index.yml')
assert index.check(silent=True) == []
small = [m.name for m in index.models if m.metadata.parameters < 4e6]
```
'''


@dataclass(frozen=True)
class Section:
    """A table of the page.

    Args:
        title (str): Its heading.
        text (str): What stands before it.
        score (str): What the papers' and the measured scores are.
        takes (Callable): Whether an entry belongs into it; the first section that takes it has it.
    """
    title: str
    text: str
    score: str
    takes: Callable


def _in(folder):
    return lambda entry: entry.path.startswith(f'{folder}/')


def _task(task, data=()):
    return lambda e: e.tasks[0] == task and (not data or e.data in data)


LEARNGENE_TEXT = '''\
[Learngenes](learngene.md): auxiliary nets, whose blocks share all weights within a stage, and the
models that start from them. Nothing of a descendant is shared, so nothing is added.'''
SECTIONS = (
    Section('Quickstart', 'Small models on digit scenes: [quickstart](quickstart.md).',
            'box AP / mask AP', _in('quickstart')),
    Section('ImageNet, baselines', 'Table I: [positions, sources, '
            'seeds](../configs/baselines/README.md).', 'top-1', _in('baselines')),
    Section('ImageNet, ablations', 'Tables II to VI and Figure 6.', 'top-1', _in('ablations')),
    Section('ImageNet, 24 layers from scratch', 'Table VII.', 'top-1', _in('scratch')),
    Section('Learngenes: auxiliary nets', LEARNGENE_TEXT, 'top-1', _in('learngene/aux')),
    Section('Learngenes: descendants on ImageNet', 'Scores are those straight after '
            'initialisation, and of `scratch` those after its 100 epochs.', 'top-1',
            _in('learngene/descendants')),
    Section('Learngenes: baselines on ImageNet', '', 'top-1', _in('learngene/baselines')),
    Section('Learngenes: smaller data sets', '`pf` is pre-training and fine-tuning.', 'top-1',
            _in('learngene/transfer')),
    Section('ImageNet', '[All about them](imagenet.md).', 'top-1',
            _task('Image Classification', ('ImageNet-1k', ))),
    Section('A folder of images', 'ImageNet weights and data of your own: [your own '
            'task](your_own_task.md). Counted with the 1,000 classes that the recipe has until a '
            'number is named.', 'top-1', _task('Image Classification')),
    Section('Detection and instance segmentation', '[All about them]'
            '(detection_and_segmentation.md). The paper prints one row for each Swin; by its text '
            'all stages are doubled, by its counts one, so two configs have it.', 'box AP',
            _task('Object Detection')),
    Section('Semantic segmentation', '[All about them](detection_and_segmentation.md).', 'mIoU',
            _task('Semantic Segmentation')),
)
#: In which the sections stand on the page.
ORDER = ('Quickstart', 'ImageNet', 'ImageNet, baselines', 'ImageNet, ablations',
         'ImageNet, 24 layers from scratch', 'A folder of images',
         'Detection and instance segmentation', 'Semantic segmentation',
         'Learngenes: auxiliary nets', 'Learngenes: descendants on ImageNet',
         'Learngenes: baselines on ImageNet', 'Learngenes: smaller data sets')


def _millions(number):
    return f'{number / 1e6:.2f}' if number else ''


def _paper_cell(entry):
    tables = {}
    for table, figures in entry.paper.items():
        score = figures.get('box AP') or figures.get('Top 1 Accuracy')
        if score:
            tables.setdefault(score, []).append(table.removeprefix('Table '))
    return ', '.join(f'{score} ({", ".join(where)})' for score, where in tables.items())


def _measured_cell(entry):
    return ', '.join(
        f'[{" / ".join(map(str, figures))}]({run.link})' for run, _, figures in entry.runs)


def _table(entries, score):
    header = ['config', 'M', 'added', 'trainable', 'GFLOPs', f'{score}, paper',
              f'{score}, measured']
    rows = [[f'[{entry.name}](../configs/{entry.path})', _millions(entry.parameters),
             _millions(entry.added), _millions(entry.trainable), f'{entry.flops / 1e9:.2f}',
             _paper_cell(entry), _measured_cell(entry)] for entry in entries]
    used = [i for i in range(len(header)) if any(row[i] for row in rows)]
    lines = [header, [':---' if i == 0 else '---:' for i in range(len(header))], *rows]
    return ['| ' + ' | '.join(line[i] for i in used) + ' |' for line in lines]


def _how(entries):
    """What was run for the measured column, once each."""
    found = {}
    for entry in entries:
        for run, setting, _ in entry.runs:
            found.setdefault(run.command, (run, setting))
    for command, (run, setting) in found.items():
        of = f'{run.data}, {setting}, not at the length of the config' if setting else run.data
        yield f'Measured ({of}): `{command}`.'


def _weights(entries):
    users = {}
    for entry in entries:
        for file in entry.weights:
            users.setdefault(file, []).append(entry)
    lines = ['| weights | configs |', '| --- | --- |']
    own = []
    for file, those in users.items():
        names = ', '.join(f'`{entry.name}`' for entry in those[:2])
        if len(those) > 2:
            names += f' and {len(those) - 2} more'
        if '://' in file:
            lines.append(f'| [{PurePosixPath(file).name}]({file}) | {names} |')
        else:
            own.append(f'| `{file}` | {names} |')
    return [*lines, '', 'Files that another config or tool makes first ([learngenes](learngene.md),'
            ' [quickstart](quickstart.md)):', '', *lines[:2], *own]


def write_page(entries: Sequence) -> str:
    """Write the page.

    Args:
        entries (Sequence[Entry]): All configs, in order.

    Returns:
        str: Its text.
    """
    members = {section.title: [] for section in SECTIONS}
    for entry in entries:
        section = next(section for section in SECTIONS if section.takes(entry))
        members[section.title].append(entry)
    sections = {section.title: section for section in SECTIONS}
    lines = [INTRO.format(count=len(entries))]
    for title in ORDER:
        section = sections[title]
        lines += [f'## {title}', '']
        if section.text:
            lines += [section.text, '']
        lines += [*_table(members[title], section.score), '']
        for line in _how(members[title]):
            lines += [line, '']
    lines += ['## Weights to start from', '', 'What the configs name (`load_from` or `init_cfg`).'
              ' mmengine downloads a URL on first use; a file of yours can be named instead.', '',
              *_weights(entries), '', USE]
    return '\n'.join(lines)
