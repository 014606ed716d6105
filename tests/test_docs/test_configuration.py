"""docs/configuration.md against the code: every option is there, with its real default."""
import ast
import dataclasses
import importlib
import inspect
import re
from pathlib import Path

import pytest
import torch
import torch.nn as nn
from block_runner import environment_variables, read_blocks
from mmengine.hooks import CheckpointHook
from mmengine.optim import DefaultOptimWrapperConstructor

import scalenet_mm
from scalenet_mm.backbones.base import UNSET
from scalenet_mm.errors import ScaleNetError
from scalenet_mm.growth import PRESETS
from scalenet_mm.growth.freezing import KINDS

PAGE = Path(scalenet_mm.__file__).parents[1] / 'docs' / 'configuration.md'
HEADER = ['option', 'type', 'default', 'meaning']
#: what a table says where there is no default
NONE_SAID = {'required': inspect.Parameter.empty, 'not given': UNSET}

SWIN = dict(embed_dims=8, depths=(2, 2), num_heads=(2, 2))
VIT = dict(embed_dims=8, num_layers=2, num_heads=2, feedforward_channels=32)
#: of options without a default of their own: what they are given beside, and another value that
#: must make another model or be refused (None: the option has no effect)
EFFECTIVE = {
    'ScaleNetSwin': dict(
        arch=({}, 'small'),
        img_size=(dict(arch=SWIN, use_abs_pos_embed=True), 32),
        out_after_downsample=(dict(arch=SWIN), True),
        pad_small_map=(dict(arch=SWIN), True),
        patch_cfg=(dict(arch=SWIN), dict(bias=False)),
        stage_cfgs=(dict(arch=SWIN), dict(a=1)),
        embed_dims=(dict(depths=(1, 1), num_heads=(2, 2)), 8),
        depths=(dict(embed_dims=8, num_heads=(2, 2, 2, 2)), (1, 1, 1, 1)),
        num_heads=(dict(embed_dims=24), (1, 1, 1, 1)),
        pretrain_img_size=(dict(**SWIN, use_abs_pos_embed=True), 32),
        mlp_ratio=(SWIN, 2),
        # four of them, for four stages
        strides=(dict(embed_dims=8, depths=(1, 1, 1, 1), num_heads=(1, 1, 1, 1)), (2, 2, 2, 2)),
        qkv_bias=(SWIN, False),
        qk_scale=(SWIN, 0.1),
        patch_norm=(SWIN, False),
        attn_drop_rate=(SWIN, 0.5),
        act_cfg=(SWIN, dict(type='ReLU')),
        convert_weights=(SWIN, None)),
    'ScaleNetViT': dict(
        arch=({}, 'deit-tiny'),
        num_layers=(dict(embed_dims=8, num_heads=2), 2),
        out_type=(dict(arch=VIT), 'raw'),
        frozen_stages=(dict(arch=VIT), 1),
        patch_cfg=(dict(arch=VIT), dict(bias=False)),
        layer_scale_init_value=(dict(arch=VIT), 1.),
        layer_cfgs=(dict(arch=VIT), dict(a=1)),
        embed_dims=(dict(num_layers=1, num_heads=2), 8),
        num_heads=(dict(embed_dims=24, num_layers=1), 2),
        mlp_ratio=(dict(embed_dims=8, num_heads=2), 2),
        out_origin=(dict(embed_dims=8, num_heads=2), True),
        output_cls_token=(dict(embed_dims=8, num_heads=2), True),
        attn_drop_rate=(dict(embed_dims=8, num_heads=2), 0.5),
        act_cfg=(dict(embed_dims=8, num_heads=2), dict(type='ReLU')),
        patch_norm=(dict(embed_dims=8, num_heads=2), True),
        patch_bias=(dict(embed_dims=8, num_heads=2), True),
        patch_pad=(dict(embed_dims=8, num_heads=2), 'same'),
        num_fcs=(dict(embed_dims=8, num_heads=2), 3),
        frozen_exclude=(dict(embed_dims=8, num_heads=2), ['norm'])),
}
#: of None, which stands for one of two values: that of each way to give the size
BY_STYLE = {
    ('ScaleNetSwin', 'out_indices'): ((1, ), (0, 1)),
    ('ScaleNetViT', 'norm_cfg'): (dict(type='LN', eps=1e-6), dict(type='LN', eps=1e-5)),
    ('ScaleNetViT', 'final_norm'): (True, False),
}


