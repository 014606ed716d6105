"""What ``tools/train.py`` and ``tools/test.py`` do."""
import json
import os
import re
import select
import sys
import time
from importlib import metadata
from typing import Callable, Dict, Optional, Sequence

import mmengine
import torch
from mmengine.config import Config
from mmengine.registry import RUNNERS
from mmengine.runner import Runner

from scalenet_mm.datasets.readable import name_unreadable
from scalenet_mm.engine.arguments import parse_test_args, parse_train_args
from scalenet_mm.engine.distributed import is_local_main, setup_distributed, shutdown_distributed
from scalenet_mm.engine.options import build_test_cfg, build_train_cfg, load_config, wrap_test_cfg
from scalenet_mm.engine.preflight import check_test, check_train
from scalenet_mm.engine.scopes import get_scope
from scalenet_mm.engine.stored_growth import apply_stored_growth
from scalenet_mm.errors import ScaleNetError
from scalenet_mm.hooks import secure_checkpoints
from scalenet_mm.version import __version__

GRACE_SECONDS = 10
#: 128 + SIGPIPE
READER_GONE = 141

# What a worker process of a dataloader raises has its traceback in its text.
_FROM_WORKER = re.compile(
    r'^Caught \w+ in DataLoader worker process.*^scalenet_mm\.errors\.\w+: ', re.M | re.S)


def describe_versions(cfg: Config) -> str:
    """One line: the versions of the package, torch, mmengine and the config's toolbox."""
    scope = get_scope(cfg)
    version = ''
    for distribution in scope.distributions:
        try:
            version = ' ' + metadata.version(distribution)
            break
        except metadata.PackageNotFoundError:
            continue
    return (f'scalenet_mm {__version__} | torch {torch.__version__} | '
            f'mmengine {mmengine.__version__} | scope {scope.name}{version}')


def build_runner(cfg: Config) -> Runner:
    """Build the config's Runner, of the class that ``runner_type`` names if it does."""
    if get_scope(cfg).name == 'mmdet':
        # mmdet's tools do so: its dynamic shapes overflow the default cache of torch.compile.
        from mmdet.utils import setup_cache_size_limit_of_dynamo
        setup_cache_size_limit_of_dynamo()
    runner = Runner.from_cfg(cfg) if cfg.get('runner_type') is None else RUNNERS.build(cfg)
    _name_unreadable(runner)
    secure_checkpoints(runner)
    return runner


def _name_unreadable(runner: Runner) -> None:
    """Make a runner's data sets name an image that does not open.

    Not through the config's pipelines: it is saved, and must stay of use without this package.
    Nor in a hook: a loop that counts iterations starts its workers when it is built.
    """
    build = runner.build_dataloader

    def build_dataloader(*args, **kwargs):
        dataloader = build(*args, **kwargs)
        name_unreadable(dataloader.dataset)
        return dataloader

    runner.build_dataloader = build_dataloader


def _announce(cfg: Config) -> None:
    if is_local_main():
        print(describe_versions(cfg), flush=True)


def train(argv: Optional[Sequence[str]] = None) -> None:
    """Train, as the command line says.

    Args:
        argv (Sequence[str], optional): The words after the program's name. Defaults to None,
            which means ``sys.argv[1:]``.

    Raises:
        ScaleNetError: If it is known before training that it would fail.
    """
    args = parse_train_args(argv)
    cfg = load_config(args.config)
    _announce(cfg)
    cfg = build_train_cfg(cfg, args)
    check_train(cfg)
    setup_distributed(cfg)
    build_runner(cfg).train()


def test(argv: Optional[Sequence[str]] = None) -> Dict[str, float]:
    """Test, as the command line says.

    Args:
        argv (Sequence[str], optional): The words after the program's name. Defaults to None,
            which means ``sys.argv[1:]``.

    Returns:
        dict[str, float]: The metrics.

    Raises:
        ScaleNetError: If it is known before the test that it would fail.
    """
    args = parse_test_args(argv)
    cfg = load_config(args.config)
    _announce(cfg)
    cfg = build_test_cfg(cfg, args)
    check_test(cfg)
    if apply_stored_growth(cfg, cfg.load_from) and is_local_main():
        print(f'note: the backbone is grown as {cfg.load_from} says: the config grows nothing')
    cfg = wrap_test_cfg(cfg, args)
    setup_distributed(cfg)
    runner = build_runner(cfg)
    # mmseg's visualisation asks for the number of the iteration, and mmengine would build the loop
    # of training for an answer, data and worker processes included
    runner._train_loop = None
    metrics = runner.test()
    if args.out and args.out_item == 'metrics' and mmengine.dist.is_main_process():
        mmengine.dump(metrics, args.out)
    return metrics


def _report(error: ScaleNetError) -> None:
    """Print an error once, not once a process.

    What fails, nearly always fails in all processes alike. The first of each machine speaks (a path
    may be missing on one machine alone), and when it ends, the launcher stops the others: they
    wait for that. One that is still there afterwards is the only one with this error.
    """
    text = _FROM_WORKER.sub('', str(error)).strip()
    who = ''
    if not is_local_main():
        time.sleep(GRACE_SECONDS)
        who = f' (rank {os.environ.get("RANK", "?")})'
    print(f'error{who}: {text}', file=sys.stderr, flush=True)
    # torchrun closes with a page about its own processes; there it quotes this file.
    error_file = os.environ.get('TORCHELASTIC_ERROR_FILE')
    if error_file:
        with open(error_file, 'w') as file:
            json.dump(dict(message=f'error: {text}', timestamp=int(time.time())), file)


def _drop_unread_output() -> bool:
    """bool: Whether the reader of the standard output is gone; then what is left goes nowhere."""
    try:
        output = sys.stdout.fileno()
    except (AttributeError, OSError):  # no file at all, as in a notebook
        return False
    poll = select.poll()
    poll.register(output, 0)
    if not any(event & select.POLLERR for _, event in poll.poll(0)):
        return False
    # what is left in its buffer is written at the end of the process, and would fail again
    os.dup2(os.open(os.devnull, os.O_WRONLY), output)
    return True


def run_cli(command: Callable[[], object]) -> int:
    """Run a command; an anticipated error is one message, any other keeps its traceback.

    Args:
        command (callable): :func:`train` or :func:`test`.

    Returns:
        int: The exit status: 0, or 2 after an anticipated error, or 141 if nobody reads the output
        any more (``... | head``), as the shell counts a program that ends by SIGPIPE.
    """
    try:
        command()
        if sys.stdout is not None:  # as in a process that was started without one (>&-)
            sys.stdout.flush()  # else at the end of the process, where nothing can be caught
    except ScaleNetError as error:
        _report(error)
        return 2
    except BrokenPipeError:
        if not _drop_unread_output():
            raise  # another pipe: of a worker, a connection
        return READER_GONE
    except SystemExit:  # --help, wrong usage
        if _drop_unread_output():
            return READER_GONE
        raise
    # Not after an error: the group's end would wait for processes that are still at work.
    shutdown_distributed()
    return 0
