"""The ADE20K configs: counts, what trains, rates, starts, schedules; forward and backward."""
import copy

import pytest
import torch
from mmengine.optim import build_optim_wrapper
from mmengine.structures import PixelData
from segmentation_toys import CROP, FILES, build, narrow, read

from scalenet_mm.analysis.meta_model import build_on_meta
from scalenet_mm.growth import apply_freezing, growth_of

#: METHOD: all stages of the backbone doubled, and the last one alone.
COUNTS = {
    'upernet_swin-t': 61_372_646,
    'upernet_swin-s': 84_183_542,
    'upernet_swin-t-stage4': 60_900_326,
    'upernet_swin-s-stage4': 82_955_510,
}
PAPER = sorted(COUNTS)
FROM_IMAGENET = ['mask2former_swin-t', 'segformer_swin-t', 'upernet_deit-b_in1k-pre',
                 'upernet_deit-s_in1k-pre', 'upernet_deit-t_in1k-pre', 'upernet_swin-s_in1k-pre',
                 'upernet_swin-t_in1k-pre']
SWIN_DEPTHS = {'t': (2, 2, 6, 2), 's': (2, 2, 18, 2)}
DEIT_WIDTHS = {'t': 192, 's': 384, 'b': 768}
INCREMENTS = ('adapter_down', 'adapter_up', 'gain')


def test_every_config_is_known():
    assert sorted(FILES) == sorted(PAPER + FROM_IMAGENET)


def count(parameters):
    return sum(p.numel() for p in parameters)


def architecture(name):
    """('swin', 't') of 'upernet_swin-t-stage4'."""
    family, size = name.split('_')[1].split('-')[:2]
    return family, size


def added(name):
    """What growth adds: 10 D r of adapters in each block, 4 D of norms in each repeat."""
    family, size = architecture(name)
    if family == 'deit':
        return 24 * 10 * DEIT_WIDTHS[size] * 16 + 12 * 4 * DEIT_WIDTHS[size]
    total = 0
    for stage, depth in enumerate(SWIN_DEPTHS[size]):
        repeats = 0 if 'stage4' in name and stage < 3 else depth
        total += 96 * 2**stage * (160 * (depth + repeats) + 4 * repeats)
    return total


def is_norm(name):
    return '.norm' in name or name.split('.')[-2] in ('ln1', 'ln2')


@pytest.mark.parametrize('name', sorted(FILES))
def test_full_size(name):
    """Exact counts, and by name what trains."""
    cfg = read(name)
    model = build_on_meta(cfg)
    total = count(model.parameters())
    assert name not in COUNTS or total == COUNTS[name]

    cfg.model.backbone.update(growth=None, adjustment=None)
    cfg.custom_hooks = []
    plain = build_on_meta(cfg)
    assert total == count(plain.parameters()) + added(name)
    # the pretrained names are all there, and what is new is in the backbone; the paper's start
    # has no gains
    new = set(model.state_dict()) - set(plain.state_dict())
    assert set(plain.state_dict()) < set(model.state_dict())
    assert all(key.startswith('backbone.') and not key.endswith('gain') for key in new)

    for parameter, p in model.backbone.named_parameters():
        expected = parameter.endswith(INCREMENTS) or is_norm('backbone.' + parameter)
        assert p.requires_grad == expected, parameter
    outside = {n for n, p in model.named_parameters()
               if p.requires_grad and not n.startswith('backbone.')}
    if name in PAPER:
        assert outside == {f'{head}.conv_seg.{part}' for head in ('decode_head', 'auxiliary_head')
                           for part in ('weight', 'bias')}
    else:
        assert outside == {n for n, _ in model.named_parameters() if not n.startswith('backbone.')}


def test_the_pretrained_count_of_deit():
    """ScaleNet's DeiT-Tiny without its classifier, as METHOD has it."""
    model = build_on_meta(read('upernet_deit-t_in1k-pre'))
    assert count(model.backbone.parameters()) == 6_463_912 - (192 + 1) * 1000


@pytest.mark.parametrize('name', sorted(FILES))
def test_start_and_schedule(name):
    cfg = read(name)
    checkpoint = (cfg.model.backbone.init_cfg or {}).get('checkpoint')
    family, size = architecture(name)
    long = dict(t='tiny', s='small', b='base')[size]
    assert cfg.model.get('pretrained') is None
    if name in PAPER:
        # it starts from a trained segmentor, and no ImageNet file besides
        assert checkpoint is None
        assert f'/upernet_swin_{long}_patch4_window7_512x512_160k_ade20k_' in cfg.load_from
    else:
        assert cfg.load_from is None
        assert f'/{family}_{long}_patch' in checkpoint

    iterations, interval, warmup = (160000, 16000, 1500)
    if name in PAPER:
        iterations, interval = 40000, 4000
        assert cfg.auto_scale_lr.base_batch_size == 16
    if name.startswith('mask2former'):
        interval, warmup = 5000, 0
    loop = cfg.train_cfg
    assert (loop.type, loop.max_iters, loop.val_interval) == (
        'IterBasedTrainLoop', iterations, interval)
    assert cfg.default_hooks.checkpoint.interval == interval
    assert not cfg.default_hooks.checkpoint.by_epoch
    poly = cfg.param_scheduler[-1]
    assert (poly.type, poly.begin, poly.end) == ('PolyLR', warmup, iterations)
    assert len(cfg.param_scheduler) == 1 + (warmup > 0)
    assert cfg.train_dataloader.batch_size == 2
    assert cfg.train_dataloader.dataset.type == 'ADE20KDataset'
    assert cfg.model.decode_head.num_classes == 150