# --- reading the page --------------------------------------------------------------------------


def split_row(line):
    return [cell.strip() for cell in re.split(r'(?<!\\)\|', line.strip().strip('|'))]


def read_tables(text):
    """dict[str, dict[str, tuple]]: By the object that a marker names: type, default, meaning."""
    tables, target, lines = {}, None, text.split('\n')
    for i, line in enumerate(lines):
        marker = re.fullmatch(r'<!-- options: (\S+) -->', line)
        if marker:
            target = marker[1]
            assert lines[i + 1].startswith('| option '), f'no table behind {line}'
        elif target and line.startswith('|'):
            cells = split_row(line)
            if cells == HEADER or set(line) <= set('| -'):
                continue
            assert len(cells) == 4, line
            name = cells[0].strip('`')
            table = tables.setdefault(target, {})
            assert name not in table, f'{target}: {name} stands there twice'
            table[name] = tuple(cells[1:])
        elif target and not line:
            target = None
    return tables


def find(path):
    module, _, name = path.rpartition('.')
    return getattr(importlib.import_module(module), name)


def real_options(thing):
    """dict: The default of every option of a class, dataclass or function."""
    if dataclasses.is_dataclass(thing):
        return {f.name: f.default_factory() if f.default is dataclasses.MISSING else f.default
                for f in dataclasses.fields(thing)}
    called = thing.__init__ if isinstance(thing, type) else thing
    parameters = list(inspect.signature(called).parameters.values())
    parameters = parameters[1:] if isinstance(thing, type) else parameters
    starred = inspect.Parameter.VAR_POSITIONAL, inspect.Parameter.VAR_KEYWORD
    return {p.name: p.default for p in parameters if p.kind not in starred}


def said_default(cell):
    if cell in NONE_SAID:
        return NONE_SAID[cell]
    assert re.fullmatch('`[^`]+`', cell), f'a default is code, required or not given: {cell}'
    return eval(cell.strip('`'), {'__builtins__': {}, 'dict': dict})


def same(said, real):
    return type(said) is type(real) and said == real or (
        isinstance(said, (int, float)) and isinstance(real, (int, float))
        and not isinstance(said, bool) and not isinstance(real, bool) and said == real)


TEXT = PAGE.read_text()
TABLES = read_tables(TEXT)
#: what must be on the page, whatever stands there
WANTED = [
    'scalenet_mm.growth.GrowthSpec', 'scalenet_mm.growth.AdjustmentSpec', 'scalenet_mm.ScaleNetViT',
    'scalenet_mm.ScaleNetSwin', 'scalenet_mm.Learngene', 'scalenet_mm.WeightSelection',
    'scalenet_mm.AdapterInjectionHook', 'scalenet_mm.backbones.grown_backbone.build_grown_backbone',
    'scalenet_mm.DeltaCheckpointHook', 'scalenet_mm.hooks.ProgressHook',
    'scalenet_mm.SimpleFeaturePyramid', 'scalenet_mm.DistilledClassifier', 'scalenet_mm.TLEGViT',
    'scalenet_mm.make_digit_scenes'
]


# --- tables and signatures ---------------------------------------------------------------------


def compare(table, real):
    """list[str]: How a table and a signature differ."""
    wrong = [f'{name} is not in the table' for name in real if name not in table]
    wrong += [f'{name} is not in the code' for name in table if name not in real]
    for name, (kind, default, meaning) in table.items():
        if name in real and real[name] is not UNSET and not same(said_default(default), real[name]):
            wrong.append(f'{name}: the table says {default}, the code {real[name]!r}')
        if not kind:
            wrong.append(f'{name} has no type')
    return wrong


