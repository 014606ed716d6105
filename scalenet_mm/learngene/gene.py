"""Learngenes: the trained blocks of an auxiliary net, taken out into a small file.

A gene's file is a dict with a manifest under 'learngene' and under 'state_dict' the tensors of an
image classifier, 'backbone.*' and 'head.*', of as many blocks as the learngene has.
"""
import json
import logging
import os
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Optional

import torch
import torch.nn as nn
from mmengine.config import Config
from mmengine.logging import print_log
from mmengine.registry import MODELS
from mmengine.utils import to_2tuple

from ..backbones.grown_backbone import made_for_size
from ..checkpoints.delta import check_format, read_checkpoint, versions
from ..checkpoints.files import save_file, sha256_of
from ..checkpoints.keys import (
    find_family,
    names_alone,
    read_state_dict,
    rename_head,
    split_backbone,
    to_mm_keys,
)
from ..checkpoints.publish import refuse_overwriting
from ..checkpoints.report import GENE, blocks_in, compare, list_prefixes, what_growth_added
from ..checkpoints.safe import cache_path, is_url, load_file
from ..checkpoints.stored_config import read_stored_config
from ..errors import CheckpointError, ConfigError, GrowthError, ScaleNetError
from ..growth import LayerMap
from ..growth.grow import without_data
from ..utils.model_cfg import student_cfg
from .stored_backbone import check_stored

#: What a manifest calls itself, and the version that is written; all up to it are read.
FORMAT = 'scalenet-learngene'
VERSION = 1
#: How a learngene was trained, and so how it is expanded.
METHODS = ('sws', 'simple', 'vanilla', 'tleg')
#: How many blocks Vanilla-LG takes.
LAST_BLOCKS = 3
#: What a backbone must have in common with a learngene; position embeddings are resized.
_MUST_FIT = {
    'embed_dims': 'its width (embed_dims)',
    'num_heads': 'num_heads',
    'feedforward_channels': "its MLPs' width (feedforward_channels)",
    'patch_size': 'patch_size',
    'in_channels': 'in_channels',
    'with_cls_token': 'with_cls_token',
    'qkv_bias': 'qkv_bias',
    'pre_norm': 'pre_norm',
    'final_norm': 'final_norm',
}


@dataclass
class Gene:
    """A learngene.

    Args:
        manifest (dict): What its file says of it.
        state (dict): The classifier's tensors by name, 'backbone.*' and 'head.*'.
        name (str): The file, for messages.
    """
    manifest: dict
    state: dict
    name: str = 'the gene'

    @property
    def method(self) -> str:
        """str: One of :data:`METHODS`."""
        return self.manifest['method']

    @property
    def stages(self) -> tuple:
        """tuple[int]: How often the net that it is from used each of its blocks."""
        return tuple(self.manifest['stages'])

    @property
    def blocks(self) -> int:
        """int: Number of its blocks."""
        return len(self.stages)

    @property
    def arch(self) -> dict:
        """dict: The sizes of its backbone."""
        return self.manifest['arch']

    @property
    def num_classes(self) -> Optional[int]:
        """int | None: Number of classes; None if it has no head."""
        return self.manifest['num_classes']

    @property
    def backbone(self) -> dict:
        """dict: The backbone's tensors, without prefix."""
        return split_backbone(self.state, 'backbone.')[0]

    @property
    def head(self) -> dict:
        """dict: The head's tensors."""
        return split_backbone(self.state, 'backbone.')[1]

    def block(self, index: int) -> dict:
        """dict: The tensors of a block, by name within the block."""
        prefix = f'layers.{index}.'
        return {k[len(prefix):]: v for k, v in self.backbone.items() if k.startswith(prefix)}

    def count(self, depth: int) -> int:
        """int: Number of parameters of a descendant, with embeddings and the gene's head."""
        block = sum(value.numel() for value in self.block(0).values())
        rest = sum(value.numel() for key, value in self.state.items()
                   if not key.startswith('backbone.layers.'))
        return rest + depth * block


