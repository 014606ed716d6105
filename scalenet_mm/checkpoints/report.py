"""What a checkpoint gave a model, in one line, and what makes it an error."""
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Optional

from ..errors import CheckpointError
from ..growth import growth_of
from ..growth.adjustment import ADAPTER_NAMES, GAIN_NAME
from .keys import is_derived

_INCREMENT = re.compile(rf'.*\.({"|".join(ADAPTER_NAMES)}|{GAIN_NAME})$')
_REPEAT = re.compile(r'.*\.\d+_r\d+\.')
_NEW = re.compile(r'.*\.new\d+\.')
_ADAPTER = re.compile(rf'.*\.({"|".join(ADAPTER_NAMES)})$')
_IN_LIST = re.compile(r'(.*\.)(\d+|new\d+)\.')
_BLOCK = re.compile(r'(?:backbone\.)?layers\.(\d+)\.')
#: Under this key a file has the manifest of a learngene, which stands for backbones of any depth.
GENE = 'learngene'
#: Parts of a backbone that a recipe may lack or add without being another architecture: norms of
#: outputs, which depend on the stages that are used.
_OPTIONAL = re.compile(r'^(norm\d?|ln[12])\.')


@dataclass
class LoadReport:
    """What matched, what was initialised and what was ignored.

    Args:
        name (str): The file.
        format (str): What it was recognised as.
        matched (list[str]): Parameters and buffers taken from the file.
        initialised (dict[str, list[str]]): Those the file does not hold, by where they come from.
        resized (list[str]): Those whose size in the file was another, for which no rule exists:
            initialised anew.
        ignored (list[str]): Tensors of the file that the model has no place for.
    """
    name: str
    format: str
    matched: list = field(default_factory=list)
    initialised: dict = field(default_factory=dict)
    resized: list = field(default_factory=list)
    ignored: list = field(default_factory=list)

    @property
    def lacking(self) -> list:
        """list[str]: What a test wants of the heads and the file does not give.

        mmseg's auxiliary heads serve the losses alone.
        """
        return [entry for entry in (*self.resized, *self.initialised.get('of the head', []))
                if not entry.startswith('auxiliary_head.')]

    def __str__(self):
        parts = [f'{len(self.matched)} tensors matched']
        fresh = [f'{len(keys)} {what}' for what, keys in self.initialised.items()]
        parts.append(f'initialised: {", ".join(fresh) or "none"}')
        if self.resized:
            parts.append('of another size, initialised anew: ' + ', '.join(self.resized))
        groups = Counter('.'.join(k.split('.')[:2]) for k in self.ignored)
        shown = ', '.join(f'{k} ({n})' for k, n in sorted(groups.items())[:6])
        parts.append(f'ignored: {shown or "none"}' + (', ...' if len(groups) > 6 else ''))
        return f'Loaded {self.name} ({self.format}): ' + '; '.join(parts)


