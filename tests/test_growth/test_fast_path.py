"""The one switch."""
import os
import subprocess
import sys

import pytest

from scalenet_mm.errors import ConfigError
from scalenet_mm.growth.fast_path import VARIABLE, fast_paths, fast_paths_enabled, read_variable


@pytest.fixture(autouse=True)
def put_back():
    with fast_paths(True):
        yield


def test_as_a_context_and_as_a_function():
    with fast_paths(False):
        assert not fast_paths_enabled()
        with fast_paths('all'):
            assert fast_paths_enabled() and fast_paths_enabled('cuda')
        assert not fast_paths_enabled('cpu') and not fast_paths_enabled('cuda')
    assert fast_paths_enabled('cpu') and not fast_paths_enabled('cuda')
    with pytest.raises(KeyError), fast_paths(False):
        raise KeyError
    assert fast_paths_enabled()
    fast_paths(False)
    assert not fast_paths_enabled()


@pytest.mark.parametrize('value', ['off', None, 2])
def test_bad_values(value):
    with pytest.raises(ConfigError, match='fast_paths must be True, False or'):
        fast_paths(value)
    assert fast_paths_enabled()


@pytest.mark.parametrize('value, cpu, cuda', [('0', False, False), ('1', True, False),
                                              ('all', True, True), (None, True, False)])
def test_the_variable(value, cpu, cuda, monkeypatch):
    if value is None:
        monkeypatch.delenv(VARIABLE, raising=False)
    else:
        monkeypatch.setenv(VARIABLE, value)
    read_variable()
    assert (fast_paths_enabled('cpu'), fast_paths_enabled('cuda')) == (cpu, cuda)


def test_a_bad_variable_is_an_error_at_import():
    found = subprocess.run([sys.executable, '-c', 'import scalenet_mm'], capture_output=True,
                           text=True, env={**os.environ, VARIABLE: 'yes'})
    assert found.returncode and f"{VARIABLE} must be 0, 1 or all, got 'yes'" in found.stderr
