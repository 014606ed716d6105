"""The learngene study: its data and arms, the order of its runs, its tables, what is kept."""
import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch

from scalenet_mm.learngene import descendant_map, read_gene

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope='module')
def bench():
    spec = importlib.util.spec_from_file_location(
        'learngene_digits', ROOT / 'benchmarks' / 'learngene_digits.py')
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    before = list(sys.path)
    spec.loader.exec_module(module)
    yield module
    sys.path[:] = before


@pytest.fixture(scope='module')
def done(bench, tmp_path_factory):
    """The whole study with two seeds and tiny nets: its folder, its images and its results."""
    folder = tmp_path_factory.mktemp('study')
    args = ['--quick', '--seeds', '0', '1', '--jobs', '1', '--out', str(folder / 'out'),
            '--data-root', str(folder / 'data')]
    bench.main(args)
    return folder, args, json.loads((folder / 'out' / 'results.json').read_text())


def names(results, **of):
    return [run['name'] for run in results['runs']
            if all(run[key] == value for key, value in of.items())]


def test_everything_runs_once(bench, done):
    folder, _, results = done
    assert names(results, kind='teacher') == ['teacher']
    assert len(names(results, kind='source')) == 2 * len(bench.runs.SOURCES)
    assert len(names(results, kind='descendants')) == 2 * len(bench.runs.ARMS)
    for run in results['runs']:
        if run['kind'] == 'descendants':
            assert [int(d) for d in run['depths']] == bench.runs.QUICK['depths']
            assert [int(d) for d in run['depths'] if 'tuned' in run['depths'][d]] == \
                bench.runs.QUICK['tuned_depths']
    assert (folder / 'out' / 'learngene.png').stat().st_size > 10_000


def test_each_source_is_of_its_method(bench, done):
    """The genes' own manifests say how they were trained and of how many blocks they are."""
    folder, _, _ = done
    found = {name: read_gene(str(folder / 'out' / f'{name}_seed1_gene.pth'))
             for name in bench.runs.SOURCES}
    assert {name: (gene.method, gene.stages) for name, gene in found.items()} == {
        'sws': ('sws', (1, 2)), 'simple': ('simple', (1, 1)), 'tleg': ('tleg', (1, 1)),
        'deep': ('vanilla', (1, ))}


def test_descendants_start_from_their_source(bench, done):
    """Three blocks from two stages: the second one's learngene twice, or the first one's."""
    folder, _, _ = done
    out, settings = folder / 'out', bench.runs.QUICK
    gene = read_gene(str(out / 'sws_seed1_gene.pth'))
    blocks = [gene.block(i)['attn.qkv.weight'] for i in range(2)]

    def sources(name):
        cfg = bench.runs.descendant_cfg(out, settings, 1, name, 3)
        model = bench.runs.build(cfg, 1)
        assert torch.equal(model.backbone.pos_embed, gene.backbone['pos_embed']) == (
            name.startswith(('sws', 'random')))
        return [[i for i, block in enumerate(blocks) if torch.equal(block, layer.attn.qkv.weight)]
                for layer in model.backbone.layers]

    assert sources('sws') == [[0], [0], [1]]
    assert all(len(found) == 1 for found in sources('random'))
    assert sources('random-sorted') == sorted(sources('random'))
    assert sources('simple') == sources('tleg') == sources('scratch') == [[], [], []]


def test_training_blocks_are_drawn_wide(bench):
    """Xavier's deviation, of every net that starts from nothing; a shared block once."""
    settings = dict(bench.runs.SETTINGS)
    for name in bench.runs.SOURCES:
        model = bench.runs.build(bench.runs.source_cfg(settings, name), 0)
        weight = model.backbone.layers[0].attn.proj.weight
        assert abs(weight.std().item() - (2 / 128)**0.5) < 0.01, name
    assert bench.runs.count(model) > 3 * bench.runs.count(
        bench.runs.build(bench.runs.source_cfg(settings, 'sws'), 0))


