"""The tables of the SWS paper (arXiv 2404.16897) as printed, and the config of each row."""
from collections.abc import Iterator

from .paper_tables import Paper, PaperRow

#: What the paper's tables show, by number; its Figure 4 prints the sizes of all descendants.
SWS_TABLES = {
    '1': 'ImageNet-1K, Des-B straight after initialisation',
    '2': 'CIFAR-100, pre-training and fine-tuning (PF) against one gene (SWS)',
    '3': 'ImageNet-1K, Des-B straight after initialisation, Simple-LG',
    '4': 'ImageNet-1K, Des-B straight after initialisation, orders',
    '5': 'ImageNet-1K, assignments of Aux-B',
    '6': 'Des-S-12, the gene trained for 100 and 150 epochs',
    'F4': 'Figure 4, sizes of the descendants',
}

#: Why a figure differs from the printed one, or how it is to be read.
SWS_NOTES = {
    'no-class-token': 'The printed FLOPs are those of 196 tokens, without a class token (as in '
                      "MiniViT's code, on which theirs is built), with five operations for each "
                      'element of a norm. Built here is DeiT with its class token; norms do not '
                      'count.',
    'sum': 'The printed total of 759.3 is the sum of the column\'s rounded figures; as built it is '
           '759.358.',
    'hundred-classes': 'Without 900 of 1,000 classes (0.69) it is 43.348, which rounds to 43.3.',
    'selection': 'Scores that fall from nearly the trained model\'s with every block that is left '
                 'out look like the first blocks of a trained model of the same width and 16 '
                 'blocks or so: a selection of channels, which IMwLM is in its own paper and here, '
                 'leaves no function to speak of before training.',
    'chance': '0.1 is chance for 1,000 classes.',
    'option': 'The config of CI-order1 with --cfg-options model.init_cfg.order=random-assigned '
              'model.init_cfg.seed=0 (RI) or model.init_cfg.order=front-last-mid (CI-order2); '
              'tools/learngene.py expand has them as --order and --seed.',
    'one-draw': 'The print does not tell how many draws RI is.',
    'mini-deit': 'Mini-DeiT (44.1 M, 17.5 GFLOPs, 80.9) is another method and not built here.',
    'ws5': 'The text has MS-WS5 close to Mini-DeiT; the table says that it failed, and that '
           'MS-WS6 is.',
}


def _name(method: str, net: str, epochs: int, data: str = 'imagenet') -> str:
    folder = dict(imagenet='baselines').get(data, 'transfer')
    if method == 'sws' and data == 'imagenet':
        folder = 'descendants'
    if net.startswith('aux'):
        folder = 'aux'
    return f'learngene/{folder}/{method}_{net}_{epochs}e_{data}.py'


def descendant_config(method: str, size: str, depth: int) -> str:
    """str: Where the config of a descendant on ImageNet is, below ``configs/``.

    Args:
        method (str): 'sws', 'scratch', 'tleg', 'simple', 'vanilla' or 'selection'.
        size (str): 's' or 'b'.
        depth (int): Number of blocks.
    """
    epochs = 15 if size == 's' and depth > 12 else 10
    if method in ('scratch', 'tleg'):
        epochs = dict(scratch=100, tleg=dict(s=35, b=40)[size])[method]
    return _name(method, f'des-{size}-{depth}', epochs)


#: Parameters and FLOPs of Des-B with 1,000 classes, by depth.
_SIZES = {
    6: ('44.0', '8.8'), 7: ('51.1', '10.3'), 8: ('58.2', '11.7'), 9: ('65.3', '13.1'),
    10: ('72.4', '14.6'), 11: ('79.5', '16.0'), 12: ('86.6', '17.5'), 13: ('93.7', '18.9'),
    14: ('100.7', '20.4'), 15: ('107.8', '21.8'),
}
#: Depths at which the FLOPs of 197 tokens round to another figure than those of 196.
_TOKENS = range(9, 16)


def _flops_note(depth: int) -> tuple:
    return ('no-class-token', ) if depth in _TOKENS else ()


def _table_1() -> Iterator[PaperRow]:
    methods = (('Trained (100ep)', 'scratch'), ('IMwLM', 'selection'), ('Vanilla-LG', 'vanilla'),
               ('TLEG', 'tleg'), ('SWS', 'sws'))
    for depth, scores in {
        6: ('75.4', '3.3', '0.1', '39.9', '59.9'), 7: ('76.5', '5.8', '0.1', '60.4', '68.5'),
        8: ('77.2', '12.2', '0.1', '69.8', '74.4'), 9: ('78.0', '24.2', '0.1', '73.8', '76.5'),
        10: ('78.2', '42.2', '0.1', '75.7', '78.0'), 11: ('79.0', '59.2', '0.1', '76.4', '78.9'),
        12: ('79.6', '69.9', '0.1', '76.6', '79.3'), 13: ('79.0', '76.2', '0.1', '76.7', '80.0'),
        14: ('79.1', '78.6', '0.1', '76.5', '80.1'), 15: ('79.4', '79.3', '0.1', '76.0', '80.5'),
    }.items():
        for (label, method), score in zip(methods, scores):
            own = dict(selection=('selection', ), vanilla=('chance', )).get(method, ())
            yield PaperRow('1', f'Des-B-{depth}', label, descendant_config(method, 'b', depth),
                           *_SIZES[depth], score, notes=_flops_note(depth) + own)


