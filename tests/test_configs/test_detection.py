"""The detection configs at full size: counts, what trains, what is downloaded."""
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from scalenet_mm import grow_backbone
from scalenet_mm.analysis import count_parameters
from scalenet_mm.growth import apply_freezing

CONFIGS = Path(__file__).resolve().parents[2] / 'configs'


def build(name, **backbone):
    cfg = Config.fromfile(CONFIGS / name)
    cfg.model.backbone.update(backbone)
    with DefaultScope.overwrite_default_scope('mmdet'):
        return cfg, MODELS.build(cfg.model)


# Exact counts behind the paper's Table VIII: all stages doubled, and the single stages that its
# printed figures stand for.
COUNTS = {
    'maskrcnn_scalenet_swin-t_1x_coco.py': 49_225_386,
    'maskrcnn_scalenet_swin-t-stage3_1x_coco.py': 48_879_018,
    'maskrcnn_scalenet_swin-t-stage4_1x_coco.py': 48_753_066,
    'maskrcnn_scalenet_swin-s_1x_coco.py': 72_036_282,
    'maskrcnn_scalenet_swin-s-stage4_1x_coco.py': 70_808_250,
}
UNGROWN = {'t': 47_794_602, 's': 69_112_506}
DEPTHS = {'t': (2, 2, 6, 2), 's': (2, 2, 18, 2)}


@pytest.mark.parametrize('name', sorted(p.name for p in CONFIGS.glob('maskrcnn_*.py')))
def test_mask_rcnn(name):
    cfg, model = build(name)
    total = sum(p.numel() for p in model.parameters())
    size = name.split('swin-')[1][0]
    stages = [int(name.split('stage')[1][0]) - 1] if 'stage' in name else range(4)
    # 10 D r of adapters for each block, 4 D of norms for each repeat
    expected = UNGROWN[size]
    for stage, depth in enumerate(DEPTHS[size]):
        width = 96 * 2**stage
        repeats = depth if stage in stages else 0
        expected += 10 * width * 16 * (depth + repeats) + 4 * width * repeats
    assert total == expected
    assert name not in COUNTS or total == COUNTS[name]

    # it starts from a trained detector, and no ImageNet file besides
    assert cfg.model.backbone.init_cfg is None
    assert 'mask_rcnn_swin-' in cfg.load_from
    assert cfg.train_cfg.max_epochs == 12

    apply_freezing(model, cfg.custom_hooks[0]['freeze'])
    trains = {n for n, p in model.named_parameters() if p.requires_grad}
    outside = {n for n in trains if not n.startswith('backbone.')}
    assert outside == {f'roi_head.bbox_head.{layer}.{part}'
                       for layer in ('fc_cls', 'fc_reg') for part in ('weight', 'bias')}
    for n, p in model.backbone.named_parameters():
        assert p.requires_grad == ('norm' in n or 'adapter' in n), n
    assert count_parameters(model).added == total - UNGROWN[size]


def test_every_count_of_the_paper_is_tested():
    assert set(COUNTS) <= {p.name for p in CONFIGS.glob('maskrcnn_*.py')}


def test_no_weight_decay_on_gains_and_norms():
    from mmengine.optim import build_optim_wrapper
    cfg, model = build('maskrcnn_scalenet_swin-t-stage4_1x_coco.py',
                       growth=dict(stages=(3, ), start='identity'))
    apply_freezing(model, cfg.custom_hooks[0]['freeze'])
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    names = {id(p): n for n, p in model.named_parameters()}
    decays = {names[id(p)]: g['weight_decay'] for g in optimizer.param_groups for p in g['params']}
    gains = [n for n in decays if n.endswith('gain')]
    assert len(gains) == 8
    assert all(decays[n] == 0 for n in decays if 'norm' in n or n.endswith('gain'))
    assert all(decays[n] == 0.05 for n in decays if n.endswith('adapter_up'))


def test_another_detector_by_inheritance():
    cfg, model = build('retinanet_scalenet_swin-t_1x_coco.py', init_cfg=None)
    text = (CONFIGS / 'retinanet_scalenet_swin-t_1x_coco.py').read_text()
    assert len(text.splitlines()) <= 10
    apply_freezing(model, cfg.custom_hooks[0]['freeze'])
    trains = {n.split('.')[0] for n, p in model.named_parameters() if p.requires_grad}
    assert trains == {'backbone', 'neck', 'bbox_head'}
    model.eval()
    with torch.no_grad():
        outs = model(torch.randn(1, 3, 64, 96), mode='tensor')
    assert len(outs[0]) == 5


def test_the_documented_task_config(tmp_path):
    """The config of docs/your_own_task.md for a data set of two classes."""
    docs = (CONFIGS.parent / 'docs' / 'your_own_task.md').read_text()
    block = next(b.split('```')[0] for b in docs.split('```python\n')[1:] if 'data/mine' in b)
    path = tmp_path / 'mine.py'
    path.write_text(block.replace("'./maskrcnn", f"'{CONFIGS}/maskrcnn"))
    cfg, model = build(path)
    apply_freezing(model, cfg.custom_hooks[0]['freeze'])
    assert model.roi_head.mask_head.conv_logits.weight.requires_grad
    assert model.roi_head.bbox_head.fc_cls.out_features == 3
    assert cfg.model.backbone.growth.start == 'identity'


def test_the_documented_hook_on_a_stock_config(tmp_path):
    """The second config of docs/your_own_task.md: the hook's growth on a stock segmentor."""
    docs = (CONFIGS.parent / 'docs' / 'your_own_task.md').read_text()
    block = next(b.split('```')[0] for b in docs.split('```python\n')[1:] if 'mmseg::' in b)
    path = tmp_path / 'stock.py'
    path.write_text(block)
    cfg = Config.fromfile(path)
    cfg.model.backbone.init_cfg = None
    with DefaultScope.overwrite_default_scope('mmseg'):
        model = MODELS.build(cfg.model)
    hook = cfg.custom_hooks[0]
    grow_backbone(model.backbone, hook['growth'])
    assert [len(stage.blocks) for stage in model.backbone.stages] == [2, 2, 12, 4]
    apply_freezing(model, hook['freeze'])
    assert all(p.requires_grad for p in model.decode_head.parameters())
    assert not model.backbone.patch_embed.projection.weight.requires_grad
