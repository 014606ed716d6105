"""Write docs/errors.md: every error and warning of the package and the tools, by its text.

The messages are read from the source code, which is not run. ``--check`` writes nothing and ends
with 1 if the page is not what the code says.
"""
import argparse
import ast
import builtins
import os.path as osp
import re
import sys
from collections import namedtuple
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGE = ROOT / 'docs' / 'errors.md'
#: Where messages are looked for; tools/dev is for those who work on the project.
FOLDERS = ('scalenet_mm', 'tools')
LEFT_OUT = ('tools/dev', 'scalenet_mm/.mim')

#: ``kind`` is the name of an exception class, or 'warning'; ``parts`` are the fixed pieces of
#: ``text`` between its placeholders; ``where`` is the function.
Message = namedtuple('Message', 'kind text parts path where')

#: Stands between the fixed pieces of a message while it is put together.
OPEN, CLOSE = '\x02', '\x03'
HEAD = """# All errors and warnings

<!-- Written by tools/dev/list_errors.py; change the messages in the code instead. -->

Every message of the package and its tools, as the code has it. `<...>` stands for what a message
fills in. What people meet most often, with cause and mend, is in
[troubleshooting](troubleshooting.md). `ConfigError`, `CheckpointError`, `DataError`, `GrowthError`
and `ExportError` are `ScaleNetError`s; the command-line tools print them as `error: ...`, without a
traceback, and end with status 2.
"""


def is_exception(name: str) -> bool:
    """Whether a name is one of an exception class."""
    known = getattr(builtins, name, None)
    if isinstance(known, type):
        return issubclass(known, BaseException)
    return name.endswith(('Error', 'Exception'))


def name_of(node: ast.expr) -> str:
    """str: The last part of a dotted name; empty if the node is none."""
    if isinstance(node, ast.Attribute):
        return node.attr
    return node.id if isinstance(node, ast.Name) else ''


def placeholder(node: ast.expr) -> str:
    """str: A few letters that tell a reader what stands at a place of a message."""
    if isinstance(node, ast.Name):
        return node.id.strip('_')
    if isinstance(node, ast.Attribute):
        if node.attr == '__name__':
            inner = node.value
            if isinstance(inner, ast.Call) and name_of(inner.func) == 'type' and inner.args:
                return f'class of {placeholder(inner.args[0])}'
            return placeholder(inner)
        return node.attr.strip('_')
    if isinstance(node, ast.Call):
        called = name_of(node.func)
        if called == 'len' and node.args:
            return 'number'
        if called == 'join':
            return 'names'
        if called in ('str', 'list', 'tuple', 'sorted', 'repr', 'int', 'abspath', 'basename') \
                and node.args:
            return placeholder(node.args[0])
        return called or '...'
    if isinstance(node, ast.Subscript):
        if isinstance(node.slice, ast.Constant) and isinstance(node.slice.value, str):
            return node.slice.value
        return placeholder(node.value)
    return '...'