def compare(name: str, fmt: str, wanted: dict, given: dict, backbone_prefix: str,
            lists: list) -> LoadReport:
    """Compare what a model wants with what a file gives, and refuse what cannot be meant.

    Args:
        name (str): The file.
        fmt (str): What it was recognised as.
        wanted (dict): The model's state dict.
        given (dict): The file's tensors under the model's names.
        backbone_prefix (str): The backbone's prefix in both; may be empty.
        lists (list[str]): Prefixes of the grown lists of blocks, with final dots.

    Returns:
        LoadReport: The comparison.

    Raises:
        CheckpointError: If nothing matches, or the backbone's tensors are those of another
            architecture, depth or growth.
    """
    report = LoadReport(name, fmt)
    problems = []
    # what is computed tells nothing of what a file holds; adapt_checkpoint adds it for new blocks
    of_backbone = [k for k in given if k.startswith(backbone_prefix) and not is_derived(k)]
    plain = not any(_INCREMENT.match(k) for k in of_backbone)
    grown = {prefix for prefix in lists if any(
        k.startswith(prefix) and (_REPEAT.match(k) or _NEW.match(k)) for k in of_backbone)}
    shares = [_share_of(tensors, lists) for tensors in (given, wanted)]
    copies = "{} (copies of their source's last instance)".format(
        'repeats' if shares[1] == 'none' else 'norms of repeats')
    for key, value in wanted.items():
        bare = key[len(backbone_prefix):] if key.startswith(backbone_prefix) else None
        if key in given:
            if given[key].shape == value.shape:
                report.matched.append(key)
            elif bare is not None:
                problems.append(f'{bare} has shape {tuple(given[key].shape)}, the model wants '
                                f'{tuple(value.shape)}')
            else:
                report.resized.append(f'{key} {tuple(given[key].shape)} -> {tuple(value.shape)}')
        elif is_derived(key):
            continue
        elif bare is None:
            report.initialised.setdefault('of the head', []).append(key)
        elif _NEW.match(key) and not _INCREMENT.match(key):
            report.initialised.setdefault('of new blocks (averages or random)', []).append(key)
            if _holds_block(key, of_backbone, lists):
                problems.append(f'{bare} is missing, though the file holds other tensors of that '
                                'new block')
        elif _REPEAT.match(key) and not _INCREMENT.match(key):
            report.initialised.setdefault(copies, []).append(key)
            if _holds_block(key, of_backbone, lists):
                problems.append(f'{bare} is missing, though the file holds other tensors of that '
                                'repeat')
        elif _INCREMENT.match(key):
            copied = not plain and _REPEAT.match(key) and not key.endswith(f'.{GAIN_NAME}')
            report.initialised.setdefault(
                "adapters or LoRA of repeats (copies of their source's last instance)"
                if copied else 'adapters, LoRA or gains', []).append(key)
            if not plain and not _absent_as_a_whole(key, of_backbone, lists) \
                    and not (key.endswith(f'.{GAIN_NAME}') and not key.startswith(tuple(grown))):
                problems.append(f'{bare} is missing, though the file is of a grown model')
        elif _OPTIONAL.match(bare):
            report.initialised.setdefault('norms of outputs', []).append(key)
        elif of_backbone:
            problems.append(f'{bare} is missing')
    for key in given:
        if key in wanted or is_derived(key):
            continue
        report.ignored.append(key)
        if key.startswith(backbone_prefix) and not _OPTIONAL.match(key[len(backbone_prefix):]):
            hint = ' (patch_bias=True makes one)' if key.endswith(
                'patch_embed.projection.bias') else ''
            problems.append(f'{key[len(backbone_prefix):]} has no place in the model{hint}')
    if not report.matched:
        raise CheckpointError(
            f'{name} fits the model in no tensor: it names {", ".join(list(given)[:3])}, the '
            f'model {", ".join(list(wanted)[:3])}')
    if None not in shares and shares[0] != shares[1]:  # it explains what is missing or too much
        problems = [f'growth.share differs, {shares[0]!r} in the file and {shares[1]!r} in the '
                    'model']
    if problems:
        more = f' and {len(problems) - 4} more' if len(problems) > 4 else ''
        why = explain_names(wanted, of_backbone, backbone_prefix)
        raise CheckpointError(
            f'{name} is of another architecture or growth than the backbone: {why}'
            f'{"; ".join(problems[:4])}{more}. Check arch (or embed_dims, depths), growth and '
            'adjustment in the config')
    return report


def explain_names(wanted, given, prefix: str) -> str:
    """Explain, in the words of a config, why the names of a file and of a model differ.

    Args:
        wanted (Iterable[str]): The model's names.
        given (Iterable[str]): The file's.
        prefix (str): The backbone's prefix in both; may be empty.

    Returns:
        str: Sentences; empty if nothing explains it.
    """
    found = [k for k in wanted if k.startswith(prefix)]
    repeats = [{m.group()[len(prefix):-1]: None for m in map(_REPEAT.match, keys) if m}
               for keys in (given, found)]
    further = [block for block in repeats[0] if block not in repeats[1]]
    reasons = []
    if further:
        dots = ', ...' if len(further) > 3 else ''
        reasons.append('the file is grown further than the model, which does not repeat '
                       f'{", ".join(further[:3])}{dots}: growth must be that of the file, or more')
    for what, ends, options in (
            ('gains', (f'.{GAIN_NAME}', ), "growth.start ('paper' has none)"),
            ('adapters or LoRA', tuple(f'.{n}' for n in ADAPTER_NAMES), 'adjustment')):
        theirs, ours = (any(k.endswith(ends) for k in keys) for keys in (given, found))
        if theirs != ours and (theirs or repeats[0]):
            holder, other = ('file', 'model') if theirs else ('model', 'file')
            reasons.append(f'the {holder} has {what}, the {other} none: {options} differs')
    return ''.join(f'{reason}. ' for reason in reasons)


def _share_of(tensors, lists):
    """What ``growth.share`` made the repeats among some tensors; None if there are none."""
    repeats = [k for k in tensors if _REPEAT.match(k) and k.startswith(tuple(lists))]
    if not repeats:
        return None
    owned = [k for k in repeats if not _INCREMENT.match(k)]
    if not owned:
        return 'all'
    # norms have no matrices
    return 'none' if any(tensors[k].ndim > 1 for k in owned) else 'weights'


def _absent_as_a_whole(key, given, lists):
    """Whether nothing at all of a block, or no increments of its list, are in the file."""
    for prefix in lists:
        if not key.startswith(prefix):
            continue
        if not _holds_block(key, given, lists):
            return True
        return not any(k.startswith(prefix) and _INCREMENT.match(k) for k in given)
    return False


def _holds_block(key, given, lists):
    """Whether anything of the block that a key belongs to is in the file."""
    for prefix in lists:
        if key.startswith(prefix):
            block = prefix + key[len(prefix):].split('.')[0] + '.'
            return any(k.startswith(block) for k in given)
    return False


