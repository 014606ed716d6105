"""What the ImageNet configs train with."""
import pytest
from imagenet_toys import ARCHS, FILES, build, read, shrink
from mmengine.optim import build_optim_wrapper

from scalenet_mm.growth import apply_freezing, get_drop_path_rate, growth_of
from scalenet_mm.utils.model_cfg import student_cfg

DROP_PATH = {'deit-t': 0., 'deit-s': 0.2, 'deit-b': 0.5,
             'swin-t': 0.2, 'swin-s': 0.2, 'swin-b': 0.5}
FREEZE = {'deit-t': 'all', 'deit-s': 'all', 'deit-b': 'paper',
          'swin-t': 'paper', 'swin-s': 'paper', 'swin-b': 'paper'}
DEIT = 'https://dl.fbaipublicfiles.com/deit/deit_{}.pth'
SWIN = ('https://github.com/SwinTransformer/storage/releases/download/v1.0.0/'
        'swin_{}_patch4_window7_224.pth')
WEIGHTS = {
    'deit-t': DEIT.format('tiny_patch16_224-a1311bcf'),
    'deit-s': DEIT.format('small_patch16_224-cd65a155'),
    'deit-b': DEIT.format('base_patch16_224-b5f2ef4d'),
    'swin-t': SWIN.format('tiny'),
    'swin-s': SWIN.format('small'),
    'swin-b': SWIN.format('base'),
}
BASELINES = ('random', 'stack', 'interpolate', 'swa')
FINE_TUNED = sorted(name for name in FILES if '-24' not in name)


def plain(value):
    """Without the scopes that inheriting from a toolbox leaves, and with lists for tuples."""
    if isinstance(value, dict):
        return {k: plain(v) for k, v in value.items() if k != '_scope_'}
    return [plain(v) for v in value] if isinstance(value, (list, tuple)) else value


@pytest.mark.parametrize('arch', ARCHS)
def test_table_1(arch):
    cfg = read(arch)
    backbone = cfg.model.backbone
    assert backbone.drop_path_rate == DROP_PATH[arch]
    if arch.startswith('deit'):
        assert backbone.growth == dict(order='interpolate', times=2, share='weights',
                                       start='paper')
    else:
        assert backbone.growth == dict(order='stack', times=2, stages=(3, ), share='weights',
                                       start='paper')
    assert backbone.adjustment == dict(type='ParallelAdapter', rank=16,
                                       act_cfg=dict(type='ReLU'), scope='all')
    assert cfg.custom_hooks == [dict(type='AdapterInjectionHook', freeze=FREEZE[arch])]
    assert cfg.load_from == WEIGHTS[arch]


@pytest.mark.parametrize('name', FINE_TUNED)
def test_recipe(name):
    cfg = read(name)
    model, arch = student_cfg(cfg.model), name[:6]
    assert cfg.optim_wrapper.type == 'OptimWrapper'
    assert cfg.optim_wrapper.optimizer == dict(type='AdamW', lr=2e-4, weight_decay=0.05, eps=1e-8,
                                               betas=(0.9, 0.999))
    assert cfg.optim_wrapper.clip_grad == dict(max_norm=5.0)
    assert cfg.param_scheduler == [dict(type='CosineAnnealingLR', eta_min=2e-6, by_epoch=True,
                                        convert_to_iter_based=True)]
    assert cfg.train_cfg == dict(by_epoch=True, max_epochs=100, val_interval=1)
    assert cfg.train_dataloader.batch_size * 8 == cfg.auto_scale_lr.base_batch_size == 512
    assert model.train_cfg.augments == [dict(type='Mixup', alpha=0.8),
                                        dict(type='CutMix', alpha=1.0)]
    assert model.head.loss == dict(type='LabelSmoothLoss', label_smooth_val=0.1, mode='original')
    assert plain(cfg.val_evaluator) == [dict(type='Accuracy', topk=[1, 5]),
                                        dict(type='ValidationLoss')]
    assert cfg.test_evaluator == cfg.val_evaluator
    # no EMA: the hook that freezes is the only one
    assert [hook.type for hook in cfg.custom_hooks] == ['AdapterInjectionHook']
    checkpoint = cfg.default_hooks.checkpoint
    assert (checkpoint.save_best, checkpoint.max_keep_ckpts) == ('accuracy/top1', 2)
    assert cfg.load_from == WEIGHTS[arch]
    if '-dp' not in name:
        assert model.backbone.drop_path_rate == DROP_PATH[arch]
    seeded = name.endswith(('random', 'swa'))
    assert cfg.randomness.seed == (0 if seeded else None)


@pytest.mark.parametrize('name', [n for n in FINE_TUNED if not n.endswith(BASELINES)])
def test_variants_train_what_table_1_trains(name):
    assert read(name).custom_hooks == read(name[:6]).custom_hooks


@pytest.mark.parametrize('kind', BASELINES)
@pytest.mark.parametrize('arch', ARCHS)
def test_baselines_share_nothing(arch, kind):
    backbone = read(f'{arch}-{kind}').model.backbone
    assert backbone.growth.share == 'none' and backbone.growth.start == 'paper'
    assert backbone.adjustment is None


