"""The direction of imports that docs/architecture.md tells of."""
import ast
from pathlib import Path

import pytest

PACKAGE = Path(__file__).resolve().parents[2] / 'scalenet_mm'
#: from the bottom up: what stands in a row imports its own package and rows above it in this list
LAYERS = (
    ('errors', 'version', 'utils'),
    ('growth', 'config_paths'),
    ('checkpoints', 'datasets'),
    ('backbones', ),
    ('optim', 'necks'),
    ('learngene', ),
    ('analysis', ),
    ('hooks', 'deploy'),
    ('engine', ),
    ('analysis tools', ),
    ('apis', ),
    ('__init__', ),
)
LEVEL = {name: level for level, names in enumerate(LAYERS) for name in names}
#: modules of analysis/ that read configs and data as the command line tools do
TOOLS = {f'analysis.{name}' for name in ('command_line', 'inputs', 'samples')}
#: calls from below, imported where they are made; docs/architecture.md tells of each
LATE = {'analysis.meta_model imports scalenet_mm.engine.preflight.check_toolbox'}
TOOLBOXES = {'mmdet', 'mmseg', 'mmpretrain'}


def files():
    return sorted(path for path in PACKAGE.rglob('*.py')
                  if '.mim' not in path.parts)


def imports(path):
    """Yield the modules that a file imports, and whether that happens when it is imported."""
    tree = ast.parse(path.read_text(encoding='utf-8'))
    late = {id(inner) for node in ast.walk(tree)
            if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
            for inner in ast.walk(node)}
    late |= {id(inner) for node in ast.walk(tree)
             if isinstance(node, ast.If) and 'TYPE_CHECKING' in ast.dump(node.test)
             for inner in ast.walk(node)}
    package = ('scalenet_mm', *path.relative_to(PACKAGE).parts[:-1])
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = '.'.join(package[:len(package) - node.level + 1]) if node.level else ''
            stem = '.'.join(filter(None, (start, node.module)))
            names = [f'{stem}.{alias.name}' for alias in node.names]
        else:
            continue
        for name in names:
            yield name, id(node) not in late


def part(dotted):
    """The layer's name of a module of the package."""
    parts = dotted.split('.')
    if any(dotted.startswith(tool) for tool in TOOLS):
        return 'analysis tools'
    return parts[0]


def upward():
    for path in files():
        dotted = '.'.join(path.relative_to(PACKAGE).with_suffix('').parts)
        own = part(dotted)
        for name, at_once in imports(path):
            if not name.startswith('scalenet_mm.'):
                continue
            if not at_once and f'{dotted} imports {name}' in LATE:
                continue
            other = part(name.partition('.')[2])
            if other == own or (own == 'analysis tools' and other == 'analysis'):
                continue
            if LEVEL.get(other, -1) >= LEVEL[own]:
                yield f'{dotted} imports {name}'


def test_every_package_has_a_place():
    assert {path.name if path.is_dir() else path.stem for path in PACKAGE.iterdir()
            if path.is_dir() and (path / '__init__.py').exists() or path.suffix == '.py'} == set(
                LEVEL) - {'analysis tools'}


def test_imports_run_one_way():
    assert list(upward()) == []


def test_growth_is_plain_torch():
    """No mmengine, no mmcv, no toolbox."""
    roots = {name.partition('.')[0] for path in (PACKAGE / 'growth').glob('*.py')
             for name, _ in imports(path)}
    assert not {root for root in roots if root.startswith('mm')}
    assert 'torch' in roots


def test_no_toolbox_is_imported_with_the_package():
    found = [f'{path.relative_to(PACKAGE)}: {name}' for path in files()
             for name, at_once in imports(path)
             if at_once and name.partition('.')[0] in TOOLBOXES
             # imported when a detector's test is augmented, when a classifier's results are drawn
             and path.name not in ('mask_tta.py', 'classifier_pictures.py')]
    assert found == []
    assert not [path for path in files() for name, _ in imports(path) if 'mask_tta' in name]


@pytest.mark.parametrize('name', sorted(LEVEL))
def test_the_tour_names_every_package(name):
    text = (PACKAGE.parent / 'docs' / 'architecture.md').read_text()
    assert f'`{name}' in text or f'`scalenet_mm/{name}' in text
