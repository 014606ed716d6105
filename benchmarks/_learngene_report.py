"""What the learngene study writes: tables, what they say, a picture, docs/learngene.md."""
import re
from pathlib import Path
from statistics import mean, stdev

from _learngene_runs import ARMS, SOURCES, draw_seed

BEGIN, END = '<!-- study:begin -->', '<!-- study:end -->'
PICTURE = 'images/learngene.png'
#: What SWS is compared to: not its own other order.
OTHERS = [name for name in ARMS if name not in ('sws', 'sws-flm')]


def environment_line(results) -> str:
    """str: What the figures depend on, in a sentence."""
    env = results['environment']
    versions = ', '.join(f'{name} {version}' for name, version in env['versions'].items())
    return (f'{env["processor"]}, {env["cores"]} cores, {env["jobs"]} runs at a time of one thread '
            f'each, seeds {", ".join(map(str, results["seeds"]))}, {env["date"]}, commit '
            f'{env["commit"] or "unknown"}; {versions}')


# --- figures -------------------------------------------------------------------------------------


def of_arm(results, name, when, what='accuracy') -> dict:
    """dict[int, list[float]]: For each depth the figure of every seed.

    Args:
        results (dict): The study's.
        name (str): One of ``ARMS``, or 'trained'.
        when (str): 'start' or 'tuned'; without meaning for 'trained'.
        what (str): 'accuracy' or 'loss'. Defaults to 'accuracy'.
    """
    found = {}
    for run in results['runs']:
        if run['kind'] == 'trained' and name == 'trained':
            found.setdefault(run['args'][1], []).append(run[what])
        elif run['kind'] == 'descendants' and run['args'][1] == name:
            for depth, measured in run['depths'].items():
                if when in measured:
                    found.setdefault(int(depth), []).append(measured[when][what])
    return found


def parameters(results) -> dict:
    """dict[int, int]: Parameters of a descendant of each depth."""
    return {int(depth): measured['parameters'] for run in results['runs']
            if run['kind'] == 'descendants' for depth, measured in run['depths'].items()}


def spread(values) -> str:
    """str: Mean and standard deviation; the mean alone of one value."""
    if not values:
        return ''
    return f'{mean(values):.1f}' + (f' ± {stdev(values):.1f}' if len(values) > 1 else '')


# --- tables --------------------------------------------------------------------------------------


def tables(results) -> list:
    """list[tuple[str, list[str], list[list[str]]]]: Title, head and rows of every table."""
    counts = {depth: f'{number:,}' for depth, number in parameters(results).items()}
    epochs = results['settings']['epochs']
    trained = (f'trained, {epochs} epochs', of_arm(results, 'trained', None))

    def columns(names, when):
        return [(ARMS[name][0], of_arm(results, name, when)) for name in names
                if of_arm(results, name, when)]

    found = [nets(results)]
    for title, head in (
            ('Straight after initialisation (Table 1 of the paper)',
             [trained, *columns(['selection', 'vanilla', 'tleg', 'sws'], 'start')]),
            ('A learngene with and without stages, straight after initialisation (Table 3)',
             columns(['simple', 'sws'], 'start')),
            ('Orders of initialisation, straight after initialisation (Table 4)',
             columns(['random', 'random-sorted', 'sws-flm', 'sws'], 'start')),
            (f'After {results["settings"]["tune_epochs"]} epoch of fine-tuning',
             [trained, *columns([*reversed(OTHERS), 'sws-flm', 'sws'], 'tuned')])):
        head = [(name, values) for name, values in head if values]
        depths = sorted({depth for name, values in head if name != trained[0] for depth in values})
        rows = [[str(depth), counts[depth], *(spread(values.get(depth, ()))
                                              for _, values in head)] for depth in depths]
        if rows:
            found.append((title, ['blocks', 'parameters', *(name for name, _ in head)], rows))
    return found


