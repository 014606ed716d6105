"""docs/errors.md and docs/troubleshooting.md against the messages in the code."""
import ast
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / 'tools' / 'dev' / 'list_errors.py'
PAGE = ROOT / 'docs' / 'troubleshooting.md'
#: whose messages stand in no source file that could be read here
NOT_IN_SOURCES = ('python', 'torch-binary')


def load_tool():
    spec = importlib.util.spec_from_file_location('list_errors', TOOL)
    module = importlib.util.module_from_spec(spec)
    sys.modules['list_errors'] = module
    spec.loader.exec_module(module)
    return module


tool = load_tool()


@pytest.fixture(scope='module')
def messages():
    return tool.collect()


# --- the full list -----------------------------------------------------------------------------


def test_page_is_up_to_date(messages):
    assert len(messages) > 400
    assert tool.PAGE.read_text() == tool.render(messages), \
        'docs/errors.md is not what the code says: run python tools/dev/list_errors.py'


def collect_from(tmp_path, code, **more):
    folder = tmp_path / 'scalenet_mm'
    folder.mkdir()
    (folder / 'a.py').write_text(code)
    for name, text in more.items():
        (folder / f'{name}.py').write_text(text)
    return [(m.kind, m.text, m.where) for m in tool.collect(tmp_path)]


def test_what_is_collected(tmp_path):
    code = '''
from .b import CHOICES, tell
WHY = 'constant'
class TypeError2Error(ValueError):
    def __init__(self, name):
        super().__init__(f'{name} refused')
def one(x):
    raise ConfigError(f'{x!r} of {type(x).__name__} is one of {CHOICES}: {", ".join(x)}')
class Two:
    def three(self):
        message = f'a {x.size} b'
        if self:
            raise ValueError(message) from None
        raise KeyError(WHY)
    def four(self, error):
        print_log('careful', logger='current', level=logging.WARNING)
        print_log('not this', logger='current')
        warnings.warn('much care')
        raise DataError(f'{error}')
    def five(self, x):
        lines = ['first:']
        lines += [f'  {y}' for y in x]
        raise ConfigError('\\n'.join(lines) if x else 'none' 'at all')
    def six(self):
        raise CheckpointError(tell(1))
    def seven(self):
        error('code', f'the {message}', 'the fix')
        return GrowthError('made here')
'''
    found = collect_from(tmp_path, code, b='''
CHOICES = ('x', 'y')
def tell(n):
    return f'told {n}'
''')
    assert found == [
        ('TypeError2Error', '<name> refused', 'TypeError2Error.__init__'),
        ('ConfigError', "<x> of <class of x> is one of ('x', 'y'): <names>", 'one'),
        ('ValueError', 'a <size> b', 'Two.three'),
        ('KeyError', 'constant', 'Two.three'),
        ('warning', 'careful', 'Two.four'),
        ('warning', 'much care', 'Two.four'),
        ('ConfigError', 'first:\n  <y>', 'Two.five'),
        ('ConfigError', 'noneat all', 'Two.five'),
        ('CheckpointError', 'told <n>', 'Two.six'),
        ('check_env', 'the <message>\n    the fix', 'Two.seven'),
        ('GrowthError', 'made here', 'Two.seven'),
    ]


def test_a_changed_message_is_noticed(messages):
    changed = [m._replace(text=m.text + '!') if i == 7 else m for i, m in enumerate(messages)]
    assert tool.render(changed) != tool.render(messages)
    assert tool.render(messages[1:]) != tool.render(messages)


def raising_functions():
    """set: File and function of every ``raise`` of one of the package's own errors."""
    own = {'ConfigError', 'CheckpointError', 'GrowthError', 'DataError', 'ExportError'}
    found = {}
    for path in tool.source_files():
        tree = ast.parse((ROOT / path).read_text())

        def visit(node, scopes):
            if isinstance(node, (ast.FunctionDef, ast.ClassDef)):
                scopes = (*scopes, node.name)
            if isinstance(node, ast.Raise) and isinstance(node.exc, ast.Call) \
                    and tool.name_of(node.exc.func) in own:
                place = (path, '.'.join(scopes))
                found.setdefault(place, []).append(ast.unparse(node.exc.args[0]))
            for child in ast.iter_child_nodes(node):
                visit(child, scopes)

        visit(tree, ())
    return found


def test_no_raise_is_missed(messages):
    """Counted in another way: each raise has a message, or only passes one on."""
    listed = {(m.path, m.where) for m in messages}
    missed = {place: texts for place, texts in raising_functions().items() if place not in listed}
    for place, texts in missed.items():
        for text in texts:
            # nothing in it but what somebody else says
            letters = re.sub(r'\{[^{}]*\}', '', text).strip("f'\"")
            assert not re.search('[a-z]{3,} [a-z]', letters), (place, text)
    assert len(missed) < 12, missed


