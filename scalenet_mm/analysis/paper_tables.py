"""The tables of the ScaleNet paper (arXiv 2510.18431) as printed, and the config of each row."""
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Optional

#: What the paper's tables show, by number.
TABLES = {
    'I': 'ImageNet-1K, ways of growing',
    'II': 'weight sharing and adjustment',
    'III': 'which layers are shared',
    'IV': 'how often layers are shared',
    'V': 'order of the layers',
    'VI': 'kind and width of the adjustment (DeiT-Base)',
    'VII': 'against training 24 layers from scratch',
    'VIII': 'COCO, Mask R-CNN',
}

#: Why a figure differs from the printed one, or how it is to be read.
NOTES = {
    'norms': 'The paper does not count the layer norms of the new blocks.',
    'doubled': 'The paper prints twice its ungrown figure: embedding and head counted twice, '
               'adapters not at all.',
    'adapters': 'The paper does not count the multiplications in adapters.',
    'swin-t': 'The paper prints the parameters of stage 3 doubled (29,372,770), but the FLOPs of '
              'stage 4 doubled, which its text names and which is built here.',
    'swin-flops': 'As built, matrix products count; they give 8.74 and 15.43 (Swin\'s own paper: '
                  '8.7 and 15.4). With five operations for each element of a norm, as mmengine '
                  'counts, it is 8.77 and 15.47, which round to the print.',
    'swin-s-block': 'The print looks like the ungrown 8.8 and one block (0.35), a sum of rounded '
                    'figures.',
    'rank32': 'Rank 32 on ungrown blocks has 89.52 M; the paper prints its grown model\'s 89.55.',
    'half-twice': 'The paper prints 86.57 and half, or twice, the 2.98 that its default adds. But '
                  'the originals\' adapters come once, whatever the times, and norms do not grow '
                  'with the width.',
    'times3': 'The print fits no count of two more instances of stage 4, with adapters on all '
              'blocks.',
    'hours': 'As printed: 3 times the epochs in 2.1 times the hours.',
    'all-stages': 'The paper\'s text says that all layers are reused, and that is built here; its '
                  'count fits the row below.',
    'counts-reading': 'Not the text\'s reading but the one that has the printed count.',
}


@dataclass(frozen=True)
class PaperRow:
    """A row of a table, its figures as they are printed; empty where the paper prints none.

    Args:
        table (str): Number of the table in its paper.
        model (str): Name of the model.
        label (str): What the row says of it.
        config (str): The config that builds it, below ``configs/``, or ``'mmdet::...'``.
        params (str): Parameters in millions. Defaults to ''.
        flops (str): Multiply-accumulates in 10^9. Defaults to ''.
        score (str): Top-1 accuracy; box AP in Table VIII. Defaults to ''.
        hours (str): Hours of training. Defaults to ''.
        stored (str): Parameters in millions that are kept to start the model from. Defaults to ''.
        stored_config (str): The config whose model is kept for that. Defaults to ''.
        notes (tuple[str]): Keys of the paper's notes. Defaults to ().
    """
    table: str
    model: str
    label: str
    config: str
    params: str = ''
    flops: str = ''
    score: str = ''
    hours: str = ''
    stored: str = ''
    stored_config: str = ''
    notes: tuple = ()

    @property
    def configs(self) -> tuple:
        """tuple[str]: What must be built for the row."""
        return tuple(filter(None, (self.config, self.stored_config)))


@dataclass(frozen=True)
class Paper:
    """The tables of a paper.

    Args:
        name (str): Its name on the command line.
        title (str): What it is.
        tables (dict[str, str]): What its tables show, by number.
        notes (dict[str, str]): Why figures differ from the printed ones, by key.
        rows (tuple[PaperRow]): The rows of all tables.
    """
    name: str
    title: str
    tables: dict
    notes: dict
    rows: tuple


MODELS = {
    'deit-t': 'DeiT-Tiny', 'deit-s': 'DeiT-Small', 'deit-b': 'DeiT-Base',
    'swin-t': 'Swin-Tiny', 'swin-s': 'Swin-Small', 'swin-b': 'Swin-Base',
}


def config_name(arch: str, variant: str = '', folder: str = '', epochs: int = 100) -> str:
    """str: Where the config of an ImageNet model is, below ``configs/``."""
    variant = f'-{variant}' if variant else ''
    return f'{folder}scalenet_{arch}{variant}_{epochs}e_imagenet.py'


