"""tools/dev/stacks.py: links, rules, verdicts and the table, on made-up packages and tests."""
import json
import os
import subprocess
import sys
from collections import Counter
from importlib import metadata
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DEV = ROOT / 'tools' / 'dev'


@pytest.fixture
def stacks(monkeypatch):
    monkeypatch.syspath_prepend(str(DEV))
    import stacks
    return stacks


# ------------------------------------------------------------------------------ packages and links


@pytest.fixture
def site(tmp_path):
    """A folder of packages: box (asks for shape), shape, tool (an extra of box), other."""
    folder = tmp_path / 'site'
    requires = {'box': ['shape>=1', 'tool; extra == "all"', 'ghost; python_version < "3"'],
                'shape': [], 'tool': ['shape'], 'other': []}
    for name, needs in requires.items():
        files = {f'{name}/__init__.py': f'NAME = {name!r}\n', f'{name}.py': '',
                 f'{name}-1.0.dist-info/METADATA': '\n'.join(
                     [f'Name: {name}', 'Version: 1.0', 'Provides-Extra: all',
                      *(f'Requires-Dist: {line}' for line in needs)])}
        record = [*files, f'../bin/{name}', f'{name}-1.0.dist-info/RECORD',
                  f'{name}/gone.pyc']
        files[f'{name}-1.0.dist-info/RECORD'] = ''.join(f'{line},,\n' for line in record)
        files[f'../bin/{name}'] = '#!/the/other/python\n'
        for path, text in files.items():
            (folder / path).parent.mkdir(parents=True, exist_ok=True)
            (folder / path).write_text(text)
    return folder


def test_requirements_are_followed(stacks, site):
    have = stacks.installed(site)
    assert set(have) == {'box', 'shape', 'tool', 'other'}
    assert stacks.needed(['box'], have) == {'box', 'shape'}
    assert stacks.needed(['box[all]>=1', 'Other'], have) == {'box', 'shape', 'tool', 'other'}
    assert stacks.needed(['nothing'], have) == set()


def test_a_package_is_linked_and_nothing_else(stacks, site, tmp_path):
    target = tmp_path / 'other' / 'site'
    count = stacks.link(stacks.installed(site)['box'], site, target)
    files = {path.relative_to(target).as_posix() for path in target.rglob('*') if path.is_file()}
    assert files == {'box/__init__.py', 'box.py', 'box-1.0.dist-info/METADATA',
                     'box-1.0.dist-info/RECORD'} and count == 4
    assert all((target / name).samefile(site / name) for name in files)
    assert (site.parent / 'bin' / 'box').exists() and not (target.parent / 'bin').exists()
    found, = metadata.distributions(path=[str(target)])
    assert found.version == '1.0'


def test_where_no_hard_link_can_be_made(stacks, site, tmp_path, monkeypatch):
    def refuse(*_):
        raise OSError(18, 'Invalid cross-device link')

    monkeypatch.setattr(os, 'link', refuse)
    stacks.link(stacks.installed(site)['box'], site, tmp_path / 'target')
    link = tmp_path / 'target' / 'box' / '__init__.py'
    assert link.is_symlink() and link.samefile(site / 'box' / '__init__.py')


def test_a_package_without_a_list_of_files(stacks, site, tmp_path):
    (site / 'box-1.0.dist-info' / 'RECORD').unlink()
    with pytest.raises(stacks.SetupError, match='box in .* has no list of its files'):
        stacks.link(stacks.installed(site)['box'], site, tmp_path / 'target')


def test_what_each_stack_takes_over(stacks):
    have = stacks.installed(stacks.site_packages(Path(sys.prefix)))
    openmmlab = {stacks.normal(name) for name in stacks.OPENMMLAB}
    for name, stack in stacks.ONE_TOOLBOX.items():
        taken = stacks.wanted(stack, have)
        own = {stacks.normal(item) for item in stack.distributions.values()}
        assert taken & openmmlab == own and {'torch', 'numpy', 'pytest'} <= taken
        assert 'scalenet-mm' not in taken
        lacking = stacks.brought_by(stack, have)
        assert {lacking[other] for other in stacks.TOOLBOXES if other != name} == set(
            stacks.TOOLBOXES) - {name}
        assert not set(lacking) & {'torch', 'numpy', 'pytest', 'scalenet_mm', name}
    assert stacks.brought_by(stacks.ONE_TOOLBOX['mmdet'], have)['mat4py'] == 'mmpretrain'
    assert not stacks.wanted(stacks.ONEDL, have) & openmmlab
    assert {'torch', 'mat4py', 'ftfy', 'pycocotools'} <= stacks.wanted(stacks.ONEDL, have)


