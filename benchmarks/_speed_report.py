"""What the speed benchmark writes: tables, a picture, docs/performance.md."""
import re
from pathlib import Path
from statistics import median

BEGIN, END = '<!-- measured: begin -->', '<!-- measured: end -->'
PICTURE = 'images/speed_growth_of_cost.png'
#: The sections, in the order of the page.
TITLES = {
    'step': 'Training step', 'forward': 'Forward pass', 'bytes': 'Bytes kept for backward',
    'maskrcnn': 'Mask R-CNN', 'building': 'Building and loading', 'cost': 'Growth of cost',
    'profile': 'Profile', 'compile': 'torch.compile', 'batches': 'Largest batch',
}


def environment_line(environment) -> str:
    """str: What the figures depend on, in a sentence."""
    versions = ', '.join(f'{name} {version or "-"}'
                         for name, version in environment['versions'].items())
    where = environment['gpu'] or (f'{environment["processor"]} ({environment["vectors"]}), '
                                   f'{environment["cores"]} cores')
    return (f'{where}, {environment["threads"]} threads, {environment["dtype"]}, '
            f'{environment["rounds"]} rounds, {environment["date"]}, commit '
            f'{environment["commit"] or "unknown"}; {versions}')


# --- tables --------------------------------------------------------------------------------------


def headers(results) -> list:
    """list[str]: For each run, the sections that it measured last, and what they depend on."""
    runs = {}
    for name, section in results['sections'].items():
        runs.setdefault(environment_line(section['environment']), []).append(TITLES[name])
    return [f'{", ".join(titles)}: {line}' for line, titles in runs.items()]


def left_out(results) -> list:
    """list[str]: What the sections could not measure, and why."""
    return list(dict.fromkeys(
        line for section in results['sections'].values() for line in section['left_out']))


def cells(row) -> list:
    """list[str]: A row as the tables have it."""
    if row['ratio'] is None:
        return [row['model'], row['what'], row['peer'], row['failed'], *[''] * (len(HEAD) - 4)]
    spread = f'{row["low"]:.2f} to {row["high"]:.2f}' if row['low'] != row['high'] else ''
    reach = ''
    if row['must'] is not None:
        reach = f'<= {row["must"]:g}' + (
            f', aim {row["aim"]:g}' if row['aim'] != row['must'] else '')
    to_stock = f'{row["peer_to_stock"]:.2f}' if 'peer_to_stock' in row else ''
    native = f'{row["native"]:.3f}' if 'native' in row else ''
    return [row['model'], row['what'], row['peer'], f'{row["ratio"]:.3f}', spread, to_stock, reach,
            row['met'] or '', native, row.get('native_met', '')]


HEAD = ['model', 'what', 'peer', 'ratio', 'quartiles', 'peer / stock in full', 'reach',
        'met', "with torch's products", 'met']


def tables(results) -> list:
    """list[tuple[str, list[str], list[list[str]]]]: Title, head and rows of every table."""
    found = []
    sections = results['sections']
    reach = [row for name in sections for row in sections[name].get('rows', ())
             if row['must'] is not None]
    if reach:
        found.append(('What is to be reached', HEAD, [cells(row) for row in reach]))
    for name, section in sections.items():
        if section.get('rows'):
            found.append((TITLES[name], HEAD, [cells(row) for row in section['rows']]))
        if 'times' in section:
            rows = [[title, call, f'{median(seconds) * 1e3:.1f}', f'{min(seconds) * 1e3:.1f}']
                    for title, calls in section['times'].items() if isinstance(calls, dict)
                    for call, seconds in calls.items()]
            if rows:
                found.append((f'{TITLES[name]}: milliseconds',
                              ['model', 'call', 'median', 'least'], rows))
        if name == 'bytes':
            rows = [[title, call, *(f'{count[key] / 2**20:.1f}'
                                    for key in ('kept', 'past', 'hidden'))]
                    for title, counts in section['bytes'].items()
                    for call, count in counts.items()]
            found.append(('Bytes: MiB', ['model', 'call', 'kept', 'kept past the hooks',
                                         'of those, seen from Python'], rows))
    if 'cost' in sections:
        found += cost_tables(sections['cost'])
    if 'profile' in sections:
        found += profile_tables(sections['profile'])
    if 'batches' in sections:
        found.append(batch_table(sections['batches']))
    return found


def cost_tables(cost) -> list:
    """list[tuple]: Tables of the growth of cost."""
    found = []
    for key, over, what in (('by_times', 'times', 'blocks'), ('by_image', 'image', 'tokens')):
        fit, rows = cost['fits'][over], []
        first = next(iter(cost[key].values()))
        for i, (value, measured) in enumerate(cost[key].items()):
            rows.append([str(value), str(measured[what]),
                         *(f'{fit[name]["ratios"][i]:.2f}' for name in fit),
                         f'{measured["parameters"]:,}' if 'parameters' in measured else '',
                         f'{measured["trainable"]:,}' if 'trainable' in measured else ''])
        rows.append(['slope', f'per {first[what]} {what}',
                     *(f'{line["slope"]:.3f}' for line in fit.values()), '', ''])
        rows.append(['R²', 'of the line', *(f'{line["r2"]:.4f}' for line in fit.values()), '', ''])
        found.append((f'Cost by {over}: {cost["model"]}, parts of the first row',
                      [over, what, *fit, 'parameters', 'trainable'], rows))
    return found


