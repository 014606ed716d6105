"""Executes, loads or checks the code blocks of the documents. CONTRIBUTING.md has the rules.

``python tests/test_docs/block_runner.py [PAGE.md ...]`` lists what is done with each block.
"""
import argparse
import ast
import contextlib
import copy
import functools
import importlib.util
import io
import json
import os
import re
import runpy
import subprocess
import sys
import traceback
from dataclasses import dataclass, field
from pathlib import Path
from typing import Dict, Iterator, List, Optional, Sequence, Set, Tuple

ROOT = Path(__file__).resolve().parents[2]

#: languages of blocks -> what is done with one that has no marker
LANGUAGES = {'python': 'execute', 'bash': 'check', 'json': 'parse', 'yaml': 'parse',
             'text': 'output', '': 'output'}
#: what a reason to skip begins with: what is missing here, or how long it would take
REASONS = ('needs ', 'takes ')
#: commands that a document may name, but that are not this project's
FOREIGN = ('apt-get', 'cat', 'conda', 'cp', 'curl', 'docker', 'gh', 'git', 'head', 'jupyter', 'ln',
           'ls', 'mamba', 'mim', 'mkdir', 'mv', 'nvidia-smi', 'nvcc', 'pip', 'pip3', 'python3.11',
           'rm', 'sudo', 'tail', 'tee', 'tensorboard', 'unzip', 'wget')
MAKE_VARIABLES = {'PYTHON', 'VENV', 'ARGS', 'FORCE_CUDA'}
_MARKER = re.compile(r'^\s*<!--\s*test:\s*(\S+)[ \t]*(.*?)\s*(?:-->\s*)?$')
_FENCE = re.compile(r'^(\s*)(`{3,}|~{3,})\s*([\w+-]*)\s*(.*)$')


class BlockError(AssertionError):
    """What is wrong with a block, with its page and line."""


@dataclass
class Block:
    """A fenced block, or a hidden ``before`` marker.

    Attributes:
        page (str): The file, relative to the repository.
        line (int): The line of its first line of text, from 1.
        language (str): What stands behind the fence.
        text (str): Its text, without the fence's indentation.
        action (str): What is done with it.
        argument (str): What stands in the marker behind the action.
    """
    page: str
    line: int
    language: str
    text: str
    action: str
    argument: str = ''

    @property
    def place(self) -> str:
        return f'{self.page}:{self.line}'


@dataclass
class Page:
    """What is known while the blocks of one page are done."""
    names: dict = field(default_factory=lambda: {'__name__': 'page'})
    configs: Dict[str, str] = field(default_factory=dict)
    printed: Optional[str] = None


# --------------------------------------------------------------------------------------------
# reading


def pages() -> List[str]:
    """list[str]: The README and the pages of docs, relative to the repository."""
    found = ['README.md', *(str(path.relative_to(ROOT)) for path in (ROOT / 'docs').rglob('*.md'))]
    return sorted(name for name in found if not name.startswith('docs/_build/'))


def read_blocks(page: str, text: Optional[str] = None) -> List[Block]:
    """Read the blocks of a page.

    Args:
        page (str): The file, relative to the repository.
        text (str, optional): Its text. Defaults to None, which reads the file.

    Returns:
        list[Block]: The blocks in order.

    Raises:
        BlockError: If a marker has no block, a block an unknown language, or the two don't agree.
    """
    lines = ((ROOT / page).read_text() if text is None else text).splitlines()
    blocks, marker, i = [], None, 0
    while i < len(lines):
        line, place = lines[i], f'{page}:{i + 1}'
        found = _MARKER.match(line)
        fence = _FENCE.match(line)
        if found:
            if marker:
                raise BlockError(f'{marker[2]}: the marker has no block')
            start = i
            while '-->' not in lines[i]:
                i += 1
                if i == len(lines):
                    raise BlockError(f'{place}: the comment has no end')
            if found[1] == 'before':
                code = '\n'.join(lines[start + 1:i])
                blocks.append(Block(page, start + 2, 'python', _dedent(code), 'before'))
            elif start != i:
                raise BlockError(f'{place}: a marker of this kind is one line')
            else:
                marker = (found[1], found[2], place)
        elif fence:
            indent, ticks, language, rest = fence.groups()
            start = i = i + 1
            while i < len(lines) and lines[i].strip() != ticks:
                i += 1
            if i == len(lines):
                raise BlockError(f'{place}: the block has no end')
            body = '\n'.join(one[len(indent):] if one.startswith(indent) else one.lstrip()
                             for one in lines[start:i]) + '\n'
            if rest == '{toctree}' and Path(page).name == 'index.md':  # a page for Sphinx alone
                language, rest = 'text', ''
            if rest or language not in LANGUAGES:
                raise BlockError(f'{place}: ```{language}{rest}: a block is one of '
                                 f'{", ".join(filter(None, LANGUAGES))}, or has no label')
            block = Block(page, start + 1, language, body, LANGUAGES[language])
            if marker:
                block.action, block.argument = marker[:2]
                _check_marker(block)
            blocks.append(block)
            marker = None
        elif line.strip() and marker:
            raise BlockError(f'{marker[2]}: the marker has no block')
        i += 1
    if marker:
        raise BlockError(f'{marker[2]}: the marker has no block')
    return blocks


