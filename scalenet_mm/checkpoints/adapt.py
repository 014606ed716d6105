"""Bringing a whole checkpoint to a whole model's names before it is loaded."""
from collections import OrderedDict
from typing import Any

from mmengine.logging import print_log

from ..errors import CheckpointError
from .delta import growth_of_delta
from .keys import find_family, is_derived, name_head, read_state_dict, split_backbone
from .pretrained import convert_backbone
from .report import (
    LoadReport,
    compare,
    list_prefixes,
    note_of_gene,
    refuse_gene,
    refuse_other_blocks,
)


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
    if backbone is not None and find_family(backbone):
        parts = {k.split('.')[0] for k in wanted} - {'backbone'}
        if all(k.split('.')[0] in parts for k in state):  # a head alone, or a neck
            own, rest = {}, state
        else:
            own, rest = split_backbone(state)
        given = {f'backbone.{k}': v for k, v in own.items()}
        if own:
            own, fmt = convert_backbone(backbone, own, name)
        adapted: Any = OrderedDict((f'backbone.{k}', v) for k, v in own.items())
        if own:
            adapted.update(_derived(wanted, given, adapted))
        adapted.update(name_head(rest, wanted))
        if hasattr(state, '_metadata'):
            adapted._metadata = state._metadata
        state = adapted

    growth = growth_of_delta(checkpoint)
    if growth is not None:
        refuse_other_blocks(model, growth, name)
    gene = note_of_gene(checkpoint)
    if gene is not None and backbone is not None:
        refuse_gene(backbone, gene, name)
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


def _derived(wanted, given, adapted):
    """What a backbone computes for itself, as the file has it or else as the model has it.

    mmengine's EMAHook looks up every tensor of the averaged model in the checkpoint.
    """
    for key, value in wanted.items():
        if not key.startswith('backbone.') or not is_derived(key) or key in adapted:
            continue
        if key in given and given[key].shape == value.shape:
            yield key, given[key]
        elif key.endswith('relative_position_index'):  # of another window size, or left out
            yield key, value
