"""What docs/detection_and_segmentation.md says that can be run: configs, blocks, presets."""
import itertools
import re

import pytest
from imagenet_toys import CONFIGS
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper

from scalenet_mm.analysis.meta_model import build_on_meta
from scalenet_mm.growth.freezing import PRESETS

DOCS = (CONFIGS.parent / 'docs' / 'detection_and_segmentation.md').read_text()
BLOCKS = [block.split('```')[0] for block in DOCS.split('```python\n')[1:]]


def expand(name):
    """Expand the braces of a name as a shell does."""
    parts = [part.split(',') for part in re.split(r'[{}]', name)]
    return [''.join(chosen) for chosen in itertools.product(*parts)]


def test_every_recipe_is_in_the_tables_and_there():
    rows = [line for line in DOCS.splitlines() if line.startswith('| `')]
    named = {name for row in rows for cell in re.findall(r'`([^`]*\.py)`', row)
             for name in expand(cell)}
    there = {p.name for p in CONFIGS.glob('*_coco.py')} | {
        p.name for p in CONFIGS.glob('*_ade20k.py')}
    assert named == {name for name in there if '-stage' not in name}


@pytest.fixture
def config(tmp_path):

    def read(text):
        path = tmp_path / 'documented.py'
        path.write_text(text)
        return Config.fromfile(path)

    return read


def block(word):
    found = [text for text in BLOCKS if word in text]
    assert len(found) == 1
    return found[0]


def test_layer_wise_rates(config):
    cfg = config(f"_base_ = '{CONFIGS}/upernet_scalenet_deit-t_in1k-pre_160k_ade20k.py'\n"
                 + block('LayerDecayOptimWrapperConstructor'))
    model = build_on_meta(cfg)
    groups = build_optim_wrapper(model, cfg.optim_wrapper).optimizer.param_groups
    names = {id(p): n for n, p in model.named_parameters()}
    rates = {names[id(p)]: group['lr'] for group in groups for p in group['params']}
    lr = cfg.optim_wrapper.optimizer.lr
    for layer in ('11', '11_r1'):
        assert rates[f'backbone.layers.{layer}.ln1.weight'] == pytest.approx(.95 * lr)
    assert rates['decode_head.conv_seg.weight'] == lr


def test_the_hook_on_a_stock_model(config):
    cfg = config(block('AdapterInjectionHook'))
    model = build_on_meta(cfg)
    grown = [m for m in model.backbone.modules() if hasattr(m, 'layer_map')]
    assert [len(blocks) for blocks in grown][-1] == 4  # PVTv2-b0 has two blocks a stage
    trains = {n for n, p in model.named_parameters() if p.requires_grad}
    assert any('1_r1' in n for n in trains)
    assert {n.split('.')[0] for n in trains} == {'backbone', 'neck', 'bbox_head'}


def test_presets():
    section = DOCS.split('## What trains')[1].split('\n## ')[0]
    named = set(re.findall(r'`([a-z0-9+-]+)`', section))
    assert set(PRESETS) - {'final-layers', 'paper-strict'} <= named
