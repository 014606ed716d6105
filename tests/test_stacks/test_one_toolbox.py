"""One toolbox of the three is enough, and none is enough to build, grow and store backbones.

Each environment is made of links to the packages of the one that runs the tests, without the other
toolboxes and what only they bring: what is not there cannot be imported by accident.
"""
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
from stack_steps import STEPS

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
NAMES = ('mmdet', 'mmpretrain', 'mmseg', 'bare')


@pytest.fixture(scope='session')
def outcomes(tmp_path_factory):
    """What happened to each step, by the name of the environment."""
    sys.path.insert(0, str(ROOT / 'tools' / 'dev'))
    try:
        import stacks
    finally:
        sys.path.pop(0)
    known = {}

    def outcome(name):
        if name not in known:
            folder = tmp_path_factory.mktemp(name)
            stack = stacks.ONE_TOOLBOX.get(name) or stacks.Stack(name, 'no toolbox', ())
            stacks.make_environment(stack, folder / 'venv')
            environ = {key: value for key, value in os.environ.items()
                       if key not in ('PYTHONPATH', 'PYTHONHOME')}
            work = folder / 'work'
            work.mkdir()
            done = subprocess.run(
                [str(folder / 'venv' / 'bin' / 'python'), '-W', 'ignore',
                 str(HERE / 'stack_steps.py'), name], cwd=work, capture_output=True, text=True,
                timeout=570, env={**environ, 'OMP_NUM_THREADS': '1', 'CUDA_VISIBLE_DEVICES': ''})
            assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-4000:]
            known[name] = json.loads((work / 'steps.json').read_text())
        return known[name]

    return outcome


@pytest.mark.parametrize('step', STEPS)
@pytest.mark.parametrize('name', NAMES)
def test_step(name, step, outcomes):
    error = outcomes(name)[step]
    assert error is None, error