def test_a_folder_of_something_else_is_left_alone(stacks, tmp_path):
    (tmp_path / 'mine').mkdir()
    (tmp_path / 'mine' / 'thesis.tex').write_text('x')
    (tmp_path / 'mine' / 'pyvenv.cfg').write_text('')  # somebody's own environment
    with pytest.raises(stacks.SetupError, match='exists and was not made by this tool'):
        stacks.make_environment(stacks.ONE_TOOLBOX['mmdet'], tmp_path / 'mine')
    assert (tmp_path / 'mine' / 'thesis.tex').exists()


def test_pins(stacks):
    for name in stacks.ONEDL.distributions.values():
        assert stacks.pin(name)
    with pytest.raises(stacks.SetupError, match='no line `nothing==...`'):
        stacks.pin('nothing')


# -------------------------------------------------------------------------------------- the rules

FILES = {
    'test_first_lines.py': 'import mmseg_core  # of mmseg\ndef test_a(): pass\n',
    'test_skips_itself.py': "import pytest\npytest.importorskip('mmseg_core')  # of mmseg\n",
    'test_broken.py': 'import numpy_core_of_nothing\n',
    'test_mixed.py': '''
import pytest
@pytest.mark.parametrize('scope', ['mmseg', 'mmdet'])
def test_by_name(scope): assert scope == 'mmdet'
@pytest.mark.parametrize('config', ['configs/seg.py', 'configs/det.py', 'configs/by_base.py'])
def test_by_config(config): assert config == 'configs/det.py'
@pytest.mark.parametrize('cfg', [dict(a=['mmseg::x.py'])])
def test_by_nested_name(cfg): assert False
def test_by_import(): import mmseg_core
def test_by_message(): raise ValueError('mmsegmentation is not installed')
@pytest.mark.needs_toolbox('mmseg')
def test_by_mark(): assert False
@pytest.mark.needs_toolbox('mmdet')
def test_by_other_mark(): pass
def test_by_scope(): raise KeyError('mmseg.ResNet is not in the mmengine::model registry. Please')
def test_by_default_scope(): raise KeyError('UPerHead is not in the mmengine::model registry.')
def test_other_registry(): raise KeyError('UPerHead is not in the mmdet::model registry.')
def test_other_scope(): raise KeyError('mmdet.ResNet is not in the mmengine::model registry.')
def test_by_skip(): pytest.importorskip('mmseg_core')
def test_fails(): assert 1 == 2
def test_skips(): pytest.skip('no GPU')
def test_passes(): pass
''',
    # its file does not say what it has to do with the toolbox
    'test_silent.py': 'import helper\ndef test_a(): helper.load()\n',
    'test_by_helper.py': 'import toys\ndef test_a(): toys.load()\n',
}


@pytest.fixture
def project(tmp_path):
    tests, configs = tmp_path / 'tests', tmp_path / 'configs'
    tests.mkdir()
    configs.mkdir()
    for name, text in FILES.items():
        (tests / name).write_text(text)
    (tests / 'toys.py').write_text('# for mmsegmentation\ndef load(): import mmseg_core\n')
    (tmp_path / 'helper.py').write_text("def load(): __import__('mmseg' + '_core')\n")
    (configs / 'seg.py').write_text("default_scope = 'mmseg'\n")
    (configs / 'det.py').write_text("default_scope = 'mmdet'\n")
    (configs / 'by_base.py').write_text("_base_ = ['./seg.py']\n")
    return tmp_path