def test_all_are_there():
    assert set(TABLES) >= set(WANTED)
    assert sum(map(len, TABLES.values())) > 100


@pytest.mark.parametrize('path', sorted(set(WANTED) | set(TABLES)))
def test_table(path):
    assert compare(TABLES[path], real_options(find(path))) == []


def test_the_comparison_can_fail():
    """What it is to find, put into a copy of the page."""
    for old, new, found in (
            ('| `rank` | int | `16` |', '| `rank` | int | `8` |', 'says `8`, the code 16'),
            ('| `rank` | int |', '| `ranks` | int |', 'rank is not in the table'),
            ('| `rank` | int |', '| `rank` | |', 'no type'),
            ("| `type` | str | `'ParallelAdapter'` |", "| `type` | str | required |", 'required')):
        assert TEXT.count(old) == 1
        table = read_tables(TEXT.replace(old, new))['scalenet_mm.growth.AdjustmentSpec']
        wrong = compare(table, real_options(scalenet_mm.growth.AdjustmentSpec))
        assert any(found in one for one in wrong), (new, wrong)
    row = '| `times` | int or list of int | `2` |'
    assert row in TEXT
    table = read_tables(TEXT.replace(row, row.replace('`2`', '`2.5`')))
    assert compare(table['scalenet_mm.growth.GrowthSpec'],
                   real_options(scalenet_mm.growth.GrowthSpec))
    assert not same(True, 1) and not same(None, UNSET) and not same((1, ), [1]) and same(4, 4.)


def fingerprint(model):
    """What a model is: its modules with their settings, and its tensors."""
    plain = (bool, int, float, str, tuple, type(None))
    found = {}
    for name, module in model.named_modules():
        settings = {key: value for key, value in vars(module).items() if isinstance(value, plain)}
        if isinstance(module, nn.Conv2d):  # one of no padding may be written in two ways
            settings.pop('padding_mode')
        found[name] = type(module).__name__, settings
    tensors = {n: (tuple(p.shape), p.requires_grad) for n, p in model.named_parameters()}
    return found, tensors


def build(cls, **options):
    with torch.device('meta'):
        return fingerprint(cls(growth=None, adjustment=None, **options))


@pytest.mark.parametrize('cls', [scalenet_mm.ScaleNetSwin, scalenet_mm.ScaleNetViT])
def test_defaults_that_no_signature_has(cls):
    """What the page calls the default of an option builds what leaving it out builds."""
    table = TABLES[f'scalenet_mm.{cls.__name__}']
    unset = [name for name, default in real_options(cls).items() if default is UNSET]
    assert set(unset) == set(EFFECTIVE[cls.__name__])
    for name in unset:
        beside, other = EFFECTIVE[cls.__name__][name]
        left_out = build(cls, **beside)
        assert build(cls, **beside, **{name: said_default(table[name][1])}) == left_out, name
        if other is None:
            continue
        try:
            changed = build(cls, **beside, **{name: other})
        except ScaleNetError:
            continue
        assert changed != left_out, f'{name}: this test would not see another default'


@pytest.mark.parametrize('name', ['ScaleNetSwin', 'ScaleNetViT'])
def test_what_none_stands_for(name):
    cls = getattr(scalenet_mm, name)
    for (owner, option), values in BY_STYLE.items():
        if owner != name:
            continue
        styles = (dict(arch=SWIN), SWIN) if name == 'ScaleNetSwin' else \
            (dict(arch=VIT), dict(embed_dims=8, num_layers=2, num_heads=2))
        for style, value, other in zip(styles, values, values[::-1]):
            assert build(cls, **style, **{option: value}) == build(cls, **style)
            assert build(cls, **style, **{option: other}) != build(cls, **style)