def _check_marker(block: Block) -> None:
    allowed = {'python': ('config', 'raises', 'file', 'skip'), 'bash': ('run', 'usage', 'skip'),
               'text': ('output', 'file'), '': ('output', 'file')}.get(
                   block.language, ('file', 'skip'))
    if block.action not in allowed:
        raise BlockError(f'{block.place}: test: {block.action} before a block of '
                         f'{block.language or "output"}; there may be {", ".join(allowed)}')
    if block.action == 'skip' and not (
            block.argument.startswith(REASONS) and len(block.argument) > 12):
        raise BlockError(f'{block.place}: test: skip needs a reason, "needs ..." or "takes ..."')
    if block.action == 'output':
        block.action = 'compare'


def _dedent(code: str) -> str:
    margin = min((len(s) - len(s.lstrip()) for s in code.splitlines() if s.strip()), default=0)
    return '\n'.join(line[margin:] for line in code.splitlines()) + '\n'


# --------------------------------------------------------------------------------------------
# a page


def make_folder(folder: Path) -> None:
    """Lay out the folder that a page's blocks run in.

    ``configs`` is a folder of links, so that a page can put a config of its own beside them.
    """
    (folder / 'configs').mkdir(parents=True)
    for entry in (ROOT / 'configs').iterdir():
        (folder / 'configs' / entry.name).symlink_to(entry)
    for name in ('tools', 'docs', 'benchmarks', 'README.md', 'setup.py',
                 'requirements.txt', 'constraints.txt', 'Makefile', 'model-index.yml'):
        (folder / name).symlink_to(ROOT / name)


def do_page(page: str, text: Optional[str] = None) -> List[Block]:
    """Do all blocks of a page, in order, in the current folder (see ``make_folder``).

    Args:
        page (str): The file, relative to the repository.
        text (str, optional): Its text. Defaults to None, which reads the file.

    Returns:
        list[Block]: The blocks.

    Raises:
        BlockError: For the first block that does not do what it should.
    """
    blocks, state = read_blocks(page, text), Page()
    for block in blocks:
        do_block(block, state)
    return blocks


def do_block(block: Block, state: Page) -> None:
    """Do one block; see ``do_page``."""
    if block.action in ('execute', 'before'):
        _execute(block, state)
    elif block.action == 'raises':
        _raises(block, state)
    elif block.action == 'compare':
        _compare(block, state)
    elif block.action == 'config':
        _load_config(block, state)
    elif block.action == 'file':
        _new_file(block, block.argument).write_text(block.text)
        state.configs[block.argument] = block.text
    elif block.action == 'check':
        check_commands(block, state)
    elif block.action == 'usage':
        check_usage(block)
    elif block.action == 'run':
        _run(block, state)
    elif block.action == 'parse':
        _parse(block)
    elif block.action == 'output':
        _check_first_lines(block, state)
    else:
        assert block.action == 'skip', block


def _execute(block: Block, state: Page) -> None:
    # so that a traceback, and inspect, point to the page's own line
    code = compile('\n' * (block.line - 1) + block.text, str(ROOT / block.page), 'exec')
    out = io.StringIO()
    try:
        with contextlib.redirect_stdout(out):
            exec(code, state.names)
    except Exception as error:
        if block.action == 'raises':
            raise
        raise BlockError(f'{block.place}: {traceback.format_exc()}') from error
    finally:
        if block.action != 'before':
            state.printed = out.getvalue()


