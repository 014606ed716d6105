"""Weight selection: a smaller model starts from a part of a larger one's weights."""
from typing import Any, Optional

import torch
import torch.nn as nn
from mmengine.logging import print_log
from mmengine.registry import WEIGHT_INITIALIZERS

from ..checkpoints.delta import read_checkpoint
from ..checkpoints.keys import find_family, name_head, read_state_dict, split_backbone, to_mm_keys
from ..checkpoints.report import what_growth_added
from ..checkpoints.resize import fit_pos_embed
from ..errors import CheckpointError, ConfigError
from .whole_init import WholeInit

LAYER_RULES = ('first', 'uniform')
#: Parameters of which not every dimension is a width, and those that are.
_WIDTHS = {'patch_embed.projection.weight': (0, ), 'cls_token': (2, ), 'pos_embed': (2, )}
#: Norms of outputs, which a recipe may lack.
_OPTIONAL = ('ln1.', 'ln2.')


def uniform_indices(size: int, wanted: int) -> torch.Tensor:
    """Choose indices that lie evenly in a range.

    Args:
        size (int): Number of indices there are.
        wanted (int): Number of indices to choose, at most ``size``.

    Returns:
        torch.Tensor: ``i * size // wanted`` for ``i`` from 0: every k-th index where ``wanted``
        divides ``size``, as in the official code, which has no valid indices for other sizes. Of a
        fused qkv the same channels of query, key and value are chosen.
    """
    return torch.arange(wanted) * size // wanted


def choose_layers(size: int, wanted: int, layers: str = 'first') -> tuple:
    """Choose the blocks of a deeper model from which those of a shallower one start.

    Args:
        size (int): Number of blocks of the larger model.
        wanted (int): Number of blocks of the smaller one.
        layers (str): 'first': the first ones; 'uniform': evenly spaced ones, beginning with the
            first. Defaults to 'first'.

    Returns:
        tuple[int]: An index for each block.

    Raises:
        ConfigError: If the rule is unknown.
        CheckpointError: If there are fewer blocks than wanted.
    """
    if layers not in LAYER_RULES:
        raise ConfigError(f'layers must be one of {LAYER_RULES} for the selection of weights, got '
                          f'{layers!r}')
    if size < wanted:
        raise CheckpointError(f'it has {size} block(s) and the model {wanted}: weights are '
                              'selected from a model that is at least as deep. Name such a file, '
                              'or lower num_layers of the backbone')
    return tuple(uniform_indices(size if layers == 'uniform' else wanted, wanted).tolist())


def select_tensor(tensor: torch.Tensor, shape: tuple, dims: Optional[tuple] = None) -> torch.Tensor:
    """Select evenly spaced entries of a tensor in every dimension.

    Args:
        tensor (torch.Tensor): A tensor of the larger model.
        shape (tuple[int]): The shape to bring it to.
        dims (tuple[int], optional): Dimensions in which entries may be left out; the others must
            agree. All if None. Defaults to None.

    Returns:
        torch.Tensor: Of that shape; the tensor itself if it has the shape.

    Raises:
        CheckpointError: If it is smaller in some dimension, or differs in one that must agree.
    """
    sizes = f'shape {tuple(tensor.shape)} in the file and {tuple(shape)} in the model'
    if tensor.ndim != len(shape):
        raise CheckpointError(f'{sizes}: the number of dimensions differs')
    for dim, wanted in enumerate(shape):
        size = tensor.shape[dim]
        if size == wanted:
            continue
        if dims is not None and dim not in dims:
            raise CheckpointError(f'{sizes}: they must agree in dimension {dim}')
        if size < wanted:
            raise CheckpointError(f'{sizes}: the file must be of a model that is at least as wide')
        indices = uniform_indices(size, wanted).to(tensor.device)
        tensor = tensor.index_select(dim, indices)
    return tensor


