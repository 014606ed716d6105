"""The detection configs at full size on 'meta': counts, what trains, schedules; and made small."""
import copy
import re
from pathlib import Path

import mmdet
import pytest
import torch
from detection_toys import FILES, SIZE, build, read, shrink, shrink_images
from mmengine.config import Config
from mmengine.optim import build_optim_wrapper

from scalenet_mm.analysis import count_parameters
from scalenet_mm.analysis.meta_model import build_on_meta
from scalenet_mm.growth import apply_freezing, growth_of

# Exact counts behind the paper's Table VIII: all stages doubled, and the single stages that its
# printed figures stand for.
COUNTS = {
    'maskrcnn_scalenet_swin-t_1x': 49_225_386,
    'maskrcnn_scalenet_swin-t-stage3_1x': 48_879_018,
    'maskrcnn_scalenet_swin-t-stage4_1x': 48_753_066,
    'maskrcnn_scalenet_swin-s_1x': 72_036_282,
    'maskrcnn_scalenet_swin-s-stage4_1x': 70_808_250,
}
MMDET = Path(mmdet.__file__).parent / '.mim' / 'configs'
UNGROWN = {'t': 47_794_602, 's': 69_112_506}
#: grown backbones of the paper's Table I, without the classifier for 1000 classes
DEIT = {name: total - 1000 * (width + 1) for name, width, total in (
    ('t', 192, 6_463_912), ('s', 384, 23_543_656), ('b', 768, 89_553_640))}
#: name -> stages that are doubled, the stock config whose model it is otherwise, epochs
ALL, LAST = (0, 1, 2, 3), (3, )
MASK_RCNN = 'swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco'
MS_CROP = 'swin/mask-rcnn_swin-t-p4-w7_fpn_ms-crop-3x_coco'
SWIN = {
    'maskrcnn_scalenet_swin-t_1x': (ALL, MASK_RCNN, 12),
    'maskrcnn_scalenet_swin-t-stage3_1x': ((2, ), MASK_RCNN, 12),
    'maskrcnn_scalenet_swin-t-stage4_1x': (LAST, MASK_RCNN, 12),
    'maskrcnn_scalenet_swin-t_in1k-pre_1x': (ALL, MASK_RCNN, 12),
    'maskrcnn_scalenet_swin-t_in1k-pre_ms-crop-3x': (ALL, MS_CROP, 36),
    'maskrcnn_scalenet_swin-s_1x': (ALL, None, 12),
    'maskrcnn_scalenet_swin-s-stage3_1x': ((2, ), None, 12),
    'maskrcnn_scalenet_swin-s-stage4_1x': (LAST, None, 12),
    'maskrcnn_scalenet_swin-s_in1k-pre_1x': (ALL, None, 12),
    'maskrcnn_scalenet_swin-s_in1k-pre_ms-crop-3x':
    (ALL, 'swin/mask-rcnn_swin-s-p4-w7_fpn_amp-ms-crop-3x_coco', 36),
    'cascade-maskrcnn_scalenet_swin-t_1x': (ALL, None, 12),
    'retinanet_scalenet_swin-t_1x': (LAST, 'swin/retinanet_swin-t-p4-w7_fpn_1x_coco', 12),
    'dino_scalenet_swin-l_12e': (LAST, 'dino/dino-5scale_swin-l_8xb2-12e_coco', 12),
    'mask2former_scalenet_swin-t_50e':
    (ALL, 'mask2former/mask2former_swin-t-p4-w7-224_8xb2-lsj-50e_coco', None),
}
VIT = [f'maskrcnn_scalenet_deit-{size}_in1k-pre_1x' for size in 'tsb']
FROM_DETECTOR = [name for name in SWIN if re.search(r'swin-.(-stage\d)?_1x', name)
                 and name.startswith('maskrcnn')]
FINAL = {f'roi_head.bbox_head.{layer}.{part}'
         for layer in ('fc_cls', 'fc_reg') for part in ('weight', 'bias')}


def total(model):
    return sum(p.numel() for p in model.parameters())


def without_scopes(node):
    """A config's dicts without the mark that inheriting from another package leaves."""
    if isinstance(node, dict):
        return {k: without_scopes(v) for k, v in node.items() if k != '_scope_'}
    return [without_scopes(v) for v in node] if isinstance(node, (list, tuple)) else node