def test_digits_are_in_the_middle(bench, done):
    folder, _, _ = done
    digits = bench.runs.Digits(folder / 'data', 'val')
    assert digits.images.shape == (40, 1, 32, 32)
    assert digits.labels.bincount().tolist() == [4] * 10
    for image in digits.images[:, 0]:
        assert set(image.unique().tolist()) == {0., 255.}
        for axis in (0, 1):
            inked = image.any(axis).nonzero().flatten()
            assert abs(inked[0] + inked[-1] - 31) <= 1
    apart = bench.runs.Digits(folder / 'data', 'val', centre=False)
    assert torch.equal(apart.images.sum((1, 2, 3)), digits.images.sum((1, 2, 3)))
    assert sum(torch.equal(a, b) for a, b in zip(apart.images, digits.images)) < 10
    moved = digits.batch(range(40), shift=2)
    assert moved['inputs'].shape == digits.images.shape
    assert torch.equal(moved['inputs'].sum((1, 2, 3)), digits.images.sum((1, 2, 3)))
    assert not torch.equal(moved['inputs'], digits.images)
    assert [s.gt_label.item() for s in moved['data_samples']] == digits.labels.tolist()


def test_what_is_done_is_kept(bench, done, capsys, monkeypatch):
    folder, args, results = done
    ran = []

    def run_task(task, *rest):
        ran.append(task['name'])
        record = json.loads((folder / 'out' / f'{task["name"]}.json').read_text())
        return record

    monkeypatch.setattr(bench.runs, 'run_task', run_task)
    bench.main(args)
    assert not ran
    assert json.loads((folder / 'out' / 'results.json').read_text())['runs'] == results['runs']
    with monkeypatch.context() as patch:  # other code, so all is done anew
        patch.setattr(bench.runs, 'code', lambda: 'of yesterday')
        bench.main(args)
    assert len(ran) == len(results['runs'])
    ran.clear()
    # another rate of tuning concerns descendants alone
    monkeypatch.setitem(bench.runs.QUICK, 'tune_lr', 0.5)
    bench.main(args)
    assert sorted(ran) == sorted(names(results, kind='descendants'))
    ran.clear()
    monkeypatch.undo()
    monkeypatch.setattr(bench.runs, 'run_task', run_task)
    # a gene that was lost is made anew
    gene = folder / 'out' / 'tleg_seed0_gene.pth'
    content = gene.read_bytes()
    gene.unlink()
    bench.main(args)
    assert ran[0] == 'tleg_seed0' and set(ran) <= {'tleg_seed0', 'descendants-tleg_seed0'}
    gene.write_bytes(content)


def test_runs_wait_for_what_they_need(bench):
    for seeds in ([0], [3, 4]):
        found = bench.runs.tasks(bench.runs.SETTINGS, seeds)
        known = {task['name'] for task in found}
        assert len(known) == len(found)
        assert all(set(task['needs']) <= known for task in found)
        needs = {task['name']: task['needs'] for task in found}
        for seed in seeds:
            assert needs[f'descendants-vanilla_seed{seed}'] == [f'deep_seed{seed}']
            assert needs[f'descendants-random_seed{seed}'] == [f'sws_seed{seed}']


def test_an_error_in_a_process_ends_the_study(bench, tmp_path, monkeypatch):
    """Two processes; what one of them raises comes out, and nothing hangs."""
    settings = dict(bench.runs.QUICK)
    task = dict(name='teacher', kind='none', args=[0], needs=[], cost=0)
    bench.runs.make_data(tmp_path / 'data', settings)
    with pytest.raises(KeyError, match='none'):
        bench.run_all([task], tmp_path, tmp_path / 'data', settings, 2)


# --- tables --------------------------------------------------------------------------------------


