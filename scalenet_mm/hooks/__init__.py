"""Hooks: thin, what they do stands in growth/ and checkpoints/."""
from .adapter_injection_hook import AdapterInjectionHook
from .checkpoint_hook import SafeCheckpointHook, secure_checkpoints
from .delta_checkpoint_hook import DeltaCheckpointHook
from .progress_hook import ProgressHook

__all__ = [
    'AdapterInjectionHook', 'DeltaCheckpointHook', 'ProgressHook', 'SafeCheckpointHook',
    'secure_checkpoints'
]