@pytest.mark.parametrize('name', ['deit-s', 'swin-b'])
def test_augmentation_is_swins(name):
    cfg = read(name)
    by_type = {step.type: step for step in cfg.train_dataloader.dataset.pipeline}
    assert list(by_type) == ['LoadImageFromFile', 'RandomResizedCrop', 'RandomFlip', 'RandAugment',
                             'RandomErasing', 'PackInputs']
    crop, augment = by_type['RandomResizedCrop'], by_type['RandAugment']
    assert (crop.scale, crop.backend, crop.interpolation) == (224, 'pillow', 'bicubic')
    # rand-m9-mstd0.5-inc1
    assert (augment.policies, augment.num_policies) == ('timm_increasing', 2)
    assert (augment.magnitude_level, augment.magnitude_std) == (9, 0.5)
    erasing = by_type['RandomErasing']
    assert (erasing.erase_prob, erasing['mode']) == (0.25, 'rand')
    assert [step.type for step in cfg.val_dataloader.dataset.pipeline] == [
        'LoadImageFromFile', 'ResizeEdge', 'CenterCrop', 'PackInputs']
    assert plain(cfg.train_dataloader.sampler) == dict(type='DefaultSampler', shuffle=True)


@pytest.mark.parametrize('arch', ['deit-s', 'deit-b'])
def test_drop_path_study(arch):
    rates = []
    for i in range(8):
        cfg = read(f'{arch}-dp0{i}')
        rates.append(cfg.model.backbone.pop('drop_path_rate'))
        rest = read(arch).model
        rest.backbone.pop('drop_path_rate')
        assert cfg.model == rest
    assert rates == [0.0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7]


@pytest.mark.parametrize('arch', ARCHS)
def test_drop_path_reaches_the_last_block(arch):
    cfg = read(arch)
    shrink(cfg, arch)
    *_, (_, blocks, _) = growth_of(build(cfg).backbone)
    assert get_drop_path_rate(blocks[-1]) == pytest.approx(DROP_PATH[arch])


@pytest.mark.parametrize('name', ['deit-s-identity', 'swin-t-split', 'deit-b-lora8', 'swin-b-swa'])
def test_weight_decay(name):
    """Matrices decay, adapters too; norms, biases, gains, tokens and tables do not."""
    cfg = read(name)
    shrink(cfg, name)
    model = build(cfg)
    apply_freezing(model, cfg.custom_hooks[0]['freeze'])
    optimizer = build_optim_wrapper(model, cfg.optim_wrapper).optimizer
    decay = {id(p): g['weight_decay'] for g in optimizer.param_groups for p in g['params']}
    assert {g['lr'] for g in optimizer.param_groups} == {2e-4}
    seen = set()
    for n, p in model.named_parameters():
        if not p.requires_grad:
            assert id(p) not in decay, n
            continue
        last = n.rsplit('.', 1)[1]
        free = p.ndim == 1 or last in ('cls_token', 'pos_embed', 'relative_position_bias_table')
        seen.add(last)
        assert decay[id(p)] == (0. if free else 0.05), n
    wanted = {'deit-s-identity': {'gain', 'adapter_up', 'cls_token', 'pos_embed'},
              'swin-t-split': {'gain', 'adapter_down'}, 'deit-b-lora8': {'lora_up'},
              'swin-b-swa': {'relative_position_bias_table'}}[name]
    assert wanted <= seen


@pytest.mark.parametrize('arch', ['deit-s', 'deit-b'])
@pytest.mark.parametrize('epochs', [100, 300])
def test_from_scratch(arch, epochs):
    """Table VII: DeiT's official recipe."""
    cfg = read(f'{arch}-24' + ('_300e' if epochs == 300 else ''))
    backbone = cfg.model.backbone
    width, heads = (384, 6) if arch == 'deit-s' else (768, 12)
    assert backbone.arch == dict(embed_dims=width, num_layers=24, num_heads=heads,
                                 feedforward_channels=4 * width)
    assert (backbone.growth, backbone.adjustment, backbone.drop_path_rate) == (None, None, 0.1)
    assert cfg.load_from is None
    assert cfg.custom_hooks == [dict(type='AdapterInjectionHook', freeze='all')]
    assert cfg.train_cfg.max_epochs == epochs
    assert cfg.train_dataloader.batch_size * 8 == cfg.auto_scale_lr.base_batch_size == 1024
    assert plain(cfg.train_dataloader.sampler) == dict(type='RepeatAugSampler', shuffle=True)
    assert cfg.optim_wrapper.optimizer.lr == pytest.approx(5e-4 * 1024 / 512)
    assert cfg.optim_wrapper.optimizer.weight_decay == 0.05
    assert cfg.optim_wrapper.clip_grad is None
    warmup, cosine = cfg.param_scheduler
    assert (warmup.type, warmup.end, cosine.begin, cosine.eta_min) == ('LinearLR', 5, 5, 1e-5)
    assert warmup.start_factor * cfg.optim_wrapper.optimizer.lr == pytest.approx(1e-6)
    assert len(cfg.model.train_cfg.augments) == 2
    assert cfg.model.head.loss.label_smooth_val == 0.1