def _table_i() -> Iterator[PaperRow]:
    baselines = ('Random', 'Stack', 'Interpolate', 'SWA')
    # parameters and FLOPs of the ungrown model, the baselines and ScaleNet; top-1 of all six
    printed = {
        'deit-t': (('5.72', '1.3'), ('6.61', '1.5'), ('6.45', '2.6'),
                   ('72.16', '75.01', '75.37', '75.39', '75.23', '76.46')),
        'deit-s': (('22.05', '4.6'), ('23.83', '5.0'), ('23.53', '9.2'),
                   ('79.86', '80.07', '80.09', '80.22', '80.09', '81.13')),
        'deit-b': (('86.57', '17.6'), ('93.66', '19.0'), ('89.55', '35.2'),
                   ('81.80', '82.22', '82.27', '82.27', '82.34', '82.53')),
        'swin-t': (('28.29', '4.5'), ('30.06', '4.8'), ('29.37', '5.2'),
                   ('81.20', '81.16', '81.14', '81.14', '81.28', '81.43')),
        'swin-s': (('49.61', '8.8'), ('51.38', '9.2'), ('51.30', '9.5'),
                   ('83.22', '83.18', '83.07', '83.05', '83.18', '83.34')),
        'swin-b': (('87.77', '15.5'), ('90.92', '16.1'), ('90.03', '16.7'),
                   ('83.50', '83.57', '83.53', '83.52', '83.63', '83.69')),
    }
    notes = {
        ('deit-t', 'ScaleNet'): ('norms', 'doubled'),
        ('deit-s', 'ScaleNet'): ('norms', 'doubled'),
        ('deit-b', 'ScaleNet'): ('doubled', ),
        ('swin-t', 'ScaleNet'): ('swin-t', 'adapters'),
        ('swin-s', 'ungrown'): ('swin-flops', ),
        ('swin-s', 'ScaleNet'): ('swin-flops', 'adapters'),
        ('swin-b', 'ungrown'): ('swin-flops', ),
        ('swin-b', 'ScaleNet'): ('adapters', ),
        **{('swin-s', name): ('swin-s-block', ) for name in baselines},
    }
    for arch, (ungrown, baseline, grown, scores) in printed.items():
        rows = [('ungrown', config_name(arch, 'ungrown'), ungrown)]
        rows += [(name, config_name(arch, name.lower(), 'baselines/'), baseline)
                 for name in baselines]
        rows.append(('ScaleNet', config_name(arch), grown))
        for (label, config, (params, flops)), score in zip(rows, scores):
            yield PaperRow('I', MODELS[arch], label, config, params, flops, score,
                           notes=notes.get((arch, label), ()))


def _table_ii() -> Iterator[PaperRow]:
    printed = {
        'deit-t': (('5.72', '72.16'), ('5.72', '75.58'), ('6.31', '74.86'), ('6.45', '75.07'),
                   ('6.45', '76.46')),
        'deit-s': (('22.05', '79.86'), ('22.05', '80.56'), ('23.23', '80.02'), ('23.53', '80.01'),
                   ('23.53', '81.13')),
        'deit-b': (('86.57', '81.80'), ('86.57', '82.08'), ('88.93', '82.19'), ('89.55', '82.28'),
                   ('89.55', '82.53')),
        'swin-t': (('28.29', '81.20'), ('28.29', '81.23'), ('28.85', '80.95'), ('28.99', '81.32'),
                   ('29.37', '81.43')),
        'swin-s': (('49.61', '83.22'), ('49.61', '83.09'), ('50.76', '82.93'), ('51.05', '83.24'),
                   ('51.30', '83.34')),
        'swin-b': (('87.77', '83.50'), ('87.77', '83.61'), ('89.31', '83.26'), ('89.69', '83.56'),
                   ('90.03', '83.69')),
    }
    folder = 'ablations/sharing/'
    notes = {
        ('deit-t', 1): ('norms', ), ('deit-t', 4): ('norms', ),
        ('deit-s', 1): ('norms', ), ('deit-s', 4): ('norms', ),
        ('deit-b', 1): ('norms', ), ('deit-b', 3): ('rank32', ),
        ('swin-t', 4): ('swin-t', ),
        ('swin-b', 1): ('norms', ),
    }
    for arch, rows in printed.items():
        kinds = (
            ('neither', config_name(arch, 'ungrown')),
            ('sharing', config_name(arch, 'shared', folder)),
            ('LoRA', config_name(arch, 'lora', folder)),
            ('adapter', config_name(arch, 'adapter', folder)),
            ('sharing, adapter', config_name(arch)),
        )
        for i, ((label, config), (params, score)) in enumerate(zip(kinds, rows)):
            yield PaperRow('II', MODELS[arch], label, config, params, score=score,
                           notes=notes.get((arch, i), ()))


