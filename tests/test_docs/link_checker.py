"""Finds links in markdown that lead nowhere, by GitHub's rules for paths and anchors."""
import json
import os
import re
from pathlib import Path
from typing import Iterator, List, Set, Tuple

ROOT = Path(__file__).resolve().parents[2]
_INLINE = re.compile(
    r'!?\[(?:[^\[\]]|\[[^\[\]]*\](?:\([^()]*\))?)*\]'  # the text, which may hold an image
    r'\(\s*<?([^()\s>]*(?:\([^()]*\))?[^()\s>]*)>?(?:\s+"[^"]*")?\s*\)')
_IMAGE_IN = re.compile(r'!\[[^\]]*\]\(\s*<?([^()\s>]+)>?(?:\s+"[^"]*")?\s*\)')
_DEFINITION = re.compile(r'^ {0,3}\[[^\]]+\]:\s+<?(\S+?)>?\s*$', re.M)
_HTML = re.compile(r'<(?:a|img)\s[^>]*?(?:href|src)="([^"]*)"')
_HTML_ANCHOR = re.compile(r'<[a-z]\w*\s[^>]*?(?:id|name)="([^"]+)"')
_HEADING = re.compile(r'^ {0,3}(#{1,6})\s+(.*?)\s*#*\s*$')


def markdown(path: Path) -> str:
    """str: The text of a markdown file, or of a notebook's markdown cells."""
    text = path.read_text(encoding='utf-8')
    if path.suffix == '.ipynb':
        cells = json.loads(text)['cells']
        return '\n\n'.join(''.join(c['source']) for c in cells if c['cell_type'] == 'markdown')
    return text


def without_code(text: str) -> str:
    """str: The text with blocks of code, inline code and comments blanked, line for line."""
    out, fence = [], None
    text = re.sub(r'<!--.*?-->', lambda m: '\n' * m[0].count('\n'), text, flags=re.S)
    for line in text.splitlines():
        found = re.match(r'\s*(`{3,}|~{3,})', line)
        if fence:
            if found and found[1].startswith(fence) and not line.strip().strip(fence[0]):
                fence = None
            out.append('')
        elif found and '`' not in line.strip().lstrip('`~'):
            fence = found[1]
            out.append('')
        else:
            out.append(line)
    # an inline code may go over a line's end, never over a paragraph's
    return re.sub(r'(?<!`)(`+)(?!`)((?:(?!\n\s*\n).)*?[^`])\1(?!`)',
                  lambda m: '`' + '\n' * m[2].count('\n') + '`', '\n'.join(out), flags=re.S)


def slug(heading: str) -> str:
    """str: The anchor that GitHub gives a heading: ``What's `x`?`` is ``whats-x``."""
    text = re.sub(r'!?\[([^\]]*)\]\([^)]*\)', r'\1', heading)
    text = re.sub(r'<[^>]+>', '', text)
    text = re.sub(r'(?<!\w)[*_]{1,3}|[*_]{1,3}(?!\w)', '', text.replace('`', ''))
    return re.sub(r'[^\w\- ]', '', text.strip().lower()).replace(' ', '-')


def anchors(path: Path) -> Set[str]:
    """set[str]: The anchors of a file: its headings, repeated ones numbered, and HTML ids."""
    found: Set[str] = set()
    text = markdown(path)
    headings = []
    kept = without_code(text).splitlines()
    # headings may hold code, so their own text is taken from the original line
    for line, original in zip(kept, re.sub(
            r'<!--.*?-->', lambda m: '\n' * m[0].count('\n'), text, flags=re.S).splitlines()):
        match = _HEADING.match(line)
        if match:
            headings.append(_HEADING.match(original)[2])
        found.update(_HTML_ANCHOR.findall(line))
    counts: dict = {}
    for heading in headings:
        name = slug(heading)
        number = counts.get(name, 0)
        counts[name] = number + 1
        found.add(f'{name}-{number}' if number else name)
    return found


def links(path: Path) -> Iterator[Tuple[int, str]]:
    """Iterator[tuple[int, str]]: Line and target of each link and image."""
    text = without_code(markdown(path))
    for pattern in (_INLINE, _IMAGE_IN, _DEFINITION, _HTML):
        for match in pattern.finditer(text):
            yield text.count('\n', 0, match.start()) + 1, match[1]


def missing_files(path: Path, root: Path = ROOT) -> List[str]:
    """Find files of the repository that a document names as code, and that are not there.

    Names with wildcards or gaps, and the reader's own (``my_...``), are passed over.

    Args:
        path (Path): A markdown file or notebook.
        root (Path): The repository. Defaults to this one.

    Returns:
        list[str]: A line for each, with the file.
    """
    text = re.sub(r'^(`{3,}|~{3,}).*?^\1', '', markdown(path), flags=re.S | re.M)
    named = set(re.findall(
        r'`((?:configs|tools|benchmarks|scalenet_mm|tests|docs)/[\w./+-]+\.\w+)`', text))
    return [f'{path.relative_to(root)}: {name}' for name in sorted(named)
            if '...' not in name and '/my_' not in name and not (root / name).exists()]


def faults(path: Path, root: Path = ROOT) -> List[str]:
    """Find the links of a file that lead nowhere in the repository.

    Args:
        path (Path): A markdown file or notebook.
        root (Path): The repository. Links that leave it are faults. Defaults to this one.

    Returns:
        list[str]: A line for each, with the file and line.
    """
    found = []
    for line, target in sorted(set(links(path))):
        place = f'{path.relative_to(root)}:{line}: {target}'
        if re.match(r'[a-z][a-z0-9+.-]*:', target):
            continue
        name, _, anchor = target.partition('#')
        other = Path(os.path.normpath(path.parent / name)) if name else path
        if not target:
            found.append(f'{place}: a link without target')
        elif name.startswith('/') or not other.is_relative_to(root):
            found.append(f'{place}: leaves the repository')
        elif not other.exists():
            found.append(f'{place}: there is no {other.relative_to(root)}')
        elif anchor and other.suffix not in ('.md', '.ipynb'):
            found.append(f'{place}: only a document has anchors')
        elif anchor and anchor not in anchors(other):
            found.append(f'{place}: {other.relative_to(root)} has no heading #{anchor}')
    return found