@pytest.mark.parametrize('name', sorted(FILES))
def test_rates_and_decay(name):
    """What each parameter of the identity start, which has gains, gets."""
    cfg = narrow(read(name))
    cfg.model.backbone.growth.start = 'identity'
    model = build(cfg)
    apply_freezing(model, cfg.custom_hooks[0]['freeze'])
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    names = {id(p): n for n, p in model.named_parameters()}
    groups = {names[id(p)]: (group['lr'], group['weight_decay'])
              for group in optimizer.param_groups for p in group['params'] if p.requires_grad}
    assert set(groups) == {n for n, p in model.named_parameters() if p.requires_grad}
    lr, decay = cfg.optim_wrapper.optimizer.lr, cfg.optim_wrapper.optimizer.weight_decay
    mask2former, segformer = name.startswith('mask2former'), name.startswith('segformer')
    assert (lr, decay) == ((1e-4, 0.05) if mask2former else (6e-5, 0.01))
    kinds = set()
    for parameter, found in groups.items():
        if not parameter.startswith('backbone.'):
            kind = 'head'
        elif is_norm(parameter):
            kind = 'norm of a repeat' if '_r1.' in parameter else 'norm'
        else:
            kind = parameter.rpartition('.')[2]
        kinds.add(kind)
        if kind == 'head':
            assert found[0] == pytest.approx(10 * lr if segformer else lr), parameter
        elif kind.startswith('norm'):
            assert found == (pytest.approx(0.1 * lr if mask2former else lr), 0), parameter
        else:
            assert found == (lr, 0 if kind == 'gain' else decay), parameter
    assert kinds == {'head', 'norm', 'norm of a repeat', *INCREMENTS}


def batch(model, size, classes, images=2):
    """What the model's preprocessor makes of noise, with squares of some classes as truth."""
    from mmseg.structures import SegDataSample
    samples = []
    for i in range(images):
        truth = torch.randint(0, classes, (1, size[0] // 10 + 1, size[1] // 10 + 1))
        truth = truth.repeat_interleave(10, 1).repeat_interleave(10, 2)[:, :size[0], :size[1]]
        truth[:, :3] = 255
        samples.append(SegDataSample(
            gt_sem_seg=PixelData(data=truth), metainfo=dict(img_shape=size, ori_shape=size)))
    inputs = [torch.randint(0, 256, (3, *size), dtype=torch.uint8) for _ in range(images)]
    return dict(inputs=inputs, data_samples=samples)


@pytest.mark.parametrize('name', sorted(FILES))
def test_forward_and_backward(name):
    """In reduced width, with an image that neither patch nor window divides."""
    torch.manual_seed(0)
    cfg = narrow(read(name))
    cfg.model.backbone.drop_path_rate = 0.  # it may drop a block for the whole batch
    model = build(cfg)
    apply_freezing(model, cfg.custom_hooks[0]['freeze'])
    # adapters start at zero, and with them one of their two gradients
    for parameter, p in model.named_parameters():
        if parameter.endswith('adapter_up'):
            torch.nn.init.normal_(p, std=0.02)
    repeats = {n for n, _ in model.backbone.named_parameters() if '_r1.' in n}
    family, size = architecture(name)
    if family == 'deit':
        expected = [[i // 2 for i in range(24)]]
    else:
        expected = [list(range(depth)) * (1 if 'stage4' in name and stage < 3 else 2)
                    for stage, depth in enumerate(SWIN_DEPTHS[size])]
    assert [list(m.sources) for _, _, m in growth_of(model.backbone)] == expected

    data = model.data_preprocessor(batch(model, CROP, 150), training=True)
    assert data['inputs'].shape == (2, 3, *CROP)
    losses = model.train()(**data, mode='loss')
    loss = sum(v for k, v in losses.items() if 'loss' in k)
    assert torch.isfinite(loss)
    loss.backward()
    for parameter, p in model.named_parameters():
        assert p.requires_grad == (p.grad is not None), parameter
        assert p.grad is None or torch.isfinite(p.grad).all(), parameter
    increments = [n for n in repeats if n.endswith(INCREMENTS)]
    assert len(increments) == 4 * (len(repeats) // 8)  # beside them two norms of two tensors
    for parameter in increments:
        assert model.backbone.get_parameter(parameter).grad.any(), parameter

    # another size, and the label map is as large as the image
    model.eval()
    size = (50, 110)
    with torch.no_grad():
        sample, = model.test_step(batch(model, size, 150, images=1))
    assert sample.pred_sem_seg.data.shape == (1, *size)
    assert sample.seg_logits.data.shape == (150, *size)
    assert torch.isfinite(sample.seg_logits.data).all()


@pytest.mark.parametrize('name', ['upernet_swin-t', 'upernet_deit-t_in1k-pre'])
def test_the_grown_segmentor_is_another_but_starts_identical_if_asked(name):
    torch.manual_seed(0)
    cfg = narrow(read(name))
    plain_cfg = copy.deepcopy(cfg)
    plain_cfg.model.backbone.update(growth=None, adjustment=None)
    plain = build(plain_cfg).eval()
    plain.init_cfg = plain.backbone.init_cfg = None
    plain.init_weights()
    images = torch.randn(1, 3, 48, 64)
    outs = {}
    for start in ('paper', 'identity'):
        cfg.model.backbone.growth.start = start
        model = build(cfg).eval()
        missing, unexpected = model.load_state_dict(plain.state_dict(), strict=False)
        assert not unexpected and all(key.startswith('backbone.') for key in missing)
        with torch.no_grad():
            outs[start] = model(images, mode='tensor')
    with torch.no_grad():
        expected = plain(images, mode='tensor')
    assert torch.allclose(outs['identity'], expected, atol=1e-5)
    assert not torch.allclose(outs['paper'], expected, atol=1e-3)