def what_growth_added(state: Mapping) -> dict:
    """Tell which tensors an ungrown model would not have.

    Args:
        state (dict): Tensors by name.

    Returns:
        dict[str, list[str]]: Names by what they are; empty for an ungrown model.
    """
    added: dict = {}
    for key in state:
        for what, pattern in (('adapters, LoRA or gains', _INCREMENT), ('repeats', _REPEAT),
                              ('new blocks', _NEW)):
            if pattern.match(key):
                added.setdefault(what, []).append(key)
                break
    return added


def shows_growth(names: Iterable) -> bool:
    """Whether names of tensors are beyond doubt those of a grown model.

    Other people call a parameter 'gain' and a module 'new1', too. Growth gives gains to repeats as
    well, and adds new blocks to lists of numbered ones.

    Args:
        names (Iterable[str]): The names.

    Returns:
        bool: Whether there are repeats, adapters, LoRA or such new blocks among them.
    """
    blocks: tuple = (set(), set())  # lists that have numbered blocks, and that have new ones
    for name in names:
        if _REPEAT.match(name) or _ADAPTER.match(name):
            return True
        place = _IN_LIST.match(name)
        if place:
            blocks[not place[2].isdigit()].add(place[1])
    return not blocks[0].isdisjoint(blocks[1])


def refuse_other_blocks(model, growth: dict, name: str) -> None:
    """Refuse a delta that was made of a model with other blocks, whatever its tensors would fill.

    Args:
        model (nn.Module): A backbone, or a whole model.
        growth (dict): What the delta's manifest says under 'growth': the names of the 'blocks' of
            each grown list, in the order of execution if 'ordered'.
        name (str): The delta, for the message.

    Raises:
        CheckpointError: If a list of the model has others.
    """
    theirs = {key.removeprefix('backbone.'): list(names)
              for key, names in growth['blocks'].items()}
    compared = list if growth.get('ordered', True) else sorted
    for key, _, layer_map in growth_of(model):
        key = key.removeprefix('backbone.')
        made_of = theirs.get(key) or [str(i) for i in range(layer_map.base_depth)]
        if compared(made_of) != compared(layer_map.names):
            raise CheckpointError(
                f'{name} is a delta of a model with {len(made_of)} blocks in {key} '
                f'({_shorten(made_of)}), and this one has {len(layer_map.names)} '
                f'({_shorten(layer_map.names)}): growth in the config must be that of the delta. '
                'To start the training of a model that is grown further, make it whole first: '
                'tools/delta.py apply')


def refuse_gene(backbone, gene: dict, name: str) -> None:
    """Refuse a learngene as the ordinary file of a backbone that it would have to be expanded for.

    Args:
        backbone (nn.Module): The backbone.
        gene (dict): What :func:`note_of_gene` says.
        name (str): The file, for the message.

    Raises:
        CheckpointError: If it is a plain ViT of another depth, or the learngene is of two blocks
            that are expanded linearly and the backbone does not do that.
    """
    if not hasattr(backbone, 'layers'):
        return
    linear = type(backbone).__name__ == 'TLEGViT'
    depth = 2 if linear else getattr(
        getattr(backbone.layers, 'layer_map', None), 'base_depth', len(backbone.layers))
    if depth == gene['blocks'] and linear == (gene['method'] == 'tleg'):
        return
    what = 'two sets of weights that are expanded linearly' if gene['method'] == 'tleg' else \
        f'{gene["blocks"]} blocks'
    theirs = 'is a TLEGViT' if linear else f'has {depth}'
    raise CheckpointError(
        f'{name} is a learngene of {what}, and the backbone {theirs}: an ordinary file is loaded '
        "as it is. Expand it: init_cfg=dict(type='Learngene', checkpoint=...) in model, or "
        'tools/learngene.py expand')


def note_of_gene(checkpoint) -> Optional[dict]:
    """dict | None: Of a learngene's file its method and number of blocks."""
    if not isinstance(checkpoint, Mapping) or not isinstance(checkpoint.get(GENE), Mapping):
        return None
    state = checkpoint.get('state_dict')
    if not isinstance(state, Mapping):
        return None
    return dict(method=checkpoint[GENE].get('method'), blocks=blocks_in(state))


def blocks_in(state) -> int:
    """int: How many blocks of a plain ViT a state dict in mmpretrain's names holds."""
    return len({m[1] for m in map(_BLOCK.match, map(str, state)) if m})


def _shorten(names):
    return ' '.join(names[:4]) + (' ...' if len(names) > 4 else '')


def list_prefixes(model, prefix: str = '') -> list:
    """list[str]: Prefixes of the grown lists of blocks of a model, with final dots."""
    return [f'{prefix}{name}.' for name, _, _ in growth_of(model)]