def nets(results) -> tuple:
    """tuple: The table of the nets that descendants start from."""
    depth, stages = sum(results['settings']['stages']), len(results['settings']['stages'])
    rows = []
    for name, title in {'teacher': "the teacher, mmpretrain's LeNet-5", **SOURCES}.items():
        done = [run for run in results['runs']
                if run['name'] == name or run['kind'] == 'source' and run['args'][1] == name]
        if not done:
            continue
        blocks = '' if name == 'teacher' else str(stages if name == 'simple' else depth)
        own = {'teacher': '', 'sws': str(stages), 'tleg': '2'}.get(name, blocks)
        rows.append([title, blocks, own, f'{done[0]["parameters"]:,}',
                     spread([run['accuracy'] for run in done]),
                     f'{mean(run["cpu_seconds"] for run in done):.0f}'])
    return ('The nets that all else starts from',
            ['net', 'blocks that run', 'with weights of their own', 'parameters', 'accuracy',
             'CPU seconds'], rows)


def findings(results) -> list:
    """list[str]: What of the paper's order shows, in sentences with their figures."""
    if len({run['args'][1] for run in results['runs'] if run['kind'] == 'descendants'}) < len(ARMS):
        return []  # some are left out
    names = {name: ARMS[name][0] for name in ARMS}
    start = {name: _means(of_arm(results, name, 'start')) for name in ARMS}
    tuned = {name: _means(of_arm(results, name, 'tuned')) for name in ARMS}
    found = []
    for when, values in (('Straight after initialisation', start),
                         (f'After {results["settings"]["tune_epochs"]} epoch', tuned)):
        depths = sorted(values['sws'])
        best = {depth: max(OTHERS, key=lambda name, d=depth: values[name][d]) for depth in depths}
        behind = [depth for depth in depths if values[best[depth]][depth] >= values['sws'][depth]]
        line = f'{when}, SWS is first at {len(depths) - len(behind)} of {len(depths)} depths'
        if behind:
            line += '; ahead of it: ' + ', '.join(
                f'{names[best[d]]} at {d} blocks ({values[best[d]][d]:.1f} % against '
                f'{values["sws"][d]:.1f} %)' for d in behind)
        found.append(f'{line}.')
    for name in ('sws', 'simple'):
        depths = sorted(start[name])
        low, high = (choose(depths, key=start[name].get) for choose in (min, max))
        found.append(
            f'{names[name]}, straight after initialisation: {start[name][depths[0]]:.1f} % at '
            f'{depths[0]} blocks, {start[name][depths[-1]]:.1f} % at {depths[-1]}; least '
            f'{start[name][low]:.1f} % at {low}, most {start[name][high]:.1f} % at {high}.')
    over = {name: mean(start[name].values()) for name in ('sws', 'sws-flm', 'random-sorted',
                                                          'random')}
    found.append('Means over all depths, straight after initialisation: ' + ', '.join(
        f'{names[name]} {value:.1f} %' for name, value in over.items()) + '.')
    found += filter(None, [first_blocks(results)])
    trained = _means(of_arm(results, 'trained', None))
    for depth in sorted(trained):
        if depth in start['sws']:
            after = f', after tuning {tuned["sws"][depth]:.1f} %' if depth in tuned['sws'] else ''
            found.append(f'At {depth} blocks, trained from scratch for '
                         f'{results["settings"]["epochs"]} epochs: {trained[depth]:.1f} %; SWS '
                         f'{start["sws"][depth]:.1f} % without any{after}.')
    return found


def first_blocks(results) -> str:
    """str: What it matters to a random descendant that its first block is the first stage's."""
    from scalenet_mm.learngene import descendant_map
    stages, of = len(results['settings']['stages']), {True: [], False: []}
    for run in results['runs']:
        if run['kind'] == 'descendants' and run['args'][1] == 'random':
            for depth, measured in run['depths'].items():
                seed = draw_seed(run['args'][0], int(depth))
                sources = descendant_map(stages, int(depth), 'random-assigned', seed).sources
                of[sources[0] == 0].append(measured['start']['accuracy'])
    told = [f'{mean(values):.1f} % ({len(values)} of them, {min(values):.1f} to '
            f'{max(values):.1f} %)' for values in of.values() if values]
    if len(told) < 2:
        return ''
    return ('random-assigned, straight after initialisation, over all depths: with the learngene '
            f'of the first stage in the first block {told[0]}, with another one there {told[1]}.')


def _means(values):
    return {depth: mean(of_seeds) for depth, of_seeds in values.items()}


def as_text(results) -> str:
    """str: All tables for a terminal."""
    lines = [environment_line(results), '']
    for title, head, rows in tables(results):
        widths = [max(len(row[i]) for row in [head, *rows]) for i in range(len(head))]
        lines += [title, *('  '.join(c.ljust(w) for c, w in zip(row, widths)).rstrip()
                           for row in [head, *rows]), '']
    return '\n'.join([*lines, *findings(results)])