def _table_iii() -> Iterator[PaperRow]:
    folder = 'ablations/layers/'
    for arch, rows in (
        ('deit-b', (('none', 'ungrown', '86.57', '81.80'), ('1-3', 'blocks1-3', '87.31', '82.11'),
                    ('4-6', 'blocks4-6', '87.31', '82.17'), ('7-9', 'blocks7-9', '87.31', '82.13'),
                    ('10-12', 'blocks10-12', '87.31', '82.30'), ('all', '', '89.55', '82.53'))),
        ('swin-b', (('none', 'ungrown', '87.77', '83.50'), ('stage 1', 'stage1', '89.74', '83.56'),
                    ('stage 2', 'stage2', '89.78', '83.63'),
                    ('stage 3', 'stage3', '91.20', '83.46'), ('stage 4', '', '90.03', '83.69'),
                    ('all', 'all', '91.67', '83.48'))),
    ):
        for label, variant, params, score in rows:
            own = variant not in ('', 'ungrown')
            yield PaperRow('III', MODELS[arch], label,
                           config_name(arch, variant, folder if own else ''), params, score=score)


def _table_iv() -> Iterator[PaperRow]:
    for arch, rows in (
        ('deit-b', (('86.57', '81.80', ()), ('89.55', '82.53', ()),
                    ('92.53', '82.27', ('half-twice', )))),
        ('swin-b', (('87.77', '83.50', ()), ('90.03', '83.69', ()),
                    ('91.39', '83.58', ('times3', )))),
    ):
        configs = (config_name(arch, 'ungrown'), config_name(arch),
                   config_name(arch, 'times3', 'ablations/times/'))
        for label, config, (params, score, notes) in zip(('once', 'twice', '3 times'), configs,
                                                         rows):
            yield PaperRow('IV', MODELS[arch], label, config, params, score=score, notes=notes)


def _table_v() -> Iterator[PaperRow]:
    folder = 'ablations/order/'
    for arch, rows in (
        ('deit-b', (('Interpolate', config_name('deit-b'), '82.53'),
                    ('Stack', config_name('deit-b', 'stacked', folder), '82.23'))),
        ('swin-b', (('Interpolate', config_name('swin-b', 'interpolated', folder), '83.51'),
                    ('Stack', config_name('swin-b'), '83.69'))),
    ):
        ungrown = dict(swin='83.50', deit='81.80')[arch[:4]]
        for label, config, score in (('ungrown', config_name(arch, 'ungrown'), ungrown), *rows):
            yield PaperRow('V', MODELS[arch], label, config, score=score)


def _table_vi() -> Iterator[PaperRow]:
    folder = 'ablations/adjustment/'
    for label, variant, params, score, notes in (
        # Table II's "sharing" is 82.08; the row without adjustment here is the ungrown model
        ('none', 'ungrown', '86.57', '81.80', ()),
        ('LoRA 4', 'lora4', '87.75', '82.15', ('norms', )),
        ('LoRA 8', 'lora8', '88.93', '82.17', ('norms', )),
        ('LoRA 16', 'lora16', '91.29', '82.18', ('norms', )),
        ('adapter 8', 'adapter8', '88.06', '82.37', ('half-twice', )),
        ('adapter 16', '', '89.55', '82.53', ()),
        ('adapter 32', 'adapter32', '92.53', '82.44', ('half-twice', )),
    ):
        own = variant not in ('', 'ungrown')
        yield PaperRow('VI', MODELS['deit-b'], label,
                       config_name('deit-b', variant, folder if own else ''), params, score=score,
                       notes=notes)


def _table_vii() -> Iterator[PaperRow]:
    for arch, rows in (
        ('deit-s', (('22.5', '77.32', ()), ('47.3', '79.31', ('hours', )), ('15.8', '81.13', ()))),
        ('deit-b', (('29.8', '68.91', ()), ('89.5', '75.11', ()), ('19.8', '82.53', ()))),
    ):
        kinds = (
            ('scratch, 100 epochs', config_name(arch, '24', 'scratch/')),
            ('scratch, 300 epochs', config_name(arch, '24', 'scratch/', 300)),
            ('ScaleNet, 100 epochs', config_name(arch)),
        )
        for (label, config), (hours, score, notes) in zip(kinds, rows):
            yield PaperRow('VII', MODELS[arch], label, config, score=score, hours=hours,
                           notes=notes)


