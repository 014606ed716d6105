"""Hooks: thin, what they do stands in growth/ and checkpoints/."""
from .adapter_injection_hook import AdapterInjectionHook
from .checkpoint_hook import SafeCheckpointHook, secure_checkpoints
from .delta_checkpoint_hook import DeltaCheckpointHook
from .gradient_norm_hook import GradientNormHook
from .progress_hook import ProgressHook

__all__ = [
    'AdapterInjectionHook', 'DeltaCheckpointHook', 'GradientNormHook', 'ProgressHook',
    'SafeCheckpointHook', 'secure_checkpoints'
]