def test_command_line(capsys):
    assert tool.main(['--check']) == 0
    assert tool.main(['--find', 'adjustment.rank must be an integer >= 1, got 0']) == 0
    out = capsys.readouterr().out
    assert 'scalenet_mm/growth/adjustment.py' in out and 'adjustment.type' not in out


# --- the hand-written page ---------------------------------------------------------------------


def quoted(text):
    """list[tuple[int, str, str]]: Line, owner ('' for ours) and text of each quoted error."""
    found, lines = [], text.split('\n')
    for i, line in enumerate(lines):
        marker = re.fullmatch(r'<!-- error(?:: (\S+))? -->', line)
        if marker:
            start = i + 1
            while lines[start].startswith('<!-- test:'):
                start += 1
            assert lines[start] == '```text', f'line {i + 1}: no text behind the marker'
            end = lines.index('```', start)
            found.append((i + 1, marker[1] or '', '\n'.join(lines[start + 1:end])))
    return found


TEXT = PAGE.read_text()
QUOTED = quoted(TEXT)


@pytest.mark.parametrize('line, text', [(n, text) for n, owner, text in QUOTED if not owner],
                         ids=lambda value: str(value)[:30].split('\n')[0])
def test_ours_is_in_the_code(messages, line, text):
    assert tool.templates_of(text, messages), f'docs/troubleshooting.md:{line}: nothing says so'


@pytest.mark.parametrize('owner, text', [(owner, text) for _, owner, text in QUOTED
                                         if owner and owner not in NOT_IN_SOURCES])
def test_theirs_is_in_their_sources(owner, text):
    spec = importlib.util.find_spec(owner)
    if spec is None:
        pytest.skip(f'{owner} is not installed')
    # what they fill in is not in their sources: pieces between numbers, quotes and names are
    text = re.sub(r'^(\w+\.)*\w+Error: |^WARNING - ', '', text.replace('\n', ' '))
    pieces = re.split(r"'?[\w.]*\d[\w.,]*|`[^`]*`|backbone\.\S+|ScaleNetSwim|mmengine::model"
                      r"|optimizer at torch\.optim|scalenet_mm config|'Adafactor|[<>=]+\S*", text)
    pieces = [p.strip() for p in pieces if len(p.strip()) >= 12]
    assert pieces
    folder = Path(spec.origin).parent
    files = [folder / name for name in (
        '__init__.py', 'registry/registry.py', 'registry/build_functions.py',
        'optim/optimizer/default_constructor.py', 'runner/checkpoint.py', 'config/utils.py',
        'serialization.py')]
    source = ' '.join(f.read_text() for f in files if f.is_file())
    source = re.sub(r"'\s*(#.*)?\\?\s*\n\s*f?'", '', source)  # texts over several lines
    for piece in pieces:
        assert piece in source, piece


def printed_errors():
    """Yield page, line and text of what other pages quote as errors of the tools."""
    for path in sorted([ROOT / 'README.md', *(ROOT / 'docs').glob('*.md')]):
        if path.name in ('errors.md', PAGE.name):
            continue
        for number, line in enumerate(path.read_text().split('\n'), 1):
            if line.startswith('error: '):
                yield f'{path.name}:{number}', line


def test_errors_that_other_pages_quote(messages):
    quoted_there = list(printed_errors())
    assert quoted_there
    for place, text in quoted_there:
        assert tool.templates_of(text, messages), f'{place}: nothing says so: {text}'


def test_there_are_many():
    assert sum(not owner for _, owner, _ in QUOTED) >= 30
    assert len({owner for _, owner, _ in QUOTED}) >= 5


def test_an_invented_error_is_noticed(messages):
    for text in ('growth.times must be an integer > 0, got 0', 'the model holds an error',
                 'error: there is no GPU', 'a: b'):
        assert not tool.templates_of(text, messages), text
    real = 'growth.depth must be an integer >= 1 or None, got 0'
    assert [m.where for m in tool.templates_of(real, messages)] == ['GrowthSpec.__post_init__']
    assert tool.templates_of('error: ' + real, messages)


def test_every_error_block_is_marked():
    """A text that looks like an error has a marker, so that it is compared."""
    marked = {text for _, _, text in QUOTED}
    for text in re.findall(r'```text\n(.*?)\n```', TEXT, re.S):
        if text.startswith('Loaded '):  # the report line, which the page's own test prints
            continue
        assert text in marked, text


def test_runs_as_a_command():
    done = subprocess.run([sys.executable, str(TOOL), '--find', 'growth.share must be one of'],
                          capture_output=True, text=True, timeout=60)
    assert done.returncode == 0 and 'scalenet_mm/growth/grow.py' in done.stdout
