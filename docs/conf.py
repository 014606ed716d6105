"""Configuration of Sphinx, which builds these pages: ``make docs``."""
import os
import re
import sys
from pathlib import Path

DOCS = Path(__file__).resolve().parent
ROOT = DOCS.parent
sys.path.insert(0, str(ROOT))

from scalenet_mm.version import __version__  # noqa: E402

project = 'ScaleNet for OpenMMLab'
author = 'scalenet_mm contributors'
project_copyright = author
version = release = __version__

extensions = [
    'myst_nb',
    'sphinx.ext.autodoc',
    'sphinx.ext.napoleon',
    'sphinx_copybutton',
]
exclude_patterns = ['_build', 'jupyter_execute', 'executed.ipynb', '**.ipynb_checkpoints']
html_theme = 'furo'
html_title = f'scalenet_mm {release}'
html_show_sphinx = False
html_copy_source = False

# Notebooks are shown with the outputs that they were committed with; a test executes them.
nb_execution_mode = 'off'
# Headings are anchors by GitHub's rule, so that the same links work there and here.
myst_heading_anchors = 4
# $formulas$, as GitHub has them. Browsers fetch MathJax for pages with some; the build does not.
myst_enable_extensions = ['dollarmath']
copybutton_exclude = '.linenos, .gp, .go'

# Docstrings name the types, in Google's style.
autodoc_typehints = 'none'
autodoc_member_order = 'bysource'
autodoc_default_options = {'members': True, 'show-inheritance': True}
autodoc_preserve_defaults = True
napoleon_google_docstring = True
napoleon_numpy_docstring = False

#: pages that show a file of the repository's root
SHOWN = {'contributing': 'CONTRIBUTING.md', 'changelog': 'CHANGELOG.md'}
# Where the repository can be read, e.g. https://host/owner/name/blob/main: with it, links to files
# outside of docs go there. Without it, files are downloads and folders are named.
REPOSITORY = os.environ.get('SCALENET_DOCS_REPOSITORY', '').rstrip('/')
_LINK = re.compile(r'(?<!!)\[((?:[^\[\]]|\[[^\]]*\])*)\]\((\.\./[^)#\s]*)(#[^)\s]*)?\)')


def show_root_file(app, docname, source):
    """Put a file of the root in the place of a page, its links as seen from docs."""
    name = SHOWN.get(docname)
    if name and (ROOT / name).is_file():
        text = (ROOT / name).read_text(encoding='utf-8')
        source[0] = re.sub(
            r'\]\((?!https?://|mailto:|#)([^)]+)\)',
            lambda m: f']({m[1][5:] if m[1].startswith("docs/") else "../" + m[1]})', text)
        app.env.note_dependency(str(ROOT / name))


def resolve_repository_links(app, docname, source):
    """Give links to files outside of docs a target that a built page has.

    The pages' own links are relative, so that they work where the repository is shown. Files that
    aren't documents stay as they are: MyST makes downloads of them.
    """
    folder = (DOCS / docname).parent

    def resolve(match):
        text, target, anchor = match[1], match[2], match[3] or ''
        path = Path(os.path.normpath(folder / target))
        if not path.is_relative_to(ROOT) or path.is_relative_to(DOCS):
            return match[0]
        name = path.relative_to(ROOT).as_posix()
        if REPOSITORY:
            return f'[{text}]({REPOSITORY}/{name}{anchor})'
        if path.is_file() and path.suffix != '.md':
            return match[0]
        return text if name in text else f'{text} (`{name}`)'

    source[0] = _LINK.sub(resolve, source[0])


def drop_comments(app, docname, source):
    """Leave out comments, which hold marks for the tests; lines keep their numbers."""
    lines, fence, inside = source[0].splitlines(), None, False
    if app.env.doc2path(docname, base=False).suffix != '.md':
        return
    for i, line in enumerate(lines):
        ticks = re.match(r'\s*(`{3,}|~{3,})', line)
        if not inside and ticks:
            if fence is None:
                fence = ticks[1]
            elif line.strip() == fence:
                fence = None
        if inside or fence is None and re.match(r'\s*<!--', line):
            inside = '-->' not in line
            lines[i] = ''
    source[0] = '\n'.join(lines) + '\n'


def setup(app):
    app.connect('source-read', show_root_file)
    app.connect('source-read', drop_comments)
    app.connect('source-read', resolve_repository_links)