def _table_viii() -> Iterator[PaperRow]:
    stock = 'mmdet::swin/mask-rcnn_swin-{}-p4-w7_fpn_{}_coco.py'
    for model, label, config, params, score, notes in (
        ('Swin-Tiny', 'ungrown', stock.format('t', 'ms-crop-3x'), '47.8', '46.0', ()),
        ('Swin-Tiny', 'all stages', 'maskrcnn_scalenet_swin-t_1x_coco.py', '48.9', '46.7',
         ('all-stages', )),
        ('Swin-Tiny', 'stage 3', 'maskrcnn_scalenet_swin-t-stage3_1x_coco.py', '48.9', '46.7',
         ('counts-reading', )),
        ('Swin-Small', 'ungrown', stock.format('s', 'amp-ms-crop-3x'), '69.1', '48.2', ()),
        ('Swin-Small', 'all stages', 'maskrcnn_scalenet_swin-s_1x_coco.py', '70.8', '48.4',
         ('all-stages', )),
        ('Swin-Small', 'stage 4', 'maskrcnn_scalenet_swin-s-stage4_1x_coco.py', '70.8', '48.4',
         ('counts-reading', )),
    ):
        yield PaperRow('VIII', model, label, config, params, score=score, notes=notes)


PAPER_ROWS = tuple(
    row for rows in (_table_i, _table_ii, _table_iii, _table_iv, _table_v, _table_vi, _table_vii,
                     _table_viii) for row in rows())
SCALENET = Paper('scalenet', 'ScaleNet (arXiv 2510.18431)', TABLES, NOTES, PAPER_ROWS)


@dataclass(frozen=True)
class Measured:
    """What a row's config builds.

    Args:
        params (int): Parameters, each shared tensor once.
        trainable (int): Those that train.
        flops (int, optional): Multiply-accumulates of an image. Defaults to None, not counted.
        plain_flops (int, optional): Those without what the adjustment adds. Defaults to None, not
            counted.
    """
    params: int
    trainable: int
    flops: Optional[int] = None
    plain_flops: Optional[int] = None


def differs(ours: float, printed: str) -> bool:
    """Whether a number, rounded to the digits of a printed one, is another.

    Args:
        ours (float): The number, in the unit of the printed one.
        printed (str): The printed one.

    Returns:
        bool: True if it is. A number that lies half-way fits both.
    """
    digits = len(printed.partition('.')[2])
    return abs(ours - float(printed)) > 0.5 * 10**-digits + 1e-9


COLUMNS = ('model', 'row', 'parameters', 'M', 'paper', 'diff', 'trainable', 'GFLOPs',
           'no adapters', 'paper', 'diff', 'score', 'hours', 'notes')
#: Those of a table that tells what is stored to start its models from.
STORED_COLUMNS = ('stored', 'paper', 'diff')


def _signed(difference):
    return f'{round(difference, 2) + 0.:+.2f}'  # no -0.00


def _figures(row: PaperRow, measured: Measured, marks: dict) -> list:
    params = measured.params / 1e6
    cells = [row.model, row.label, f'{measured.params:,}', f'{params:.2f}', row.params,
             _signed(params - float(row.params)) if row.params else '', f'{measured.trainable:,}']
    flops = plain = difference = ''
    if measured.flops is not None and measured.plain_flops is not None:
        flops, plain = (f'{n / 1e9:.2f}' for n in (measured.flops, measured.plain_flops))
        if row.flops:
            difference = _signed(measured.flops / 1e9 - float(row.flops))
    notes = ' '.join(f'[{marks[note]}]' for note in row.notes)
    return [*cells, flops, plain, row.flops, difference, row.score, row.hours, notes]


def _stored_cells(row, measured):
    if not row.stored_config:
        return ['', '', '']
    stored = measured[row.stored_config].params
    return [f'{stored:,}', row.stored, _signed(stored / 1e6 - float(row.stored))]