@pytest.mark.parametrize('in_a_stack', [True, False])
def test_rules(stacks, project, in_a_stack):
    report = project / 'report.jsonl'
    environ = {**os.environ, 'PYTHONPATH': f'{DEV}:{project}', 'SCALENET_STACK_REPORT': str(report),
               'SCALENET_STACK_ABSENT': json.dumps({'mmseg': 'mmseg', 'mmseg_core': 'mmseg'})}
    command = [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider', '-p',
               'no:hypothesispytest', '--continue-on-collection-errors', '-W',
               'ignore::pytest.PytestUnknownMarkWarning', 'tests']
    if in_a_stack:
        command[3:3] = ['-p', 'stack_plugin']
    done = subprocess.run(command, cwd=project, env=environ, capture_output=True, text=True)
    if not in_a_stack:  # nothing is left out
        assert '14 failed, 4 passed, 3 skipped, 2 errors' in done.stdout, done.stdout
        return
    found = stacks.read_report(report)
    outcomes = {test: entry['outcome'] + (f' {entry["rule"]}' if 'rule' in entry and entry['needs']
                                          else '') for test, entry in found.items()}
    assert all(entry.get('needs', ['mmseg']) in (['mmseg'], []) for entry in found.values())
    mixed = 'tests/test_mixed.py::'
    assert outcomes == {
        'tests/test_first_lines.py': 'deselected file',
        'tests/test_skips_itself.py': 'deselected file',
        'tests/test_broken.py': 'failed',
        mixed + 'test_by_name[mmseg]': 'deselected parameter',
        mixed + 'test_by_name[mmdet]': 'passed',
        mixed + 'test_by_config[configs/seg.py]': 'deselected parameter',
        mixed + 'test_by_config[configs/det.py]': 'passed',
        mixed + 'test_by_config[configs/by_base.py]': 'deselected parameter',
        mixed + 'test_by_nested_name[cfg0]': 'deselected parameter',
        mixed + 'test_by_import': 'deselected import',
        mixed + 'test_by_message': 'deselected import',
        mixed + 'test_by_mark': 'deselected parameter',
        mixed + 'test_by_other_mark': 'passed',
        mixed + 'test_by_scope': 'deselected import',
        mixed + 'test_by_default_scope': 'deselected import',
        mixed + 'test_other_registry': 'failed',
        mixed + 'test_other_scope': 'failed',
        mixed + 'test_by_skip': 'deselected import',
        mixed + 'test_fails': 'failed',
        mixed + 'test_skips': 'skipped',
        mixed + 'test_passes': 'passed',
        'tests/test_silent.py::test_a': 'failed',
        'tests/test_by_helper.py::test_a': 'deselected import',
    }
    assert found['tests/test_silent.py::test_a']['error'] == (
        "ModuleNotFoundError: No module named 'mmseg_core'")
    assert found[mixed + 'test_fails']['error'] == 'assert 1 == 2'


def test_files_that_a_stack_leaves_to_others(stacks, tmp_path):
    texts = {'a': 'import mmdet', 'b': 'mmsegmentation', 'c': 'no box', 'd': 'CONFIGS / "x.py"',
             'e': 'mmpretrain and mmdet'}
    files = []
    for name, text in texts.items():
        (tmp_path / f'test_{name}.py').write_text(f'# {text}\n')
        files.append(f'test_{name}.py')
    left = {name: stacks.leave_to_others(stack, tmp_path, files)
            for name, stack in stacks.STACKS.items()}
    assert left == {
        'onedl': {}, 'mmdet': {'test_b.py': 'mmseg'},
        'mmpretrain': {'test_a.py': 'mmdet', 'test_b.py': 'mmseg',
                       'test_c.py': 'no toolbox (run with mmdet alone)'},
        'mmseg': {'test_a.py': 'mmdet', 'test_c.py': 'no toolbox (run with mmdet alone)',
                  'test_e.py': 'mmdet, mmpretrain'}}


def test_files_not_run_to_their_end_do_not_count(stacks):
    def entry(test, rule=None):
        return {'test': test, 'outcome': 'passed', **({'rule': rule} if rule else {})}

    entries = [entry('a.py::x'), entry('b.py::x'), entry('c.py::x'), entry('d.py::x', 'parameter')]
    found = {item['test']: item for item in entries}
    files = ['a.py', 'b.py', 'c.py', 'd.py']
    assert list(stacks.by_file(found, files, ended=True)) == files
    assert list(stacks.by_file(found, files, ended=False)) == ['a.py', 'b.py']
    assert stacks.by_file({}, files, ended=False) == {}


# ------------------------------------------------------------------------------------ the verdict

LISTED = {'test': 't.py::up', 'error': 'KeyError: 3', 'reason': 'Their table lacks it.'}