def _raises(block: Block, state: Page) -> None:
    try:
        _execute(block, state)
    except Exception as error:
        names = [kind.__name__ for kind in type(error).__mro__]
        if block.argument not in names:
            raise BlockError(f'{block.place}: should raise {block.argument}, raised '
                             f'{traceback.format_exc()}') from error
        state.printed = str(error)
    else:
        raise BlockError(f'{block.place}: should raise {block.argument}, and does not')


def _compare(block: Block, state: Page) -> None:
    """Does the text stand in what the block before printed? ``...`` stands for anything."""
    if state.printed is None:
        raise BlockError(f'{block.place}: no block before it printed anything')
    parts = [re.escape(' '.join(part.split())) for part in block.text.split('...')]
    printed = ' '.join(state.printed.split())
    if not re.search(r'\s*.*?\s*'.join(parts), printed):
        raise BlockError(f'{block.place}: the output is another one:\n{state.printed}')


def _check_first_lines(block: Block, state: Page) -> None:
    """Check the commands that an output begins with: ``$ ...`` or ``python ...``."""
    commands, more = [], False
    for line in block.text.splitlines():
        if not (more or re.match(r'(\$ |python |make |tools/\w+\.sh )', line)):
            break
        commands.append(line.removeprefix('$ '))
        more = line.endswith('\\')
    if commands:
        text = '\n'.join(commands) + '\n'
        check_commands(Block(block.page, block.line, 'bash', text, 'check'), state)


def _parse(block: Block) -> None:
    import yaml
    try:
        (json.loads if block.language == 'json' else yaml.safe_load)(block.text)
    except (ValueError, yaml.YAMLError) as error:
        raise BlockError(f'{block.place}: {error}') from error


# --------------------------------------------------------------------------------------------
# configs


def _load_config(block: Block, state: Page) -> None:
    """Load a fragment of a config; build its model on 'meta', its hooks and its optimizer."""
    words = block.argument.split()
    name = f'configs/block_of_line_{block.line}.py'
    if words and words[0] not in ('on', 'after'):
        name = words.pop(0)
    text = block.text
    while words:
        word, other = words[0], words[1] if len(words) > 1 else ''
        if word == 'after' and other in state.configs:
            text = state.configs[other] + '\n' + text
        elif word == 'on' and other:
            text = f'_base_ = {other!r}\n' + text
        else:
            raise BlockError(f'{block.place}: test: config [NAME.py] [after NAME.py] [on BASE]')
        words = words[2:]
    _new_file(block, name).write_text(text)
    state.configs[name] = text
    try:
        build_config(name, 'optim_wrapper' in text)
    except Exception as error:
        raise BlockError(f'{block.place}: {traceback.format_exc()}') from error


def _new_file(block: Block, name: str) -> Path:
    """Path: Where a block's text goes: in the page's folder, never through a link."""
    path = Path(name)
    folder = path.resolve().parent
    inside = Path.cwd().resolve() in (folder, *folder.parents)
    if not path.suffix or path.is_symlink() or not inside:
        raise BlockError(f'{block.place}: {name or "a file"} must be new in the page\'s folder')
    folder.mkdir(parents=True, exist_ok=True)
    return path


def build_config(path: str, optimizer: bool = False) -> None:
    """Load a config and build what needs no data: model, hooks, the optimizer if asked for."""
    import torch
    from mmengine.config import Config
    from mmengine.optim import build_optim_wrapper
    from mmengine.registry import HOOKS, MODELS, init_default_scope

    from scalenet_mm.analysis.meta_model import build_on_meta
    cfg = Config.fromfile(path)
    init_default_scope(cfg.get('default_scope', 'mmengine'))
    for hook in cfg.get('custom_hooks') or []:
        HOOKS.build(copy.deepcopy(hook))
    model = cfg.get('model') or {}
    if model.get('type'):
        built = build_on_meta(cfg)
        if optimizer and cfg.get('optim_wrapper'):
            build_optim_wrapper(built, copy.deepcopy(cfg.optim_wrapper))
    elif model.get('backbone', {}).get('type'):
        with torch.device('meta'):
            MODELS.build(copy.deepcopy(model['backbone']))


# --------------------------------------------------------------------------------------------
# commands


