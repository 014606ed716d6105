"""What differs between mmpretrain, mmdet and mmseg on the command line, in one table."""
from copy import deepcopy
from dataclasses import dataclass, field
from importlib import metadata
from typing import Any, Callable, Iterator, List, Optional, Tuple

from mmengine.config import Config, ConfigDict

from scalenet_mm.errors import ConfigError


def type_name(cfg: Any) -> str:
    """The bare class name in a config's ``type``, which may be a string or a class."""
    kind = cfg.get('type', '') if isinstance(cfg, dict) else ''
    return (kind if isinstance(kind, str) else getattr(kind, '__name__', '')).split('.')[-1]


def iter_datasets(cfg: Any, key: str) -> Iterator[Tuple[str, dict]]:
    """Yield the data sets inside a dataset config, through any nesting of wrappers.

    Args:
        cfg (dict | list): A dataset config: a data set, a wrapper of one (``dataset=``) or of
            several (``datasets=``), or a list.
        key (str): The config key of ``cfg``, like ``'train_dataloader.dataset'``.

    Yields:
        tuple[str, dict]: The config key and the config of each data set that wraps no other.
    """
    if isinstance(cfg, (list, tuple)):
        for i, item in enumerate(cfg):
            yield from iter_datasets(item, f'{key}.{i}')
    elif isinstance(cfg, dict):
        inner = [name for name in ('dataset', 'datasets')
                 if isinstance(cfg.get(name), (dict, list, tuple))]
        for name in inner:
            yield from iter_datasets(cfg[name], f'{key}.{name}')
        if not inner:
            yield key, cfg


def iter_dataloaders(cfg: Config, split: str) -> Iterator[Tuple[str, dict]]:
    """Yield the config keys and configs of a split's dataloaders: one, or a list of some."""

    def within(loaders, key):
        if isinstance(loaders, dict):
            yield key, loaders
        elif isinstance(loaders, (list, tuple)):
            for i, loader in enumerate(loaders):
                yield from within(loader, f'{key}.{i}')

    return within(cfg.get(f'{split}_dataloader'), f'{split}_dataloader')


def iter_metrics(evaluator: Any, key: str) -> Iterator[Tuple[str, dict]]:
    """Yield the metrics of an evaluator config: one, a list, or ``dict(metrics=...)``."""
    if isinstance(evaluator, dict) and 'metrics' in evaluator:
        yield from iter_metrics(evaluator['metrics'], f'{key}.metrics')
    elif isinstance(evaluator, (list, tuple)):
        for i, metric in enumerate(evaluator):
            yield from iter_metrics(metric, f'{key}.{i}')
    elif isinstance(evaluator, dict):
        yield key, evaluator


# -- visualisation -------------------------------------------------------------------------------


def _show_mmpretrain(cfg: Config, hook: ConfigDict, args) -> None:
    from . import classifier_pictures  # noqa: F401  registers the hook; needs mmpretrain
    hook.update(
        type='ClassifierPicturesHook',
        enable=True,
        show=args.show,
        wait_time=args.wait_time,
        out_dir=args.show_dir,
        interval=args.interval or 1)


def _show_mmdet(cfg: Config, hook: ConfigDict, args) -> None:
    hook.draw = True
    if args.show:
        hook.update(show=True, wait_time=args.wait_time)
    if args.show_dir:
        hook.test_out_dir = args.show_dir
    if args.interval:
        hook.interval = args.interval


def _show_mmseg(cfg: Config, hook: ConfigDict, args) -> None:
    hook.draw = True
    if args.show:
        hook.update(show=True, wait_time=args.wait_time)
    if args.show_dir:
        cfg.visualizer.save_dir = args.show_dir
    if args.interval:
        hook.interval = args.interval
    hook.setdefault('interval', 1)  # its own is 50, which draws nothing of a small set


# -- saving predictions --------------------------------------------------------------------------


def _add_metric(cfg: Config, metric: dict) -> None:
    evaluator = cfg.test_evaluator
    if isinstance(evaluator, dict) and 'metrics' in evaluator:
        metrics = evaluator['metrics']
        evaluator['metrics'] = [*(metrics if isinstance(metrics, (list, tuple)) else [metrics]),
                                metric]
    elif isinstance(evaluator, (list, tuple)):
        cfg.test_evaluator = [*evaluator, metric]
    else:
        cfg.test_evaluator = [evaluator, metric]


