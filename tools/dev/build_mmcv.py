#!/usr/bin/env python
"""Install mmcv with its ops into the environment of the Python that runs this.

There is no wheel of mmcv 2.1.0 for current torch versions, so it is built from its sdist: 7-13
minutes on two cores, once. The wheel is kept outside the clone and keyed by the versions of mmcv,
torch and Python::

    ${SCALENET_CACHE:-${XDG_CACHE_HOME:-~/.cache}/scalenet_mm}/wheels/<key>/mmcv-*.whl

Environment variables:
    SCALENET_CACHE: Where the wheels are kept.
    MAX_JOBS: Number of compilers at once. Defaults to what processors and memory allow.
    FORCE_CUDA: `1` builds the CUDA ops as well (needs nvcc of torch's CUDA version). By default
        only the CPU ops are built, whether there is a GPU or not.
    SCALENET_MMCV_BUILD_COMMAND: Replaces `pip wheel ...`; the folder for the wheel is appended.

Example:
    .venv/bin/python tools/dev/build_mmcv.py
"""
from __future__ import annotations

import argparse
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import zipfile
from importlib import metadata
from pathlib import Path
from typing import Optional

from progress import SetupError, clean_environ, exclusive_lock, main_guard, run_logged, say

ROOT = Path(__file__).resolve().parents[2]

# One compiler of mmcv's ops takes up to 0.8 GB, and the linker and pip want some as well.
GB_PER_JOB = 1.5

# Imports torch and cv2 first, to tell a broken wheel from a broken environment.
VERIFY = """
import sys
try:
    import torch, cv2
except Exception as error:
    print(f'{type(error).__name__}: {error}')
    sys.exit(3)
import mmcv
from mmcv.ops import nms
boxes = torch.tensor([[0., 0., 10., 10.], [1., 1., 10., 10.], [20., 20., 30., 30.]])
_, keep = nms(boxes, torch.tensor([0.9, 0.8, 0.7]), 0.5)
assert keep.tolist() == [0, 2], keep
assert mmcv.__version__ == sys.argv[1], mmcv.__version__
"""


def pinned(name: str, constraints: Path = ROOT / 'constraints.txt') -> str:
    """The version that the constraints file pins a distribution to."""
    # names count as pip compares them: `sphinx-design` is `Sphinx_Design`
    pattern = '[-_.]+'.join(map(re.escape, re.split(r'[-_.]+', name)))
    match = re.search(rf'^{pattern}==([^\s;#]+)', constraints.read_text(encoding='utf-8'),
                      re.MULTILINE | re.IGNORECASE)
    if match is None:
        raise SetupError(f'{constraints} has no line `{name}==...`.')
    return match.group(1)


def wants_cuda() -> bool:
    return os.environ.get('FORCE_CUDA', '0') == '1'


def cache_root() -> Path:
    """The folder of cached wheels."""
    own = os.environ.get('SCALENET_CACHE')
    if own:
        return Path(own).expanduser().absolute() / 'wheels'
    base = os.environ.get('XDG_CACHE_HOME') or '~/.cache'
    return Path(base).expanduser().absolute() / 'scalenet_mm' / 'wheels'


def cache_key(mmcv: str, torch: str, name: str = 'mmcv') -> str:
    """Name of the folder of one wheel, such as `mmcv2.1.0-torch2.11.0-cp311-linux_x86_64`.

    Args:
        mmcv (str): Version of mmcv.
        torch (str): Version of torch, with its local part where it has one (`2.11.0+cpu`).
        name (str): The distribution: mmcv, or onedl-mmcv, which has the same module. Defaults to
            'mmcv'.
    """
    python = f'cp{sys.version_info.major}{sys.version_info.minor}'
    platform = re.sub(r'[-.]', '_', sysconfig.get_platform())
    key = f'{name}{mmcv}-torch{torch}-{python}-{platform}'
    return f'{key}-cuda' if wants_cuda() else key


def stem(name: str) -> str:
    """How the names of a distribution's files begin."""
    return name.replace('-', '_')