def test_growth_of_each_model():
    """The small table of what models lay over the defaults."""
    rows = {cells[0]: cells[1:] for cells in map(split_row, TEXT.split('\n'))
            if cells[0].startswith('`ScaleNet') and len(cells) == 4 and cells[2] == '2'}
    assert len(rows) == 2
    for first, (order, times, stages) in rows.items():
        cls = getattr(scalenet_mm, re.match(r'`(\w+)`', first)[1])
        said = dict(order=order.strip('`').strip("'"), times=int(times))
        if stages:
            said['stages'] = ast.literal_eval(stages.split('`')[1])
        assert said == cls.default_growth


# --- the rest of the page ----------------------------------------------------------------------


def test_presets_and_kinds():
    block = TEXT.partition('<!-- presets -->\n')[2].partition('\n\n')[0]
    rows = [split_row(line)[0] for line in block.split('\n')[2:]]
    named = [name for row in rows for name in re.findall('`([^`]+)`', row)]
    assert sorted(named) == sorted(PRESETS)
    row = next(line for line in TEXT.split('\n') if line.startswith('| `kind` '))
    assert re.findall("`'(\\w+)'`", row) == list(KINDS)


def test_environment_variables():
    block = TEXT.partition('<!-- variables -->\n')[2]
    rows = [line for line in block.split('\n')[2:] if line.startswith('|')]
    named = {split_row(row)[0].strip('`') for row in rows}
    package = Path(scalenet_mm.__file__).parent
    read = {name for path in package.rglob('*.py')
            for name in re.findall(r"['\"](SCALENET_[A-Z_]+)['\"]", path.read_text())}
    assert named == read and named <= environment_variables()


def registered():
    """set[str]: What the package registers, from its decorators."""
    names = set()
    for path in Path(scalenet_mm.__file__).parent.rglob('*.py'):
        for node in ast.walk(ast.parse(path.read_text())):
            for mark in getattr(node, 'decorator_list', ()):
                is_call = isinstance(mark, ast.Call)
                if is_call and ast.unparse(mark.func).endswith('.register_module'):
                    given = [k.value.value for k in mark.keywords if k.arg == 'name']
                    names.add(given[0] if given else node.name)
    return names


def test_all_that_is_registered_is_on_the_page():
    names = registered()
    assert {'ScaleNetSwin', 'GrownBackbone', 'ProgressHook', 'ValidationLoss'} <= names
    for name in names:
        assert f'`{name}`' in TEXT or f'\n## {name}\n' in TEXT or f'\n### {name}\n' in TEXT, name


def test_what_takes_the_options_of_others():
    """Where the page says that the arguments are mmengine's."""
    assert scalenet_mm.SafeCheckpointHook.__init__ is CheckpointHook.__init__
    constructor = scalenet_mm.LayerDecayOptimWrapperConstructor
    assert constructor.__init__ is DefaultOptimWrapperConstructor.__init__


def named_in_blocks():
    """list[set[str]]: Names that each executed block gives a value to, by keyword or key."""
    found = []
    for block in read_blocks('docs/configuration.md'):
        if block.language != 'python' or block.action == 'skip':
            continue
        # what mmengine fills in is no Python
        tree = ast.parse(re.sub(r'\{\{.*?\}\}', 'None', block.text))
        calls = [node for node in ast.walk(tree) if isinstance(node, ast.Call)]
        found.append((block.text, {k.arg for call in calls for k in call.keywords if k.arg}))
    return found


@pytest.mark.parametrize('path', sorted(TABLES))
def test_every_option_has_an_example(path):
    """An executed block names the object, or its word, and gives the option."""
    name = {'GrowthSpec': 'growth', 'AdjustmentSpec': 'adjustment',
            'build_grown_backbone': 'GrownBackbone'}.get(path.rpartition('.')[2],
                                                         path.rpartition('.')[2])
    blocks = [options for text, options in named_in_blocks()
              if re.search(rf'\b{name}\b|\bshow\(|\badded\(', text)]
    given = set().union(*blocks)
    assert [option for option in TABLES[path] if option not in given] == []