def _script(block: Block, record: str) -> str:
    """A script in which every command writes its words to a file instead of running."""
    commands = ['python', 'python3', 'make', 'cd', 'source', '.', 'export', *FOREIGN]
    commands += re.findall(r'(?:^|[\s;&|(])((?:\./|\.venv/)\S+)', block.text)
    scripts = [str(path.relative_to(ROOT)) for path in (ROOT / 'tools').rglob('*.sh')]
    commands += scripts + [f'./{name}' for name in scripts]
    stubs = '\n'.join(f'{name}() {{ _record {name} "$@"; }}' for name in dict.fromkeys(commands)
                      if name not in ('export', 'source', '.'))
    return f'''set -u
_record() {{ printf '%s\\0' "$#" "$@" >>{record}; }}
command_not_found_handle() {{ _record '?' "$@"; }}
{stubs}
source() {{ _record source "$@"; }}
PATH=/nonexistent
{block.text}'''


def expand(block: Block) -> List[List[str]]:
    """Let a shell expand a block, without running anything.

    Returns:
        list[list[str]]: The words of each command, in the order in which they would run.

    Raises:
        BlockError: If the shell finds a mistake.
    """
    record = Path('.recorded').absolute()
    record.write_bytes(b'')
    done = subprocess.run(['/bin/bash', '--norc', '--noprofile', '-c',
                           _script(block, f"'{record}'")],
                          capture_output=True, text=True, timeout=20, stdin=subprocess.DEVNULL,
                          env={'HOME': str(Path.cwd()), 'USER': 'me'})
    words = record.read_bytes().decode().split('\0')[:-1]
    record.unlink()
    if done.stderr or 'syntax error' in done.stderr:
        raise BlockError(f'{block.place}: {done.stderr}')
    calls = []
    while words:
        count = int(words[0])
        calls.append(words[1:count + 1])
        words = words[count + 1:]
    return calls


def check_commands(block: Block, state: Optional[Page] = None) -> None:
    """Check the commands of a block: files, make's targets, options, configs, --cfg-options."""
    known = set(state.configs) if state else set()
    calls = expand(block)
    if not calls and any(s.strip() and not s.lstrip().startswith('#')
                         for s in block.text.splitlines()):
        raise BlockError(f'{block.place}: no command was found')
    for name in set(re.findall(r'\bSCALENET_\w+', block.text)) - environment_variables():
        raise BlockError(f'{block.place}: nothing reads the environment variable {name}')
    for call in calls:
        try:
            check_call(call, known)
        except BlockError as error:
            raise BlockError(f'{block.place}: {" ".join(call)}: {error}') from None


@functools.lru_cache(maxsize=None)
def environment_variables() -> frozenset:
    """frozenset[str]: The names that begin with SCALENET_ in the code."""
    files = [*(ROOT / 'scalenet_mm').rglob('*.py'), *(ROOT / 'tools').rglob('*.*'),
             ROOT / 'Makefile']
    return frozenset(name for path in files if path.suffix in ('.py', '.sh', '')
                     for name in re.findall(r'\bSCALENET_\w+', path.read_text()))


def check_call(call: Sequence[str], known: Set[str] = frozenset()) -> None:
    """Check one command.

    Args:
        call (Sequence[str]): Its words.
        known (set[str]): Files that the page made. Defaults to none.

    Raises:
        BlockError: If it would not start.
    """
    name, words = call[0].removeprefix('./'), list(call[1:])
    if name == '?':
        raise BlockError('no such command; tests/test_docs/block_runner.py has those known')
    for word in words:
        _check_path(word, known)
    if name.rpartition('/')[2] in ('python', 'python3'):
        _check_python(words, known)
    elif name == 'make':
        _check_make(words, known)
    elif name == 'tools/dist_train.sh' or name == 'tools/dist_test.sh':
        tool, positional = name.replace('dist_', '').replace('.sh', '.py'), 1 + ('test' in name)
        if len(words) <= positional or not words[positional].isdigit():
            raise BlockError(f'word {positional + 1} is the number of processes')
        del words[positional]
        check_tool(tool, words, known)
    elif name in ('tools/slurm_train.sh', 'tools/slurm_test.sh'):
        check_tool(name.replace('slurm_', '').replace('.sh', '.py'), words[2:3] + (
            ['--work-dir', *words[3:]] if 'train' in name else words[3:]), known)
    elif '/' in name and not Path(name).exists() and not name.startswith('.venv/'):
        raise BlockError('no such file')