def wheel_fault(wheel: Path, mmcv: str, name: str = 'mmcv') -> Optional[str]:
    """Say what is wrong with a wheel file, or None."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            bad = archive.testzip()
            files = archive.namelist()
    except (zipfile.BadZipFile, OSError, EOFError) as error:
        return f'it cannot be read ({error})'
    except Exception as error:  # zlib reports damaged data in its own ways
        return f'it is damaged ({error})'
    if bad is not None:
        return f'{bad} in it is damaged'
    if not any(re.fullmatch(r'mmcv/_ext\..*\.(so|pyd)', file) for file in files):
        return 'it was built without ops'
    if f'{stem(name)}-{mmcv}.dist-info/METADATA' not in files:
        return f'it is not {name} {mmcv}'
    return None


def cached_wheel(folder: Path, mmcv: str, name: str = 'mmcv') -> Optional[Path]:
    """The sound wheel in a cache folder; unsound ones are removed, with a line that says so."""
    for wheel in sorted(folder.glob(f'{stem(name)}-*.whl')):
        fault = wheel_fault(wheel, mmcv, name)
        if fault is None:
            return wheel
        say(f'removing the cached wheel {wheel}: {fault}')
        wheel.unlink(missing_ok=True)
    return None


def has_cached_wheel() -> bool:
    """Whether a sound wheel for the pinned versions is there, so that no compiler is needed."""
    mmcv = pinned('mmcv')
    folder = cache_root() / cache_key(mmcv, pinned('torch'))
    return any(wheel_fault(wheel, mmcv) is None for wheel in folder.glob('mmcv-*.whl'))


def compiler() -> str:
    """The C++ compiler that torch's extension builder runs."""
    return os.environ.get('CXX') or 'c++'


def check_compiler(include: Optional[str] = None) -> None:
    """Compile three lines of C++17 that include Python's headers.

    Args:
        include (str, optional): Folder of `Python.h`. Defaults to None, the running Python's.

    Raises:
        SetupError: If there is no compiler, it is too old, or `Python.h` is missing.
    """
    include = include or sysconfig.get_path('include')
    install = 'install one, e.g. `sudo apt-get install g++`'
    command = shlex.split(compiler())
    if shutil.which(command[0]) is None:
        raise SetupError(f'no C++ compiler: `{command[0]}` is not on the PATH, and mmcv has to be '
                         f'built once.\n    {install}; or name yours by CXX=/path/to/g++.')
    if not Path(include, 'Python.h').is_file():
        version = f'{sys.version_info.major}.{sys.version_info.minor}'
        raise SetupError(f'the headers of Python {version} are missing ({include}/Python.h), and '
                         'mmcv has to be built once.\n    Install them, e.g. `sudo apt-get '
                         f'install python{version}-dev`.')
    source = ('#include <Python.h>\n#include <optional>\n#include <string_view>\n'
              'int probe() { std::optional<int> x = PY_MAJOR_VERSION; return *x; }\n')
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, 'probe.cpp')
        path.write_text(source, encoding='utf-8')
        done = subprocess.run([*command, '-std=c++17', '-fPIC', f'-I{include}', '-c', str(path),
                               '-o', str(path.with_suffix('.o'))],
                              stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                              stderr=subprocess.STDOUT, text=True, errors='replace')
    if done.returncode:
        tail = '\n'.join(f'    {line}' for line in done.stdout.splitlines()[-8:])
        raise SetupError(f'the C++ compiler `{compiler()}` cannot compile C++17 with Python\'s '
                         f'headers:\n{tail}\n    GCC 9 or newer is needed: {install}.')
    if wants_cuda() and shutil.which('nvcc') is None and not os.environ.get('CUDA_HOME'):
        raise SetupError('FORCE_CUDA=1 builds the CUDA ops, but there is no nvcc.\n    Install the '
                         'CUDA toolkit of the version torch was built with and set CUDA_HOME, or '
                         'leave FORCE_CUDA out to build the CPU ops.')


def available_gb() -> Optional[float]:
    """Memory that can still be had, in GB; None where the system does not tell."""
    try:
        text = Path('/proc/meminfo').read_text(encoding='utf-8')
    except OSError:
        return None
    match = re.search(r'^MemAvailable:\s+(\d+) kB', text, re.MULTILINE)
    return int(match.group(1)) / 1024**2 if match else None


