"""The set-up scripts, with a stub in place of the compilation, which takes minutes."""
import json
import os
import re
import shlex
import signal
import subprocess
import sys
import sysconfig
import time
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DEV = ROOT / 'tools' / 'dev'
TORCH, MMCV = '2.11.0', '2.1.0'

# Stands in for `pip wheel`: writes a wheel into the folder given last. Each call leaves a line in
# `calls`; a file `wait` makes it hang, with a child of its own, as pip hangs on its compilers.
STUB = """
import json, os, subprocess, sys, time, zipfile
from pathlib import Path
home, out = Path(sys.argv[1]), Path(sys.argv[-1])
with open(home / 'calls', 'a') as calls:
    keep = ('MMCV_WITH_OPS', 'MAX_JOBS', 'FORCE_CUDA', 'CUDA_VISIBLE_DEVICES', 'TMPDIR')
    print(json.dumps({name: os.environ.get(name) for name in keep}), file=calls)
print('compiling')
Path(os.environ['TMPDIR'], 'half.o').write_text('half')
if (home / 'wait').exists():
    child = subprocess.Popen([sys.executable, '-c', 'import time; time.sleep(120)'])
    (home / 'child').write_text(str(child.pid))
    child.wait()
if (home / 'slow').exists():
    time.sleep(1.5)
if (home / 'fail').exists():
    print('error: nms.cpp does not compile')
    sys.exit(1)
if (home / 'nothing').exists():
    sys.exit(0)
with zipfile.ZipFile(out / 'mmcv-2.1.0-cp311-cp311-linux_x86_64.whl', 'w') as wheel:
    wheel.writestr('mmcv-2.1.0.dist-info/METADATA', 'Name: mmcv')
    if not (home / 'no-ops').exists():
        wheel.writestr('mmcv/_ext.cpython-311-x86_64-linux-gnu.so', 'code' * 1000)
"""

OBTAIN = """
import sys
sys.path.insert(0, sys.argv[1])
import build_mmcv, progress
sys.exit(progress.main_guard(lambda: print(*build_mmcv.obtain_wheel('2.1.0', '2.11.0', 0.2))))
"""


@pytest.fixture
def dev(monkeypatch):
    """The modules of tools/dev."""
    monkeypatch.syspath_prepend(str(DEV))
    for name in ('FORCE_CUDA', 'MAX_JOBS', 'CXX', 'SCALENET_MMCV_BUILD_COMMAND'):
        monkeypatch.delenv(name, raising=False)
    import build_mmcv
    import make_env
    import progress

    class Modules:
        pass

    Modules.build_mmcv, Modules.make_env, Modules.progress = build_mmcv, make_env, progress
    return Modules


class Cache:
    """A wheel cache of its own and a stubbed build."""

    def __init__(self, tmp_path, key):
        self.home = tmp_path / 'stub'
        self.home.mkdir()
        (self.home / 'stub.py').write_text(STUB)
        self.wheels = tmp_path / 'cache' / 'wheels'
        self.folder = self.wheels / key
        self.environ = {name: value for name, value in os.environ.items()
                        if name not in ('FORCE_CUDA', 'MAX_JOBS', 'CXX')}
        self.environ['SCALENET_CACHE'] = str(tmp_path / 'cache')
        self.environ['SCALENET_MMCV_BUILD_COMMAND'] = shlex.join(
            [sys.executable, str(self.home / 'stub.py'), str(self.home)])

    def start(self, **environ):
        # a shell's background job, as a CI's may be, has its children ignore the interrupt
        return subprocess.Popen([sys.executable, '-c', OBTAIN, str(DEV)], text=True,
                                stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                stderr=subprocess.STDOUT, env={**self.environ, **environ},
                                preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))

    def obtain(self, **environ):
        process = self.start(**environ)
        output, _ = process.communicate(timeout=60)
        return process.returncode, output

    def option(self, name, on=True):
        (self.home / name).touch() if on else (self.home / name).unlink()

    @property
    def builds(self):
        calls = self.home / 'calls'
        return calls.read_text().splitlines() if calls.exists() else []

    def content(self):
        """What lies in the cache beside the lock."""
        return sorted(path.name for path in self.wheels.iterdir() if path.suffix != '.lock')