def storage_lines(rows: Sequence, measured: dict) -> list:
    """Sum up what must be kept to start a table's models from, kind by kind.

    A model that several rows start from is kept once.

    Args:
        rows (Sequence[PaperRow]): Rows of a table.
        measured (dict[str, Measured]): By config.

    Returns:
        list[str]: A line for each label, and one that compares the most with the least; empty if
        no row keeps anything.
    """
    kept: dict = {}
    for row in rows:
        if row.stored_config:
            kept.setdefault(row.label, {})[row.stored_config] = measured[row.stored_config].params
    if not kept:
        return []
    models = {label: sum(row.label == label for row in rows) for label in kept}
    totals = {label: sum(files.values()) for label, files in kept.items()}
    lines = [f'stored for the {models[label]} models by {label}: {total:,} parameters '
             f'({total / 1e6:.2f} M) in {len(kept[label])} file{"s"[:len(kept[label]) != 1]}'
             for label, total in totals.items()]
    if len(totals) > 1:
        most, least = max(totals, key=totals.__getitem__), min(totals, key=totals.__getitem__)
        lines.append(f'{most} stores {totals[most] / totals[least]:.1f} times as much as {least}')
    return lines


def render(rows: Sequence, measured: dict, style: str = 'text', paper: Paper = SCALENET) -> str:
    """Write tables: what the paper prints beside what the configs build.

    Args:
        rows (Sequence[PaperRow]): Rows of one or more tables, in order.
        measured (dict[str, Measured]): By config.
        style (str): 'text', 'markdown' or 'csv'. Defaults to 'text'.
        paper (Paper): The paper that the rows are of. Defaults to ScaleNet's.

    Returns:
        str: The tables.
    """
    if style == 'csv':
        return _render_csv(rows, measured, paper.notes)
    marks: dict = {}
    for row in rows:
        for note in row.notes:
            marks.setdefault(note, len(marks) + 1)
    lines = []
    for table in dict.fromkeys(row.table for row in rows):
        here = [row for row in rows if row.table == table]
        title = paper.tables[table]
        title = title if title.startswith('Figure') else f'Table {table}: {title}'
        score = 'box AP' if table == 'VIII' else 'top-1'
        columns = [score if c == 'score' else c for c in COLUMNS]
        cells = [_figures(row, measured[row.config], marks) for row in here]
        if not any(measured[row.config].plain_flops != measured[row.config].flops for row in here):
            place = columns.index('no adapters')
            for cell in (columns, *cells):
                del cell[place]
        sums = storage_lines(here, measured)
        if sums:  # behind the parameters
            place = columns.index('trainable')
            columns[place:place] = STORED_COLUMNS
            for cell, row in zip(cells, here):
                cell[place:place] = _stored_cells(row, measured)
        if style == 'markdown':
            links = [[*cell, f'`{row.config}`'] for cell, row in zip(cells, here)]
            lines += [f'### {title}', '', *_markdown([*columns, 'config'], links), '']
            lines += [line for text in sums for line in (text, '')]
        else:
            lines += [title, *_aligned(columns, cells), *sums, '']
    lines += [f'[{mark}] {paper.notes[note]}' + ('\n' if style == 'markdown' else '')
              for note, mark in marks.items()]
    lines.append('Scores and hours are the paper\'s. Parameters: a shared tensor counts once. '
                 'GFLOPs: 10^9 multiply-accumulates of an image of 224 x 224.')
    return '\n'.join(lines)


def _aligned(header, cells):
    """Columns of text; those that are empty in all rows are left out."""
    used = [i for i in range(len(header)) if any(row[i] for row in cells)]
    table = [[row[i] for i in used] for row in (header, *cells)]
    widths = [max(map(len, column)) for column in zip(*table)]
    left = ('model', 'row', 'notes')
    return ['  '.join(
        cell.ljust(width) if name in left else cell.rjust(width)
        for cell, width, name in zip(row, widths, table[0])).rstrip() for row in table]


def _markdown(header, cells):
    lines = [header, ['---'] * len(header), *cells]
    return ['| ' + ' | '.join(line) + ' |' for line in lines]


def _render_csv(rows, measured, texts):
    import csv
    import io
    out = io.StringIO()
    writer = csv.writer(out, lineterminator='\n')
    writer.writerow(('table', 'model', 'row', 'config', 'parameters', 'paper_parameters_m',
                     'trainable', 'flops', 'flops_without_adapters', 'paper_gflops', 'score',
                     'hours', 'stored', 'paper_stored_m', 'stored_config', 'notes'))
    for row in rows:
        ours = measured[row.config]
        notes = ' '.join(texts[note] for note in row.notes)
        stored = measured[row.stored_config].params if row.stored_config else ''
        writer.writerow((row.table, row.model, row.label, row.config, ours.params, row.params,
                         ours.trainable, ours.flops, ours.plain_flops, row.flops, row.score,
                         row.hours, stored, row.stored, row.stored_config, notes))
    return out.getvalue().rstrip('\n')
