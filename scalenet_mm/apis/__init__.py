"""Inference: a model from its config and checkpoint, and what it sees in images."""
from .inference import infer, iter_infer
from .model import init_model
from .prediction import Prediction

__all__ = ['Prediction', 'infer', 'init_model', 'iter_infer']
