"""What the command lines of the analysis tools share."""
import argparse
import os.path as osp
import sys
from dataclasses import dataclass

from mmengine.config import Config
from mmengine.utils import track_iter_progress

from ..engine.arguments import CfgOptionsAction
from ..engine.options import load_config, merge_cfg_options
from ..errors import ConfigError
from ..version import __version__
from .figures import check_out
from .inputs import RANDOM, ModelSource, load_model, pick_device, without
from .samples import SPLITS, SampleBatches, check_samples

#: What ``--pretrained`` adds: label, and what is left out of the config.
ORIGINAL = ('original', ('growth', 'adjustment'))
UNTRAINED = ('ScaleNet before training', ())
UNADJUSTED = ('shared, no adjustment, untrained', ('adjustment', ))


def make_parser(tool: str, description: str, num_samples: int, batch_size: int, split: str,
                pretrained: str) -> argparse.ArgumentParser:
    """Make the parser of a tool.

    Args:
        tool (str): The tool's name, which is that of its files too.
        description (str): What it does.
        num_samples (int): Default of ``--num-samples``.
        batch_size (int): Default of ``--batch-size``.
        split (str): Default of ``--split``.
        pretrained (str): What ``--pretrained`` adds, for the help.

    Returns:
        argparse.ArgumentParser: The parser, to which the tool adds its own options.
    """
    parser = argparse.ArgumentParser(
        prog=f'tools/analysis_tools/{tool}.py', description=description,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog=f'example:\n  python tools/analysis_tools/{tool}.py \\\n'
        '      configs/scalenet_deit-t_100e_imagenet.py epoch_100.pth --device cuda')
    parser.add_argument('config', help='the config file; its data is used for all models')
    parser.add_argument(
        'checkpoint',
        help="weights of any format that the config's model can start from, a file or a URL; or "
        f'the word {RANDOM!r} for random weights')
    parser.add_argument(
        '--label', metavar='NAME',
        help="the model's name in the figure. Default: that of its config's file")
    parser.add_argument('--pretrained', metavar='FILE', help=pretrained)
    parser.add_argument(
        '--compare', nargs=3, action='append', default=[],
        metavar=('LABEL', 'CONFIG', 'CHECKPOINT'),
        help='a further model, by its name in the figure, config and checkpoint (or the word '
        f'{RANDOM!r}); may be given several times')
    parser.add_argument(
        '--out', metavar='FOLDER', help='where the figure and the numbers go. Default: '
        'work_dirs/<name of the config file>/analysis')
    parser.add_argument(
        '--num-samples', type=int, default=num_samples, metavar='N',
        help='samples, drawn at random with the seed. Default: %(default)s')
    parser.add_argument(
        '--batch-size', type=int, default=batch_size, metavar='N',
        help='samples at once. Default: %(default)s')
    parser.add_argument(
        '--split', choices=SPLITS, default=split,
        help='the data loader of the config whose data set and pipeline are used. Default: '
        '%(default)s')
    parser.add_argument(
        '--workers', type=int, metavar='N',
        help="processes that load samples. Default: the data loader's num_workers, but not more "
        'than there are cores')
    parser.add_argument(
        '--device', metavar='NAME', help='cpu, cuda, cuda:1 ... Default: a GPU if there is one')
    parser.add_argument(
        '--seed', type=int, default=0, metavar='N',
        help='of what is drawn at random. Default: %(default)s')
    parser.add_argument(
        '--cfg-options', nargs='+', action=CfgOptionsAction, metavar='KEY=VALUE',
        help='settings that replace those of CONFIG, as for tools/train.py. (A config of '
        '--compare is taken as it is: the one in a work folder has the options of its training.)')
    return parser