def _check_python(words: List[str], known: Set[str]) -> None:
    if not words or words[0] in ('-V', '--version'):
        return
    if words[0] == '-m':
        if importlib.util.find_spec(words[1].partition('.')[0]) is None:
            raise BlockError(f'no module {words[1]}')
    elif words[0] == '-c':
        try:
            ast.parse(words[1])
        except SyntaxError as error:
            raise BlockError(str(error)) from None
    elif words[0].startswith('-'):
        raise BlockError(f'{words[0]}: this option of python is not known to the check')
    else:
        check_tool(words[0], words[1:], known)


def _check_make(words: List[str], known: Set[str]) -> None:
    makefile = (ROOT / 'Makefile').read_text()
    targets = set(re.findall(r'^([a-z][\w-]*):', makefile, re.M))
    for word in words:
        variable = re.match(r'([A-Z_]+)=', word)
        if variable and variable[1] not in MAKE_VARIABLES:
            raise BlockError(f'the Makefile has no variable {variable[1]}')
        if not variable and word not in targets:
            raise BlockError(f'the Makefile has no target {word}')
    if any(word.startswith('ARGS=') for word in words):
        done = subprocess.run(
            ['make', '-n', '--no-print-directory', '-C', str(ROOT), *words, 'VENV=.venv'],
            capture_output=True, text=True, timeout=20)
        for line in done.stdout.splitlines():
            if line.startswith('.venv/bin/python ') and not line.startswith(
                    ('.venv/bin/python tools/dev/make_env', '.venv/bin/python -m')):
                check_commands(Block('Makefile', 0, 'bash', line + '\n', 'check'))


def _is_placeholder(word: str) -> bool:
    """Is a word one that the reader replaces: CONFIG, or a file of their own?"""
    return (bool(re.fullmatch(r'[A-Z][A-Z0-9_]*(\.\w+)?', word))
            or Path(word).name.startswith('my_') or '/my_' in word)


def _check_path(word: str, known: Set[str]) -> None:
    word = word.partition('=')[2] if word.startswith('--') else word
    word = word.removeprefix('./')
    if not re.fullmatch(r'(configs|tools|benchmarks|docs|tests)/\S+', word):
        return
    if not (word in known or Path(word).exists() or (ROOT / word).exists()
            or _is_placeholder(word)):
        raise BlockError(f'{word} is not there')


class _Parsed(BaseException):
    """Carries a command line out of a tool, before it does anything."""


@contextlib.contextmanager
def _stopping_at(method: str) -> Iterator[None]:
    """Make argparse hand over what it has parsed, and stop the tool."""
    original = getattr(argparse.ArgumentParser, method)

    def parse(self, args=None, namespace=None):
        raise _Parsed(self, original(self, args, namespace))

    setattr(argparse.ArgumentParser, method, parse)
    try:
        yield
    finally:
        setattr(argparse.ArgumentParser, method, original)


def parse_as(tool: str, words: Sequence[str]) -> Tuple[argparse.ArgumentParser, argparse.Namespace]:
    """Let a tool parse a command line, and no more.

    Args:
        tool (str): The file.
        words (Sequence[str]): What stands behind it.

    Returns:
        tuple: The parser and the options.

    Raises:
        BlockError: If the tool does not accept the words, or has no parser.
    """
    argv, path, environ = sys.argv, list(sys.path), dict(os.environ)
    errors = io.StringIO()
    sys.argv = [tool, *words]
    try:
        # as Python does for a script: its own folder first
        sys.path.insert(0, str(Path(tool).resolve().parent))
        with _stopping_at('parse_args'), contextlib.redirect_stderr(errors), \
                contextlib.redirect_stdout(io.StringIO()):
            runpy.run_path(tool, run_name='__main__')
    except _Parsed as parsed:
        return parsed.args
    except SystemExit as stop:
        if stop.code in (0, None) and {'-h', '--help'} & set(words):
            return argparse.ArgumentParser(), argparse.Namespace()
        raise BlockError(errors.getvalue().strip().splitlines()[-1]
                         if errors.getvalue().strip() else f'exits with {stop.code}') from None
    finally:
        sys.argv, sys.path[:] = argv, path
        os.environ.clear()
        os.environ.update(environ)
    raise BlockError(f'{tool} parses no command line')


