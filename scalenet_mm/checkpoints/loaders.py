"""The loaders that take the place of mmengine's, one for each place that it knows.

Its own ones unpickle whatever they find: those for URLs and model zoos ask for it, the others leave
it to torch, which refuses since 2.6 only. These execute nothing, and make a delta whole.
"""
import functools
import io
import os
import os.path as osp
from collections import OrderedDict
from tempfile import TemporaryDirectory
from typing import Any

import torch
from mmengine.fileio import get_file_backend
from mmengine.model import BaseTTAModel, is_model_wrapper
from mmengine.runner import checkpoint as _mmengine

from ..errors import CheckpointError
from .backbone_state import DELTA_NOTE, FILE_NOTE, GENE_NOTE, GROWN_NOTE, check_backbone_state
from .delta import growth_of_delta, read_checkpoint
from .keys import names_alone
from .report import note_of_gene, refuse_gene
from .stored_growth import note_of_grown, refuse_grown
from .zoo import zoo_address


def prepare_for_mmengine(checkpoint, name: str = 'the checkpoint'):
    """Make what a file holds loadable by mmengine, which looks under 'state_dict' alone.

    Official releases have their tensors under 'model'. mmengine hands a backbone nothing but the
    tensors under its prefix and the state dict's metadata; so it is there that a note tells the
    backbone that it is loaded from a file, and whether one without prefixes
    (:func:`check_backbone_state`).

    Args:
        checkpoint (Any): What the file holds.
        name (str): The file, for messages. Defaults to 'the checkpoint'.

    Returns:
        Any: The same, with a note and if need be with a 'state_dict'.
    """
    if not isinstance(checkpoint, dict):
        return checkpoint
    if isinstance(checkpoint.get('meta'), dict) and 'config' in checkpoint['meta']:
        # a program text that the Runner would run when it resumes; today's files have none
        meta = {key: value for key, value in checkpoint['meta'].items() if key != 'config'}
        checkpoint = {**checkpoint, 'meta': meta}
    if 'state_dict' not in checkpoint and _is_state_dict(checkpoint.get('model')):
        checkpoint = {**checkpoint, 'state_dict': checkpoint['model']}
    state = checkpoint.get('state_dict', checkpoint)
    if not _is_state_dict(state):
        return checkpoint
    noted: Any = OrderedDict(state)
    noted._metadata = OrderedDict(getattr(state, '_metadata', None) or {})
    note: dict = {FILE_NOTE: names_alone(state)}
    grown = note_of_grown(checkpoint, state, name)
    if grown is not None:
        note[GROWN_NOTE] = grown
    growth = growth_of_delta(checkpoint)
    if growth is not None:
        note[DELTA_NOTE] = dict(name=name, growth=growth)
    gene = note_of_gene(checkpoint)
    if gene is not None:
        note[GENE_NOTE] = dict(gene, name=name)
    for module in ('', 'backbone'):
        noted._metadata[module] = {**noted._metadata.get(module, {}), **note}
    return noted if state is checkpoint else {**checkpoint, 'state_dict': noted}


def _is_state_dict(value):
    return isinstance(value, dict) and len(value) > 0 and all(
        isinstance(v, torch.Tensor) for v in value.values())


def load_from_local(filename, map_location=None):
    """Load a local file."""
    return prepare_for_mmengine(read_checkpoint(filename, map_location), filename)


def load_from_http(filename, map_location=None, model_dir=None,
                   progress=os.isatty(0)):  # noqa: B008  as mmengine's
    """Load from a URL; ``model_dir`` is taken for compatibility."""
    return prepare_for_mmengine(read_checkpoint(filename, map_location, progress), filename)


def load_from_zoo(filename, map_location=None):
    """Load a model of torchvision or of OpenMMLab's zoo by its name."""
    return load_from_http(zoo_address(filename), map_location)


def load_from_mmcls(filename, map_location=None):
    """Load the backbone of one of mmpretrain's models by its name."""
    return _mmengine._process_mmcls_checkpoint(load_from_zoo(filename, map_location))


