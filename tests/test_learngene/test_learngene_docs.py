"""What docs/learngene.md says of the code is so."""
import re
from pathlib import Path

import pytest
import torch
from mmengine.registry import MODELS, init_default_scope

from scalenet_mm import GrowthError
from scalenet_mm.learngene import extract_gene, save_gene
from scalenet_mm.learngene.stage_map import stage_lengths

ROOT = Path(__file__).resolve().parents[2]
DOCS = (ROOT / 'docs/learngene.md').read_text()


def test_error_of_a_stage_list():
    from scalenet_mm import ScaleNetViT
    quoted, = re.findall(r'```\n(growth\.times.*?)```', DOCS, re.S)
    with pytest.raises(GrowthError) as error:
        ScaleNetViT(arch='deit-tiny', num_layers=5, adjustment=None,
                    growth=dict(times=(3, 3, 4, 3, 2), share='all', depth=16))
    assert str(error.value) == ' '.join(quoted.split())


def test_table_of_descendants():
    rows = re.findall(r'^ +(\d+) +([\d,]+)   ((?:\d )+\d) +((?:\d )+\d)$', DOCS, re.M)
    assert [int(row[0]) for row in rows] == list(range(6, 16))
    width = 768
    block = 12 * width**2 + 13 * width
    rest = (3 * 16 * 16 + 1) * width + 198 * width + 2 * width + (width + 1) * 1000
    for depth, parameters, *lengths in rows:
        assert int(parameters.replace(',', '')) == rest + int(depth) * block
        for order, given in zip(('front-mid-last', 'front-last-mid'), lengths):
            assert tuple(map(int, given.split())) == stage_lengths(5, int(depth), order)


def test_example_of_a_descendant(tmp_path, monkeypatch):
    """The example's model starts from a gene, made small here: width and heads."""
    pytest.importorskip('mmpretrain')
    monkeypatch.chdir(tmp_path)
    init_default_scope('mmpretrain')
    example, = (block for block in re.findall(r'```python\n(.*?)```', DOCS, re.S)
                if "type='Learngene'" in block and 'VisionTransformerClsHead' in block)
    names = {}
    exec(example, names)
    model = names['model']
    small = dict(embed_dims=24, num_layers=5, num_heads=2, feedforward_channels=96)
    model['backbone'].update(arch=small, img_size=32)
    model['head'].update(in_channels=24, num_classes=7)
    aux = {**model, 'init_cfg': None, 'backbone': {
        **model['backbone'], 'num_layers': 5,
        'growth': dict(times=(3, 3, 4, 3, 3), share='all', depth=16)}}
    trained = MODELS.build(aux)
    trained.init_weights()
    torch.save(dict(state_dict=trained.state_dict(), meta={}), 'aux.pth')
    save_gene(extract_gene('aux.pth', dict(model=aux, default_scope='mmpretrain')),
              'aux-b_gene.pth')
    descendant = MODELS.build(model)
    descendant.init_weights()
    sources = [stage for stage, length in enumerate(stage_lengths(5, 9, 'front-last-mid'))
               for _ in range(length)]
    assert len(descendant.backbone.layers) == 9
    for block, source in zip(descendant.backbone.layers, sources):
        for name, value in block.named_parameters():
            assert torch.equal(value, trained.backbone.layers[0].get_parameter(name)
                               if source == 0 else
                               trained.state_dict()[f'backbone.layers.{source}.{name}'])
