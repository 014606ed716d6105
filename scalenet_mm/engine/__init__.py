"""What the command line tools share: options, checks before the start, processes.

``tools/train.py`` and ``tools/test.py`` are thin; all they do stands here, so that it can be
imported and tested.
"""
from .arguments import parse_test_args, parse_train_args
from .distributed import CPUDistributedDataParallel, setup_distributed, shutdown_distributed
from .options import build_test_cfg, build_train_cfg, load_config, merge_cfg_options, wrap_test_cfg
from .preflight import check_test, check_train
from .run import build_runner, run_cli, test, train
from .scopes import SCOPES, Scope, get_scope

__all__ = [
    'CPUDistributedDataParallel', 'SCOPES', 'Scope', 'build_runner', 'build_test_cfg',
    'build_train_cfg', 'check_test', 'check_train', 'get_scope', 'load_config',
    'merge_cfg_options', 'parse_test_args', 'parse_train_args', 'run_cli', 'setup_distributed',
    'shutdown_distributed', 'test', 'train', 'wrap_test_cfg'
]