class Reader(ast.NodeVisitor):
    """Collect the messages of one file.

    Args:
        path (str): The file, within the repository.
        tree (ast.Module): Its code.
        constants (dict[str, ast.AST]): Values of the constants, and the functions, that stand at
            the top of the file or of those it imports from, by name.
    """

    def __init__(self, path: str, tree: ast.Module, constants: dict):
        self.path, self.constants = path, constants
        self.scopes = []  # functions and classes around the node
        self.messages = []
        self.visit(tree)

    # --- where we are ----------------------------------------------------------------------------

    def _enter(self, node):
        self.scopes.append(node)
        self.generic_visit(node)
        self.scopes.pop()

    visit_FunctionDef = visit_AsyncFunctionDef = visit_ClassDef = _enter

    def visit_Call(self, node):
        """Take the calls that make an error or say a warning."""
        name = name_of(node.func)
        if is_exception(name):
            self._take('SystemExit' if name == 'SystemExit' else name, node.args[:1])
        elif name == 'error' and isinstance(node.func, ast.Attribute) \
                and 'pars' in ast.unparse(node.func.value):
            self._take('usage', node.args[:1])
        elif name == 'print_log' and 'WARN' in ast.unparse(node):
            self._take('warning', node.args[:1])
        elif isinstance(node.func, ast.Name) and name in ('error', 'warning', 'level') \
                and len(node.args) == 3:  # the findings of check_env: a code, a message, a mend
            for text in self._texts(node.args[1], 0):
                fix = (self._texts(node.args[2], 0) or [''])[0]
                self._add('check_env', f'{text}\n    {fix}')
        elif name == '__init__' and self._in_error_class():
            self._take(self.scopes[-2].name, node.args[:1])
        elif ast.unparse(node.func) == 'say':  # is given a function that warns
            self._take('warning', node.args[:1])
        elif (name == 'warning' and 'log' in ast.unparse(node.func)) or \
                ast.unparse(node.func) == 'warnings.warn':
            self._take('warning', node.args[:1])
        elif isinstance(node.func, ast.Call) and name_of(node.func.func) == 'type':
            self._take('same class', node.args[:1])
        self.generic_visit(node)

    def _in_error_class(self):
        return len(self.scopes) > 1 and isinstance(self.scopes[-2], ast.ClassDef) \
            and is_exception(self.scopes[-2].name)

    # --- what it says ----------------------------------------------------------------------------

    def _take(self, kind, args):
        for text in dict.fromkeys(self._texts(args[0], 0) if args else ()):
            self._add(kind, text)

    def _add(self, kind, text):
        pieces = text.replace(CLOSE, OPEN).split(OPEN)
        fixed = tuple(pieces[::2])
        # what only passes another message on says nothing itself
        if any(letter.isalpha() for letter in ''.join(fixed)):
            shown = text.replace(OPEN, '<').replace(CLOSE, '>')
            where = '.'.join(scope.name for scope in self.scopes)
            self.messages.append(Message(kind, shown, fixed, self.path, where))

    def _texts(self, node, depth) -> list:
        """list[str]: What an expression may become, placeholders marked."""
        if isinstance(node, ast.Constant):
            return [str(node.value)] if isinstance(node.value, str) else []
        if isinstance(node, ast.JoinedStr):
            texts = ['']
            for value in node.values:
                if isinstance(value, ast.Constant):
                    more = [str(value.value)]
                else:
                    more = self._filled(value.value, depth)
                texts = [text + piece for text in texts for piece in more]
            return texts
        if isinstance(node, ast.BinOp) and isinstance(node.op, (ast.Add, ast.Mod)):
            left = self._texts(node.left, depth)
            if isinstance(node.op, ast.Mod):
                return left
            right = self._texts(node.right, depth)
            return [a + b for a in left for b in right]
        if isinstance(node, ast.IfExp):
            return self._texts(node.body, depth) + self._texts(node.orelse, depth)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute):
            if node.func.attr in ('strip', 'lstrip', 'rstrip'):
                return self._texts(node.func.value, depth)
            if node.func.attr == 'join' and isinstance(node.func.value, ast.Constant) \
                    and node.args and isinstance(node.args[0], ast.Name):
                lines = self._lines(node.args[0].id, depth)
                if lines:
                    return [node.func.value.value.join(lines)]
        if isinstance(node, ast.Name) and depth < 3:
            values = self._values(node.id)
            if values:
                return [text for value in values for text in self._texts(value, depth + 1)]
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and depth < 3:
            function = self.constants.get(node.func.id)
            if isinstance(function, ast.FunctionDef):
                return self._returned(function, depth)
        return [f'{OPEN}{placeholder(node)}{CLOSE}']

    def _returned(self, function, depth) -> list:
        """list[str]: The texts that a function returns."""
        scopes, self.scopes = self.scopes, [function]
        values = [node.value for node in ast.walk(function) if isinstance(node, ast.Return)]
        texts = [text for value in values if value is not None
                 for text in self._texts(value, depth + 1)]
        self.scopes = scopes
        return texts

    def _lines(self, name, depth) -> list:
        """list[str]: The texts that a function puts into a list."""
        items = []
        for node in ast.walk(self.scopes[-1]) if self.scopes else ():
            value = None
            if isinstance(node, ast.Assign) and name_of(node.targets[0]) == name:
                value = node.value
            elif isinstance(node, ast.AugAssign) and name_of(node.target) == name:
                value = node.value
            elif isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute) \
                    and node.func.attr == 'append' and name_of(node.func.value) == name:
                value = ast.List(elts=node.args)
            if isinstance(value, ast.List):
                items += [(node.lineno, item) for item in value.elts]
            elif isinstance(value, ast.ListComp):
                items.append((node.lineno, value.elt))
        items.sort(key=lambda item: item[0])
        return [text for _, item in items for text in self._texts(item, depth + 1)[:1]]

    def _filled(self, node, depth) -> list:
        """list[str]: What stands at a place of an f-string; constants are put in."""
        if isinstance(node, ast.IfExp):
            either = [n.value for n in (node.body, node.orelse) if isinstance(n, ast.Constant)]
            if len(either) == 2 and all(isinstance(text, str) for text in either):
                return [OPEN + ' | '.join(text.strip() or 'nothing' for text in either) + CLOSE]
            return [f'{OPEN}...{CLOSE}']
        if isinstance(node, ast.Name) and node.id.isupper():
            value = self.constants.get(node.id)
            texts = self._texts(value, depth + 1) if _is_text(value) else []
            if texts:
                return texts
            try:
                return [str(ast.literal_eval(value))]
            except (TypeError, ValueError):  # it is computed
                pass
        return [f'{OPEN}{placeholder(node)}{CLOSE}']

    def _values(self, name) -> list:
        """list[ast.expr]: What a name was given, in the function around it or in a module."""
        for scope in reversed(self.scopes):
            found = [node.value for node in ast.walk(scope)
                     if isinstance(node, ast.Assign)
                     and any(isinstance(t, ast.Name) and t.id == name for t in node.targets)]
            if found:
                return found if all(map(_is_text, found)) else []
        value = self.constants.get(name)
        return [value] if _is_text(value) else []


