"""The documents build without a warning, and the reference has every public name."""
import importlib
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from sphinx.util.inventory import InventoryFile

ROOT = Path(__file__).resolve().parents[2]
#: packages that the reference leaves out: nothing in them is public
PRIVATE = {'utils'}
PACKAGES = sorted(path.parent.name for path in (ROOT / 'scalenet_mm').glob('*/__init__.py')
                  if path.parent.name not in PRIVATE)


@pytest.fixture(scope='module')
def build(tmp_path_factory):
    """The built pages, and what was said. Behind a proxy that is not there, a download fails."""
    folder = tmp_path_factory.mktemp('site')
    environ = {**os.environ, 'SCALENET_DOCS_REPOSITORY': '', 'PYTHONHASHSEED': '0',
               'OMP_NUM_THREADS': '1',
               **{f'{kind}_proxy': 'http://127.0.0.1:9' for kind in ('http', 'https', 'all')}}
    done = subprocess.run(
        [sys.executable, '-m', 'sphinx', '-q', '-W', '--keep-going', '-b', 'html',
         '-d', str(folder / 'trees'), 'docs', str(folder / 'html')],
        cwd=ROOT, env=environ, capture_output=True, text=True, timeout=400)
    return folder / 'html', done


@pytest.fixture(scope='module')
def site(build):
    return build[0]


def test_no_warning(build):
    _, done = build
    assert done.returncode == 0, done.stderr


def test_no_page_is_left_out(site):
    sources = {path.relative_to(ROOT / 'docs').with_suffix('') for kind in ('md', 'rst', 'ipynb')
               for path in (ROOT / 'docs').rglob(f'*.{kind}')
               if not {'_build', 'jupyter_execute', '.ipynb_checkpoints'} & set(path.parts)}
    assert len(sources) > 20
    assert not [name for name in sources if not (site / name).with_suffix('.html').is_file()]


@pytest.mark.parametrize('package', [*PACKAGES, 'errors'])
def test_every_public_name_is_in_the_reference(site, package):
    with open(site / 'objects.inv', 'rb') as file:
        inventory = InventoryFile.load(file, '', lambda base, uri: uri)
    names = {name: where.uri for kind in inventory if kind.startswith('py:')
             for name, where in inventory[kind].items()}
    module = importlib.import_module(f'scalenet_mm.{package}')
    public = getattr(module, '__all__', None) or [
        name for name in vars(module) if not name.startswith('_')]
    assert public
    missing = [name for name in public if f'scalenet_mm.{package}.{name}' not in names]
    assert missing == []
    pages = {names[f'scalenet_mm.{package}.{name}'].partition('#')[0] for name in public}
    assert pages == {f'api/{package}.html'}


def test_names_of_the_root_come_from_the_packages():
    import scalenet_mm
    homes = [importlib.import_module(f'scalenet_mm.{name}') for name in (*PACKAGES, 'errors')]
    lost = [name for name in scalenet_mm.__all__ if name != '__version__'
            and not any(name in getattr(home, '__all__', vars(home)) for home in homes)]
    assert lost == []


def test_links_to_files_outside_of_docs(site):
    """They are downloads, or name the file; none is left as a dead relative path."""
    for page in site.rglob('*.html'):
        for target in re.findall(r'href="([^"#]+)"', page.read_text(encoding='utf-8')):
            if '://' in target or target.startswith(('mailto:', 'data:')):
                continue
            place = (page.parent / target.partition('?')[0]).resolve()
            assert place.is_relative_to(site.resolve()), (page.name, target)
            assert place.exists(), (page.name, target)


def test_pages_of_the_root(site):
    for page, file in (('contributing', 'CONTRIBUTING.md'), ('changelog', 'CHANGELOG.md')):
        headings = re.findall(r'^## (.+)$', (ROOT / file).read_text(), re.M)
        text = re.sub(r'<[^>]+>', '', (site / f'{page}.html').read_text())
        assert headings and all(heading.replace('`', '') in text for heading in headings)
