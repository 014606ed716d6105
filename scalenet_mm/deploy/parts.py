"""The parts of a model that are exported: functions of images alone."""
from typing import Callable, Optional

import torch
import torch.nn as nn

from ..backbones.grown_backbone import tensors_in
from ..errors import ConfigError
from ..learngene.distilled_classifier import DistilledClassifier

PARTS = ('classifier', 'backbone')


class Part(nn.Module):
    """Part of a model, a function of normalised images alone.

    Args:
        model (nn.Module): The model or its backbone.
    """
    #: what it is called, as in :data:`PARTS`
    name: str
    #: (count: int) -> list[str]: names of the outputs
    output_names: Callable

    def __init__(self, model):
        super().__init__()
        self.model = model
        #: what the size of an image must be a multiple of, if it is left open
        self.unit: Optional[int] = None

    def run(self, image: torch.Tensor):
        """Compute the part's outputs, tensors that may be nested."""
        raise NotImplementedError

    def forward(self, image):
        """Compute the part's outputs.

        Args:
            image (torch.Tensor): Normalised images of shape (batch, channels, height, width).

        Returns:
            tuple[torch.Tensor]: The outputs.
        """
        if self.unit is not None:
            # A convolution drops what is left over at the border; this makes it an error instead.
            size = image.shape
            image = image.unflatten(2, (-1, self.unit)).unflatten(4, (-1, self.unit)).view(size)
        return tuple(tensors_in(self.run(image)))


class ClassifierPart(Part):
    """A classifier of mmpretrain; its output is the logits."""
    name = 'classifier'

    def run(self, image):
        """Compute the logits."""
        return self.model(image, mode='tensor')

    @staticmethod
    def output_names(count: int) -> list:
        """list[str]: Names of the outputs.

        Raises:
            ConfigError: If there are several.
        """
        if count > 1:
            raise ConfigError(f'the classifier has {count} outputs instead of its logits; export '
                              "part='backbone'")
        return ['logits']


class BackbonePart(Part):
    """A backbone; its outputs are named feat0, feat1, ... in the order of ``out_indices``."""
    name = 'backbone'

    def run(self, image):
        """Compute the features."""
        return self.model(image)

    @staticmethod
    def output_names(count: int) -> list:
        """list[str]: Names of the outputs."""
        return [f'feat{i}' for i in range(count)]


def backbone_of(model: nn.Module) -> nn.Module:
    """nn.Module: The backbone of a model, or the model where it is one itself."""
    return getattr(model, 'backbone', model)


def make_part(model: nn.Module, part: Optional[str] = None) -> Part:
    """Make the part of a model that is to be exported.

    Args:
        model (nn.Module): A classifier, detector or segmentor, or a backbone.
        part (str, optional): 'classifier' or 'backbone'; the first where the model is one if
            None. Defaults to None.

    Returns:
        Part: The part; its tensors are those of the model.

    Raises:
        ConfigError: If the model has no such part.
    """
    if isinstance(model, DistilledClassifier):
        model = model.student
    is_classifier = any(cls.__name__ == 'BaseClassifier' for cls in type(model).__mro__)
    if part is None:
        part = 'classifier' if is_classifier else 'backbone'
    if part not in PARTS:
        raise ConfigError(f'part must be one of {", ".join(PARTS)}, got {part!r}')
    if part == 'backbone':
        return BackbonePart(backbone_of(model))
    if not is_classifier:
        raise ConfigError(f'a {type(model).__name__} is no classifier of mmpretrain: of detectors '
                          "and segmentors the backbone can be exported, part='backbone'")
    if not getattr(model, 'with_head', True):
        raise ConfigError("the classifier has no head; export part='backbone'")
    return ClassifierPart(model)


def describe_preprocessing(model: nn.Module) -> Optional[dict]:
    """Tell what a model's images must have gone through.

    Args:
        model (nn.Module): A classifier, detector or segmentor.

    Returns:
        dict | None: 'to_rgb', whether the channels of images as OpenCV reads them (blue first) are
        reversed, and then 'mean' and 'std', subtracted and divided by for pixels from 0 to 255;
        both are None where nothing is. None for a model without a preprocessor.
    """
    preprocessor = getattr(model, 'data_preprocessor', None)
    if preprocessor is None:
        return None
    # each toolbox has a name of its own
    to_rgb = any(getattr(preprocessor, name, False)
                 for name in ('to_rgb', '_channel_conversion', 'channel_conversion'))
    mean = std = None
    if getattr(preprocessor, '_enable_normalize', False):
        # the digits that float32 has
        mean, std = ([float(f'{value:.7g}') for value in getattr(preprocessor, name).flatten()]
                     for name in ('mean', 'std'))
    return dict(to_rgb=bool(to_rgb), mean=mean, std=std)


def class_names(model: nn.Module) -> Optional[list]:
    """list[str] | None: The names of a model's classes, if it knows them."""
    for name in ('dataset_meta', '_dataset_meta'):  # the toolboxes' functions for inference set one
        classes = (getattr(model, name, None) or {}).get('classes')
        if classes:
            return [str(one) for one in classes]
    return None