@pytest.fixture
def cache(tmp_path, dev):
    return Cache(tmp_path, dev.build_mmcv.cache_key(MMCV, TORCH))


def wait_for(condition, seconds=20.0):
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, 'waited in vain'
        time.sleep(0.02)


def alive(pid):
    try:
        state = Path(f'/proc/{pid}/stat').read_text().rsplit(')', 1)[1].split()[0]
    except FileNotFoundError:
        return False
    return state != 'Z'


# ---------------------------------------------------------------------------- the wheel's place


def test_key_and_place(dev, monkeypatch):
    python = f'cp{sys.version_info.major}{sys.version_info.minor}'
    platform = re.sub('[-.]', '_', sysconfig.get_platform())
    key = dev.build_mmcv.cache_key(MMCV, TORCH)
    assert key == f'mmcv2.1.0-torch2.11.0-{python}-{platform}'
    monkeypatch.setenv('FORCE_CUDA', '1')
    assert dev.build_mmcv.cache_key(MMCV, TORCH) == f'{key}-cuda'

    monkeypatch.setenv('HOME', '/home/someone')
    monkeypatch.delenv('SCALENET_CACHE', raising=False)
    monkeypatch.delenv('XDG_CACHE_HOME', raising=False)
    assert str(dev.build_mmcv.cache_root()) == '/home/someone/.cache/scalenet_mm/wheels'
    monkeypatch.setenv('XDG_CACHE_HOME', '/xdg')
    assert str(dev.build_mmcv.cache_root()) == '/xdg/scalenet_mm/wheels'
    monkeypatch.setenv('SCALENET_CACHE', '/own')
    assert str(dev.build_mmcv.cache_root()) == '/own/wheels'


def test_pins_fit_requirements(dev):
    assert dev.build_mmcv.pinned('mmcv') == MMCV
    assert dev.build_mmcv.pinned('torch') == TORCH
    assert int(dev.build_mmcv.pinned('setuptools').split('.')[0]) < 81
    with pytest.raises(dev.progress.SetupError, match='no line `nothing==...`'):
        dev.build_mmcv.pinned('nothing')
    for name in ('requirements.txt', 'requirements-test.txt'):
        for line in (ROOT / name).read_text().splitlines():
            if line and not line.startswith('#'):
                distribution = re.match(r'[A-Za-z0-9-]+', line).group()
                assert dev.build_mmcv.pinned(distribution), distribution
    # pip would build it in an isolated environment, and fail there
    assert not re.search(r'^mmcv', (ROOT / 'requirements.txt').read_text(), re.MULTILINE)


def test_another_distribution_of_the_module(dev, tmp_path):
    build = dev.build_mmcv
    key = build.cache_key('2.3.6', TORCH, 'onedl-mmcv')
    assert key.startswith('onedl-mmcv2.3.6-torch2.11.0-')
    assert build.build_command('2.3.6', tmp_path, 'onedl-mmcv')[-5:] == [
        '--no-binary', 'onedl-mmcv', 'onedl-mmcv==2.3.6', '-w', str(tmp_path)]
    wheel = tmp_path / 'onedl_mmcv-2.3.6-cp311-cp311-linux_x86_64.whl'
    with zipfile.ZipFile(wheel, 'w') as archive:
        archive.writestr('onedl_mmcv-2.3.6.dist-info/METADATA', 'Name: onedl-mmcv')
        archive.writestr('mmcv/_ext.cpython-311-x86_64-linux-gnu.so', 'code')
    assert build.wheel_fault(wheel, '2.3.6', 'onedl-mmcv') is None
    assert build.wheel_fault(wheel, '2.3.6') == 'it is not mmcv 2.3.6'
    assert build.cached_wheel(tmp_path, '2.3.6') is None and wheel.exists()
    assert build.cached_wheel(tmp_path, '2.3.6', 'onedl-mmcv') == wheel


# ---------------------------------------------------------------------------- building, caching