def as_markdown(results) -> str:
    """str: All tables for a page."""
    s = results['settings']
    seconds = sum(run['cpu_seconds'] for run in results['runs'])
    lines = [
        f'Measured by `make learngene`: {environment_line(results)}. The runs took '
        f'{seconds / 60:.0f} minutes of CPU time together.', '',
        f'{s["train_images"]:,} images to train on and {s["val_images"]:,} of other scans to '
        f'measure on, {s["image"]} px; ViTs of width {s["width"]}, patches of {s["patch"]} px; '
        f'stages ({", ".join(map(str, s["stages"]))}). Accuracy in percent, mean ± standard '
        'deviation over the seeds.', '',
        f'![accuracy over depth]({PICTURE})', '']
    for title, head, rows in tables(results):
        lines += [f'### {title}', '']
        for j, row in enumerate([head, *rows]):
            lines.append('| ' + ' | '.join(row) + ' |')
            if j == 0:
                lines.append('| ' + ' | '.join('---' for _ in head) + ' |')
        lines.append('')
    lines += ['### What shows', '', *(f'- {line}' for line in findings(results)), '']
    return '\n'.join(lines)


def write_docs(results, docs: Path) -> None:
    """Put the tables between the markers of docs/learngene.md, and the picture beside them.

    Raises:
        ValueError: If the page is there and has no markers.
    """
    page = docs / 'learngene.md'
    text = page.read_text() if page.is_file() else f'# Learngene\n\n{BEGIN}\n{END}\n'
    if not re.search(f'{BEGIN}.*{END}', text, re.S):
        raise ValueError(f'{page} has no {BEGIN} and {END}')
    body = f'{BEGIN}\n\n{as_markdown(results)}\n{END}'
    draw(results, docs / PICTURE)
    page.write_text(re.sub(f'{BEGIN}.*{END}', lambda _: body, text, flags=re.S))


# --- the picture ---------------------------------------------------------------------------------


def draw(results, path: Path) -> None:
    """Draw accuracy over depth, a line a method: as descendants start, in two scales, and tuned."""
    import matplotlib
    matplotlib.use('Agg')
    import matplotlib.pyplot as plt
    figure, axes = plt.subplots(1, 3, figsize=(13, 4.4), layout='constrained')
    auxiliary = [run['accuracy'] for run in results['runs']
                 if run['kind'] == 'source' and run['args'][1] == 'sws']
    trained = of_arm(results, 'trained', None)
    epochs = results['settings']['epochs']
    start, near = 'straight after initialisation', ', from 75 % up'
    tuned = f'after {results["settings"]["tune_epochs"]} epoch of fine-tuning'
    for axis, when, title, limits in zip(
            axes, ('start', 'start', 'tuned'), (start, start + near, tuned + near),
            ((0, 101), (75, 100), (75, 100))):
        for i, (name, (label, _, _)) in enumerate(ARMS.items()):
            values = of_arm(results, name, when)
            depths = sorted(values)
            middle = [mean(values[depth]) for depth in depths]
            axis.plot(depths, middle, marker='o', markersize=3, color=f'C{i}', label=label,
                      linewidth=2.4 if name == 'sws' else 1.2,
                      linestyle='--' if name == 'sws-flm' else '-', zorder=20 - i)
            off = [stdev(values[depth]) if len(values[depth]) > 1 else 0. for depth in depths]
            axis.fill_between(depths, [m - d for m, d in zip(middle, off)],
                              [m + d for m, d in zip(middle, off)], color=f'C{i}', alpha=0.1,
                              linewidth=0)
        axis.plot(sorted(trained), [mean(trained[depth]) for depth in sorted(trained)], 'k*',
                  markersize=9, linestyle='', label=f'trained, {epochs} epochs', zorder=30)
        if auxiliary:
            axis.axhline(mean(auxiliary), color='grey', linewidth=0.8, linestyle=':',
                         label='the auxiliary net')
        axis.set(xlabel='blocks', ylim=limits)
        axis.set_title(title, fontsize=10)
    axes[0].set_ylabel('accuracy in percent')
    figure.legend(*axes[0].get_legend_handles_labels(), fontsize=8, loc='outside right center')
    path.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(path, dpi=110)
    plt.close(figure)