def test_every_config_is_here():
    assert set(FILES) == {*SWIN, *VIT}
    assert set(COUNTS) <= set(FILES)


@pytest.mark.parametrize('name', SWIN)
def test_counts_of_swin(name):
    stages, stock_name, _ = SWIN[name]
    cfg = read(name)
    model = build_on_meta(cfg)
    # the same model with the stock backbone
    plain = copy.deepcopy(cfg)
    plain.custom_hooks = []
    plain.model.backbone.type = 'SwinTransformer'
    for key in ('growth', 'adjustment'):
        plain.model.backbone.pop(key, None)
    ungrown = total(build_on_meta(plain))
    if name.startswith('maskrcnn'):
        assert ungrown == UNGROWN[name.split('swin-')[1][0]]
    if stock_name:  # inherited whole: nothing else differs
        theirs = Config.fromfile(MMDET / f'{stock_name}.py')
        if name in FROM_DETECTOR:
            theirs.model.backbone.init_cfg = None
        assert without_scopes(plain.model) == without_scopes(theirs.model)

    # 10 D r of adapters for each block, 4 D of norms for each repeat
    expected = ungrown
    for stage, depth in enumerate(cfg.model.backbone.depths):
        width = cfg.model.backbone.embed_dims * 2**stage
        repeats = depth if stage in stages else 0
        expected += 10 * width * 16 * (depth + repeats) + 4 * width * repeats
    assert total(model) == expected
    assert name not in COUNTS or expected == COUNTS[name]
    assert count_parameters(model).added == expected - ungrown


