"""The command lines of ``tools/train.py`` and ``tools/test.py``."""
import argparse
import os
from typing import Optional, Sequence

from mmengine.config import DictAction

LAUNCHERS = ('none', 'pytorch', 'slurm', 'mpi')


class CfgOptionsAction(DictAction):
    """``KEY=VALUE`` pairs; a word that isn't one is a usage error rather than a traceback."""

    @staticmethod
    def _parse_iterable(val):
        # mmengine drops all spaces, as is right for lists; a path may have them.
        if not any(mark in val for mark in ',[('):
            return DictAction._parse_int_float_bool(val.strip('\'"'))
        return DictAction._parse_iterable(val)

    def __call__(self, parser, namespace, values, option_string=None):
        """Read the pairs; argparse calls it."""
        for pair in values or ():
            key = pair.split('=', maxsplit=1)[0]
            if '=' not in pair or not all(key.split('.')):
                raise argparse.ArgumentError(
                    self,
                    f'{pair!r} is not of the form KEY=VALUE, like optim_wrapper.optimizer.lr=1e-4')
        super().__call__(parser, namespace, values, option_string)


def add_base_argument(parser: argparse.ArgumentParser) -> None:
    """Give a command the option that tells where the base of a delta is."""
    parser.add_argument(
        '--base',
        metavar='PATH',
        help='the base of the delta that is read, or with --delta of those that are written: a '
        'file, its folder or its URL. Default: where it was when the delta was made, beside the '
        'delta, $SCALENET_BASE, or the downloads; of new deltas, what the training starts from')


def _add_common_arguments(parser: argparse.ArgumentParser) -> None:
    add_base_argument(parser)
    parser.add_argument(
        '--cfg-options',
        nargs='+',
        action=CfgOptionsAction,
        metavar='KEY=VALUE',
        help='settings that replace those of the config, applied after every other option. Lists '
        'are written KEY="[a,b]" or KEY=a,b, nested ones KEY="[(a,b),(c,d)]", without spaces; an '
        'item of a list is reached by its index: KEY.0.name=VALUE')
    parser.add_argument(
        '--launcher',
        choices=LAUNCHERS,
        default='none',
        help='how the processes are started; tools/dist_*.sh and tools/slurm_*.sh set it. '
        'Default: %(default)s')
    # torch.distributed.launch passes --local-rank (torch >= 2.0) or --local_rank (before);
    # torchrun sets the environment variable LOCAL_RANK instead.
    parser.add_argument('--local_rank', '--local-rank', type=int, default=0, help=argparse.SUPPRESS)


def _parse(parser: argparse.ArgumentParser, argv: Optional[Sequence[str]]) -> argparse.Namespace:
    args = parser.parse_args(argv)
    # mmengine reads LOCAL_RANK when it wraps the model for DDP, and sets it for Slurm alone.
    own = dict(slurm='SLURM_LOCALID', mpi='OMPI_COMM_WORLD_LOCAL_RANK').get(args.launcher)
    if own and own in os.environ:
        os.environ['LOCAL_RANK'] = os.environ[own]
    os.environ.setdefault('LOCAL_RANK', str(args.local_rank))
    return args


