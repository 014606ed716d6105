"""The example in docs/checkpoints.md serves two tasks from one base."""
from pathlib import Path

import pytest
import torch
from delta_toys import assert_same_tensors, save_delta_of, train
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope, init_default_scope

from scalenet_mm.checkpoints import base_files, load_pretrained
from scalenet_mm.growth import apply_freezing

DOCS = (Path(__file__).resolve().parents[2] / 'docs/checkpoints.md').read_text()
EXAMPLE, = (block.split('```')[0] for block in DOCS.split('```python\n')[1:]
            if 'load_delta' in block)
BACKBONE = dict(type='ScaleNetViT', img_size=48, out_type='featmap', out_indices=-1, arch=dict(
    embed_dims=24, num_layers=3, num_heads=2, feedforward_channels=48))
CLASSIFIER = dict(
    type='ImageClassifier', backbone=BACKBONE, neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=3, in_channels=24))
SEGMENTOR = dict(
    type='EncoderDecoder', backbone=BACKBONE, test_cfg=dict(mode='whole'), train_cfg=dict(),
    decode_head=dict(type='FCNHead', in_channels=24, channels=8, num_convs=1, num_classes=2,
                     in_index=0, norm_cfg=dict(type='BN')))


def test_example(vit, formats, tmp_path, monkeypatch):
    pytest.importorskip('mmseg')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(base_files, '_found', {})
    torch.save(formats['vit']['official'](vit().state_dict()), 'deit_base.pth')
    trained = {}
    for seed, (task, model, scope) in enumerate((('flowers', CLASSIFIER, 'mmpretrain'),
                                                 ('scenes', SEGMENTOR, 'mmseg'),
                                                 ('birds', CLASSIFIER, 'mmpretrain'))):
        cfg = Config(dict(model=model, default_scope=scope))
        cfg.dump(f'{task}.py')
        init_default_scope(scope)
        built = MODELS.build(cfg.model)
        load_pretrained(built.backbone, 'deit_base.pth')
        apply_freezing(built, 'backbone-paper')
        trained[task] = train(built, seed)
        save_delta_of(built, 'deit_base.pth', f'{task}.pth')
    try:
        names = {}
        exec(EXAMPLE, names)
        models = names['models']
    finally:
        DefaultScope._instance_dict.clear()
    assert_same_tensors(models['flowers'].state_dict(), trained['birds'].state_dict())
    assert_same_tensors(models['scenes'].state_dict(), trained['scenes'].state_dict())
    shared = [n for n, p in models['scenes'].named_parameters() if not p.requires_grad]
    assert len(shared) > 10
    for name in shared:
        one, other = (model.get_parameter(name) for model in models.values())
        assert one.data_ptr() == other.data_ptr()