def _dump_pickle(metric_type: str) -> Callable[[Config, str], None]:

    def dump(cfg: Config, out: str) -> None:
        if not out.endswith(('.pkl', '.pickle')):
            raise ConfigError(
                f'--out {out}: predictions are saved as a pickle, so the name must end in .pkl or '
                '.pickle (`--out-item metrics` saves the metrics, as .json for instance)')
        _add_metric(cfg, dict(type=metric_type, out_file_path=out))

    return dump


def _dump_label_maps(cfg: Config, out: str) -> None:
    metrics = list(iter_metrics(cfg.test_evaluator, 'test_evaluator'))
    for _, metric in metrics:
        metric.update(output_dir=out, keep_results=True)


# -- test-time augmentation ----------------------------------------------------------------------


def _flips(*behind: dict, unflipped_first: bool) -> dict:
    # RandomFlip with probability 1 and 0: each image is seen both ways.
    probabilities = (0., 1.) if unflipped_first else (1., 0.)
    return dict(
        type='TestTimeAug',
        transforms=[[dict(type='RandomFlip', prob=p) for p in probabilities],
                    *([transform] for transform in behind)])


def _tta_pipeline_mmpretrain(pipeline: List[dict]) -> List[dict]:
    return [*pipeline[:-1], _flips(pipeline[-1], unflipped_first=False)]


def _tta_pipeline_mmdet(pipeline: List[dict]) -> List[dict]:
    # DetTTAModel flips the boxes back by these two, which the usual test pipelines don't pack.
    pack = dict(
        type='PackDetInputs',
        meta_keys=('img_id', 'img_path', 'ori_shape', 'img_shape', 'scale_factor', 'flip',
                   'flip_direction'))
    # The truth that pictures show is in the coordinates of the image as it is in its file: a flip
    # must not see it.
    truth = [t for t in pipeline[:-1] if type_name(t) == 'LoadAnnotations']
    rest = [t for t in pipeline[:-1] if type_name(t) != 'LoadAnnotations']
    return [*rest, _flips(*truth, pack, unflipped_first=False)]


def _tta_pipeline_mmseg(pipeline: List[dict]) -> List[dict]:
    # SegTTAModel takes the label map of the first view, so that one must not be flipped.
    return [*pipeline[:-1], _flips(pipeline[-1], unflipped_first=True)]


# -- the table -----------------------------------------------------------------------------------


