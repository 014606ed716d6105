"""Digit scenes: real handwritten digits, arranged for classification, detection, segmentation."""
from .digit_scenes import make_digit_scenes

__all__ = ['make_digit_scenes']