def max_jobs() -> int:
    """How many compilers to run at once: one per processor, as far as memory reaches."""
    own = os.environ.get('MAX_JOBS')
    if own:
        if not own.isdigit() or int(own) < 1:
            raise SetupError(f'MAX_JOBS={own} is not a positive whole number.')
        return int(own)
    try:
        processors = len(os.sched_getaffinity(0))
    except AttributeError:
        processors = os.cpu_count() or 1
    memory = available_gb()
    return max(1, processors if memory is None else min(processors, int(memory / GB_PER_JOB)))


def compiled(folder: Path) -> str:
    """How far a build has come: `41 of 77 files`, or nothing while it is not known."""
    for plan in folder.rglob('build/temp*/build.ninja'):
        try:
            total = len(re.findall(r'^build .*\.o:', plan.read_text(errors='replace'),
                                   re.MULTILINE))
        except OSError:
            continue
        if total:
            return f'{sum(1 for _ in plan.parent.rglob("*.o"))} of {total} files compiled'
    return ''


def build_command(mmcv: str, out: Path, name: str = 'mmcv') -> list[str]:
    own = os.environ.get('SCALENET_MMCV_BUILD_COMMAND')
    if own:
        return [*shlex.split(own), str(out)]
    # pip's own cache may hold an mmcv without ops, or one built against another torch.
    return [sys.executable, '-m', 'pip', 'wheel', '--no-build-isolation', '--no-deps',
            '--no-cache-dir', '--no-binary', name, f'{name}=={mmcv}', '-w', str(out)]


def build(mmcv: str, folder: Path, interval: float = 30.0, name: str = 'mmcv') -> Path:
    """Build the wheel in a folder beside its place and move it there when it is whole.

    Args:
        mmcv (str): Version of mmcv.
        folder (Path): The wheel's place in the cache.
        interval (float): Seconds between two progress lines. Defaults to 30.
        name (str): The distribution. Defaults to 'mmcv'.

    Returns:
        Path: The wheel.
    """
    check_compiler()
    jobs = max_jobs()
    say(f'building {name} {mmcv} with its ops: 7-13 minutes on 2 cores, once '
        f'({jobs} compiler{"s" if jobs > 1 else ""} at a time)')
    folder.parent.mkdir(parents=True, exist_ok=True)
    work = Path(tempfile.mkdtemp(prefix=f'{folder.name}.build-', dir=folder.parent))
    log = folder.parent / f'{folder.name}.log'
    log.unlink(missing_ok=True)
    try:
        # pip unpacks and compiles under TMPDIR: inside the work folder, it goes when that goes.
        (work / 'tmp').mkdir()
        (work / 'wheel').mkdir()
        environ = clean_environ(
            MMCV_WITH_OPS='1', MAX_JOBS=str(jobs), TMPDIR=str(work / 'tmp'),
            PATH=os.pathsep.join([str(Path(sys.executable).parent), os.environ.get('PATH', '')]))
        if wants_cuda():
            environ['FORCE_CUDA'] = '1'
        else:
            # mmcv's setup compiles CUDA sources as soon as it sees a GPU.
            environ.update(FORCE_CUDA='0', CUDA_VISIBLE_DEVICES='')
        run_logged(build_command(mmcv, work / 'wheel', name), log, f'building {name} {mmcv}',
                   env=environ, cwd=work, interval=interval,
                   detail=lambda: compiled(work / 'tmp'))
        wheels = list((work / 'wheel').glob(f'{stem(name)}-*.whl'))
        if len(wheels) != 1:
            raise SetupError(f'the build of {name} {mmcv} left no wheel; see {log}.')
        fault = wheel_fault(wheels[0], mmcv, name)
        if fault is not None:
            raise SetupError(f'the wheel just built is of no use: {fault}; see {log}.')
        folder.mkdir(exist_ok=True)
        place = folder / wheels[0].name
        os.replace(wheels[0], place)
    finally:
        shutil.rmtree(work, ignore_errors=True)
    log.unlink(missing_ok=True)
    return place