def parse_train_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    """Parse the command line of ``tools/train.py``.

    Args:
        argv (Sequence[str], optional): The words after the program's name. Defaults to None,
            which means ``sys.argv[1:]``.

    Returns:
        argparse.Namespace: The options.
    """
    parser = argparse.ArgumentParser(
        prog='tools/train.py',
        description='Train a model of mmpretrain, mmdet or mmseg (the config says which).',
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='example:\n  python tools/train.py configs/scalenet_swin-t_20e_folder.py '
        '--work-dir work_dirs/run --delta')
    parser.add_argument('config', help='the config file')
    parser.add_argument(
        '--work-dir',
        metavar='DIR',
        help='where logs and checkpoints go. Default: the config\'s work_dir, else '
        './work_dirs/<name of the config file>')
    parser.add_argument(
        '--resume',
        nargs='?',
        const='auto',
        metavar='PATH',
        help='go on from this checkpoint; without PATH, from the latest one in the work dir, or '
        'from the start when there is none yet')
    parser.add_argument(
        '--delta',
        action='store_true',
        help='save checkpoints that hold what the training changes, without the file that it '
        'starts from (adds the DeltaCheckpointHook)')
    parser.add_argument(
        '--tensorboard',
        action='store_true',
        help='log to TensorBoard, too, with the gradient norms of adapters, gains, norms and head '
        '(adds the TensorboardVisBackend and the GradientNormHook)')
    parser.add_argument('--amp', action='store_true', help='train with automatic mixed precision')
    parser.add_argument('--no-validate', action='store_true', help='do not evaluate in training')
    parser.add_argument(
        '--auto-scale-lr',
        action='store_true',
        help='scale the learning rate by the actual over the config\'s total batch size '
        '(auto_scale_lr.base_batch_size)')
    parser.add_argument(
        '--no-pin-memory', action='store_true', help='set pin_memory=False in the dataloaders')
    parser.add_argument(
        '--no-persistent-workers',
        action='store_true',
        help='set persistent_workers=False in the dataloaders')
    _add_common_arguments(parser)
    return _parse(parser, argv)


def parse_test_args(argv: Optional[Sequence[str]] = None) -> argparse.Namespace:
    """Parse the command line of ``tools/test.py``.

    Args:
        argv (Sequence[str], optional): The words after the program's name. Defaults to None,
            which means ``sys.argv[1:]``.

    Returns:
        argparse.Namespace: The options.
    """
    parser = argparse.ArgumentParser(
        prog='tools/test.py',
        description='Evaluate a model of mmpretrain, mmdet or mmseg (the config says which).',
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='example:\n  python tools/test.py configs/scalenet_swin-t_20e_folder.py \\\n'
        '      work_dirs/run/epoch_20.pth --show-dir work_dirs/pictures')
    parser.add_argument('config', help='the config file')
    parser.add_argument('checkpoint', help='the checkpoint file')
    parser.add_argument(
        '--work-dir',
        metavar='DIR',
        help='where the log and the metrics go. Default: the config\'s work_dir, else '
        './work_dirs/<name of the config file>')
    parser.add_argument(
        '--out',
        metavar='PATH',
        help='save the predictions: a .pkl file for mmpretrain and mmdet, a folder of label maps '
        'for mmseg')
    parser.add_argument(
        '--out-item',
        choices=['pred', 'metrics'],
        help='what --out saves: pred, the predictions, or metrics, a .json, .yaml or .pkl file. '
        'Default: pred')
    parser.add_argument('--show', action='store_true', help='show the predictions in a window')
    parser.add_argument(
        '--show-dir',
        metavar='DIR',
        help='save pictures of the predictions in this folder (mmdet: inside the work dir\'s '
        'folder of this run, unless the path is absolute)')
    parser.add_argument(
        '--wait-time', type=float, default=2, metavar='SECONDS',
        help='how long a window of --show stays. Default: 2')
    parser.add_argument(
        '--interval',
        type=int,
        metavar='N',
        help='with --show or --show-dir: draw every so many samples (mmpretrain) or batches '
        '(mmseg); mmdet draws all. Default: 1, or what the config says (mmseg)')
    parser.add_argument(
        '--tta',
        action='store_true',
        help='test-time augmentation, by the config\'s tta_model and tta_pipeline, else by '
        'horizontal flips')
    parser.add_argument('--amp', action='store_true', help='test with automatic mixed precision')
    parser.add_argument(
        '--no-pin-memory', action='store_true', help='set pin_memory=False in the dataloader')
    _add_common_arguments(parser)
    args = _parse(parser, argv)
    if args.out_item is not None and args.out is None:
        parser.error('--out-item says what --out saves: give --out FILE too')
    return args
