"""What the set-up scripts share: long commands with progress, locks, clear errors.

Standard library only: it runs before anything is installed.
"""
from __future__ import annotations

import contextlib
import fcntl
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Callable, Iterator, Mapping, Optional, Sequence

TAIL_LINES = 30


class SetupError(RuntimeError):
    """Something the user has to mend; the message says how."""


def say(message: str) -> None:
    """Print one line of progress at once, also into a pipe."""
    print(f'[scalenet_mm] {message}', flush=True)


def elapsed(seconds: float) -> str:
    """Write a duration as `45 s` or `3 min 05 s`."""
    minutes, rest = divmod(int(seconds), 60)
    return f'{minutes} min {rest:02d} s' if minutes else f'{rest} s'


def exit_on_signals() -> None:
    """Let SIGTERM and SIGHUP run the `finally` blocks, as Ctrl-C does."""

    def leave(signum, frame):
        raise SystemExit(128 + signum)

    for name in ('SIGTERM', 'SIGHUP'):
        signal.signal(getattr(signal, name), leave)


def main_guard(main: Callable[[], None]) -> int:
    """Run `main`, turn what the user can mend into one message and an exit code."""
    exit_on_signals()
    try:
        main()
    except SetupError as error:
        print(f'[scalenet_mm] error: {error}', file=sys.stderr, flush=True)
        return 1
    except KeyboardInterrupt:
        print('[scalenet_mm] interrupted; run the same command again to go on', file=sys.stderr)
        return 130
    return 0


def clean_environ(**changes: str) -> dict[str, str]:
    """The environment for pip and Python in the virtual environment: no one else's packages."""
    environ = dict(os.environ)
    for name in ('PYTHONPATH', 'PYTHONHOME', 'PIP_TARGET', 'PIP_PREFIX'):
        environ.pop(name, None)
    environ.update(PYTHONNOUSERSITE='1', PIP_USER='0', PIP_NO_INPUT='1',
                   PIP_DISABLE_PIP_VERSION_CHECK='1')
    environ.update(changes)
    return environ


def run_logged(command: Sequence[str],
               log: Path,
               label: str,
               env: Optional[Mapping[str, str]] = None,
               cwd: Optional[Path] = None,
               interval: float = 30.0,
               detail: Callable[[], str] = lambda: '') -> None:
    """Run a command that is silent for minutes: output into a file, a line now and then.

    Args:
        command (Sequence[str]): The command and its arguments.
        log (Path): File that takes all output.
        label (str): What is being done, as the progress lines call it.
        env (Mapping[str, str], optional): The environment. Defaults to None, the current one.
        cwd (Path, optional): Working directory. Defaults to None, the current one.
        interval (float): Seconds between two progress lines. Defaults to 30.
        detail (Callable): Returns a remark for the progress line. Defaults to no remark.

    Raises:
        SetupError: If the command fails. The message ends with the last lines of its output.
    """
    log.parent.mkdir(parents=True, exist_ok=True)
    start = time.monotonic()
    with open(log, 'ab') as sink:
        sink.write(f'$ {" ".join(command)}\n'.encode())
        sink.flush()
        begin = sink.tell()
        try:
            # A session of its own, so that the compilers below it can be stopped with it.
            process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=sink,
                                       stderr=subprocess.STDOUT, env=env, cwd=cwd,
                                       start_new_session=True)
        except OSError as error:
            raise SetupError(f'{label}: cannot run {command[0]}: {error}') from error
        try:
            while True:
                try:
                    code = process.wait(timeout=interval)
                    break
                except subprocess.TimeoutExpired:
                    remark = detail()
                    say(f'  ... {label}: {elapsed(time.monotonic() - start)}'
                        + (f', {remark}' if remark else ''))
        finally:
            if process.poll() is None:
                stop_group(process)
    if code:
        with open(log, 'rb') as source:
            source.seek(begin)
            lines = source.read().decode(errors='replace').splitlines()
        tail = '\n'.join(f'    {line}' for line in lines[-TAIL_LINES:])
        raise SetupError(f'{label} failed (exit status {code}). Last lines of {log}:\n{tail}')


def stop_group(process: subprocess.Popen) -> None:
    """Stop a process started with `start_new_session` and all that it started."""
    for signum in (signal.SIGTERM, signal.SIGKILL):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signum)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(timeout=5)


@contextlib.contextmanager
def exclusive_lock(path: Path, what: str, interval: float = 30.0) -> Iterator[bool]:
    """Hold a lock on a file or a directory; wait, and say so, while another process has it.

    The system frees the lock when its holder dies, however it dies.

    Args:
        path (Path): What to lock. A missing path is created as an empty file.
        what (str): What the other process is doing, for the message.
        interval (float): Seconds between two messages. Defaults to 30.

    Yields:
        bool: False where the file system knows no locks; the caller is then alone in believing
        that it is alone.
    """
    flags = os.O_RDONLY if path.is_dir() else os.O_RDWR | os.O_CREAT
    handle = os.open(path, flags, 0o644)
    start = told = time.monotonic()
    try:
        locked = True
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                now = time.monotonic()
                if told == start or now - told >= interval:
                    say(f'waiting for another process that is {what} ({elapsed(now - start)})')
                    told = now
                time.sleep(min(0.5, interval))
            except OSError:
                locked = False
                break
        yield locked
    finally:
        os.close(handle)
