"""The config that a checkpoint holds, read as data: the program text is never run."""
import ast
from collections.abc import Mapping, Sequence

from ..errors import CheckpointError

#: What text that is no plain data raises; MemoryError stands for expressions that are nested deep.
_UNREADABLE = (SyntaxError, ValueError, TypeError, RecursionError, MemoryError)


def read_stored_config(checkpoint, name: str, keys: Sequence = ('model', )) -> dict:
    """Read values of the config that mmengine writes into a checkpoint's 'meta'.

    It is the text of a Python file, into which mmengine writes nothing but assignments of plain
    data, and of ``dict(...)``. Anything else is refused.

    Args:
        checkpoint (Any): What the file holds.
        name (str): The file, for messages.
        keys (Sequence[str]): Names of the values to read. Defaults to ('model', ).

    Returns:
        dict: Those of them that the config has.

    Raises:
        CheckpointError: If there is no config, or one of the values is no plain data.
    """
    meta = checkpoint.get('meta') if isinstance(checkpoint, Mapping) else None
    text = meta.get('cfg') if isinstance(meta, Mapping) else None
    if not isinstance(text, str):
        raise CheckpointError(f"{name} holds no config (meta['cfg']): give it by --config")
    try:
        statements = ast.parse(text).body
    except _UNREADABLE as error:
        raise CheckpointError(f"the config in {name} (meta['cfg']) cannot be read: "
                              f'{_show(error)}. Give it by --config') from None
    found = {}
    for statement in statements:
        if isinstance(statement, ast.Assign) and isinstance(statement.targets[0], ast.Name) \
                and statement.targets[0].id in keys:
            try:
                found[statement.targets[0].id] = _value_of(statement.value)
            except _UNREADABLE as error:
                raise CheckpointError(
                    f"the config in {name} (meta['cfg']) has in {statement.targets[0].id} what is "
                    f'no plain data: {_show(error)}. Give it by --config') from None
    return found


def _show(error):
    text = ' '.join(str(error).split()) or type(error).__name__
    return text if len(text) <= 300 else f'{text[:297]}...'


def _value_of(node):
    """What an expression of plain data stands for."""
    if isinstance(node, ast.Call):
        if not isinstance(node.func, ast.Name) or node.func.id != 'dict' or len(node.args) > 1:
            raise ValueError(ast.unparse(node))
        value = dict(*map(_value_of, node.args))
        for keyword in node.keywords:
            more = _value_of(keyword.value)
            value.update(more if keyword.arg is None else {keyword.arg: more})
        return value
    if isinstance(node, ast.Dict) and None not in node.keys:
        return {_value_of(k): _value_of(v) for k, v in zip(node.keys, node.values)}
    if isinstance(node, (ast.List, ast.Tuple)):
        values = map(_value_of, node.elts)
        return list(values) if isinstance(node, ast.List) else tuple(values)
    return ast.literal_eval(node)