def test_builds_once_then_reuses(cache):
    code, output = cache.obtain()
    assert code == 0, output
    assert 'building mmcv 2.1.0 with its ops: 7-13 minutes' in output
    assert len(cache.builds) == 1
    # CPU ops, also where there is a GPU; everything temporary in the build's own folder
    settings = json.loads(cache.builds[0])
    assert settings['MMCV_WITH_OPS'] == '1'
    assert settings['FORCE_CUDA'] == '0' and settings['CUDA_VISIBLE_DEVICES'] == ''
    assert settings['TMPDIR'].startswith(f'{cache.folder}.build-')
    assert int(settings['MAX_JOBS']) >= 1
    # nothing but the wheel stays behind
    assert cache.content() == [cache.folder.name]
    assert [path.name for path in cache.folder.iterdir()] == [
        'mmcv-2.1.0-cp311-cp311-linux_x86_64.whl']

    code, output = cache.obtain(CXX='/no/such/compiler')  # none is needed any more
    assert code == 0, output
    assert 'using the cached wheel' in output and len(cache.builds) == 1


def test_shows_progress(cache):
    cache.option('slow')
    _, output = cache.obtain()
    assert len(re.findall(r'\.\.\. building mmcv 2\.1\.0: \d+ s', output)) >= 3


def test_counts_compiled_files(dev, tmp_path):
    build = tmp_path / 'pip-wheel-abc' / 'mmcv_123' / 'build' / 'temp.linux'
    build.mkdir(parents=True)
    assert dev.build_mmcv.compiled(tmp_path) == ''
    (build / 'build.ninja').write_text('rule compile\nbuild /x/a.o: compile /y/a.cpp\n'
                                       'build /x/b.o: compile /y/b.cpp\n')
    (build / 'ops').mkdir()
    (build / 'ops' / 'a.o').touch()
    assert dev.build_mmcv.compiled(tmp_path) == '1 of 2 files compiled'