def is_gene(checkpoint) -> bool:
    """Whether what a file holds is a learngene."""
    return isinstance(checkpoint, Mapping) and GENE in checkpoint


# --- taking it out -------------------------------------------------------------------------------


def extract_gene(checkpoint: str,
                 config: Optional[Mapping] = None,
                 method: str = 'auto',
                 last_blocks: Optional[int] = None) -> Gene:
    """Take the learngene out of a checkpoint.

    What it is follows from the backbone's config: of an auxiliary net, whose blocks share all of
    their tensors within a stage, one block a stage ('sws'); of a backbone that is not grown, all of
    its blocks ('simple'), or for ``method='vanilla'`` its last ones; of a :class:`TLEGViT`, its two
    learngenes ('tleg').

    Args:
        checkpoint (str): The checkpoint of a trained classifier, whole or a delta: a path or URL.
        config (Config | dict, optional): Its config. The one that the checkpoint itself holds if
            None, of which only known parts of plain ViTs are built. Defaults to None.
        method (str): 'auto' or 'vanilla'. Defaults to 'auto'.
        last_blocks (int, optional): With 'vanilla', how many blocks to take; 3 if None. Defaults
            to None.

    Returns:
        Gene: The learngene, with copies of the tensors.

    Raises:
        CheckpointError: If the file cannot be read, does not fit its config or is a gene already.
        ConfigError: If an option or the config does not fit.
        GrowthError: If the backbone is grown in another way than by stages that share all.
    """
    if method not in ('auto', 'vanilla'):
        raise ConfigError(f"method must be 'auto' or 'vanilla', got {method!r}")
    if last_blocks is not None and method != 'vanilla':
        raise ConfigError("last_blocks is how many blocks method 'vanilla' takes: give that, too, "
                          'or leave it out')
    content = read_checkpoint(checkpoint)
    if is_gene(content):
        raise CheckpointError(f'{checkpoint} is a learngene already')
    state = read_state_dict(content, checkpoint)
    if config is None:
        backbone = _build_stored(content, checkpoint)
    else:
        where = str(getattr(config, 'filename', None) or 'the config')
        backbone = build_backbone(config, where)
    taken = _blocks_to_take(backbone, method, last_blocks, checkpoint)
    own, head = _read_tensors(state, backbone, checkpoint)
    if config is not None:
        _compare_with_stored(content, checkpoint, backbone, where)

    meta = content.get('meta') if isinstance(content, Mapping) else None
    meta = meta if isinstance(meta, Mapping) else {}
    data = meta.get('dataset_meta')
    classes = data.get('classes') if isinstance(data, Mapping) else None
    epoch = meta.get('epoch')
    tensors = OrderedDict()
    for key, value in own.items():
        if key.startswith('layers.'):
            _, block, name = key.split('.', 2)
            if int(block) not in taken:
                continue
            key = f'layers.{list(taken).index(int(block))}.{name}'
        tensors[f'backbone.{key}'] = value.detach().clone()
    tensors.update((key, value.detach().clone()) for key, value in head.items())
    infinite = [key for key, value in tensors.items() if not torch.isfinite(value).all()]
    if infinite:
        raise CheckpointError(f'{checkpoint} holds NaN or infinite values, in {infinite[0]} for '
                              'one: its training diverged; take an earlier checkpoint')
    manifest = dict(
        format=FORMAT,
        version=VERSION,
        method=_method_of(backbone, method),
        stages=list(taken.values()),
        trained_depth=len(backbone.layers),
        arch=describe_backbone(backbone),
        num_classes=classes_of_head(head),
        classes=list(classes) if classes is not None and _are_names(classes) else None,
        source=dict(
            name=os.path.basename(checkpoint),
            sha256=sha256_of(cache_path(checkpoint) if is_url(checkpoint) else
                             os.path.expanduser(checkpoint)),
            epoch=epoch if type(epoch) is int else None),
        parameters=sum(value.numel() for value in tensors.values()),
        versions=versions())
    return Gene(json.loads(json.dumps(manifest)), tensors, checkpoint)


