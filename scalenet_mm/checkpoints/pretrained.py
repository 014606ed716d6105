"""Loading pretrained weights into a backbone."""
from typing import Optional

from mmengine.logging import print_log

from ..errors import CheckpointError
from .backbone_state import fit_tensor
from .delta import growth_of_delta, read_checkpoint
from .keys import find_family, read_state_dict, split_backbone, to_mm_keys, to_names_of
from .report import (
    LoadReport,
    compare,
    list_prefixes,
    note_of_gene,
    refuse_gene,
    refuse_other_blocks,
)


def load_pretrained(backbone, source: str, prefix: Optional[str] = None) -> LoadReport:
    """Load a file of any known format into a backbone, and say in one line what happened.

    Known are official Swin and DeiT files, timm's, mmpretrain's (a backbone or a whole
    classifier), detectors and segmentors trained with mmdet and mmseg, and the project's own.
    Position embeddings and relative position tables are resized.

    Args:
        backbone (GrowableBackbone): The backbone, grown or not.
        source (str): A local path or URL.
        prefix (str, optional): Prefix of the backbone's tensors in the file; found if None.
            Defaults to None.

    Returns:
        LoadReport: What matched, was initialised and ignored; logged as well.

    Raises:
        CheckpointError: If the file cannot be read or is of another architecture; then nothing
            was loaded.
    """
    # left on the disk until they are copied into the backbone, below: one copy less
    checkpoint = read_checkpoint(source, mmap=True)
    state = read_state_dict(checkpoint, source)
    own, _ = split_backbone(state, prefix)
    if not own:
        raise CheckpointError(f'{source} holds no tensor whose name begins with {prefix!r}; its '
                              f'names begin with {", ".join(list(state)[:3])}')
    growth = growth_of_delta(checkpoint)
    if growth is not None:
        refuse_other_blocks(backbone, growth, source)
    gene = note_of_gene(checkpoint)
    if gene is not None:
        refuse_gene(backbone, gene, source)
    own, fmt = convert_backbone(backbone, own, source)
    report = compare(source, fmt, backbone.state_dict(), own, '', list_prefixes(backbone))
    backbone.load_state_dict(own, strict=False)
    print_log(str(report), logger='current')
    return report


def convert_backbone(backbone, own: dict, name: str) -> tuple:
    """Rename and resize a backbone's tensors.

    Args:
        backbone (nn.Module): A :class:`GrowableBackbone`, or a stock backbone that
            :func:`find_family` knows.
        own (dict): The tensors, without prefix.
        name (str): The file, for messages.

    Returns:
        tuple[dict, str]: The tensors under the backbone's names, and what format it was.

    Raises:
        CheckpointError: If the names are of no known format, or something cannot be resized.
    """
    try:
        family, naming = find_family(backbone)
        wanted = dict(backbone.named_parameters())
        own, fmt = to_mm_keys(own, family, distilled='dist_token' in wanted)
        own = to_names_of(naming, own)
        for key, value in own.items():
            fitted = fit_tensor(backbone, key, value, wanted)
            if fitted is not None:
                own[key] = fitted
    except CheckpointError as error:
        raise CheckpointError(
            f'{name} does not fit {type(backbone).__name__}: {error}. Name a file of this '
            'architecture, or change arch (or embed_dims, depths) of the backbone') from None
    return own, fmt