def _is_text(node):
    """Whether an expression is written as a text."""
    if isinstance(node, ast.Constant):
        return isinstance(node.value, str)
    if isinstance(node, ast.IfExp):
        return _is_text(node.body) and _is_text(node.orelse)
    if isinstance(node, ast.BinOp):
        return _is_text(node.left) or _is_text(node.right)
    return isinstance(node, ast.JoinedStr)


def source_files(root: Path = ROOT) -> Iterator:
    """Yield the paths, within the repository, of the files that are read."""
    for folder in FOLDERS:
        for path in sorted((root / folder).rglob('*.py')):
            path = path.relative_to(root).as_posix()
            if not path.startswith(LEFT_OUT):
                yield path


def collect(root: Path = ROOT) -> list:
    """list[Message]: All messages, in the order of files and lines."""
    trees = {path: ast.parse((root / path).read_text(encoding='utf-8'))
             for path in source_files(root)}
    own = {}
    for path, tree in trees.items():
        own[path] = {node.name: node for node in tree.body if isinstance(node, ast.FunctionDef)}
        own[path].update((node.targets[0].id, node.value) for node in tree.body
                         if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
                         and node.targets[0].id.isupper())
    messages = []
    for path, tree in trees.items():
        imported = {}
        for node in ast.walk(tree):
            if isinstance(node, ast.ImportFrom) and node.module:
                end = f'/{node.module.split(".")[-1]}.py'
                for alias in node.names:
                    found = [names[alias.name] for other, names in own.items()
                             if other.endswith(end) and alias.name in names]
                    if found:
                        imported[alias.asname or alias.name] = found[0]
        messages += Reader(path, tree, {**imported, **own[path]}).messages
    return messages