def obtain_wheel(mmcv: str, torch: str, interval: float = 30.0,
                 name: str = 'mmcv') -> tuple[Path, bool]:
    """Find the wheel in the cache, or build it.

    Args:
        mmcv (str): Version of mmcv.
        torch (str): Version of torch it is built against.
        interval (float): Seconds between two progress lines. Defaults to 30.
        name (str): The distribution. Defaults to 'mmcv'.

    Returns:
        tuple[Path, bool]: The wheel, and whether it came from the cache.
    """
    key = cache_key(mmcv, torch, name)
    folder = cache_root() / key
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        probe = tempfile.TemporaryFile(dir=folder.parent)
    except OSError as error:
        raise SetupError(f'the wheel cache {folder.parent} cannot be written: {error}.\n    '
                         'Name another place by SCALENET_CACHE=/some/folder.') from error
    probe.close()
    with exclusive_lock(folder.parent / f'{key}.lock', 'building mmcv', interval) as locked:
        if locked:
            # Nobody else builds while the lock is held: what is left was left by a killed build.
            for stale in folder.parent.glob(f'{key}.build-*'):
                say(f'removing {stale}, left by an interrupted build')
                shutil.rmtree(stale, ignore_errors=True)
        wheel = cached_wheel(folder, mmcv, name)
        if wheel is not None:
            say(f'{name} {mmcv}: using the cached wheel {wheel}')
            return wheel, True
        return build(mmcv, folder, interval, name), False


def verify(mmcv: str) -> Optional[str]:
    """Run one op of the installed mmcv in a process of its own.

    Args:
        mmcv (str): The version that has to be there.

    Returns:
        str or None: What went wrong, or None.

    Raises:
        SetupError: If torch or OpenCV do not load, of which mmcv is innocent.
    """
    done = subprocess.run([sys.executable, '-c', VERIFY, mmcv], env=clean_environ(), cwd='/',
                          stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                          stderr=subprocess.STDOUT, text=True, errors='replace')
    if done.returncode == 0:
        return None
    lines = done.stdout.strip().splitlines()
    reason = lines[-1] if lines else f'exit status {done.returncode}'
    if done.returncode == 3:
        raise SetupError(f'torch or OpenCV does not load: {reason}\n    '
                         '`.venv/bin/python tools/check_env.py` says more.')
    return reason


def installed(name: str) -> Optional[str]:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def install(wheel: Path) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run_logged([sys.executable, '-m', 'pip', 'install', '--no-deps', '--force-reinstall',
                    str(wheel)], Path(folder, 'install.log'), 'installing mmcv',
                   env=clean_environ())


def ensure(interval: float = 30.0) -> None:
    """Make `import mmcv.ops` work: from what is installed, the cache, or a build."""
    mmcv = pinned('mmcv')
    torch = installed('torch')
    if torch is None:
        raise SetupError('torch is not installed; mmcv is built against it. `make env` does both.')
    if installed('mmcv') == mmcv and verify(mmcv) is None:
        say(f'mmcv {mmcv} is installed and its ops load')
        return
    wheel, cached = obtain_wheel(mmcv, torch, interval)
    install(wheel)
    reason = verify(mmcv)
    if reason is not None and cached:
        # The wheel is whole, torch and OpenCV load, and yet it does not: it was built against
        # something else, such as another system's libraries or another build of this torch.
        say(f'removing the cached wheel, its ops do not load here: {reason}')
        wheel.unlink(missing_ok=True)
        wheel, _ = obtain_wheel(mmcv, torch, interval)
        install(wheel)
        reason = verify(mmcv)
    if reason is not None:
        raise SetupError(f'mmcv {mmcv} was built and installed, but its ops do not run: {reason}')
    say(f'mmcv {mmcv} is installed and its ops load')


def main() -> None:
    parser = argparse.ArgumentParser(description='Install mmcv with its ops, building it once.')
    parser.add_argument('--interval', type=float, default=30.0,
                        help='seconds between two progress lines (default: 30)')
    ensure(parser.parse_args().interval)


if __name__ == '__main__':
    sys.exit(main_guard(main))