def build_backbone(cfg: Mapping, where: str):
    """Build the backbone of a config's classifier, without data.

    Args:
        cfg (Config | dict): The config; of it 'model' and 'default_scope' are used.
        where (str): What to call it in messages.

    Returns:
        nn.Module: The backbone, on the device 'meta'.

    Raises:
        ConfigError: If there is none, or it cannot be built.
    """
    if not cfg.get('model'):
        raise ConfigError(f'{where} has no model')
    model = student_cfg(cfg['model'])
    if not isinstance(model.get('backbone'), Mapping):
        raise ConfigError(f'{where}: the model {model.get("type")} has no backbone, so it is no '
                          'classifier that a learngene could be taken from')
    given = {k: v for k, v in model['backbone'].items() if k not in ('init_cfg', 'pretrained')}
    with MODELS.switch_scope_and_registry(cfg.get('default_scope') or 'mmengine') as registry:

        def build():
            return registry.build(Config(dict(backbone=given)).backbone)

        try:
            try:
                with torch.device('meta'):
                    backbone = build()
            except (NotImplementedError, RuntimeError) as error:
                if isinstance(error, ScaleNetError):
                    raise
                # stock backbones read drop path rates off a tensor, which 'meta' does not have
                backbone = without_data(build())
        except ScaleNetError:
            raise
        except KeyError as error:
            raise ConfigError(f'{where}: {_one_line(error.args[0])}') from None
        except Exception as error:  # whatever a class raises of arguments that it does not take
            raise ConfigError(f'{where}: its backbone cannot be built: {type(error).__name__}: '
                              f'{_one_line(error)}') from None
    if not isinstance(backbone, nn.Module):
        raise ConfigError(f'{where}: its backbone, of type {given.get("type")!r}, is no module but '
                          f'a {type(backbone).__name__}')
    return backbone


def _one_line(error):
    text = ' '.join(str(error).split())
    return text if len(text) <= 300 else f'{text[:297]}...'


def _build_stored(content, checkpoint):
    """Build the backbone of the config that a checkpoint itself holds."""
    where = f"the config in {checkpoint} (meta['cfg'])"
    stored = read_stored_config(content, checkpoint, ('model', 'default_scope'))
    return build_backbone(check_stored(stored, where), where)


def _compare_with_stored(content, checkpoint, backbone, where):
    """Check that a config that was given does not take an auxiliary net for something else.

    The names of its tensors do not tell: they are those of a plain model.

    Raises:
        CheckpointError: If the checkpoint's own config says that it is one of other stages.
    """
    try:
        own, given = (_growth_in_words(b) for b in (_build_stored(content, checkpoint), backbone))
    except ScaleNetError:
        return  # none, or one that cannot be built: that is what --config is for
    if own == given:
        return
    said = (f"the config in {checkpoint} (meta['cfg']) says that it is of {own}, and {where} that "
            f'it is of {given}')
    if own.startswith('a plain model'):  # its training may have grown it by a hook
        print_log(f'{said}: the latter is taken', logger='current', level=logging.WARNING)
        return
    raise CheckpointError(f'{said}: give the config that it was trained by, or none')


def _growth_in_words(backbone):
    """str: How a backbone uses its blocks, as far as a learngene depends on it."""
    _check_plain(backbone, 'the config')
    if is_linear(backbone):
        return f'a TLEGViT of {len(backbone.layers)} blocks'
    layer_map = layer_map_of(backbone)
    if layer_map.is_identity:
        return f'a plain model of {layer_map.base_depth} blocks (growth=None)'
    return f'a net that runs its blocks in the order {" ".join(map(str, layer_map.sources))}'