def select_weights(state: dict, backbone: nn.Module, layers: str = 'first') -> dict:
    """Select the weights of a plain ViT from those of a larger one.

    Each tensor's widths are selected uniformly (Xu et al., Initializing Models with Larger Ones,
    arXiv 2311.18823): the same channels of the residual stream, of query, key and value, and of
    each MLP's hidden layer in every tensor that has them. Attention heads are not kept apart: so
    does the official code. Position embeddings are resized first if the number of patches differs.

    Args:
        state (dict): Tensors of the larger backbone under mmpretrain's names, without prefix.
        backbone (nn.Module): The smaller one: an ungrown :class:`ScaleNetViT`, or mmpretrain's
            ``VisionTransformer``.
        layers (str): See :func:`choose_layers`. Defaults to 'first'.

    Returns:
        dict: A tensor for each parameter of the backbone, but for norms of its output that the
        other model does not have.

    Raises:
        ConfigError: If the rule is unknown, or the backbone is grown or of another kind.
        CheckpointError: If the other model is smaller in depth or a width, or differs in patch
            size or parts.
    """
    _check_backbone(backbone)
    wanted = dict(backbone.named_parameters())
    grown = what_growth_added(state)
    if grown:
        raise CheckpointError(f'it is of a grown model: it holds {" and ".join(grown)} '
                              f'({next(iter(grown.values()))[0]}). Name a file of an ungrown one')
    chosen = choose_layers(_count_blocks(state), _count_blocks(wanted), layers)
    selected, used = {}, set()
    for key, parameter in wanted.items():
        source = key
        if key.startswith('layers.'):
            _, block, rest = key.split('.', 2)
            source = f'layers.{chosen[int(block)]}.{rest}'
        if source not in state and key.startswith(_OPTIONAL):
            continue
        if source not in state:
            raise CheckpointError(f'it has no {source}, from which {key} of the model would start: '
                                  'the parts of the two models must be the same')
        used.add(source)
        value = state[source]
        try:
            if key == 'pos_embed':
                value = _fit_pos_embed(value, backbone, parameter)
            selected[key] = select_tensor(value, parameter.shape, _WIDTHS.get(key))
        except CheckpointError as error:
            raise CheckpointError(f'{key}: {error}') from None
    kept = tuple(f'layers.{block}.' for block in chosen)
    idle = [k for k in state if k not in used and not k.startswith(_OPTIONAL)
            and (k.startswith(kept) or not k.startswith('layers.'))]
    if idle:
        raise CheckpointError(f'its {idle[0]} has no place in the model: the parts of the two '
                              'models must be the same')
    return selected


def _check_backbone(backbone):
    if find_family(backbone) != ('vit', 'OpenMMLab') or hasattr(backbone.layers, 'expanded'):
        raise ConfigError(f'weights cannot be selected for a {type(backbone).__name__}, only for a '
                          "plain ViT: a ScaleNetViT, or mmpretrain's VisionTransformer")
    if what_growth_added(backbone.state_dict()) or len(backbone.layers) != _count_blocks(
            backbone.state_dict()):
        raise ConfigError('weights are selected for a model as deep as it will be: set growth=None '
                          'and adjustment=None of the backbone, and its depth by num_layers')


def _count_blocks(names):
    return len({name.split('.')[1] for name in names if name.startswith('layers.')})


def _fit_pos_embed(value, backbone, parameter):
    if value.ndim != 3:
        return value  # whose shape is refused
    grid = tuple(backbone.patch_resolution)
    tokens = parameter.shape[1]
    return fit_pos_embed(value, torch.Size((1, tokens, value.shape[-1])), grid,
                         backbone.interpolate_mode, tokens - grid[0] * grid[1])