def templates_of(text: str, messages: list) -> list:
    """Find the messages that a whole text is one of.

    Args:
        text (str): An error's text; ``...`` stands for something left out where a message fills in.
        messages (list[Message]): What :func:`collect` gives.

    Returns:
        list[Message]: Those whose fixed pieces, in order and with anything between, are the text.
        A good part of it must be fixed: what is nearly all filled in tells nothing.
    """
    text = ' '.join(text.split())
    text = re.sub(r'^(error: |(ERROR|WARNING) \[[\w-]+\] )', '', text)
    found = []
    for message in messages:
        fixed = [re.sub(r'\s+', ' ', part) for part in message.parts]
        fixed[0], fixed[-1] = fixed[0].lstrip(), fixed[-1].rstrip()
        if sum(map(len, fixed)) < max(12, min(0.3 * len(text), 60)):
            continue
        # what is filled in may be nothing, so that two spaces meet
        pattern = '.*?'.join(re.escape(part).replace(r'\ ', ' *') for part in fixed)
        if re.fullmatch(pattern, text):
            found.append(message)
    return found


def find(part: str, messages: list) -> list:
    """Find the messages that a part of a text is of.

    Args:
        part (str): Some words of an error, or all of it.
        messages (list[Message]): What :func:`collect` gives.

    Returns:
        list[Message]: Those that are the text; if there is none, those that hold it, or a long
        piece of which it holds.
    """
    found = templates_of(part, messages)
    if found:
        return found
    part = ' '.join(part.split())
    return [message for message in messages
            if part in ' '.join(message.text.split())
            or any(len(piece.strip()) > 20 and ' '.join(piece.split()) in part
                   for piece in message.parts)]


def render(messages: list) -> str:
    """str: The page."""
    lines = [HEAD]
    packages = {}
    for message in messages:
        folder = osp.dirname(message.path)
        packages.setdefault(folder, {}).setdefault(message.path, []).append(message)
    for folder, files in sorted(packages.items()):
        lines += [f'## {folder}', '']
        for path, of_file in sorted(files.items()):
            lines += [f'### {osp.basename(path)}', '']
            seen = {}
            for message in of_file:
                seen.setdefault((message.kind, message.text), []).append(message.where)
            for (kind, text), places in seen.items():
                places = ', '.join(f'`{place}`' for place in dict.fromkeys(places) if place)
                lines += [f'- {kind}{f" in {places}" if places else ""}:', '', '  ```text']
                lines += [f'  {line}'.rstrip() for line in text.strip('\n').split('\n')]
                lines += ['  ```', '']
    return '\n'.join(lines).rstrip() + '\n'


def main(argv=None) -> int:
    """Write the page, or compare it; return the exit status."""
    parser = argparse.ArgumentParser(description=__doc__.split('\n\n')[0])
    parser.add_argument('--check', action='store_true', help='compare, and write nothing')
    parser.add_argument('--find', metavar='TEXT', help='show the messages that a text can be')
    args = parser.parse_args(argv)
    messages = collect()
    if args.find:
        for message in find(args.find, messages):
            print(f'{message.kind}  {message.path} {message.where}\n    {message.text}')
        return 0
    page = render(messages)
    if args.check:
        same = PAGE.is_file() and PAGE.read_text(encoding='utf-8') == page
        if not same:
            print(f'{PAGE.relative_to(ROOT)} is not what the code says: run python '
                  'tools/dev/list_errors.py')
        return 0 if same else 1
    PAGE.write_text(page, encoding='utf-8')
    print(f'{PAGE.relative_to(ROOT)}: {len(messages)} messages')
    return 0


if __name__ == '__main__':
    sys.exit(main())