@pytest.mark.parametrize('damage', ['truncated', 'empty', 'flipped', 'no ops'])
def test_unsound_wheel_is_removed_and_built_again(cache, damage):
    cache.option('no-ops' if damage == 'no ops' else 'slow')
    if damage == 'no ops':
        cache.folder.mkdir(parents=True)
        wheel = cache.folder / 'mmcv-2.1.0-py3-none-any.whl'
        with zipfile.ZipFile(wheel, 'w') as archive:
            archive.writestr('mmcv-2.1.0.dist-info/METADATA', 'Name: mmcv')
        cache.option('no-ops', on=False)
    else:
        cache.obtain()
        wheel = next(cache.folder.glob('*.whl'))
        data = bytearray(wheel.read_bytes())
        if damage == 'flipped':
            data[data.index(b'codecode') + 100] ^= 0xff
        wheel.write_bytes({'truncated': data[:len(data) // 2], 'empty': b''}.get(damage, data))
    before = len(cache.builds)
    code, output = cache.obtain()
    assert code == 0, output
    assert f'removing the cached wheel {wheel}' in output
    assert len(cache.builds) == before + 1
    assert len(list(cache.folder.glob('*.whl'))) == 1
    assert 'using the cached wheel' in cache.obtain()[1]


@pytest.mark.parametrize('signum', [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_stopped_build_cleans_up_and_stops_its_compilers(cache, signum):
    cache.option('wait')
    process = cache.start()
    wait_for((cache.home / 'child').exists)
    wait_for(lambda: (cache.home / 'child').read_text())
    child = int((cache.home / 'child').read_text())
    assert alive(child)
    process.send_signal(signum)
    output, _ = process.communicate(timeout=20)
    assert process.returncode != 0
    wait_for(lambda: not alive(child))
    assert [name for name in cache.content() if '.build-' in name] == []
    assert not cache.folder.exists()
    assert 'Traceback' not in output
    cache.option('wait', on=False)
    assert cache.obtain()[0] == 0


def test_killed_build_starts_cleanly_again(cache):
    cache.option('wait')
    process = cache.start()
    wait_for((cache.home / 'child').exists)
    wait_for(lambda: (cache.home / 'child').read_text())
    process.kill()
    process.communicate(timeout=20)
    os.kill(int((cache.home / 'child').read_text()), signal.SIGKILL)
    left = [name for name in cache.content() if '.build-' in name]
    assert len(left) == 1  # no chance to clean up
    cache.option('wait', on=False)
    (cache.wheels / 'mmcv2.1.0-torch9.9.9-cp311-linux_x86_64.build-other').mkdir()
    code, output = cache.obtain()
    assert code == 0, output
    assert f'{left[0]}, left by an interrupted build' in output
    # only what belongs to this key
    assert cache.content() == [cache.folder.name,
                               'mmcv2.1.0-torch9.9.9-cp311-linux_x86_64.build-other']


def test_two_clones_build_once(cache):
    cache.option('slow')
    first, second = cache.start(), cache.start()
    outputs = [process.communicate(timeout=60)[0] for process in (first, second)]
    assert first.returncode == second.returncode == 0, outputs
    assert len(cache.builds) == 1
    waited, = [output for output in outputs if 'waiting for another process' in output]
    assert 'using the cached wheel' in waited


def test_failing_build_shows_why_and_leaves_no_wheel(cache):
    cache.option('fail')
    code, output = cache.obtain()
    assert code == 1
    assert 'error: nms.cpp does not compile' in output and 'exit status 1' in output
    assert 'Traceback' not in output
    assert cache.content() == [f'{cache.folder.name}.log']
    cache.option('fail', on=False)
    assert cache.obtain()[0] == 0
    assert cache.content() == [cache.folder.name]


@pytest.mark.parametrize('option, message', [('nothing', 'left no wheel'),
                                             ('no-ops', 'built without ops')])
def test_useless_build_is_an_error(cache, option, message):
    cache.option(option)
    code, output = cache.obtain()
    assert code == 1 and message in output
    assert not cache.folder.exists()


def test_cache_that_cannot_be_written(cache, tmp_path):
    (tmp_path / 'file').touch()
    code, output = cache.obtain(SCALENET_CACHE=str(tmp_path / 'file'))
    assert code == 1
    assert 'cannot be written' in output and 'SCALENET_CACHE=' in output


# ---------------------------------------------------------------------------- checks beforehand


def test_no_compiler_is_an_error_at_once(cache):
    code, output = cache.obtain(CXX='/no/such/g++')
    assert code == 1
    assert 'no C++ compiler: `/no/such/g++`' in output and 'apt-get install g++' in output
    assert cache.builds == []


def test_compiler_that_fails(dev, tmp_path, monkeypatch):
    fake = tmp_path / 'c++'
    fake.write_text('#!/bin/sh\necho "unrecognized option -std=c++17"; exit 1\n')
    fake.chmod(0o755)
    monkeypatch.setenv('CXX', str(fake))
    with pytest.raises(dev.progress.SetupError, match='(?s)unrecognized opt.*GCC 9') as info:
        dev.build_mmcv.check_compiler()
    assert str(fake) in str(info.value)


def test_no_headers(dev, tmp_path, monkeypatch):
    monkeypatch.setenv('CXX', sys.executable)  # anything that is there
    with pytest.raises(dev.progress.SetupError, match=r'(?s)headers of .*3\.\d+-dev'):
        dev.build_mmcv.check_compiler(include=str(tmp_path))


def test_cuda_without_nvcc(dev, monkeypatch):
    monkeypatch.setenv('FORCE_CUDA', '1')
    monkeypatch.delenv('CUDA_HOME', raising=False)
    which = dev.build_mmcv.shutil.which
    monkeypatch.setattr(dev.build_mmcv.shutil, 'which',
                        lambda name: None if name == 'nvcc' else which(name))
    with pytest.raises(dev.progress.SetupError, match='no nvcc'):
        dev.build_mmcv.check_compiler()


@pytest.mark.parametrize('processors, memory, jobs', [(2, 16.0, 2), (16, 4.0, 2), (8, 0.5, 1),
                                                      (4, None, 4)])
def test_max_jobs(dev, monkeypatch, processors, memory, jobs):
    monkeypatch.setattr(dev.build_mmcv.os, 'sched_getaffinity', lambda _: set(range(processors)),
                        raising=False)
    monkeypatch.setattr(dev.build_mmcv, 'available_gb', lambda: memory)
    assert dev.build_mmcv.max_jobs() == jobs
    monkeypatch.setenv('MAX_JOBS', '7')
    assert dev.build_mmcv.max_jobs() == 7
    monkeypatch.setenv('MAX_JOBS', 'many')
    with pytest.raises(dev.progress.SetupError, match='MAX_JOBS=many'):
        dev.build_mmcv.max_jobs()


# ---------------------------------------------------------------------------- installing


class Steps:
    """Records what `ensure` would install, and answers `verify` from a list."""

    def __init__(self, modules, monkeypatch, installed, reasons, tmp_path):
        self.done = []
        self.reasons = list(reasons)
        self.wheel = tmp_path / 'mmcv-2.1.0-cp311-cp311-linux_x86_64.whl'
        self.wheel.touch()
        module = modules.build_mmcv
        monkeypatch.setattr(module, 'installed', installed.get)
        monkeypatch.setattr(module, 'verify', lambda version: self.reasons.pop(0))
        monkeypatch.setattr(module, 'install', lambda wheel: self.done.append('install'))
        monkeypatch.setattr(module, 'obtain_wheel', self.obtain)

    def obtain(self, mmcv, torch, interval):
        cached = self.wheel.exists()
        self.wheel.touch()
        self.done.append('cached' if cached else 'built')
        return self.wheel, cached


def test_working_mmcv_is_left_alone(dev, monkeypatch, tmp_path):
    steps = Steps(dev, monkeypatch, {'mmcv': MMCV, 'torch': TORCH}, [None], tmp_path)
    dev.build_mmcv.ensure()
    assert steps.done == []


def test_other_mmcv_is_replaced(dev, monkeypatch, tmp_path):
    steps = Steps(dev, monkeypatch, {'mmcv': '2.2.0', 'torch': TORCH}, [None], tmp_path)
    dev.build_mmcv.ensure()
    assert steps.done == ['cached', 'install']


def test_cached_wheel_that_does_not_load_is_built_again(dev, monkeypatch, tmp_path):
    steps = Steps(dev, monkeypatch, {'torch': TORCH}, ['undefined symbol', None], tmp_path)
    dev.build_mmcv.ensure()
    assert steps.done == ['cached', 'install', 'built', 'install']


def test_built_wheel_that_does_not_load_is_an_error(dev, monkeypatch, tmp_path):
    steps = Steps(dev, monkeypatch, {'torch': TORCH}, ['undefined symbol', 'again'], tmp_path)
    with pytest.raises(dev.progress.SetupError, match='its ops do not run: again'):
        dev.build_mmcv.ensure()
    assert steps.done == ['cached', 'install', 'built', 'install']


def test_no_torch(dev, monkeypatch, tmp_path):
    steps = Steps(dev, monkeypatch, {}, [], tmp_path)
    with pytest.raises(dev.progress.SetupError, match='torch is not installed'):
        dev.build_mmcv.ensure()
    assert steps.done == []


def test_verify_runs_an_op(dev):
    assert dev.build_mmcv.verify(MMCV) is None
    assert '2.1.0' in dev.build_mmcv.verify('9.9.9')


# ---------------------------------------------------------------------------- the environment


@pytest.fixture
def clone(tmp_path, dev, monkeypatch):
    """A clone with an environment whose installation is recorded, not done."""
    root = tmp_path / 'clone'
    for name in dev.make_env.INPUTS:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes((ROOT / name).read_bytes())
    calls = []

    def make(venv, log):
        (venv / 'bin').mkdir(parents=True, exist_ok=True)
        (venv / 'bin' / 'python').touch()
        calls.append('venv')

    monkeypatch.setattr(dev.make_env, 'preflight', lambda venv: calls.append('preflight'))
    monkeypatch.setattr(dev.make_env, 'make_venv', make)
    monkeypatch.setattr(dev.make_env, 'install', lambda *args: calls.append('install'))
    return root, calls


def test_second_make_does_nothing(dev, clone):
    root, calls = clone
    venv = root / '.venv'
    dev.make_env.ensure(root, venv)
    assert calls == ['preflight', 'venv', 'install']
    dev.make_env.ensure(root, venv)
    assert len(calls) == 3
    with open(root / 'constraints.txt', 'a') as file:
        file.write('new-package==1.0\n')
    dev.make_env.ensure(root, venv)
    assert len(calls) == 6
    # left in the clone: nothing but its files and the environment
    names = {Path(name).parts[0] for name in dev.make_env.INPUTS}
    assert {path.name for path in root.iterdir()} == names | {'.venv'}


def test_interrupted_install_is_taken_up_again(dev, clone, monkeypatch):
    root, calls = clone
    recorded = dev.make_env.install

    def fail(*args):
        raise dev.progress.SetupError('the line is down')

    monkeypatch.setattr(dev.make_env, 'install', fail)
    with pytest.raises(dev.progress.SetupError):
        dev.make_env.ensure(root, root / '.venv')
    monkeypatch.setattr(dev.make_env, 'install', recorded)
    dev.make_env.ensure(root, root / '.venv')
    assert calls[-1] == 'install'


def test_moved_clone_is_installed_again(dev, clone):
    root, calls = clone
    dev.make_env.ensure(root, root / '.venv')
    moved = root.rename(root.with_name('elsewhere'))
    dev.make_env.ensure(moved, moved / '.venv')
    assert calls.count('install') == 2


def test_preflight_asks_for_a_compiler_only_to_build(dev, monkeypatch, tmp_path):
    monkeypatch.setenv('CXX', '/no/such/g++')
    monkeypatch.setattr(dev.build_mmcv, 'has_cached_wheel', lambda: True)
    dev.make_env.preflight(tmp_path / '.venv')
    monkeypatch.setattr(dev.build_mmcv, 'has_cached_wheel', lambda: False)
    with pytest.raises(dev.progress.SetupError, match=r'no C\+\+ compiler'):
        dev.make_env.preflight(tmp_path / '.venv')


def test_preflight_finds_no_venv_module(dev, monkeypatch, tmp_path):
    monkeypatch.setattr(dev.make_env.importlib.util, 'find_spec', lambda name: None)
    with pytest.raises(dev.progress.SetupError, match=r'(?s)no venv and no ensurepip.*-venv'):
        dev.make_env.preflight(tmp_path / '.venv')


def test_preflight_spares_other_folders(dev, tmp_path):
    folder = tmp_path / 'photos'
    folder.mkdir()
    (folder / 'cat.png').touch()
    with pytest.raises(dev.progress.SetupError, match='is no virtual environment'):
        dev.make_env.preflight(folder)


def test_preflight_refuses_another_python(dev, monkeypatch, tmp_path):
    (tmp_path / 'pyvenv.cfg').touch()
    monkeypatch.setattr(dev.make_env, 'venv_version', lambda venv: '3.12')
    with pytest.raises(dev.progress.SetupError, match=r'has Python 3\.12; 3\.11 is needed'):
        dev.make_env.preflight(tmp_path)


@pytest.mark.skipif(sys.version_info[:2] != (3, 11), reason='`make` works with Python 3.11')
def test_half_made_venv_is_completed(dev, tmp_path):
    venv = tmp_path / '.venv'
    (venv / 'bin').mkdir(parents=True)
    (venv / 'pyvenv.cfg').write_text('home = /nowhere\n')
    (venv / 'bin' / 'python').symlink_to('/nowhere/python3.11')
    dev.make_env.make_venv(venv, tmp_path / 'log')
    assert dev.make_env.venv_version(venv) == '3.11' and dev.make_env.has_pip(venv)


def test_half_installed_packages_are_forgotten(dev, tmp_path):
    site = tmp_path / 'lib' / 'python3.11' / 'site-packages'
    for name, files in {'whole-1.0': ('METADATA', 'INSTALLER'), 'half-1.0': ('METADATA', )}.items():
        folder = site / f'{name}.dist-info'
        folder.mkdir(parents=True)
        for file in files:
            (folder / file).touch()
    dev.make_env.forget_half_installed(tmp_path)
    assert [path.name for path in site.iterdir()] == ['whole-1.0.dist-info']


def test_opencv_without_desktop_libraries(dev, monkeypatch, tmp_path):
    faults = ['ImportError: libGL.so.1: cannot open shared object file', '']
    commands = []
    monkeypatch.setattr(dev.make_env, 'opencv_fault', lambda venv: faults.pop(0))
    monkeypatch.setattr(dev.make_env, 'run_logged',
                        lambda command, *args, **kwargs: commands.append(' '.join(command)))
    dev.make_env.replace_opencv(tmp_path, tmp_path / 'log')
    assert len(commands) == 2
    assert commands[0].endswith('uninstall -y opencv-python')
    assert 'opencv-python-headless==' in commands[1]
    faults[:] = ['']
    dev.make_env.replace_opencv(tmp_path, tmp_path / 'log')
    assert len(commands) == 2


# ---------------------------------------------------------------------------- make_env.sh, make


def run_make_env(tmp_path, python_version=None, **environ):
    """Run make_env.sh with a PATH of its own; the Python on it answers `python_version`."""
    folder = tmp_path / 'bin'
    folder.mkdir(exist_ok=True)
    for name in ('dirname', 'bash', 'env'):
        if not (folder / name).exists():
            target = subprocess.run(['which', name], capture_output=True, text=True).stdout
            (folder / name).symlink_to(target.strip())
    script = (DEV / 'make_env.sh').read_text().replace('/usr/bin/python3.11', '/no/python3.11')
    copy = tmp_path / 'tools' / 'dev' / 'make_env.sh'
    copy.parent.mkdir(parents=True, exist_ok=True)
    copy.write_text(script.replace('/usr/local/bin/python3.11', '/no/python3.11'))
    for name, version in (python_version or {}).items():
        # A Python that says its version; started with the script, it tells so.
        body = 'exit 127' if version is None else (
            f'[ "$1" = -c ] && echo {version} || echo "$0 runs $*"')
        (folder / name).write_text(f'#!/bin/sh\n{body}\n')
        (folder / name).chmod(0o755)
    return subprocess.run(['/bin/bash', str(copy)], capture_output=True, text=True,
                          stdin=subprocess.DEVNULL,
                          env={'PATH': str(folder), 'HOME': str(tmp_path), **environ})


def test_no_python(tmp_path):
    done = run_make_env(tmp_path, {'python3': '3.12', 'python3.11': None})
    assert done.returncode == 1
    assert 'no Python 3.11 found' in done.stderr and 'python3.11-venv' in done.stderr


def test_failing_shim_is_passed_over(tmp_path):
    done = run_make_env(tmp_path, {'python3.11': None, 'python3': '3.11'})
    assert done.returncode == 0, done.stderr
    assert 'bin/python3 runs tools/dev/make_env.py --venv .venv' in done.stdout


def test_given_python(tmp_path):
    done = run_make_env(tmp_path, {'python3.11': '3.11'}, PYTHON='/no/such/python')
    assert done.returncode == 1
    assert 'PYTHON=/no/such/python is not a Python 3.11 that runs' in done.stderr
    mine = tmp_path / 'bin' / 'mine'
    done = run_make_env(tmp_path, {'mine': '3.11'}, PYTHON=str(mine), VENV='/some/venv')
    assert f'{mine} runs tools/dev/make_env.py --venv /some/venv' in done.stdout


def run_make(*arguments):
    """Run make as from a fresh shell, also when the tests were started by make."""
    own = ('VENV', 'PYTHON', 'ARGS', 'FORCE_CUDA', 'MAKEFLAGS', 'MAKELEVEL', 'MAKEOVERRIDES',
           'MFLAGS')
    environ = {name: value for name, value in os.environ.items() if name not in own}
    done = subprocess.run(['make', *arguments], cwd=ROOT, capture_output=True, text=True,
                          env=environ)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize('target', ['quickstart', 'study', 'test', 'check-env', 'lint'])
def test_each_target_makes_the_environment_first(target):
    lines = run_make('-n', '-j4', target).strip().splitlines()
    assert lines[0] == 'tools/dev/make_env.sh' and lines[1].startswith('.venv/bin/python')


def test_make_passes_its_variables_on():
    output = run_make('-n', 'test', 'VENV=/some/venv', 'ARGS=-k growth')
    assert '/some/venv/bin/python -m pytest -k growth' in output


def test_help_lists_the_targets():
    output = run_make()
    for target in ('env', 'quickstart', 'study', 'test', 'check-env', 'lint', 'clean'):
        assert f'make {target} ' in output


def test_packaging_forces_no_toolbox():
    done = subprocess.run([sys.executable, '-c', (
        'import setuptools, json, runpy\n'
        'kept = {}\n'
        'setuptools.setup = kept.update\n'
        'runpy.run_path("setup.py")\n'
        'print(json.dumps([kept.get("version"), kept.get("install_requires"),'
        ' sorted(kept.get("extras_require"))]))')], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    version, requires, extras = json.loads(done.stdout)
    assert version == '0.1.0'
    assert not any(re.match('mmcv|mmdet|mmpretrain|mmseg|torchvision|.*==', item)
                   for item in requires)
    assert set(extras) >= {'all', 'det', 'digits', 'onnx', 'pretrain', 'seg', 'test'}
