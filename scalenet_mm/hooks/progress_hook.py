"""One line an epoch, for runs whose full log would drown a newcomer."""
import sys
import time

from mmengine.dist import master_only
from mmengine.hooks import Hook
from mmengine.registry import HOOKS


@HOOKS.register_module()
class ProgressHook(Hook):
    """Print one line an epoch: loss, time spent and time left.

    Args:
        label (str): What is running. Defaults to 'training'.
    """

    priority = 'VERY_LOW'

    def __init__(self, label: str = 'training'):
        self.label = label
        #: processor time of the training epochs, in seconds; unlike the time on the clock it does
        #: not depend on what else the machine does
        self.cpu_seconds = 0.
        self._losses: list = []

    def before_train(self, runner) -> None:
        """Start the clock."""
        self._start = time.perf_counter()
        self._first = runner.epoch

    def before_train_epoch(self, runner) -> None:
        """Start an epoch."""
        self._losses = []
        self._cpu_start = time.process_time()

    def after_train_iter(self, runner, batch_idx, data_batch=None, outputs=None) -> None:
        """Collect the loss."""
        if outputs and 'loss' in outputs:
            self._losses.append(float(outputs['loss']))

    @master_only
    def after_train_epoch(self, runner) -> None:
        """Print the line."""
        now = time.perf_counter()
        self.cpu_seconds += time.process_time() - self._cpu_start
        done, total = runner.epoch + 1, runner.max_epochs
        left = (now - self._start) / (done - self._first) * (total - done)
        loss = sum(self._losses) / max(len(self._losses), 1)
        # to the terminal, even where the libraries' output is sent elsewhere
        print(f'  {self.label}: epoch {done}/{total}, loss {loss:.3f}, '
              f'{_clock(now - self._start)} spent, about {_clock(left)} left',
              file=sys.__stdout__, flush=True)


def _clock(seconds):
    return f'{int(seconds) // 60}:{int(seconds) % 60:02d}'