def results(**changes):
    found = {'t.py::ok': {'outcome': 'passed'}, 't.py::up': {'outcome': 'failed',
                                                             'error': 'KeyError: 3'},
             't.py::gpu': {'outcome': 'skipped', 'reason': 'no GPU'},
             't.py::no': {'outcome': 'deselected', 'needs': ['mmseg'], 'rule': 'import'},
             'u.py': {'outcome': 'deselected', 'needs': ['mmseg'], 'rule': 'file'}}
    found.update({f't.py::{name}': entry for name, entry in changes.items()})
    return found


def test_a_run_as_expected(stacks):
    verdict = stacks.judge(stacks.ONEDL, results(), [LISTED])
    assert verdict.passed == 1 and verdict.upstream == [LISTED] and not verdict.wrong
    assert verdict.deselected == Counter(mmseg=1) and verdict.files == Counter(mmseg=1)
    assert stacks.describe_deselected(verdict) == '1 tests and 1 files need mmseg'
    assert len(verdict.skipped) == 1


@pytest.mark.parametrize('changes, listed, message', [
    (dict(up={'outcome': 'failed', 'error': 'KeyError: 4'}), [LISTED], 'in another way than'),
    (dict(up={'outcome': 'passed'}), [LISTED], 'is listed as a failure from upstream, and was'),
    (dict(more={'outcome': 'failed', 'error': 'boom'}), [LISTED], 't.py::more fails: boom'),
    ({}, [], 't.py::up fails: KeyError: 3'),
    ({}, [LISTED, {**LISTED, 'test': 't.py::gone'}], 'there is no such test'),
])
def test_whatever_is_not_expected_fails_the_run(stacks, changes, listed, message):
    wrong, = stacks.judge(stacks.ONEDL, results(**changes), listed).wrong
    assert message in wrong


def test_part_of_a_run_need_not_have_what_is_listed(stacks):
    listed = [LISTED, {**LISTED, 'test': 't.py::gone'}]
    assert not stacks.judge(stacks.ONEDL, results(), listed, whole=False).wrong


def test_listed_failures_are_complete(stacks, tmp_path, monkeypatch):
    for stack in stacks.STACKS.values():
        for entry in stacks.expected_failures(stack):
            assert (ROOT / entry['test'].split('::')[0]).is_file(), entry
    monkeypatch.setattr(stacks, 'FAILURES', tmp_path / 'failures.toml')
    (tmp_path / 'failures.toml').write_text('[[onedl]]\ntest = "a.py::b"\nerror = "x"\n')
    with pytest.raises(stacks.SetupError, match='needs test, error and reason'):
        stacks.expected_failures(stacks.ONEDL)


# -------------------------------------------------------------------------------------- the table

VERSIONS = {'python': '3.11.7', 'torch': '2.11.0', 'onedl-mmengine': '0.10.12',
            'onedl-mmcv': '2.3.6', 'onedl-mmdetection': '3.5.1', 'onedl-mmpretrain': '1.3.6',
            'onedl-mmsegmentation': '1.4.2', 'mmengine': '0.10.7', 'mmcv': '2.1.0',
            'mmdet': '3.3.0', 'mmpretrain': '1.2.0', 'mmsegmentation': '1.2.2'}


def test_rows_take_each_others_place(stacks, tmp_path, monkeypatch):
    page = tmp_path / 'versions.md'
    page.write_text(f'# V\n\n{stacks.BEGIN}\n{stacks.END}\n\nmore\n\n{stacks.FAILURES_BEGIN}\n'
                    f'{stacks.FAILURES_END}\nend\n')
    monkeypatch.setattr(stacks, 'expected_failures',
                        lambda stack: [LISTED] if stack == stacks.ONEDL else [])
    verdict = stacks.judge(stacks.ONEDL, results(), [LISTED])
    for passed, stack in ((1, stacks.ONE_TOOLBOX['mmseg']), (2, stacks.ONEDL), (3, stacks.ONEDL)):
        verdict.passed = passed
        stacks.write_row(stacks.make_row(stack, verdict, VERSIONS, 'abc1234', '2026-01-02'), page)
    text = page.read_text()
    rows = stacks.read_rows(text)
    assert list(rows) == ['OneDL', 'mmsegmentation alone']  # in the order of the commands
    assert rows['OneDL'] == (
        'OneDL', '3.11.7', '2.11.0', '0.10.12', '2.3.6', 'onedl-mmdetection 3.5.1, '
        'onedl-mmpretrain 1.3.6, onedl-mmsegmentation 1.4.2', '3', '1 (1)',
        '1 tests and 1 files need mmseg', '2026-01-02', 'abc1234', '`make test-onedl`')
    assert '- OneDL: `t.py::up` fails with `KeyError: 3`. Their table lacks it.' in text
    assert text.startswith('# V\n') and 'more' in text and text.endswith('end\n')
    assert not list(tmp_path.glob('.*.new'))


