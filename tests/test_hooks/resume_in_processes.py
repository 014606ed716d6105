"""Run by a launcher: each of several trainings in one go, and stopped and resumed."""
import contextlib
import copy
import sys
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.registry import DefaultScope
from resume_toys import (
    Keep,
    Stop,
    Stopped,
    pretrained_classifier,
    random_classifier,
    random_detector,
    random_segmentor,
)

from scalenet_mm.engine.distributed import setup_distributed, shutdown_distributed
from scalenet_mm.engine.run import build_runner
from scalenet_mm.errors import ConfigError

STOPS = dict(delta=(3, 'val'), detector=(2, 'train_iter'), segmentor=(1, 'train_iter'))


def make_config(name, digits, folder):
    """Config: That of one of :const:`STOPS`."""
    if name == 'delta':
        return Config(pretrained_classifier(folder / 'pretrained.pth', 'iterations'))
    if name == 'detector':
        return random_detector(digits, folder, 'iterations')
    return random_segmentor(digits, folder, 'epochs', delta=True)


def make_runner(config, work_dir, **options):
    """Runner: That of a config, in all processes."""
    cfg = copy.deepcopy(config)
    cfg.update(launcher='pytorch', work_dir=str(work_dir),
               experiment_name=f'{work_dir.name}_{len(options)}', **options)
    setup_distributed(cfg)
    return build_runner(cfg)


def main(digits, folder):
    """Run all cases; stop each as :const:`STOPS` says."""
    setup_distributed(Config(dict(launcher='pytorch')))
    for name in STOPS:
        config = make_config(name, digits, folder)
        for run, options in (('whole', {}), ('stopped', {}),
                             ('stopped', dict(resume=True, load_from=None))):
            runner = make_runner(config, folder / f'{name}_{run}', **options)
            runner.register_hook(Keep())
            stops = run == 'stopped' and not options
            if stops:
                runner.register_hook(Stop(*STOPS[name]))
            with pytest.raises(Stopped) if stops else contextlib.nullcontext():
                runner.train()
            DefaultScope._instance_dict.clear()
    # the first process alone looks for the base
    without = random_classifier()
    without['custom_hooks'].append(dict(type='DeltaCheckpointHook'))
    runner = make_runner(Config(without), folder / 'no_base')
    with pytest.raises(ConfigError, match='starts from no file that deltas could refer to'):
        runner.train()
    del runner
    shutdown_distributed()


if __name__ == '__main__':
    main(sys.argv[1], Path(sys.argv[2]))