def _check_plain(backbone, name):
    family = find_family(backbone)
    if family is None or family[0] != 'vit':
        raise ConfigError(f'{name} is of a {type(backbone).__name__}: learngenes are taken from '
                          "plain ViTs (ScaleNetViT, TLEGViT, or a toolbox's VisionTransformer)")


def _are_names(classes):
    return isinstance(classes, (list, tuple)) and all(isinstance(name, str) for name in classes)


def _blocks_to_take(backbone, method, last_blocks, name):
    """dict[int, int]: The blocks that make the learngene, and how often the net uses each."""
    _check_plain(backbone, name)
    layer_map = layer_map_of(backbone)
    vanilla = method == 'vanilla'
    if vanilla and (not layer_map.is_identity or is_linear(backbone)):
        raise GrowthError(f"{name} is of a grown backbone: method 'vanilla' takes the last "
                          'blocks of one that is not grown (growth=None)')
    if is_linear(backbone):
        return {0: 1, 1: 1}
    added = what_growth_added(backbone.state_dict())
    if added:
        found = ', '.join(f'{len(keys)} {what}' for what, keys in added.items())
        what = 'a plain model with additions' if layer_map.is_identity else 'grown'
        raise GrowthError(
            f'{name} is {what}, but no auxiliary net: it has {found} of its own, which no '
            'learngene holds. An auxiliary net has growth=dict(times=(3, 3, 4, 3, 3), '
            "share='all') or the like, a plain model growth=None, and both adjustment=None")
    if vanilla:
        depth = layer_map.base_depth
        count = LAST_BLOCKS if last_blocks is None else last_blocks
        if isinstance(count, bool) or not isinstance(count, int) or not 1 <= count <= depth:
            raise ConfigError(f'last_blocks must be an integer from 1 to {depth}, the number of '
                              f'blocks of {name}; got {count!r}')
        return dict.fromkeys(range(depth - count, depth), 1)
    if list(layer_map.sources) != sorted(layer_map.sources):
        raise GrowthError(
            f'{name} uses its blocks in the order {" ".join(map(str, layer_map.sources))}, which '
            "are no stages: an auxiliary net has growth=dict(order='interpolate', ...)")
    return {block: layer_map.sources.count(block) for block in range(layer_map.base_depth)}


def _read_tensors(state, backbone, name):
    """The backbone's tensors in mmpretrain's names and the head's, of the right sizes."""
    own, head = split_backbone(state)
    own, fmt = to_mm_keys(own, 'vit')
    # in the order of the model, whatever that of the file
    wanted = to_mm_keys(backbone.state_dict(), 'vit')[0]
    compare(name, fmt, wanted, own, '', list_prefixes(backbone))
    own = OrderedDict((key, own[key]) for key in wanted if key in own)
    if names_alone(state):
        head = rename_head(head, 'head.layers.head.')
    head = OrderedDict((key, value) for key, value in head.items() if key.startswith('head.'))
    return own, head


def _method_of(backbone, method):
    if method != 'auto':
        return method
    if is_linear(backbone):
        return 'tleg'
    return 'simple' if layer_map_of(backbone).is_identity else 'sws'


def is_linear(backbone) -> bool:
    """Whether a backbone is a :class:`TLEGViT`, whose two blocks are expanded linearly."""
    return type(backbone).__name__ == 'TLEGViT'


def layer_map_of(backbone) -> LayerMap:
    """LayerMap: The map of a ViT's list of blocks, the identity if it is not grown."""
    found = getattr(backbone.layers, 'layer_map', None)
    depth = len(backbone.layers)
    return LayerMap(tuple(range(depth)), depth) if found is None else found


