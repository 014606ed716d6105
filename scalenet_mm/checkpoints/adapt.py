"""Bringing a whole checkpoint to a whole model's names before it is loaded."""
from mmengine.logging import print_log

from ..errors import CheckpointError
from .keys import read_state_dict, split_backbone
from .pretrained import convert_backbone
from .report import LoadReport, compare, list_prefixes

#: Where a classifier's last linear layer is in the toolboxes' heads.
_CLASSIFIERS = ('head.fc.', 'head.layers.head.')


def adapt_checkpoint(model, checkpoint: dict, name: str, strict: bool = False) -> LoadReport:
    """Rename, in place, what a checkpoint holds to the names of a model, and check that it fits.

    Tensors of the head whose shape differs (other classes) are left out, so that the layer is
    initialised anew; the report says so.

    Args:
        model (nn.Module): The model, unwrapped; its backbone is ``model.backbone``.
        checkpoint (dict): What a checkpoint file holds. Afterwards its 'state_dict' holds the
            renamed tensors.
        name (str): The file, for messages.
        strict (bool): Whether everything must be there, as for resuming. Defaults to False.

    Returns:
        LoadReport: What matches, will be initialised and is ignored; logged as well.

    Raises:
        CheckpointError: If the checkpoint does not fit.
    """
    state = read_state_dict(checkpoint, name)
    wanted = model.state_dict()
    backbone = getattr(model, 'backbone', None)
    fmt = 'OpenMMLab'
    if getattr(backbone, 'key_family', None):
        own, rest = split_backbone(state)
        if own:
            own, fmt = convert_backbone(backbone, own, name)
        state = {**{f'backbone.{k}': v for k, v in own.items()}, **_rename_head(rest, wanted)}

    report = compare(name, fmt, wanted, state, 'backbone.', list_prefixes(model))
    if strict and (report.initialised or report.resized):
        missing = [k for keys in report.initialised.values() for k in keys] + report.resized
        raise CheckpointError(f'{name} cannot be resumed from: it lacks {len(missing)} tensors of '
                              f'the model, such as {missing[0]}. Start from it by load_from')
    for entry in report.resized:
        del state[entry.split(' ')[0]]
    for key in ('model', 'state_dict'):
        checkpoint.pop(key, None)
    if any(key in checkpoint for key in state):  # the file was a bare state dict
        checkpoint.clear()
    checkpoint['state_dict'] = state
    print_log(str(report), logger='current')
    return report


def _rename_head(rest, wanted):
    """An official classifier's 'head.weight' under the name of the model's head."""
    for prefix in _CLASSIFIERS:
        if f'{prefix}weight' in wanted and f'{prefix}weight' not in rest:
            return {(prefix + k.split('.')[-1] if k.startswith('head.') else k): v
                    for k, v in rest.items()}
    return rest
