"""Optimizers for grown models: learning rates that decay from layer to layer."""
from .layer_decay import LayerDecayOptimWrapperConstructor, check_layer_decay, layer_depths

__all__ = ['LayerDecayOptimWrapperConstructor', 'check_layer_decay', 'layer_depths']