def _select_head(rest, head, name):
    """dict: A tensor for each parameter of a classifier's head."""
    wanted = {f'head.{key}': value for key, value in head.named_parameters()}
    rest = name_head(rest, wanted)
    selected = {}
    for key, parameter in wanted.items():
        if key not in rest:
            raise CheckpointError(f'{name} has no {key}: give head=False to WeightSelection to '
                                  'start with a new head')
        value = rest[key]
        if value.shape[:1] != parameter.shape[:1]:
            raise CheckpointError(f'{name} has {len(value)} classes and the model '
                                  f'{len(parameter)}: give head=False to WeightSelection to start '
                                  'with a new head')
        try:
            selected[key[len('head.'):]] = select_tensor(value, parameter.shape)
        except CheckpointError as error:
            raise CheckpointError(f'no weights can be selected from {name}: {key}: '
                                  f'{error}') from None
    return selected


def load_selected(model: nn.Module, checkpoint: str, layers: str = 'first', head: bool = True,
                  prefix: Optional[str] = None) -> None:
    """Fill a model with weights that are selected from a file of a larger one, and say so.

    Args:
        model (nn.Module): A backbone, see :func:`select_weights`, or a classifier with one.
        checkpoint (str): The larger model: a local path or URL, in any format that
            :func:`load_pretrained` reads.
        layers (str): See :func:`choose_layers`. Defaults to 'first'.
        head (bool): Whether a classifier's head is selected as well; its classes must be those of
            the file. Defaults to True.
        prefix (str, optional): Prefix of the backbone's tensors in the file; found if None.
            Defaults to None.

    Raises:
        ConfigError: As :func:`select_weights` does.
        CheckpointError: If the file cannot be read, or is not of a larger model of the same kind;
            then nothing was changed.
    """
    backbone = getattr(model, 'backbone', model)
    _check_backbone(backbone)
    state = read_state_dict(read_checkpoint(checkpoint, mmap=True), checkpoint)
    own, rest = split_backbone(state, prefix)
    try:
        own, fmt = to_mm_keys(own, 'vit')
        selected = select_weights(own, backbone, layers)
    except CheckpointError as error:
        raise CheckpointError(f'no weights can be selected from {checkpoint} for the '
                              f'{type(backbone).__name__}: {error}') from None
    of_head = {}
    if head and backbone is not model:
        of_head = _select_head(rest, model.head, checkpoint)
    # by load_state_dict, which tells what watches it that these came from a file
    backbone.load_state_dict(selected, strict=False)
    if of_head:
        classifier: Any = model
        classifier.head.load_state_dict(of_head, strict=False)
    chosen = choose_layers(_count_blocks(own), _count_blocks(selected), layers)
    print_log(
        f'Selected weights of {checkpoint} ({fmt}): blocks {", ".join(map(str, chosen))} of '
        f'{_count_blocks(own)}; width {selected["pos_embed"].shape[-1]} of '
        f'{own["pos_embed"].shape[-1]}; head {"selected" if of_head else "as it was"}',
        logger='current')


@WEIGHT_INITIALIZERS.register_module()
class WeightSelection(WholeInit):
    """Start from weights selected from a larger model (IMwLM, arXiv 2311.18823).

    For the ``init_cfg`` of a classifier or of a ViT backbone::

        init_cfg=dict(type='WeightSelection', checkpoint='deit-small.pth')

    Args:
        checkpoint (str): See :func:`load_selected`.
        layers (str): See :func:`choose_layers`. Defaults to 'first', the official code's.
        head (bool): See :func:`load_selected`; without meaning for a backbone. Defaults to True.
        prefix (str, optional): See :func:`load_selected`. Defaults to None.

    Raises:
        ConfigError: If an argument is none that can be.
    """

    def __init__(self,
                 checkpoint: str,
                 layers: str = 'first',
                 head: bool = True,
                 prefix: Optional[str] = None):
        super().__init__(checkpoint, head)
        choose_layers(1, 1, layers)
        self.layers, self.prefix = layers, prefix

    def fill(self, module: nn.Module) -> None:
        """Fill a backbone or classifier, see :func:`load_selected`."""
        load_selected(module, self.checkpoint, self.layers, self.head, self.prefix)