def test_the_page_has_a_place_for_the_table(stacks, tmp_path):
    stacks.read_rows(stacks.PAGE.read_text(encoding='utf-8'))
    with pytest.raises(stacks.SetupError, match='to write the table between'):
        stacks.read_rows('# nothing')


def test_what_is_run_again(stacks):
    files = ['tests/a/x.py', 'tests/a/y.py', 'tests/b.py', 'tests/c.py']
    last = {'tests/a/x.py': {'tests': {'1': {'outcome': 'passed'}, '2': {'outcome': 'failed'}}},
            'tests/b.py': {'tests': {'3': {'outcome': 'passed'}}}}

    def chosen(*words):
        return stacks.choose(files, last, stacks.parse_args(['onedl', *words]))

    assert chosen() == files
    assert chosen('--tests', 'tests/a', 'tests/c') == ['tests/a/x.py', 'tests/a/y.py', 'tests/c.py']
    assert chosen('--again') == ['tests/a/x.py', 'tests/a/y.py', 'tests/c.py']
    assert chosen('--again', '--tests', 'tests/b.py') == []
    with pytest.raises(stacks.SetupError, match='no file of tests begins with tests/d'):
        chosen('--tests', 'tests/d')


def test_a_clone_at_a_commit(stacks, tmp_path, monkeypatch):
    def git(*words):
        subprocess.run(['git', '-C', str(tmp_path / 'origin'), '-c', 'user.name=a', '-c',
                        'user.email=a@example.org', *words], check=True, capture_output=True)

    (tmp_path / 'origin' / 'tests').mkdir(parents=True)
    for name in ('test_one.py', 'test_docs/test_two.py'):
        path = tmp_path / 'origin' / 'tests' / name
        path.parent.mkdir(exist_ok=True)
        path.write_text('')
    git('init', '-q')
    git('add', '.')
    git('commit', '-q', '-m', 'a')
    (tmp_path / 'origin' / 'tests' / 'test_one.py').write_text('changed')
    monkeypatch.setattr(stacks, 'ROOT', tmp_path / 'origin')
    tree = stacks.check_out('HEAD', tmp_path / 'clone')
    assert (tree / 'tests' / 'test_one.py').read_text() == ''
    assert stacks.state_of(tmp_path / 'origin') == stacks.state_of(tree) + '+'
    assert stacks.test_files(tree) == ['tests/test_one.py']
    with pytest.raises(stacks.SetupError, match='has no commit nothing'):
        stacks.check_out('nothing', tmp_path / 'other')


def test_command_line(stacks):
    args = stacks.parse_args(['one-toolbox', '--only', 'mmdet', '--', '-k', 'delta', '--', '-x'])
    assert args.only == ['mmdet'] and args.pytest == ['-k', 'delta', '--', '-x']
    for words in (['onedl', '--only', 'mmdet'], ['onedl', '--jobs', '0'], ['twodl']):
        with pytest.raises(SystemExit):
            stacks.parse_args(words)


# ------------------------------------------------------------------------ the usual environment


@pytest.mark.parametrize('stack, outcome', [('', '1 failed, 1 error'), ('mmdet', '2 skipped')])
def test_no_test_skips_itself_for_want_of_a_package(tmp_path, stack, outcome):
    (tmp_path / 'conftest.py').write_text((ROOT / 'tests' / 'conftest.py').read_text())
    (tmp_path / 'test_a.py').write_text(
        "import pytest\ndef test_a(): pytest.importorskip('not_there')\n")
    (tmp_path / 'test_b.py').write_text("import pytest\npytest.importorskip('not_there')\n")
    environ = {key: value for key, value in os.environ.items() if key != 'SCALENET_STACK'}
    done = subprocess.run(
        [sys.executable, '-m', 'pytest', '-q', '-p', 'no:cacheprovider',
         '--continue-on-collection-errors'], cwd=tmp_path, capture_output=True, text=True,
        env={**environ, **({'SCALENET_STACK': stack} if stack else {})})
    assert outcome in done.stdout.splitlines()[-1], done.stdout