def _table_2() -> Iterator[PaperRow]:
    gene = _name('sws', 'aux-b', 100)
    for depth, (params, pf, sws) in {
        6: ('43.4', '87.99', '88.11'), 7: ('50.4', '88.04', '88.75'), 8: ('57.5', '88.35', '89.01'),
        9: ('64.6', '88.40', '89.35'), 10: ('71.7', '88.04', '89.06'),
        11: ('78.8', '88.80', '89.21'), 12: ('85.9', '88.47', '89.59'),
        13: ('93.0', '88.36', '89.80'), 14: ('100.1', '88.24', '89.28'),
        15: ('107.1', '88.34', '89.20'),
    }.items():
        notes = ('hundred-classes', ) if depth == 6 else ()
        stored = descendant_config('scratch', 'b', depth)
        for label, score, config, printed in (('PF', pf, stored, _SIZES[depth][0]),
                                              ('SWS', sws, gene, '37.0')):
            own = ('sum', ) if (label, depth) == ('PF', 15) else ()
            yield PaperRow('2', f'Des-B-{depth}', label,
                           _name(label.lower(), f'des-b-{depth}', 100, 'cifar100'), params,
                           score=score, stored=printed, stored_config=config, notes=notes + own)


def _table_3() -> Iterator[PaperRow]:
    for depth, simple, sws in ((8, '66.5', '74.4'), (9, '63.4', '76.5'), (10, '59.9', '78.0'),
                               (11, '57.2', '78.9'), (12, '52.5', '79.3')):
        for label, method, score in (('Simple-LG', 'simple', simple), ('SWS', 'sws', sws)):
            yield PaperRow('3', f'Des-B-{depth}', label, descendant_config(method, 'b', depth),
                           *_SIZES[depth], score, notes=_flops_note(depth))


def _table_4() -> Iterator[PaperRow]:
    for depth, scores in {
        7: ('50.5', '68.5', '70.0'), 8: ('47.8', '74.4', '72.6'), 9: ('71.2', '76.5', '74.2'),
        10: ('70.7', '78.0', '78.0'), 11: ('76.8', '78.9', '78.9'), 12: ('75.2', '79.3', '79.9'),
    }.items():
        for label, score in zip(('RI', 'CI-order1', 'CI-order2'), scores):
            own = dict(RI=('option', 'one-draw'), **{'CI-order2': ('option', )}).get(label, ())
            yield PaperRow('4', f'Des-B-{depth}', label, descendant_config('sws', 'b', depth),
                           *_SIZES[depth], score, notes=_flops_note(depth) + own)


def _table_5() -> Iterator[PaperRow]:
    token = ('no-class-token', )
    for label, config, params, flops, score, notes in (
        ('Scratch', descendant_config('scratch', 'b', 12), '86.6', '17.5', '79.6', token),
        ('TLEG', _name('tleg', 'aux-b', 100), '15.7', '17.6', '76.7', ('mini-deit', )),
        ('MS-WS1 (2,2,2,2,2,2)', _name('sws', 'aux-b-222222', 100), '44.0', '17.5', '80.7', token),
        ('MS-WS1 (wo dis)', _name('sws', 'aux-b-222222-nodistill', 100), '44.0', '17.5', '77.7',
         token),
        ('MS-WS2 (1,4,1,1,4,1)', _name('sws', 'aux-b-141141', 100), '44.0', '17.5', '80.0', token),
        ('MS-WS3 (1,5,1,4,1)', _name('sws', 'aux-b-15141', 100), '37.0', '17.5', '79.4', token),
        ('MS-WS4 (4,1,6,1,4)', _name('sws', 'aux-b-41614', 100), '37.0', '23.3', '80.7', token),
        ('MS-WS5 (4,1,5,2,3)', _name('sws', 'aux-b-41523', 100), '37.0', '21.8', 'fail',
         (*token, 'ws5')),
        ('MS-WS6 (3,3,4,3,3)', _name('sws', 'aux-b', 100), '37.0', '23.3', '80.9', token),
    ):
        yield PaperRow('5', 'Aux-B', label, config, params, flops, score, notes=notes)


def _table_6() -> Iterator[PaperRow]:
    data = {'CIFAR-100': 'cifar100', 'CIFAR-10': 'cifar10', 'Food-101': 'food101',
            'Cars-196': 'cars196'}
    for epochs, aux, scores in ((100, '76.4', ('87.40', '98.26', '89.19', '84.50')),
                                (150, '78.7', ('88.54', '98.58', '89.83', '87.88'))):
        yield PaperRow('6', 'Aux-S', f'ImageNet-1K, {epochs} epochs',
                       _name('sws', 'aux-s', epochs), score=aux)
        net = 'des-s-12' if epochs == 150 else 'des-s-12-aux100e'
        for (title, name), score in zip(data.items(), scores):
            yield PaperRow('6', 'Des-S-12', f'{title}, gene of {epochs} epochs',
                           _name('sws', net, 100, name), score=score)


def _figure_4() -> Iterator[PaperRow]:
    small = ('11.4', '13.2', '15.0', '16.7', '18.5', '20.3', '22.1', '23.8', '25.6', '27.4')
    large = (params for params, _ in _SIZES.values())
    for size, printed in (('s', small), ('b', large)):
        for depth, params in zip(_SIZES, printed):
            yield PaperRow('F4', f'Des-{size.upper()}-{depth}', 'SWS',
                           descendant_config('sws', size, depth), params)


SWS_ROWS = tuple(row for rows in (_table_1, _table_2, _table_3, _table_4, _table_5, _table_6,
                                  _figure_4) for row in rows())
SWS = Paper('sws', 'stage-wise weight sharing (arXiv 2404.16897)', SWS_TABLES, SWS_NOTES, SWS_ROWS)