def check_tool(tool: str, words: Sequence[str], known: Set[str] = frozenset()) -> None:
    """Check a command line of a Python tool: its options, and those for the config."""
    if not Path(tool).is_file():
        raise BlockError(f'{tool} is not there')
    _, options = parse_as(tool, words)
    configs = []
    for name in ('config', 'configs'):
        named = getattr(options, name, None) or []
        configs += named if isinstance(named, (list, tuple)) else [named]
    for config in map(str, configs):
        if Path(config).is_file():
            _merge(config, getattr(options, 'cfg_options', None))
        elif not (Path(config).is_dir() or _is_placeholder(config)
                  or config.startswith('work_dirs/') or '::' in config):
            raise BlockError(f'{config} is not there')


def _merge(config: str, options: Optional[dict]) -> None:
    """Can ``--cfg-options`` be merged into a config?"""
    if not options:
        return
    from mmengine.config import Config
    try:
        Config.fromfile(config).merge_from_dict(options)
    except Exception as error:
        raise BlockError(f'--cfg-options: {type(error).__name__}: {error}') from error


def check_usage(block: Block) -> None:
    """Check a synopsis: the tool, its options and the choices that it names."""
    text = block.text.replace('\\\n', ' ')
    lines = [line for line in text.splitlines() if line.strip()]
    for line in lines:
        words = line.split()
        tool = words[1] if words[0] == 'python' else words[0]
        if not Path(tool).is_file():
            raise BlockError(f'{block.place}: {tool} is not there')
        try:
            parse_as(tool, [])
        except BlockError:
            pass  # what it requires is missing; the parser is looked at below
        parser = _parser_of(tool, words)
        actions = {option: action for action in parser._actions
                   for option in action.option_strings}
        for option, value in re.findall(r'(--[\w-]+)(?:[ =]([\w|.-]+))?', line):
            if option not in actions:
                raise BlockError(f'{block.place}: {tool} has no option {option}')
            choices = actions[option].choices
            if value and '|' in value and choices and set(value.split('|')) != set(choices):
                raise BlockError(f'{block.place}: {option} has the choices {list(choices)}')


def _parser_of(tool: str, words: Sequence[str]) -> argparse.ArgumentParser:
    """argparse.ArgumentParser: A tool's parser, of the subcommand that the words name."""
    found = []
    original = argparse.ArgumentParser.parse_known_args

    def parse(self, args=None, namespace=None):
        found.append(self)
        raise SystemExit(0)

    argparse.ArgumentParser.parse_known_args = parse
    try:
        parse_as(tool, ['--help'])
    finally:
        argparse.ArgumentParser.parse_known_args = original
    parser = found[0]
    for action in parser._subparsers._group_actions if parser._subparsers else []:
        for name, sub in action.choices.items():
            if name in words:
                return sub
    return parser


def _run(block: Block, state: Page) -> None:
    """Run a block's commands with a shell; all must end with 0."""
    shims = Path('.bin').absolute()
    shims.mkdir(exist_ok=True)
    for name in ('python', 'python3'):
        if not (shims / name).exists():
            (shims / name).write_text(f'#!/bin/sh\nexec "{sys.executable}" "$@"\n')
            (shims / name).chmod(0o755)
    done = subprocess.run(
        ['/bin/bash', '--norc', '--noprofile', '-euo', 'pipefail', '-c', block.text],
        capture_output=True, text=True, timeout=500, stdin=subprocess.DEVNULL,
        env={**os.environ, 'PATH': f'{shims}:{os.environ["PATH"]}', 'PYTHONPATH': str(ROOT),
             'CUDA_VISIBLE_DEVICES': '', 'OMP_NUM_THREADS': '1'})
    state.printed = done.stdout
    if done.returncode:
        raise BlockError(f'{block.place}: ended with {done.returncode}:\n'
                         f'{done.stdout[-1500:]}\n{done.stderr[-3000:]}')


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument('page', nargs='*', help='all pages if none is named')
    for page in parser.parse_args().page or pages():
        for block in read_blocks(page):
            print(f'{block.place:44} {block.language or "-":7} {block.action:8} {block.argument}')


if __name__ == '__main__':
    main()