def made_up(bench):
    """Results of two seeds, in which SWS grows and Simple-LG falls."""
    depths = (5, 10)
    level = {name: 10. for name in bench.runs.ARMS}
    runs = [dict(name='teacher', kind='teacher', args=[0], accuracy=99., parameters=7,
                 cpu_seconds=3.)]
    for seed in (0, 1):
        for name in bench.runs.SOURCES:
            runs.append(dict(name=f'{name}_seed{seed}', kind='source', args=[seed, name],
                             accuracy=96. + seed, parameters=1000, cpu_seconds=60.))
        runs.append(dict(name=f'trained-5_seed{seed}', kind='trained', args=[seed, 5], loss=0.1,
                         accuracy=95. + 2 * seed, parameters=1000, cpu_seconds=30.))
        for name in bench.runs.ARMS:
            starts = {'sws': (80., 90.), 'simple': (81., 40.)}.get(name, (level[name], ) * 2)
            runs.append(dict(
                name=f'descendants-{name}_seed{seed}', kind='descendants', args=[seed, name],
                cpu_seconds=10.,
                depths={str(d): dict(parameters=100 * d, start=dict(accuracy=a + seed, loss=1.),
                                     tuned=dict(accuracy=a + 5, loss=1.))
                        for d, a in zip(depths, starts)}))
    env = dict(date='2026-01-01', processor='a processor', cores=2, jobs=2, commit=None,
               versions={'python': '3.11'})
    return dict(environment=env, seeds=[0, 1], settings=json.loads(json.dumps(bench.runs.SETTINGS)),
                runs=runs)


def test_tables_hold_mean_and_deviation(bench):
    results = made_up(bench)
    found = {title.split(' (')[0]: (head, rows) for title, head, rows
             in bench.report.tables(results)}
    head, rows = found['Straight after initialisation']
    assert head == ['blocks', 'parameters', 'trained, 20 epochs', 'weight selection', 'Vanilla-LG',
                    'TLEG', 'SWS']
    assert rows[0] == ['5', '500', '96.0 ± 1.4', '10.5 ± 0.7', '10.5 ± 0.7', '10.5 ± 0.7',
                       '80.5 ± 0.7']
    assert rows[1][2] == ''  # not trained at this depth
    _, rows = found['A learngene with and without stages, straight after initialisation']
    assert rows[1] == ['10', '1,000', '40.5 ± 0.7', '90.5 ± 0.7']
    assert found['After 1 epoch of fine-tuning'][1][0][-1] == '85.0 ± 0.0'
    results['runs'] = [run for run in results['runs'] if run['args'][0] == 0]
    assert bench.report.tables(results)[1][2][0][-1] == '80.0'  # no deviation of one seed
    _, _, rows = bench.report.tables(results)[0]
    assert [row[:3] for row in rows[1:]] == [
        ['auxiliary net, shared by stages', '16', '5'], ['plain net, a block a stage', '5', '5'],
        ['auxiliary net of TLEG', '16', '2'], ['plain net', '16', '16']]


def test_findings_tell_what_contradicts(bench):
    first, tuned, sws, simple, means, trained = bench.report.findings(made_up(bench))
    assert first == ('Straight after initialisation, SWS is first at 1 of 2 depths; ahead of it: '
                     'Simple-LG at 5 blocks (81.5 % against 80.5 %).')
    assert 'first at 1 of 2 depths; ahead of it: Simple-LG at 5' in tuned
    assert '80.5 % at 5 blocks, 90.5 % at 10' in sws
    assert '81.5 % at 5 blocks, 40.5 % at 10' in simple
    assert 'SWS 85.5 %' in means and 'random-assigned 10.5 %' in means
    assert '96.0 %; SWS 80.5 % without any, after tuning 85.0 %' in trained


