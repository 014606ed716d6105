"""``--help`` of every tool: each option tells its default, and an example shows the use."""
import argparse
import io
import os
import re
import runpy
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
TOOLS = sorted(
    str(path.relative_to(ROOT)) for path in (ROOT / 'tools').rglob('*.py')
    if path.relative_to(ROOT).parts[1] != 'dev')  # those are the project's own


def ask(tool, monkeypatch):
    """Run a tool with ``--help`` in this process; return its parser and what it prints."""
    asked = []
    monkeypatch.setattr(argparse.ArgumentParser, 'print_help', lambda self: asked.append(self))
    monkeypatch.setattr(sys, 'argv', [tool, '--help'])
    monkeypatch.setattr(sys, 'path', list(sys.path))
    monkeypatch.setenv('COLUMNS', '100')
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(ROOT / tool), run_name='__main__')
    assert not stop.value.code and len(asked) == 1
    return asked[0], asked[0].format_help()


def parsers_of(parser):
    """Yield a parser and those of its subcommands."""
    yield parser
    for action in parser._actions:
        if isinstance(action, argparse._SubParsersAction):
            yield from action.choices.values()


def words(default):
    """What of a default must stand in the help."""
    if isinstance(default, list) and default[1:] and default == list(
            range(default[0], default[-1] + 1) if isinstance(default[0], int) else ()):
        return [str(default[0]), str(default[-1])]  # "6 to 15"
    if isinstance(default, (list, tuple)):
        return [str(item) for item in default]
    return [str(default)]


def test_tools_are_found():
    assert {'tools/train.py', 'tools/infer.py', 'tools/analysis_tools/cka.py'} <= set(TOOLS)


@pytest.mark.parametrize('tool', TOOLS)
def test_help(tool, monkeypatch):
    parser, text = ask(tool, monkeypatch)
    assert parser.prog == tool, 'the usage line is to be copied from the root of the clone'
    assert 'example:\n  python ' + tool in text
    assert max(map(len, text.splitlines())) <= 100
    for line in re.findall(r'^  python .*$', text.replace('\\\n', ''), re.M):
        assert shlex.split(line)[1] == tool
    for path in re.findall(r'configs/[\w./-]+\.py', text):
        assert (ROOT / path).is_file(), path
    for part in parsers_of(parser):
        for action in part._actions:
            if action.help is argparse.SUPPRESS or isinstance(
                    action, (argparse._HelpAction, argparse._SubParsersAction)):
                continue
            name = (action.option_strings or [action.dest])[-1]
            assert action.help, f'{name} has no help'
            if not action.option_strings or action.required or action.nargs == 0:
                continue
            helped = part._get_formatter()._expand_help(action)
            values = not (action.metavar is None and action.choices is None)
            assert values, f'{name} does not say in what unit its value is: give it a metavar'
            if action.default not in (None, []):
                told = re.split('default', helped, flags=re.I)[-1]
                for word in words(action.default):
                    assert word in told, f'{name}: its default {word} is not told: {helped!r}'
            elif name not in NO_DEFAULT:
                assert 'default' in helped.lower() or 'unless given' in helped, (
                    f'{name}: what happens without it is not told: {helped!r}')


#: Options without which nothing is done: their absence needs no words.
NO_DEFAULT = ('--cfg-options', '--resume', '--pretrained', '--compare', '--out', '--show-dir',
              '--out-dir', '--save')


@pytest.mark.parametrize('words', [
    ('tools/analysis_tools/count_parameters.py', 'configs/scalenet_deit-t_100e_imagenet.py',
     '--full'),
    ('tools/check_env.py', '--no-imports'),
])
def test_a_reader_that_leaves_early(words):
    read, write = os.pipe()
    os.close(read)  # as `head` does when it has what it wants
    with open(write, 'w') as pipe:
        done = subprocess.run([sys.executable, *words], cwd=ROOT, stdout=pipe,
                              stderr=subprocess.PIPE, text=True, timeout=120)
    assert 'BrokenPipe' not in done.stderr and 'Traceback' not in done.stderr
    assert done.returncode == 141


@pytest.mark.parametrize('words', [
    ('tools/misc/print_config.py', 'configs/scalenet_deit-t_100e_imagenet.py', '--key', 'model'),
    ('tools/check_env.py', '--no-imports'),
])
def test_without_an_output(words):
    """As daemons start programs: it is closed, and nothing has failed."""
    command = ' '.join([sys.executable, *words])
    done = subprocess.run(f'{command} >&-', shell=True, cwd=ROOT, stderr=subprocess.PIPE,
                          text=True, timeout=120)
    assert 'Traceback' not in done.stderr
    assert done.returncode == 0 or words[0] == 'tools/check_env.py'  # that tells of the machine


def test_only_the_output_s_own_pipe_is_excused():
    from scalenet_mm.engine import run_cli

    def command():
        raise BrokenPipeError('of a worker')

    with pytest.raises(BrokenPipeError, match='worker'):
        run_cli(command)
    assert isinstance(sys.stdout, io.TextIOBase)
