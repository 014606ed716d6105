"""Hooks: thin, what they do stands in growth/ and checkpoints/."""
from .adapter_injection_hook import AdapterInjectionHook
from .progress_hook import ProgressHook

__all__ = ['AdapterInjectionHook', 'ProgressHook']