@dataclass
class Task:
    """What a tool's command line asks for, checked as far as it can be without long work.

    Args:
        tool (str): The tool's name.
        args (argparse.Namespace): The options.
        sources (list[ModelSource]): The models, in the order of the figure.
        cfg (Config): The config whose data is used.
        out (str): The folder for figure and numbers.
        device (str): The device.
        with_labels (bool): Whether the samples' labels are used.
    """
    tool: str
    args: argparse.Namespace
    sources: list
    cfg: Config
    out: str
    device: str
    with_labels: bool

    def load_models(self, needs_head: bool = False) -> list:
        """list[nn.Module]: The models with their weights; all fit before anything is measured."""
        return [load_model(source, self.device, self.args.seed, needs_head)
                for source in self.sources]

    def load_samples(self, drop_last: bool = False) -> SampleBatches:
        """SampleBatches: The samples."""
        args = self.args
        batches = SampleBatches(self.cfg, args.split, args.num_samples, args.batch_size,
                                seed=args.seed, workers=args.workers, drop_last=drop_last,
                                with_labels=self.with_labels)
        if batches.num_samples < args.num_samples:
            print(f'note: {batches.num_samples} samples instead of {args.num_samples}: the '
                  f'{args.split} set has {len(batches.dataset)}, and {args.batch_size} make a '
                  'batch', file=sys.stderr)
        return batches

    @staticmethod
    def follow(batches: SampleBatches, what: str):
        """Iterable: The batches; on a terminal with a bar that shows how far it is."""
        if sys.stderr is None or not sys.stderr.isatty():
            return batches
        print(what, file=sys.stderr)
        return track_iter_progress((iter(batches), len(batches)), file=sys.stderr)

    def describe(self, batches: SampleBatches) -> dict:
        """dict: What the numbers say of how they were made."""
        args = self.args
        return dict(
            tool=self.tool, version=__version__, num_samples=batches.num_samples,
            batch_size=args.batch_size, split=args.split, seed=args.seed, device=self.device,
            cfg_options=args.cfg_options or {},
            models=[source.describe() for source in self.sources])


def read_task(tool: str, args: argparse.Namespace, before: tuple = UNTRAINED,
              with_labels: bool = False) -> Task:
    """Read the configs that a command line names, and check what takes no time.

    Args:
        tool (str): The tool's name.
        args (argparse.Namespace): What its parser gave.
        before (tuple): The model beside the original that ``--pretrained`` adds. Defaults to
            UNTRAINED.
        with_labels (bool): Whether the samples' labels are used. Defaults to False.

    Returns:
        Task: The models, data and places.

    Raises:
        ScaleNetError: If something is missing, or can't be meant.
    """
    cfg = load_config(args.config)
    if args.cfg_options:
        merge_cfg_options(cfg, args.cfg_options)
    stem = osp.splitext(osp.basename(args.config))[0]
    label = args.label or ('ScaleNet' if args.pretrained else stem)
    main = ModelSource(label, cfg, args.config, args.checkpoint)
    main.check()
    sources = [main]
    if args.pretrained:
        derived = [ORIGINAL]
        # before training is what CHECKPOINT gives if it is the pretrained file itself
        if before[1] or args.checkpoint != args.pretrained:
            derived.append(before)
        sources = [ModelSource(name, without(cfg, *options), args.config, args.pretrained)
                   for name, options in derived] + sources
    sources += [ModelSource(name, load_config(path), path, checkpoint)
                for name, path, checkpoint in args.compare]
    for source in sources:
        source.check()
        scopes = [one.get('default_scope', 'mmengine') for one in (cfg, source.cfg)]
        if scopes[0] != scopes[1]:
            raise ConfigError(f'{source.path} is for {scopes[1]}, {args.config} for {scopes[0]}: '
                              'models that are compared must be of one toolbox, since they are '
                              'given the same data')
    names = [source.label for source in sources]
    if len(set(names)) < len(names):
        raise ConfigError(f'two models have the same name in the figure: {", ".join(names)}; '
                          'name them by --label and --compare')
    check_samples(cfg, args.split, args.num_samples, args.batch_size, with_labels)
    if args.workers is not None and args.workers < 0:
        raise ConfigError(f'--workers must be 0 or more, got {args.workers}')
    out = args.out or osp.join('work_dirs', stem, 'analysis')
    check_out(out)
    return Task(tool, args, sources, cfg, out, pick_device(args.device), with_labels)
