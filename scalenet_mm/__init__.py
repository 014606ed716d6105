"""ScaleNet for OpenMMLab: deeper vision transformers from shared weights and small adapters.

Importing the package registers everything in mmengine's root registries, where all toolboxes find
it, makes mmengine's loading of checkpoints safe and able to read deltas, teaches its configs the
prefix ``scalenet_mm::`` and its FLOPs counter attention (an entry in its table, if it has none);
``custom_imports = dict(imports=['scalenet_mm'])`` is all that a config needs. No toolbox is
imported: any one of the three is enough.
"""
from .analysis import register_flop_handlers as _register_flop_handlers
from .apis import Prediction, infer, init_model
from .backbones import ScaleNetSwin, ScaleNetViT, grow_backbone
from .checkpoints import add_base, load_pretrained
from .checkpoints.safe import install as _install_safe_loading
from .config_paths import install as _install_config_prefix
from .datasets import make_digit_scenes
from .errors import (
    CheckpointError,
    ConfigError,
    DataError,
    ExportError,
    GrowthError,
    ScaleNetError,
)
from .growth import fast_paths, grow, speed_up
from .hooks import (
    AdapterInjectionHook,
    DeltaCheckpointHook,
    GradientNormHook,
    SafeCheckpointHook,
)
from .learngene import (
    DistilledClassifier,
    Learngene,
    TLEGViT,
    WeightSelection,
    extract_gene,
    read_gene,
)
from .necks import SimpleFeaturePyramid
from .optim import LayerDecayOptimWrapperConstructor
from .version import __version__

_install_safe_loading()
_install_config_prefix()
_register_flop_handlers()

__all__ = [
    'AdapterInjectionHook', 'CheckpointError', 'ConfigError', 'DataError', 'DeltaCheckpointHook',
    'DistilledClassifier', 'ExportError', 'GradientNormHook', 'GrowthError',
    'LayerDecayOptimWrapperConstructor', 'Learngene', 'Prediction', 'SafeCheckpointHook',
    'ScaleNetError', 'ScaleNetSwin', 'ScaleNetViT', 'SimpleFeaturePyramid', 'TLEGViT',
    'WeightSelection', '__version__', 'add_base', 'extract_gene', 'fast_paths', 'grow',
    'grow_backbone', 'infer', 'init_model', 'load_pretrained', 'make_digit_scenes', 'read_gene',
    'speed_up'
]