def profile_tables(profile) -> list:
    """list[tuple]: Where the time goes, and the floor."""
    total = sum(profile['kinds'].values())
    kinds = [[kind, f'{seconds * 1e3:.1f}', f'{seconds / total:.1%}']
             for kind, seconds in profile['kinds'].items()]
    floor = [[name, f'{median(seconds) * 1e3:.1f}'] for name, seconds in profile['times'].items()]
    for key, name in (('to_products', 'whole / matrix products'),
                      ('to_products_and_attention', 'whole / matrix products and attention')):
        measured = profile[key]
        floor.append([name, f'{measured["ratio"]:.2f} ({measured["low"]:.2f} to '
                            f'{measured["high"]:.2f})'])
    return [(f'Where the time of a training step goes: {profile["model"]}',
             ['operations', 'ms', 'part'], kinds),
            (f'The floor: {profile["model"]}', ['what', 'ms, or ratio'], floor)]


def batch_table(section) -> tuple:
    """tuple: Batches that fit."""
    rows = [[model, name, str(batch), f'{of["images_per_second"]:.0f}',
             f'{of["peak"] / 2**30:.2f}' if of['peak'] else '']
            for model, found in section['batches'].items()
            for name, by_batch in found.items() for batch, of in by_batch.items()]
    return 'Batches', ['model', 'call', 'batch', 'images a second', 'peak GiB'], rows


def as_text(results) -> str:
    """str: All tables for a terminal."""
    lines = []
    for title, head, rows in tables(results):
        filled = [i for i in range(len(head)) if any(row[i] for row in rows)]
        rows = [[row[i] for i in filled] for row in [head, *rows]]
        widths = [max(len(row[i]) for row in rows) for i in range(len(filled))]
        lines += [title, *('  '.join(c.ljust(w) for c, w in zip(row, widths)).rstrip()
                           for row in rows), '']
    lines += [f'left out: {line}' for line in left_out(results)]
    return '\n'.join(lines)


def as_markdown(results) -> str:
    """str: All tables for a page."""
    lines = [*(f'- {line}.' for line in headers(results)), '']
    for title, head, rows in tables(results):
        filled = [i for i in range(len(head)) if any(row[i] for row in rows)]
        lines += [f'### {title}', '']
        for j, row in enumerate([head, *rows]):
            lines.append('| ' + ' | '.join(row[i] for i in filled) + ' |')
            if j == 0:
                lines.append('| ' + ' | '.join('---' for _ in filled) + ' |')
        lines.append('')
        if title.startswith('Cost by image'):
            lines += [f'![growth of cost]({PICTURE})', '']
    for line in left_out(results):
        lines += [f'Left out: {line}.', '']
    return '\n'.join(lines)


def merge(old, new) -> dict:
    """dict: All sections, in the order of the page: the new ones, and the old ones' last runs."""
    sections = {**old['sections'], **new['sections']}
    return dict(sections={name: sections[name] for name in TITLES if name in sections})


def write_docs(results, docs: Path) -> None:
    """Put the tables between the markers of docs/performance.md, and the picture beside them."""
    page = docs / 'performance.md'
    text = page.read_text()
    if not re.search(f'{BEGIN}.*{END}', text, re.S):
        raise ValueError(f'{page} has no {BEGIN} and {END}')
    body = f'{BEGIN}\n\n{as_markdown(results)}\n{END}'
    page.write_text(re.sub(f'{BEGIN}.*{END}', lambda _: body, text, flags=re.S))
    draw(results['sections']['cost'], docs / PICTURE)


# --- the picture ---------------------------------------------------------------------------------


def draw(cost, path: Path) -> None:
    """Draw cost over depth and over tokens, in parts of the least, with the fitted lines."""
    import matplotlib
    matplotlib.use('Agg')
    import matplotlib.pyplot as plt
    figure, axes = plt.subplots(1, 2, figsize=(9, 3.6), layout='constrained')
    for axis, key, over, what in zip(axes, ('by_times', 'by_image'), ('times', 'image'),
                                     ('blocks', 'tokens')):
        x = [measured[what] for measured in cost[key].values()]
        for i, (name, fit) in enumerate(cost['fits'][over].items()):
            axis.plot(x, fit['ratios'], 'os^'[i], color=f'C{i}',
                      label=f'{name}: slope {fit["slope"]:.2f}, R² {fit["r2"]:.4f}')
            ends = [x[0], x[-1]]
            axis.plot(ends, [fit['slope'] * v / x[0] + fit['intercept'] for v in ends],
                      color=f'C{i}', linewidth=1)
        if key == 'by_times':
            first = median(cost[key][next(iter(cost[key]))]['step'])
            stock = [median(measured['stock step']) / first for measured in cost[key].values()]
            axis.plot(x, stock, 'x--', color='C3', label='step, mmpretrain in full')
            parameters = [m['parameters'] for m in cost[key].values()]
            axis.plot(x, [p / parameters[0] for p in parameters], '.:', color='C4',
                      label='parameters')
        axis.set(xlabel=what, ylabel='parts of the first', ylim=(0, None))
        axis.legend(fontsize=7)
    figure.suptitle(f'{cost["model"]}, grown')
    figure.savefig(path, dpi=130)
    plt.close(figure)
