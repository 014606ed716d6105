"""Make the virtual environment of the clone: the tested set, mmcv with its ops, scalenet_mm.

Started by `make_env.sh` with a Python 3.11. A second call sees from a stamp in the environment
that nothing has changed, and does nothing.
"""
from __future__ import annotations

import argparse
import hashlib
import importlib.util
import shutil
import subprocess
import sys
import time
from pathlib import Path

import build_mmcv
from progress import SetupError, clean_environ, elapsed, exclusive_lock, main_guard, run_logged, say

ROOT = Path(__file__).resolve().parents[2]

# The environment depends on the content of these.
INPUTS = ('requirements.txt', 'requirements-test.txt', 'constraints.txt', 'setup.py',
          'pyproject.toml', 'scalenet_mm/version.py', 'tools/dev/build_mmcv.py',
          'tools/dev/make_env.py')


def fingerprint(root: Path, venv: Path) -> str:
    """Hash of all the environment is made from.

    The folders are part of it: a clone that was moved has to be installed again.
    """
    digest = hashlib.sha256()
    for name in INPUTS:
        digest.update(name.encode() + b'\0' + (root / name).read_bytes() + b'\0')
    digest.update(f'{root}\0{venv}\0{build_mmcv.wants_cuda()}'.encode())
    return digest.hexdigest()


def venv_python(venv: Path) -> Path:
    return venv / 'bin' / 'python'


