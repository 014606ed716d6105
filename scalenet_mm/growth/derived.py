"""Classes made at run time: a module's own class plus one behaviour of ours.

A grown block keeps being an instance of its own class (a stock ``isinstance`` test,
``layer='Linear'`` in an ``init_cfg`` and the like go on working), and still pickles and
deep-copies, because an instance is rebuilt from the recipe of its class and not from the class's
name.
"""
from functools import lru_cache
from typing import Any, Type

import torch.nn as nn


class Derived:
    """Base of all the behaviours that :func:`derive_class` can add."""
    # (class the user wrote, ((behaviour, tied names), ...)): how to make this class again
    _recipe: Any = None
    #: what the names of the classes begin with
    prefix: str

    def __reduce_ex__(self, protocol):
        rebuild, args, *state = super().__reduce_ex__(protocol)
        return (_new_from_recipe, self._recipe, *state)


@lru_cache(maxsize=None)
def derive_class(base: type, behaviour: Type[Derived], tied: tuple) -> type:
    """Make the class that adds a behaviour to a module class.

    Args:
        base (type): The module's class, possibly a derived one.
        behaviour (type): A subclass of :class:`Derived`.
        tied (tuple[str]): Attributes that are read from ``self._source[0]`` at every access.

    Returns:
        type: The class; the same one for the same arguments.
    """
    origin, layers = getattr(base, '_recipe', None) or (base, ())
    attributes = {name: _read_through(name) for name in tied}
    attributes['_recipe'] = (origin, layers + ((behaviour, tied), ))
    attributes['__module__'] = origin.__module__
    return type(behaviour.prefix + base.__name__, (behaviour, base), attributes)


def change_class(module: nn.Module, behaviour: Type[Derived]) -> None:
    """Give an existing module a behaviour, in place."""
    # mypy takes an instance's __hash__ for the class's
    module.__class__ = derive_class(type(module), behaviour, ())  # type: ignore[arg-type]


def take_behaviour(module: nn.Module, behaviour: Type[Derived]) -> None:
    """Take a behaviour away from a module again, in place; the others stay."""
    origin, layers = module._recipe  # type: ignore[misc]
    module.__class__ = _class_from_recipe(
        origin, tuple(layer for layer in layers if layer[0] is not behaviour))


def _read_through(name):

    def read(self):
        return getattr(self._source[0], name)

    return property(read, doc=f'``{name}`` of the source, read at every access.')


def _class_from_recipe(origin, layers):
    cls = origin
    for behaviour, tied in layers:
        cls = derive_class(cls, behaviour, tied)
    return cls


def _new_from_recipe(origin, layers):
    cls = _class_from_recipe(origin, layers)
    return cls.__new__(cls)