def describe_backbone(backbone) -> dict:
    """Describe what a backbone and a learngene must have in common.

    Args:
        backbone (nn.Module): A plain ViT, of this package or of a toolbox.

    Returns:
        dict: Its sizes.

    Raises:
        ConfigError: If its MLPs are of a kind that learngenes have not.
    """
    state = backbone.state_dict()
    projection, block = backbone.patch_embed.projection, backbone.layers[0]
    if not hasattr(block.ffn, 'feedforward_channels'):
        raise ConfigError(f'the MLPs of the {type(backbone).__name__} are of type '
                          f'{type(block.ffn).__name__}, and those of a learngene are plain ones '
                          "(ffn_type='origin')")
    return dict(
        embed_dims=block.ln1.weight.numel(),
        num_heads=block.attn.num_heads,
        feedforward_channels=block.ffn.feedforward_channels,
        patch_size=list(projection.kernel_size),
        img_size=list(to_2tuple(made_for_size(backbone))),
        in_channels=projection.in_channels,
        with_cls_token='cls_token' in state,
        qkv_bias=any(key.endswith(('attn.qkv.bias', 'attn.in_proj_bias')) for key in state),
        pre_norm=any(key.startswith('pre_norm.') for key in state),
        final_norm='ln1.weight' in state)


def classes_of_head(head: dict) -> Optional[int]:
    """int | None: The number of classes that a head's tensors tell, if they are of a known one."""
    for place in ('head.layers.head.weight', 'head.fc.weight'):
        if place in head:
            return len(head[place])
    return None


def check_fits(gene: Gene, backbone) -> None:
    """Check that a learngene's blocks are of a backbone's sizes.

    Args:
        gene (Gene): The learngene.
        backbone (nn.Module): A ViT of any depth.

    Raises:
        CheckpointError: If a size differs, naming it, or it is no plain ViT.
    """
    family = find_family(backbone)
    if family is None or family[0] != 'vit':
        raise CheckpointError(f'{gene.name} is the learngene of a plain ViT, and the backbone is a '
                              f'{type(backbone).__name__}: use a ScaleNetViT or a '
                              'VisionTransformer')
    if is_linear(backbone):
        raise CheckpointError(f'{gene.name} cannot initialise a {type(backbone).__name__}, all of '
                              'whose blocks are blends of two: a descendant is a ScaleNetViT. (To '
                              'train a TLEGViT further, name its checkpoint by load_from)')
    own = describe_backbone(backbone)
    if not own['final_norm']:  # a detector's or segmentor's backbone leaves it out
        own['final_norm'] = gene.arch['final_norm']
    wrong = [f'{what} is {_show(gene.arch[key])}, that of the backbone {_show(own[key])}'
             for key, what in _MUST_FIT.items() if gene.arch[key] != own[key]]
    if wrong:
        raise CheckpointError(
            f'{gene.name} is the learngene of another architecture than the backbone: '
            f'{"; ".join(wrong)}. Name the gene of this architecture, or change arch (or '
            'embed_dims, num_heads, ...) of the backbone')


def _show(value):
    return 'x'.join(map(str, value)) if isinstance(value, list) else str(value)


# --- files ---------------------------------------------------------------------------------------


def save_gene(gene: Gene, path: str, force: bool = False) -> None:
    """Save a learngene, as a whole or not at all.

    Args:
        gene (Gene): The learngene.
        path (str): The file, ``*.pth``.
        force (bool): Whether a file of that name may be there. Defaults to False.

    Raises:
        CheckpointError: If the name does not end so, or the file cannot be written.
    """
    check_out(path, force)
    save_file({GENE: gene.manifest, 'state_dict': gene.state}, path)


def check_out(path: str, force: bool = False, source: Optional[str] = None) -> None:
    """Check a file that is to be written, before any work.

    Args:
        path (str): The file.
        force (bool): Whether a file of that name may be there. Defaults to False.
        source (str, optional): The file that is read for it, a path or URL. Defaults to None.

    Raises:
        CheckpointError: If it does not end with .pth, is there and may not be written over, or is
            the one that is read.
    """
    if not path.endswith('.pth'):
        raise CheckpointError(f'{path}: give the file to write the ending .pth')
    if source is not None and not is_url(source):
        source = os.path.expanduser(source)
        if os.path.exists(source) and os.path.exists(path) and os.path.samefile(source, path):
            raise CheckpointError(f'{path} is the file that is read ({source}), and would be lost: '
                                  'give the file to write another name')
    refuse_overwriting([path], force)


