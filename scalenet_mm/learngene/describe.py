"""What a learngene's file, or one that is taken for it, holds: told in one look."""
import os.path as osp
from collections.abc import Mapping, Sequence
from typing import Optional

from ..checkpoints.contents import describe_file
from ..checkpoints.safe import load_file
from ..errors import ScaleNetError
from .expand import DESCENDANT
from .gene import Gene, extract_gene, is_gene, read_gene
from .stage_map import CYCLIC_ORDERS, stage_lengths

#: The depths of the paper's descendants.
DEPTHS = tuple(range(6, 16))
_HOW = {
    'sws': 'trained by stages that share all weights (SWS)',
    'simple': 'the blocks of a plain model (Simple-LG)',
    'vanilla': 'the last blocks of a plain model (Vanilla-LG)',
    'tleg': 'two sets of weights, A and B, trained through their linear expansion (TLEG)',
}


def describe_gene(gene: Gene, depths: Sequence = DEPTHS) -> str:
    """Tell what a learngene holds and what becomes of it.

    Args:
        gene (Gene): The learngene.
        depths (Sequence[int]): Depths of descendants to tell of. Defaults to 6 to 15.

    Returns:
        str: Several lines.
    """
    manifest, arch = gene.manifest, gene.arch
    size = sum(value.numel() * value.element_size() for value in gene.state.values())
    source = manifest['source']
    epoch = '' if source['epoch'] is None else f', epoch {source["epoch"]}'
    classes = manifest.get('classes') or []
    names = ', '.join(name.split(',')[0] for name in classes[:4])
    names += ', ...' if len(classes) > 4 else ''
    rows = [
        ('method', f'{gene.method}: {_HOW[gene.method]}'),
        ('blocks', f'{gene.blocks}, of a net of {manifest["trained_depth"]}'
         + (f': stages of {_numbers(gene.stages)}' if gene.method == 'sws' else '')),
        ('architecture', ', '.join(f'{key} {_numbers(value) if isinstance(value, list) else value}'
                                   for key, value in arch.items())),
        ('classes', 'none, it has no head' if gene.num_classes is None else
         f'{gene.num_classes}' + (f': {names}' if names else '')),
        ('source', f'{source["name"]}{epoch}'),
        ('', f'SHA-256 {source["sha256"]}'),
        ('holds', f'{len(gene.state)} tensors, {manifest["parameters"]:,} parameters, '
         f'{size / 1e6:,.2f} MB'),
        ('versions', ', '.join(f'{k} {v}' for k, v in manifest['versions'].items())),
    ]
    lines = [f'{gene.name}: a learngene']
    lines += [f'{name:<14}{text}' for name, text in rows]
    return '\n'.join([*lines, '', *_table(gene, depths)])


def _table(gene, depths):
    """list[str]: For each depth the size of a descendant and the lengths of its stages."""
    cyclic = gene.method in ('sws', 'simple')
    orders = CYCLIC_ORDERS if cyclic else ()
    width = max(len(CYCLIC_ORDERS[0]), 3 * gene.blocks)
    rows = [('depth', 'parameters', orders)]
    for depth in depths:
        lengths = [_numbers(stage_lengths(gene.blocks, depth, order)) for order in orders]
        rows.append((depth, f'{gene.count(depth):,}', lengths))
    lines = []
    for depth, count, cells in rows:
        cells = ''.join(f'   {cell:<{width}}' for cell in cells)
        lines.append(f'{depth:>5}{count:>14}{cells}'.rstrip())
    if cyclic:
        lines.append('(blocks of a descendant that start from each block of the learngene)')
    return lines


def _numbers(values):
    return ' '.join(map(str, values))


def describe(path: str, depths: Sequence = DEPTHS, config: Optional[Mapping] = None) -> str:
    """Tell what a file holds, a learngene or not.

    Args:
        path (str): Any checkpoint: a path or URL.
        depths (Sequence[int]): Depths of descendants to tell of. Defaults to 6 to 15.
        config (Config | dict, optional): Its config, if it is no learngene and holds none itself.
            Defaults to None.

    Returns:
        str: Several lines.

    Raises:
        CheckpointError: If it cannot be read.
    """
    content = load_file(path, mmap=True)
    if is_gene(content):
        return describe_gene(read_gene(path), depths)
    meta = content.get('meta') if isinstance(content, Mapping) else None
    made = meta.get(DESCENDANT) if isinstance(meta, Mapping) else None
    if isinstance(made, Mapping):
        seed = '' if made.get('seed') is None else f', seed {made["seed"]}'
        order = f', order {made.get("order")}' if made.get('method') in ('sws', 'simple') else ''
        line = (f'{path}: no learngene, but a descendant of {made.get("depth")} blocks made of '
                f'{made.get("gene")} (method {made.get("method")}{order}{seed})')
        return '\n'.join([line, *_content(path)])
    try:
        gene = extract_gene(path, config)
    except ScaleNetError as error:
        line = f'{path}: no learngene, and none can be taken out of it: {error}'
        return '\n'.join([line, *_content(path)])
    what = {'sws': f'an auxiliary net of {len(gene.stages)} stages of {_numbers(gene.stages)} '
            'blocks', 'tleg': 'an auxiliary net of TLEG',
            'simple': f'a plain model of {gene.blocks} blocks'}[gene.method]
    name = osp.basename(path)
    line = (f'{path}: no learngene, but the checkpoint of {what}: tools/learngene.py extract '
            f'{name} OUT takes its learngene out ({gene.manifest["parameters"]:,} parameters)')
    return '\n'.join([line, *_content(path)])


def _content(path):
    """list[str]: What any file is told to hold; the growth of an auxiliary net leaves no names."""
    lines = describe_file(path).splitlines()[1:]
    return [line for line in lines if not line.startswith('growth')]
