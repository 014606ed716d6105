"""The one switch between the fast paths and their plain twins.

A fast path computes what plain torch operations would, in fewer passes over memory. Each is used
only where it can be (its conditions stand beside it); everywhere else, and with the switch off,
the plain form runs.
"""
import os

from ..errors import ConfigError

#: The environment variable that sets the switch for a process: '1' (default), '0' or 'all'.
VARIABLE = 'SCALENET_FAST_PATHS'


class fast_paths:
    """Switch the fast paths on or off.

    The switch is one for the whole process, threads included. As a function,
    ``fast_paths(False)``, it stays; as a context, ``with fast_paths(False): ...``, what was before
    comes back at the end.
    A backward pass belongs to the form that its forward pass was computed in.

    Args:
        enabled (bool | str): True for on CPU, where they were measured; False for nowhere;
            ``'all'`` for on every device.

    Raises:
        ConfigError: If it is none of these.
    """
    _enabled = True

    def __init__(self, enabled):
        if enabled not in (True, False, 'all'):
            raise ConfigError(f"fast_paths must be True, False or 'all', got {enabled!r}")
        self._before = fast_paths._enabled
        fast_paths._enabled = enabled

    def __enter__(self):
        return self

    def __exit__(self, *exc):
        fast_paths._enabled = self._before


def fast_paths_enabled(device: str = 'cpu') -> bool:
    """Whether fast paths may be used.

    Args:
        device (str): The type of the device that computes. Defaults to 'cpu'.

    Returns:
        bool: The answer.
    """
    if device == 'meta':  # nothing is computed there
        return False
    return fast_paths._enabled == 'all' or (fast_paths._enabled and device == 'cpu')


def read_variable() -> None:
    """Set the switch from the environment.

    Raises:
        ConfigError: If the variable holds something else than '0', '1' or 'all'.
    """
    value = os.environ.get(VARIABLE, '1')
    if value not in ('0', '1', 'all'):
        raise ConfigError(f'{VARIABLE} must be 0, 1 or all, got {value!r}')
    fast_paths({'0': False, '1': True}.get(value, value))


read_variable()