def test_random_descendants_by_their_first_block(bench):
    """Of four draws one begins with the first stage."""
    results = made_up(bench)
    accuracies = {(0, '8'): 1., (0, '6'): 3., (1, '8'): 50., (1, '6'): 5.}
    begins = [descendant_map(5, int(depth), 'random-assigned',
                             bench.runs.draw_seed(seed, int(depth))).sources[0]
              for seed, depth in accuracies]
    assert [begin == 0 for begin in begins] == [False, False, True, False]
    for run in results['runs']:
        if run['name'].startswith('descendants-random_'):
            run['depths'] = {depth: dict(start=dict(accuracy=accuracies[run['args'][0], depth]))
                             for depth in ('8', '6')}
    line = bench.report.first_blocks(results)
    assert 'in the first block 50.0 % (1 of them, 50.0 to 50.0 %)' in line
    assert 'another one there 3.0 % (3 of them, 1.0 to 5.0 %)' in line


def test_docs_change_between_the_markers(bench, tmp_path):
    results = made_up(bench)
    bench.report.write_docs(results, tmp_path)  # where there is no page yet
    page = tmp_path / 'learngene.md'
    assert '| 10 | 1,000 | 40.5 ± 0.7 | 90.5 ± 0.7 |' in page.read_text()
    assert (tmp_path / bench.report.PICTURE).stat().st_size > 10_000
    page.write_text(f'before\n{bench.report.BEGIN}\nold\n{bench.report.END}\nafter\n')
    bench.report.write_docs(results, tmp_path)
    text = page.read_text()
    assert text.startswith('before\n') and text.endswith('after\n') and 'old' not in text
    page.write_text('a page without')
    with pytest.raises(ValueError, match='study:begin'):
        bench.report.write_docs(results, tmp_path)
    assert page.read_text() == 'a page without'


def test_quick_figures_stay_out_of_the_docs(bench, capsys):
    with pytest.raises(SystemExit):
        bench.parse_args(['--quick', '--write-docs'])
    assert 'whole study' in capsys.readouterr().err
    with pytest.raises(SystemExit):
        bench.parse_args(['--jobs', '0'])
    for words in (['--set', 'alpha=1', '--write-docs'], ['--arms', 'sws', '--write-docs']):
        with pytest.raises(SystemExit):
            bench.parse_args(words)
    assert bench.parse_args(['--seeds', '2', '2', '1']).seeds == [2, 1]
    assert bench.parse_args(['--quick']).out == 'work_dirs/learngene_quick'


def test_a_part_with_other_settings(bench, done, tmp_path, capsys):
    folder, _, results = done
    args = ['--quick', '--seeds', '0', '--jobs', '1', '--arms', 'simple', '--set', 'alpha=0',
            'depths=[2]', 'tuned_depths=[]', '--data-root', str(folder / 'data')]
    bench.main([*args, '--out', str(tmp_path)])
    part = json.loads((tmp_path / 'results.json').read_text())
    assert [run['name'] for run in part['runs']] == [
        'teacher', 'simple_seed0', 'descendants-simple_seed0']
    assert [head for _, head, _ in bench.report.tables(part)][1:] == [
        ['blocks', 'parameters', 'Simple-LG']]
    gene, other = (read_gene(str(path / 'simple_seed0_gene.pth'))
                   for path in (tmp_path, folder / 'out'))
    assert not torch.equal(gene.block(0)['attn.qkv.weight'], other.block(0)['attn.qkv.weight'])
    for wrong in ('alfa=0', 'alpha=none'):
        with pytest.raises(SystemExit):
            bench.parse_args(['--set', wrong])
    assert 'there are only' in capsys.readouterr().err


def test_the_process_is_as_before(bench, done):
    """Runs of a study with one job are in this process: threads and log are left as they were."""
    from mmengine.logging import MMLogger
    folder, _, results = done
    task, = (task for task in bench.runs.tasks(bench.runs.QUICK, [0])
             if task['name'] == 'descendants-scratch_seed0')
    logger, threads = MMLogger.get_current_instance(), torch.get_num_threads()
    level = logger.level
    try:
        torch.set_num_threads(2)
        logger.setLevel('WARNING')
        bench.runs.run_task(task, folder / 'out', folder / 'data', bench.runs.QUICK)
        assert torch.get_num_threads() == 2 and logger.level == 30
    finally:
        torch.set_num_threads(threads)
        logger.setLevel(level)