@dataclass(frozen=True)
class Scope:
    """What the tools need to know of a toolbox.

    Args:
        name (str): The ``default_scope`` of its configs, which is also its import name.
        distributions (tuple[str]): Names under which it is installed.
        visualization_hook (str, optional): The hook of ``default_hooks.visualization``.
            Defaults to None.
        visualizer (str, optional): The visualizer that this hook draws with. Defaults to None.
        show (callable, optional): Switches the hook on: ``show(cfg, hook, args)``.
            Defaults to None.
        dump (callable): Makes the test save its predictions: ``dump(cfg, out)``.
        tta_model (dict): The model wrapper of ``--tta`` in a config that has none.
        tta_pipeline (callable, optional): Makes a ``--tta`` pipeline of a test pipeline.
            Defaults to None, which means that configs must give one.
        tta_stand_ins (dict): What stands in for a ``tta_model`` of the toolbox, type by type.
        dataloader (dict): Defaults of the dataloaders that the toolbox's own tools set, and its
            configs rely on.
    """
    name: str
    distributions: Tuple[str, ...] = ()
    visualization_hook: Optional[str] = None
    visualizer: Optional[str] = None
    show: Optional[Callable] = None
    dump: Callable[[Config, str], None] = _dump_pickle('DumpResults')
    tta_model: dict = field(default_factory=dict)
    tta_pipeline: Optional[Callable[[List[dict]], List[dict]]] = None
    tta_stand_ins: dict = field(default_factory=dict)
    dataloader: dict = field(default_factory=dict)

    @property
    def package(self) -> str:
        """str: What to install for it: OneDL's package where OneDL's mmengine is in use."""
        try:
            metadata.version('onedl-mmengine')
        except metadata.PackageNotFoundError:
            return self.distributions[0]
        return self.distributions[-1]

    def enable_visualization(self, cfg: Config, args) -> None:
        """Switch the drawing of predictions on, as ``--show`` and ``--show-dir`` ask.

        Args:
            cfg (Config): The config, changed in place.
            args (argparse.Namespace): The options of ``tools/test.py``.

        Raises:
            ConfigError: If the scope has no visualisation hook that is known here.
        """
        if self.show is None:
            raise ConfigError(
                f'--show and --show-dir: no visualisation hook is known for default_scope='
                f'{self.name!r} (known: {", ".join(SCOPES)}); add one to the config\'s '
                'custom_hooks instead')
        if cfg.get('visualizer') is None:
            cfg.visualizer = dict(type=self.visualizer, vis_backends=[dict(type='LocalVisBackend')])
        if cfg.get('default_hooks') is None:
            cfg.default_hooks = dict()
        if cfg.default_hooks.get('visualization') is None:
            cfg.default_hooks.visualization = dict(type=self.visualization_hook)
        self.show(cfg, cfg.default_hooks.visualization, args)

    def enable_tta(self, cfg: Config) -> None:
        """Wrap the model and the test pipeline for test-time augmentation.

        Args:
            cfg (Config): The config, changed in place.

        Raises:
            ConfigError: If the config gives no ``tta_model`` or ``tta_pipeline`` and the scope
                has no default.
        """
        for key, default in (('tta_model', self.tta_model), ('tta_pipeline', self.tta_pipeline)):
            if cfg.get(key) is None and not default:
                raise ConfigError(
                    f'--tta: the config has no {key}, and there is no default for '
                    f'default_scope={self.name!r}')
        if cfg.get('tta_model') is None:
            cfg.tta_model = deepcopy(self.tta_model)
        kind = type_name(cfg.tta_model)
        cfg.tta_model.type = self.tta_stand_ins.get(kind, cfg.tta_model.type)
        for key, dataset in iter_datasets(cfg.test_dataloader.dataset, 'test_dataloader.dataset'):
            if cfg.get('tta_pipeline') is not None:
                dataset['pipeline'] = deepcopy(cfg.tta_pipeline)
            elif dataset.get('pipeline') and self.tta_pipeline is not None:
                dataset['pipeline'] = self.tta_pipeline(deepcopy(dataset['pipeline']))
            else:
                raise ConfigError(f'--tta: {key} has no pipeline to augment; give a tta_pipeline')
        cfg.model = ConfigDict(**cfg.tta_model, module=cfg.model)

    def set_dataloader_defaults(self, cfg: Config, keys: Tuple[str, ...]) -> None:
        """Fill in the toolbox's defaults of the dataloaders named by ``keys``."""
        for key in keys:
            if isinstance(cfg.get(key), dict):
                cfg[key] = ConfigDict({**deepcopy(self.dataloader), **cfg[key]})


SCOPES = {
    scope.name: scope
    for scope in (
        Scope(
            name='mmpretrain',
            distributions=('mmpretrain', 'onedl-mmpretrain'),
            visualization_hook='VisualizationHook',
            visualizer='UniversalVisualizer',
            show=_show_mmpretrain,
            tta_model=dict(type='mmpretrain.AverageClsScoreTTA'),
            tta_pipeline=_tta_pipeline_mmpretrain,
            # mmpretrain's data sets give stacked tensors, and its configs name no collate_fn.
            dataloader=dict(
                pin_memory=True, persistent_workers=True, collate_fn=dict(type='default_collate')),
        ),
        Scope(
            name='mmdet',
            distributions=('mmdet', 'onedl-mmdetection'),
            visualization_hook='DetVisualizationHook',
            visualizer='DetLocalVisualizer',
            show=_show_mmdet,
            dump=_dump_pickle('mmdet.DumpDetResults'),
            tta_model=dict(
                type='DetTTAModel',
                tta_cfg=dict(nms=dict(type='nms', iou_threshold=0.5), max_per_img=100)),
            tta_pipeline=_tta_pipeline_mmdet,
            # the same without masks; with masks mmdet's own fails on the first image
            tta_stand_ins=dict(DetTTAModel='scalenet_mm.engine.mask_tta.MaskTTAModel'),
        ),
        Scope(
            name='mmseg',
            distributions=('mmsegmentation', 'onedl-mmsegmentation'),
            visualization_hook='SegVisualizationHook',
            visualizer='SegLocalVisualizer',
            show=_show_mmseg,
            dump=_dump_label_maps,
            tta_model=dict(type='SegTTAModel'),
            tta_pipeline=_tta_pipeline_mmseg,
        ),
    )
}


def get_scope(cfg: Config) -> Scope:
    """The toolbox that a config is for, by its ``default_scope``.

    Args:
        cfg (Config): The config.

    Returns:
        Scope: One of :data:`SCOPES`, or a plain one for any other ``default_scope``.
    """
    name = cfg.get('default_scope') or 'mmengine'
    return SCOPES.get(name) or Scope(name=name)
