"""The linters that `make lint` runs are content, and each of them can fail."""
import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tomllib
import yaml

ROOT = Path(__file__).resolve().parents[1]
LINT = ROOT / 'tools' / 'dev' / 'lint.py'
#: Two halves, lest it is found here.
MISSPELT = 'refe' + 'red'
#: What one linter alone complains of, and the word by which.
BAD = dict(
    ruff=('bad.py', '"""A module."""\nimport os\n', 'F401'),
    codespell=('bad.md', f'It is {MISSPELT} to.\n', MISSPELT),
    mypy=('bad.py', '"""A module."""\n\n\ndef half(x: int) -> str:\n    """Return it."""\n'
                    '    return x / 2\n', 'return-value'),
    blanks=('bad.yml', 'a: 1 \n', 'line 1'))
#: More of what ruff has to see: a rule of each group that is switched on.
RUFF = dict(
    D103='"""A module."""\n\n\ndef half(x):\n    return x / 2\n',
    D205='"""A module\nof two lines in its summary.\n"""\n',
    B006='"""A module."""\n\n\ndef add(x, to=[]):  # noqa: D103\n    to.append(x)\n',
    E501=f'"""A module."""\nX = "{"x" * 100}"\n',
    I001='"""A module."""\nimport sys\nimport os\n\nprint(os, sys)\n',
    RUF013='"""A module."""\n\n\ndef half(x: int = None):  # noqa: D103\n    return x\n',
    UP032='"""A module."""\nX = "{}".format(1)\n')


def run(tmp_path, *arguments):
    """Run the linters, mypy with a cache of its own: the clone's may be another version's."""
    env = dict(os.environ, MYPY_CACHE_DIR=str(tmp_path / 'mypy'))
    done = subprocess.run([sys.executable, str(LINT), *map(str, arguments)], env=env, text=True,
                          stdout=subprocess.PIPE, stderr=subprocess.STDOUT, cwd=tmp_path)
    return done.returncode, done.stdout


@pytest.fixture
def lint():
    spec = importlib.util.spec_from_file_location('lint_tool', LINT)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_project(tmp_path):
    code, output = run(tmp_path)
    assert code == 0, output
    assert re.findall(r'^(\w+): ok', output, re.MULTILINE) == ['ruff', 'codespell', 'mypy',
                                                               'blanks']
    assert output.endswith('lint: ruff, codespell, mypy, blanks ok\n')


@pytest.mark.parametrize('linter', BAD)
def test_each_can_fail(tmp_path, linter):
    name, text, word = BAD[linter]
    bad = tmp_path / name
    bad.write_text(text)
    code, output = run(tmp_path, '--only', linter, bad)
    assert code == 1 and word in output and f'lint: {linter} failed' in output, output
    # a folder, too
    assert run(tmp_path, '--only', linter, tmp_path)[0] == 1
    others = [other for other in BAD if other not in (linter, 'mypy')]
    for other in others:
        assert run(tmp_path, '--only', other, bad)[0] == 0, other


@pytest.mark.parametrize('rule', RUFF)
def test_ruff_rules(tmp_path, rule):
    bad = tmp_path / 'bad.py'
    bad.write_text(RUFF[rule])
    code, output = run(tmp_path, '--only', 'ruff', bad)
    assert code == 1
    assert re.findall(r' ([A-Z]+\d+) ', output) == [rule]


def test_misspelt_code_and_settings(tmp_path):
    """Words are looked for in Python as well; some are misspelt on purpose, and data is none."""
    good = tmp_path / 'good.py'
    good.write_text('# widht is no option\n' + 'X = "' + f'{MISSPELT}+/' * 9 + '"\n')
    assert run(tmp_path, '--only', 'codespell', good)[0] == 0
    good.write_text(f'# a {MISSPELT} option\n')
    assert run(tmp_path, '--only', 'codespell', good)[0] == 1


def test_nothing_is_looked_at_twice_or_passed_over(lint):
    texts = {path.relative_to(ROOT).as_posix() for path in lint.find_texts([])}
    for name in ('README.md', 'Makefile', 'docs/quickstart.md', 'CITATION.cff', '.gitignore',
                 'tools/dist_train.sh', '.pre-commit-config.yaml', 'model-index.yml'):
        assert name in texts
    assert not [name for name in texts if name.startswith(('.venv', '.git/', 'scalenet_mm/.mim',
                                                           'data/', 'work_dirs/'))]


@pytest.mark.parametrize('name, text, whole', [
    ('a.md', 'a  \nb\n', 'a\nb\n'), ('a.md', 'a', 'a\n'), ('a.md', 'a\n\n', 'a\n'),
    ('a.sh', 'a\t\n', 'a\n'), ('a.md', 'a\r\n', 'a\n')])
def test_blanks_are_mended(lint, tmp_path, capsys, name, text, whole):
    path = tmp_path / name
    path.write_bytes(text.encode())
    assert lint.run_blanks([str(path)], fix=False) == 1
    assert path.read_bytes() == text.encode()
    assert lint.run_blanks([str(path)], fix=True) == 1
    assert path.read_bytes() == whole.encode()
    assert 'mended' in capsys.readouterr().out
    assert lint.run_blanks([str(path)], fix=True) == 0


def test_a_tab_in_yaml(lint, tmp_path):
    path = tmp_path / 'a.yml'
    path.write_text('a:\tb\n')
    assert lint.run_blanks([str(path)], fix=True) == 1


def test_what_is_not_installed(lint, capsys):
    assert lint.call('no_such_linter') == 2
    assert 'no_such_linter is not installed: pip install' in capsys.readouterr().out


def test_wrong_arguments(tmp_path):
    assert run(tmp_path, 'no_such_file')[0] == 2
    assert run(tmp_path, '--only', 'pylint')[0] == 2


def test_mypy_looks_at_the_package():
    """... all of it: no module is left out, and no kind of error but a note."""
    settings = tomllib.loads((ROOT / 'pyproject.toml').read_text())['tool']['mypy']
    assert 'scalenet_mm' in settings['files']
    assert not {'exclude', 'overrides', 'ignore_errors'} & set(settings)
    assert settings['disable_error_code'] == ['annotation-unchecked']
    assert (ROOT / 'scalenet_mm' / 'py.typed').is_file()


def test_pre_commit_runs_the_same():
    """The hooks are this environment's linters: no repository is fetched."""
    repos = yaml.safe_load((ROOT / '.pre-commit-config.yaml').read_text())['repos']
    assert [repo['repo'] for repo in repos] == ['local']
    hooks = {hook['id']: hook for hook in repos[0]['hooks']}
    assert set(hooks) == set(BAD)
    for name, hook in hooks.items():
        assert hook['language'] == 'system'
        words = hook['entry'].split()
        assert (ROOT / words[1]).is_file() and words[2:4] == ['--only', name]
        # names of files follow, none of which may be taken for an option
        assert hook.get('pass_filenames', True) == (words[-1] == '--')
