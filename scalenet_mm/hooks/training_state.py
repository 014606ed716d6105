"""What a training depends on that mmengine does not save, beside random numbers."""
from mmengine.hooks import EarlyStoppingHook, Hook
from mmengine.runner import EpochBasedTrainLoop, IterBasedTrainLoop


def get_training_state(runner, by_epoch: bool, validated: bool) -> dict:
    """Collect it.

    Args:
        runner (Runner): In training.
        by_epoch (bool): Whether checkpoints are saved by epochs.
        validated (bool): Whether the validation of this moment is done already.

    Returns:
        dict: It, in plain numbers.
    """
    sampler = _seeded_sampler(runner)
    within_epoch = isinstance(runner.train_loop, EpochBasedTrainLoop) and not by_epoch
    return dict(
        within_epoch=within_epoch and not validated,
        validated=validated,
        sampler_seed=None if sampler is None else int(sampler.seed),
        early_stopping=[dict(wait_count=hook.wait_count, best_score=float(hook.best_score))
                        for hook in _early_stopping(runner)])


def set_training_state(runner, state: dict) -> None:
    """Set it; if the validation that follows the file is missing there, it is done first.

    Args:
        runner (Runner): About to train.
        state (dict): What :func:`get_training_state` gave.
    """
    # without a seed in the config, the data loader was built before the first start's was known
    sampler = _seeded_sampler(runner)
    if sampler is not None and state['sampler_seed'] is not None:
        sampler.seed = state['sampler_seed']
    for hook, counts in zip(_early_stopping(runner), state['early_stopping']):
        vars(hook).update(counts)
    if state['within_epoch']:
        runner.logger.warning(
            f'The checkpoint was saved within epoch {runner.epoch + 1}, which starts anew: only '
            'files that are saved by epochs go on as if there had been no stop')
    elif not state['validated'] and _is_validation_due(runner):
        runner.logger.info('The checkpoint is older than the validation that follows it')
        runner.register_hook(_ValidateFirst())


class _ValidateFirst(Hook):
    """Validate when all other hooks are ready to train."""
    priority = 'LOWEST'

    def before_train(self, runner) -> None:
        runner.val_loop.run()


def _seeded_sampler(runner):
    """A batch sampler of its own may hold the one that has a seed."""
    loader = runner.train_dataloader
    for sampler in (loader.sampler, getattr(loader.batch_sampler, 'sampler', None)):
        if isinstance(getattr(sampler, 'seed', None), int):
            return sampler
    return None


def _early_stopping(runner):
    return [hook for hook in runner.hooks if isinstance(hook, EarlyStoppingHook)]


def _is_validation_due(runner):
    """What the loops ask themselves after an epoch or iteration."""
    loop = runner.train_loop
    if runner.val_loop is None or not isinstance(loop, (EpochBasedTrainLoop, IterBasedTrainLoop)):
        return False
    loop._decide_current_val_interval()
    done, last = loop.iter, loop.max_iters
    if isinstance(loop, EpochBasedTrainLoop):
        done, last = loop.epoch, loop.max_epochs
    return done > 0 and done >= loop.val_begin and (
        done % loop.val_interval == 0 or done == last)