def read_gene(path: str) -> Gene:
    """Read the file of a learngene.

    Args:
        path (str): A path or URL.

    Returns:
        Gene: The learngene.

    Raises:
        CheckpointError: If it cannot be read, is no learngene, is damaged or of a newer version.
    """
    content = load_file(path)
    if not is_gene(content):
        raise CheckpointError(f'{path} is no learngene, but another checkpoint: tools/learngene.py '
                              'extract takes the learngene out of the checkpoint of an auxiliary '
                              'net')
    manifest = content[GENE]
    check_format(manifest, GENE, 'a learngene', FORMAT, VERSION, path)
    problem = _problem(manifest, content.get('state_dict'))
    if problem:
        raise CheckpointError(f'{path} is a damaged learngene: {problem}. Copy or extract it again')
    return Gene(dict(manifest), content['state_dict'], str(path))


def _problem(manifest, state):
    """str | None: What is wrong with the content of a gene's file."""
    if manifest.get('method') not in METHODS:
        return f'its manifest names the method {manifest.get("method")!r}'
    stages = manifest.get('stages')
    if not isinstance(stages, (list, tuple)) or not stages or not all(
            type(length) is int and length >= 1 for length in stages):
        return f'its manifest says {stages!r} of its stages'
    arch, source = manifest.get('arch'), manifest.get('source')
    if not isinstance(arch, Mapping) or not {*_MUST_FIT, 'img_size'} <= set(arch):
        return "its manifest does not say all of 'arch'"
    if not isinstance(source, Mapping) or not {'name', 'sha256', 'epoch'} <= set(source):
        return "its manifest does not say all of 'source'"
    if type(manifest.get('trained_depth')) is not int:
        return f'its manifest says {manifest.get("trained_depth")!r} of the depth it was trained at'
    if not isinstance(manifest.get('versions'), Mapping):
        return f'its manifest says {manifest.get("versions")!r} of versions'
    if not isinstance(state, Mapping) or not all(
            isinstance(key, str) and key.startswith(('backbone.', 'head.'))
            and isinstance(value, torch.Tensor) for key, value in state.items()):
        return "its state_dict is not that of a classifier, 'backbone.*' and 'head.*'"
    own, head = split_backbone(dict(state), 'backbone.')
    if blocks_in(own) != len(stages):
        return f'it holds {blocks_in(own)} blocks, and its manifest says {len(stages)}'
    if manifest['method'] == 'tleg' and len(stages) != 2:
        return f"it holds {len(stages)} blocks, and one of method 'tleg' has 2"
    outlines = [{key.split('.', 2)[2]: value.shape for key, value in own.items()
                 if key.startswith(f'layers.{block}.')} for block in range(len(stages))]
    if any(outline != outlines[0] for outline in outlines):
        return 'its blocks differ in their tensors'
    norm = own.get('layers.0.ln1.weight')
    if norm is None or norm.numel() != arch['embed_dims']:
        return 'its tensors are not of the width that its manifest says'
    if manifest.get('classes') is not None and not _are_names(manifest['classes']):
        return f'its manifest says {manifest["classes"]!r} of the names of classes'
    if manifest.get('num_classes') != classes_of_head(head):
        return (f'its head is of {classes_of_head(head)} classes, and its manifest says '
                f'{manifest.get("num_classes")}')
    if manifest.get('parameters') != sum(value.numel() for value in state.values()):
        return f'its manifest says {manifest.get("parameters")} of the number of its parameters'
    return None