def load_from_ceph(filename, map_location=None, backend='petrel'):
    """Load from Ceph."""
    storage = get_file_backend(filename, backend_args={'backend': backend})
    with io.BytesIO(storage.get(filename)) as file:
        return prepare_for_mmengine(read_checkpoint(file, map_location, name=filename), filename)


def load_from_pavi(filename, map_location=None):
    """Load from PAVI's model cloud."""
    try:
        from pavi import modelcloud
    except ImportError:
        raise CheckpointError(f'{filename} is in a model cloud that only the package pavi can '
                              'read; name a file or URL instead') from None
    model = modelcloud.get(filename[len('pavi://'):])
    with TemporaryDirectory() as folder:
        path = osp.join(folder, osp.basename(model.name))
        model.download(path)
        return load_from_local(path, map_location)


def load_with_prefix(prefix, filename, map_location=None):
    """Load a part of a file, as ``Pretrained(prefix='backbone.')`` does.

    mmengine's own drops all notes with the other parts. Of a backbone the one is kept that it is
    grown; parts of heads and necks fit any model.
    """
    checkpoint = _mmengine._load_checkpoint(filename, map_location=map_location)
    state = checkpoint.get('state_dict', checkpoint)
    prefix = prefix.removesuffix('.')
    part: Any = OrderedDict((key.removeprefix(f'{prefix}.'), value) for key, value in state.items()
                            if key.startswith(f'{prefix}.'))
    if not part:
        raise CheckpointError(f'{filename} holds nothing whose name begins with {prefix!r}, the '
                              f'prefix that init_cfg names; it names {", ".join(list(state)[:3])}')
    note = (getattr(state, '_metadata', None) or {}).get('', {})
    if prefix.split('.')[-1] == 'backbone' and GROWN_NOTE in note:
        part._metadata = OrderedDict({'': {GROWN_NOTE: note[GROWN_NOTE]}})
    return part


_load_state_dict = _mmengine.load_state_dict


@functools.wraps(_load_state_dict)
def load_state_dict(module, state_dict, strict=False, logger=None):
    """Do what mmengine does, which loads what fits.

    But a delta's backbone must be the model's, and a learngene's depth too; and of a grown
    model's file nothing is loaded into one that is not grown.
    """
    note = (getattr(state_dict, '_metadata', None) or {}).get('', {})
    if DELTA_NOTE in note or GENE_NOTE in note or GROWN_NOTE in note:
        model = module
        while is_model_wrapper(model) or isinstance(model, BaseTTAModel):
            model = model.module
        backbone = getattr(model, 'backbone', model)
        if not getattr(backbone, 'key_family', None):  # ours look for themselves, names translated
            prefix = '' if backbone is model else 'backbone.'
            if GROWN_NOTE in note:
                refuse_grown(model, state_dict, prefix, note[GROWN_NOTE])
            if DELTA_NOTE in note:
                check_backbone_state(backbone, state_dict, prefix, note)
            elif GENE_NOTE in note:
                refuse_gene(backbone, note[GENE_NOTE], note[GENE_NOTE]['name'])
    return _load_state_dict(module, state_dict, strict, logger)


#: The prefixes of paths, regular expressions as in mmengine.
LOADERS = {
    ('', ): load_from_local,
    ('http://', 'https://'): load_from_http,
    ('modelzoo://', 'torchvision://'): load_from_zoo,
    ('open-mmlab://', 'openmmlab://'): load_from_zoo,
    ('mmcls://', ): load_from_mmcls,
    (r'(\S+\:)?s3://', r'(\S+\:)?petrel://'): load_from_ceph,
    ('pavi://', ): load_from_pavi,
}


def register_loaders() -> None:
    """Put the loaders in the place of mmengine's own."""
    for prefixes, loader in LOADERS.items():
        _mmengine.CheckpointLoader.register_scheme(prefixes, loader, force=True)
    _mmengine._load_checkpoint_with_prefix = load_with_prefix
    _mmengine.load_state_dict = load_state_dict