@pytest.mark.parametrize('name', VIT)
def test_counts_of_vit(name):
    model = build_on_meta(read(name))
    assert total(model.backbone) == DEIT[name.split('deit-')[1][0]]
    width, out = model.backbone.embed_dims, 256
    # deconvolutions (2 x 2, biased), norm between them, convolutions without bias, their norms
    convs = [out * w + 9 * out * out + 4 * out for w in (width // 4, width // 2, width, width)]
    deconvs = [4 * w * w // 2 + w // 2 for w in (width, width // 2, width)]
    assert total(model.neck) == sum(convs) + sum(deconvs) + width
    heads = build_on_meta(read('maskrcnn_scalenet_swin-t_1x'))
    for part in ('rpn_head', 'roi_head'):
        assert total(getattr(model, part)) == total(getattr(heads, part))
    plain = read(name)
    plain.model.backbone.update(growth=None, adjustment=None)
    assert count_parameters(model).added == total(model) - total(build_on_meta(plain))


@pytest.mark.parametrize('name', FILES)
def test_what_trains(name):
    cfg = read(name)
    assert cfg.custom_hooks[0]['freeze'] == (
        'mask-rcnn' if name in FROM_DETECTOR else 'backbone-paper')
    model = build_on_meta(cfg)
    outside = {n for n, p in model.named_parameters()
               if p.requires_grad and not n.startswith('backbone.')}
    if name in FROM_DETECTOR:
        assert outside == FINAL
    else:  # neck and heads are new
        assert outside == {n for n, _ in model.named_parameters() if not n.startswith('backbone.')}
    for n, p in model.backbone.named_parameters():
        assert p.requires_grad == bool(re.search(r'norm|\bln\d|adapter', n)), n


@pytest.mark.parametrize('name', FILES)
def test_where_it_starts(name):
    """A detector brings the backbone's weights, and no ImageNet file besides; or the other way."""
    cfg = read(name)
    checkpoint = (cfg.model.backbone.init_cfg or {}).get('checkpoint')
    size = re.search(r'(swin|deit)-(\w)', name)
    if name in FROM_DETECTOR:
        assert checkpoint is None
        assert f'mask_rcnn_{size.group()}-p4-w7_fpn' in cfg.load_from
        assert 'ms-crop-3x' in cfg.load_from
        return
    assert cfg.load_from is None
    word = {'t': 'tiny', 's': 'small', 'b': 'base', 'l': 'large'}[size.group(2)]
    assert checkpoint.rpartition('/')[2].startswith(f'{size.group(1)}_{word}_patch')
    assert ('22k' in checkpoint) == name.startswith('dino')


@pytest.mark.parametrize('name', FILES)
def test_schedule(name):
    cfg = read(name)
    # MMDetection's Swin-S trains in mixed precision, which a CPU cannot; --amp turns it on
    assert cfg.optim_wrapper.type == 'OptimWrapper'
    epochs = SWIN[name][2] if name in SWIN else 12
    if epochs is None:
        assert cfg.train_cfg.max_iters == 368750  # 50 epochs of 8 x 2
        return
    assert cfg.train_cfg.max_epochs == epochs == cfg.param_scheduler[-1].end
    steps = {12: [11] if name.startswith('dino') else [8, 11], 36: [27, 33]}[epochs]
    assert cfg.param_scheduler[-1].milestones == steps
    assert cfg.auto_scale_lr.base_batch_size == 16
    if 'ms-crop' in name:
        choice = cfg.train_dataloader.dataset.pipeline[3]
        assert choice.type == 'RandomChoice' and len(choice.transforms[0][0].scales) == 11


def rates(name, model=None):
    """dict: Name of each parameter that trains -> its rate over the base rate, and its decay."""
    cfg = read(name)
    model = model or build_on_meta(cfg)
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    names = {id(p): n for n, p in model.named_parameters() if p.requires_grad}
    return {names[id(p)]: (round(g['lr'] / cfg.optim_wrapper.optimizer.lr, 6), g['weight_decay'])
            for g in optimizer.param_groups for p in g['params'] if id(p) in names}


@pytest.mark.parametrize('name', ['dino_scalenet_swin-l_12e', 'mask2former_scalenet_swin-t_50e'])
def test_adapters_learn_at_the_heads_rate(name):
    decay = read(name).optim_wrapper.optimizer.weight_decay
    seen = set()
    for n, found in rates(name).items():
        if not n.startswith('backbone.'):
            assert found[0] == 1
        elif 'adapter' in n:
            assert found == (1, decay), n
        else:
            assert found == (0.1, 0.), n  # norms
            seen.add('_r1.' in n)
    assert seen == {True, False}


@pytest.mark.parametrize('name', [n for n in FILES if not n.startswith(('dino', 'retinanet'))])
def test_no_weight_decay_on_norms(name):
    of_backbone = {n: d for n, (_, d) in rates(name).items() if n.startswith('backbone.')}
    assert all(d == (0.05 if 'adapter' in n else 0) for n, d in of_backbone.items())
    assert any(d for d in of_backbone.values())


def test_no_weight_decay_on_gains():
    cfg = read('maskrcnn_scalenet_swin-t-stage4_1x')
    cfg.model.backbone.growth = dict(stages=(3, ), start='identity')
    decays = rates('maskrcnn_scalenet_swin-t-stage4_1x', build_on_meta(cfg))
    gains = [n for n in decays if n.endswith('gain')]
    assert len(gains) == 8
    assert all(decays[n][1] == 0 for n in gains)


@pytest.mark.parametrize('name', FILES)
def test_loss_and_gradients(name):
    """Narrow, two images of different sizes: every repeat's adapters learn."""
    from mmdet.testing import demo_mm_inputs
    cfg = shrink(read(name))
    cfg.model.backbone.drop_path_rate = 0.
    shrink_images(cfg.model.data_preprocessor)
    torch.manual_seed(0)
    model = build(cfg).train()
    model.init_weights()
    depth = sum(len(blocks) for _, blocks, _ in growth_of(model.backbone))
    apply_freezing(model, cfg.custom_hooks[0]['freeze'])
    data = demo_mm_inputs(2, [[3, SIZE, 96], [3, 50, 60]], num_classes=10, with_mask=True,
                          use_box_type=True)
    data = model.data_preprocessor(data, training=True)
    loss, _ = model.parse_losses(model.loss(data['inputs'], data['data_samples']))
    assert torch.isfinite(loss)
    loss.backward()
    ups = {n: p.grad for n, p in model.backbone.named_parameters() if n.endswith('adapter_up')}
    assert len(ups) == 2 * depth and any('_r1.' in n for n in ups)
    assert [n for n, grad in ups.items() if grad is None or not grad.abs().sum() > 0] == []
    # distributed training stops at one that trains and gets no gradient
    assert [n for n, p in model.named_parameters() if p.requires_grad != (p.grad is not None)] == []


@pytest.mark.parametrize('name', FILES)
def test_by_inheritance_in_a_few_lines(name):
    lines = FILES[name].read_text().splitlines()
    assert lines[0].startswith('# ')
    assert sum(bool(line) and not line.startswith('#') for line in lines) <= 20