def venv_version(venv: Path) -> str:
    """`3.11` for a virtual environment whose Python runs, an empty text for one that is broken."""
    try:
        done = subprocess.run(
            [str(venv_python(venv)), '-c', 'import sys; print("%d.%d" % sys.version_info[:2])'],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    except OSError:
        return ''
    return done.stdout.strip() if done.returncode == 0 else ''


def has_pip(venv: Path) -> bool:
    done = subprocess.run([str(venv_python(venv)), '-m', 'pip', '--version'],
                          stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                          stderr=subprocess.DEVNULL, env=clean_environ())
    return done.returncode == 0


def preflight(venv: Path) -> None:
    """Find out before any download what would fail after minutes.

    Raises:
        SetupError: If the folder is no virtual environment of Python 3.11, the venv module is
            missing, or mmcv has to be built and there is no compiler or no `Python.h`.
    """
    if venv.exists():
        if not (venv / 'pyvenv.cfg').is_file() and any(venv.iterdir()):
            raise SetupError(f'{venv} exists and is no virtual environment.\n    Move it away, or '
                             'take another folder: make VENV=/some/folder ...')
        version = venv_version(venv)
        if version not in ('', '3.11'):
            raise SetupError(f'{venv} has Python {version}; 3.11 is needed.\n    Remove it '
                             '(`make clean`), or take another folder: make VENV=/some/folder ...')
    missing = [name for name in ('venv', 'ensurepip') if importlib.util.find_spec(name) is None]
    if missing and not venv_version(venv):
        raise SetupError(f'{sys.executable} has no {" and no ".join(missing)} module, so it cannot '
                         'make a virtual environment.\n    Install it, e.g. `sudo apt-get install '
                         'python3.11-venv`.')
    if not build_mmcv.has_cached_wheel():
        build_mmcv.check_compiler()


def make_venv(venv: Path, log: Path) -> None:
    """Make the virtual environment, or complete one that was left half made."""
    working = venv_version(venv) == '3.11'
    if working and has_pip(venv):
        return
    say(f'making the virtual environment {venv} with {sys.executable}')
    clear = [] if working or not venv.exists() else ['--clear']
    # Never the venv's own Python: it may be the one that is running this.
    base = getattr(sys, '_base_executable', None) or sys.executable
    run_logged([base, '-m', 'venv', *clear, str(venv)], log, 'making the virtual environment',
               env=clean_environ())


def opencv_fault(venv: Path) -> str:
    """The last line of the error that `import cv2` gives, empty if it gives none."""
    done = subprocess.run([str(venv_python(venv)), '-c', 'import cv2'], stdin=subprocess.DEVNULL,
                          stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True,
                          env=clean_environ(), errors='replace', cwd='/')
    lines = done.stderr.strip().splitlines()
    return (lines[-1] if lines else 'it crashes') if done.returncode else ''


def replace_opencv(venv: Path, log: Path) -> None:
    """Put the headless OpenCV in the other's place where the desktop libraries are missing.

    mmengine asks for opencv-python by name. On a machine without libGL it installs but does not
    load; the headless build of the same version does.
    """
    fault = opencv_fault(venv)
    if 'cannot open shared object file' not in fault:
        return
    say(f'opencv-python does not load ({fault}); taking opencv-python-headless instead')
    pip = [str(venv_python(venv)), '-m', 'pip']
    version = build_mmcv.pinned('opencv-python-headless')
    run_logged([*pip, 'uninstall', '-y', 'opencv-python'], log, 'removing opencv-python',
               env=clean_environ())
    run_logged([*pip, 'install', '--no-deps', '--force-reinstall',
                f'opencv-python-headless=={version}'], log, 'installing opencv-python-headless',
               env=clean_environ())
    fault = opencv_fault(venv)
    if fault:
        raise SetupError(f'OpenCV does not load: {fault}')


def forget_half_installed(venv: Path) -> None:
    """Let pip install again what it was installing when it was stopped.

    pip takes a package for installed as soon as its metadata is there, but writes the file
    INSTALLER into it only after all other files.
    """
    for info in sorted(venv.glob('lib/python3.11/site-packages/*.dist-info')):
        if not (info / 'INSTALLER').is_file():
            say(f'{info.stem} was left half installed, it is installed again')
            shutil.rmtree(info)


def install(root: Path, venv: Path, log: Path) -> None:
    """Install the tested set, mmcv and the package itself."""
    pip = [str(venv_python(venv)), '-m', 'pip']
    forget_half_installed(venv)
    fresh = not any(venv.glob('lib/python3.11/site-packages/torch-*.dist-info'))
    say('installing the pinned requirements: '
        + ('a download of 3 GB, 2-6 minutes on a fast line' if fresh else 'some seconds'))
    run_logged([*pip, 'install', '-r', str(root / 'requirements.txt'), '-r',
                str(root / 'requirements-test.txt'), '-c', str(root / 'constraints.txt')],
               log, 'installing the requirements', env=clean_environ())
    replace_opencv(venv, log)
    # Its lines come straight through: it says itself what it does.
    done = subprocess.run([str(venv_python(venv)), str(root / 'tools/dev/build_mmcv.py')],
                          stdin=subprocess.DEVNULL, env=clean_environ())
    if done.returncode:
        raise SetupError('mmcv is not installed, see above.')
    say('installing scalenet_mm itself (editable)')
    run_logged([*pip, 'install', '--no-deps', '--no-build-isolation', '-e', str(root)],
               log, 'installing scalenet_mm', env=clean_environ())


def ensure(root: Path, venv: Path) -> None:
    """Bring the environment up to date; do nothing if it is."""
    stamp = venv / '.scalenet_mm-env'
    wanted = fingerprint(root, venv)

    def current() -> bool:
        try:
            return stamp.read_text(encoding='utf-8') == wanted and venv_python(venv).exists()
        except OSError:
            return False

    if current():
        return
    # The clone's folder itself is locked: two `make` at once take turns, no file is left behind.
    with exclusive_lock(root, 'making this environment'):
        if current():
            return
        preflight(venv)
        start = time.monotonic()
        say(f'setting up {venv} (about 6 GB; a minute or two from caches, 10-20 minutes the first '
            'time)')
        stamp.unlink(missing_ok=True)
        log = venv.parent / f'{venv.name}-setup.log'
        log.unlink(missing_ok=True)
        make_venv(venv, log)
        install(root, venv, log)
        fresh = stamp.with_suffix('.new')
        fresh.write_text(wanted, encoding='utf-8')
        fresh.replace(stamp)
        log.unlink(missing_ok=True)
        say(f'the environment is ready ({elapsed(time.monotonic() - start)})')


def main() -> None:
    parser = argparse.ArgumentParser(description='Make the virtual environment of the clone.')
    parser.add_argument('--venv', default='.venv', help='its folder (default: .venv)')
    args = parser.parse_args()
    if sys.version_info[:2] != (3, 11):
        raise SetupError(f'{sys.executable} is Python {sys.version.split()[0]}; 3.11 is needed.\n'
                         '    make PYTHON=/path/to/python3.11 ...')
    ensure(ROOT, (ROOT / args.venv).absolute())


if __name__ == '__main__':
    sys.exit(main_guard(main))
