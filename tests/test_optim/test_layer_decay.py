"""Learning rates that decay from layer to layer: the constructor, the Runner, the preflight."""
import copy

import pytest
import torch
import torch.nn as nn
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.optim import LinearLR, PolyLR, build_optim_wrapper
from mmengine.registry import DATASETS, MODELS, DefaultScope
from mmengine.runner import Runner

import scalenet_mm  # noqa: F401
from scalenet_mm import ConfigError, grow_backbone
from scalenet_mm.engine import check_train
from scalenet_mm.engine.model_options import check_optimizer
from scalenet_mm.optim import check_layer_decay, layer_depths

SWIN = dict(embed_dims=16, depths=(1, 1, 2, 1), num_heads=(1, 1, 2, 2), window_size=4)
VIT = dict(embed_dims=16, num_layers=3, num_heads=2, feedforward_channels=32)


@DATASETS.register_module(name='LayerDecayImages')
class Images(torch.utils.data.Dataset):
    metainfo = dict(classes=['0', '1', '2'])

    def __len__(self):
        return 8

    def __getitem__(self, index):
        from mmpretrain.structures import DataSample
        image = torch.randn(3, 16, 16, generator=torch.Generator().manual_seed(index))
        return dict(inputs=image, data_samples=DataSample().set_gt_label(index % 3))


def classifier_cfg(**backbone):
    return dict(
        type='ImageClassifier',
        backbone=backbone if backbone.get('type') == 'ConvNeXt' else {
            **dict(type='ScaleNetViT', arch=VIT, img_size=16, patch_size=4), **backbone},
        head=dict(type='VisionTransformerClsHead', num_classes=3, in_channels=16))


def build(cfg, scope='mmpretrain'):
    with DefaultScope.overwrite_default_scope(scope):
        return MODELS.build(copy.deepcopy(cfg))


def wrapper_cfg(rate=0.5, constructor='LayerDecayOptimWrapperConstructor', lr=1., wd=0.1,
                **paramwise):
    return dict(
        optimizer=dict(type='AdamW', lr=lr, weight_decay=wd),
        constructor=constructor,
        paramwise_cfg=dict(layer_decay_rate=rate, **paramwise))


def build_wrapper(model, cfg, scope='mmpretrain'):
    with DefaultScope.overwrite_default_scope(scope):
        return build_optim_wrapper(model, copy.deepcopy(cfg))


def options(model, optim_wrapper, key='lr'):
    """One option of the groups, by parameter name; each parameter must be there once."""
    of_parameter = {}
    for group in optim_wrapper.optimizer.param_groups:
        for parameter in group['params']:
            assert id(parameter) not in of_parameter
            of_parameter[id(parameter)] = group[key]
    found = {n: of_parameter.pop(id(p)) for n, p in model.named_parameters() if p.requires_grad}
    assert not of_parameter
    return found


class TestConstructor:

    @pytest.mark.parametrize('constructor', ['LayerDecayOptimWrapperConstructor',
                                             'LearningRateDecayOptimWrapperConstructor'])
    def test_ours_and_mmpretrains_on_a_classifier(self, constructor):
        model = build(classifier_cfg(growth=dict(start='identity')))
        lr = options(model, build_wrapper(model, wrapper_cfg(constructor=constructor)))
        assert lr['head.layers.head.weight'] == lr['backbone.ln1.weight'] == 1.
        assert lr['backbone.layers.2.attn.qkv.weight'] == 0.5
        assert lr['backbone.layers.2_r1.ffn.layers.1.gain'] == 0.5
        assert lr['backbone.layers.0_r1.ln1.weight'] == lr['backbone.layers.0.ln1.weight'] == 0.125
        assert lr['backbone.patch_embed.projection.weight'] == 0.0625

    def test_frozen_parameters_are_left_out(self):
        model = build(classifier_cfg())
        scalenet_mm.growth.apply_freezing(model, 'paper')
        lr = options(model, build_wrapper(model, wrapper_cfg()))
        assert 0 < len(lr) < len(list(model.parameters()))

    def test_everything_of_the_default_constructor(self):
        model = build(classifier_cfg())
        optim_wrapper = build_wrapper(model, wrapper_cfg(
            norm_decay_mult=0., bias_lr_mult=2., bypass_duplicate=True,
            custom_keys={'.cls_token': dict(decay_mult=0.), 'head': dict(lr_mult=10.),
                         'layers.2_r1': dict(lr_mult=0.1, decay_mult=0.2)}))
        lr = options(model, optim_wrapper)
        decay = options(model, optim_wrapper, 'weight_decay')
        assert lr['head.layers.head.weight'] == 10.
        assert lr['backbone.layers.2_r1.ln1.weight'] == pytest.approx(0.05)
        assert decay['backbone.layers.2_r1.ln1.weight'] == pytest.approx(0.02)
        assert lr['backbone.layers.1.attn.qkv.bias'] == 0.5
        assert lr['backbone.layers.1.ln1.bias'] == 0.25  # of a norm: no bias_lr_mult
        assert decay['backbone.layers.1.ln1.weight'] == decay['backbone.cls_token'] == 0.
        assert decay['backbone.layers.1.attn.qkv.weight'] == 0.1
        scale = options(model, optim_wrapper, 'lr_scale')
        assert scale['backbone.layers.1.attn.qkv.bias'] == 0.25

    def test_duplicates_are_bypassed(self):
        model = build(classifier_cfg())
        model.head2 = model.head
        optim_wrapper = build_wrapper(model, wrapper_cfg(bypass_duplicate=True))
        assert len(options(model, optim_wrapper)) == len(list(model.parameters()))

    def test_a_detector_and_a_segmentor(self):
        backbone = dict(type='ScaleNetSwin', **SWIN, growth=dict(stages=None))
        detector = dict(
            type='RetinaNet', backbone=backbone,
            neck=dict(type='FPN', in_channels=[16, 32, 64, 128], out_channels=8, num_outs=5),
            bbox_head=dict(
                type='RetinaHead', num_classes=2, in_channels=8, feat_channels=8, stacked_convs=1,
                anchor_generator=dict(type='AnchorGenerator', octave_base_scale=4,
                                      scales_per_octave=1, ratios=[1.], strides=[4, 8, 16, 32, 64]),
                bbox_coder=dict(type='DeltaXYWHBBoxCoder')),
            train_cfg=dict(assigner=dict(type='MaxIoUAssigner', pos_iou_thr=0.5, neg_iou_thr=0.4)))
        segmentor = dict(
            type='EncoderDecoder', backbone=backbone,
            decode_head=dict(type='FCNHead', in_channels=128, channels=8, num_classes=2,
                             in_index=3, num_convs=1))
        for cfg, scope, outside in ((detector, 'mmdet', 'neck.fpn_convs.0.conv.weight'),
                                    (segmentor, 'mmseg', 'decode_head.conv_seg.weight')):
            model = build(cfg, scope)
            lr = options(model, build_wrapper(model, wrapper_cfg(), scope))
            assert lr[outside] == 1.
            assert lr['backbone.stages.3.blocks.0_r1.norm1.weight'] == 0.5
            assert lr['backbone.stages.2.blocks.0.attn.w_msa.qkv.weight'] == 0.125
            assert lr['backbone.patch_embed.projection.weight'] == 0.5**6

    @pytest.mark.parametrize('paramwise, message', [
        (None, 'layer_decay_rate is missing'),
        (dict(norm_decay_mult=0.), 'layer_decay_rate is missing'),
        (dict(decay_rate=0.7), r"decay_rate is the stock constructors' name for it: 0\.7"),
        (dict(layer_decay_rate=1.5), r'a number in \(0, 1\], got 1.5'),
        (dict(layer_decay_rate=0), r'a number in \(0, 1\], got 0'),
        (dict(layer_decay_rate='0.7'), r"a number in \(0, 1\], got '0.7'"),
        (dict(layer_decay_rate=True), r'a number in \(0, 1\], got True'),
    ])
    def test_a_rate_that_is_missing_or_impossible(self, paramwise, message):
        cfg = {**wrapper_cfg(), 'paramwise_cfg': paramwise}
        with pytest.raises(ConfigError, match=message):
            build_wrapper(nn.Linear(1, 1), cfg)

    def test_models_it_cannot_serve(self):
        with pytest.raises(ConfigError, match='a Linear has no backbone'):
            build_wrapper(nn.Linear(1, 1), wrapper_cfg())
        model = nn.ModuleDict(dict(backbone=nn.Linear(1, 1)))
        with pytest.raises(ConfigError, match='layers of Linear cannot be told'):
            build_wrapper(model, wrapper_cfg())
        cfg = wrapper_cfg()
        cfg['optimizer'].pop('lr')
        with pytest.raises(ConfigError, match='names no lr'):
            build_wrapper(model, cfg)

    def test_schedules_keep_the_ratios(self):
        model = build(classifier_cfg())
        optim_wrapper = build_wrapper(model, wrapper_cfg(rate=0.5))
        schedules = [LinearLR(optim_wrapper, 0.1, by_epoch=False, begin=0, end=2),
                     PolyLR(optim_wrapper, power=0.9, by_epoch=False, begin=2, end=6)]
        rates = []
        for _ in range(5):
            groups = optim_wrapper.optimizer.param_groups
            rates.append(groups[0]['lr'] / groups[0]['lr_scale'])
            assert all(g['lr'] == pytest.approx(rates[-1] * g['lr_scale']) for g in groups)
            optim_wrapper.optimizer.step()
            for schedule in schedules:
                schedule.step()
        assert rates[0] == pytest.approx(0.1) and rates[4] < rates[3] < rates[2] <= 1.


class TestDepthsByStructure:
    """Backbones without ``get_layer_depth``: those of mmdet and mmseg."""

    @pytest.mark.parametrize('grown', [False, True])
    def test_swin_of_mmdet_is_as_mmpretrains(self, grown):
        from mmdet.models.backbones import SwinTransformer as Plain
        from mmpretrain.models.backbones import SwinTransformer as Known
        plain = Plain(**SWIN)
        known = Known(dict(embed_dims=16, depths=(1, 1, 2, 1), num_heads=(1, 1, 2, 2)),
                      window_size=4, out_indices=(0, 1, 2, 3))
        if grown:
            growth = dict(stages=[2, 3], order=[[0, 0, [], 1, [0, 1]], [0, 0]])
            plain, known = (grow_backbone(m, growth, probe=False) for m in (plain, known))
        assert not hasattr(plain, 'get_layer_depth')
        assert layer_depths(plain) == layer_depths(known)
        assert layer_depths(plain)[1] == 7

    def test_pvt_and_twins(self):
        from mmdet.models.backbones import PyramidVisionTransformerV2
        from mmseg.models.backbones import PCPVT
        depths, number = layer_depths(PyramidVisionTransformerV2(
            embed_dims=8, num_layers=[1, 2, 1, 1]))
        assert number == 7
        assert depths['layers.0.0.projection.weight'] == 0
        assert depths['layers.0.2.weight'] == depths['layers.1.0.projection.weight'] == 1
        assert depths['layers.3.1.0.norm1.weight'] == 5 and depths['layers.3.2.weight'] == 6
        depths, number = layer_depths(PCPVT(
            embed_dims=[8, 8, 8, 8], num_heads=[1, 1, 1, 1], depths=[1, 2, 1, 1],
            norm_after_stage=True))
        assert number == 7
        assert [depths[f'patch_embeds.{i}.projection.weight'] for i in range(4)] == [0, 1, 3, 4]
        assert depths['position_encodings.1.proj.weight'] == 1 and \
            depths['norm_list.0.weight'] == 6


class TestStockConstructors:

    CFG = dict(constructor='LearningRateDecayOptimizerConstructor',
               paramwise_cfg=dict(decay_rate=0.7, decay_type='layer_wise', num_layers=6))

    @pytest.mark.parametrize('scope', ['mmdet', 'mmseg'])
    def test_they_do_fail_without_us(self, scope):
        """If one day they do not, the check can go."""
        model = nn.ModuleDict(dict(backbone=nn.ModuleDict(dict(fc=nn.Linear(2, 2)))))
        cfg = dict(optimizer=dict(type='AdamW', lr=1., weight_decay=0.1), **self.CFG)
        with pytest.raises(NotImplementedError) as error:
            build_wrapper(model, cfg, scope)
        assert str(error.value) == ''

    def test_the_message_gives_the_fix(self):
        with pytest.raises(ConfigError) as error:
            check_layer_decay(self.CFG, 'ScaleNetSwin', True)
        assert "constructor='LayerDecayOptimWrapperConstructor'" in str(error.value)
        assert 'layer_decay_rate=0.7,' in str(error.value)

    @pytest.mark.parametrize('backbone, grown, refused, change', [
        ('ConvNeXt', False, None, {}),
        ('ConvNeXt', True, 'cannot read those of the grown ConvNeXt', {}),
        ('ConvNeXt', True, None, dict(decay_type='stage_wise')),
        ('BEiT', False, None, dict(decay_type='layer_wise_vit')),
        ('BEiT', True, 'grown BEiT', dict(decay_type='layer_wise_vit')),
        ('BEiT', False, 'no BEiT', dict(decay_type='stage_wise')),
        ('SwinTransformer', False, 'no SwinTransformer', {}),
    ])
    def test_what_is_refused(self, backbone, grown, refused, change):
        cfg = dict(self.CFG, paramwise_cfg={**self.CFG['paramwise_cfg'], **change})
        if refused is None:
            check_layer_decay(cfg, backbone, grown)
        else:
            with pytest.raises(ConfigError, match=refused):
                check_layer_decay(cfg, backbone, grown)

    @pytest.mark.parametrize('backbone, hook, refused', [
        (dict(type='ScaleNetSwin'), None, 'no ScaleNetSwin'),
        (dict(type='SwinTransformer'), None, 'no SwinTransformer'),
        (dict(type='mmpretrain.ConvNeXt'), None, None),
        (dict(type='mmpretrain.ConvNeXt'), {}, 'grown ConvNeXt'),
        (dict(type='mmpretrain.ConvNeXt'), dict(growth=None), None),
        (dict(type='GrownBackbone', base=dict(type='mmpretrain.ConvNeXt')), {}, 'grown ConvNeXt'),
    ])
    def test_preflight(self, backbone, hook, refused):
        import mmpretrain.models  # noqa: F401
        cfg = Config(dict(
            default_scope='mmdet', model=dict(type='RetinaNet', backbone=backbone),
            optim_wrapper=dict(self.CFG),
            custom_hooks=[] if hook is None else [dict(type='AdapterInjectionHook', **hook)]))
        if refused is None:
            check_optimizer(cfg)
        else:
            with pytest.raises(ConfigError, match=refused):
                check_optimizer(cfg)

    def test_preflight_of_ours(self):
        cfg = Config(dict(
            default_scope='mmdet', model=dict(backbone=dict(type='ScaleNetSwin')),
            optim_wrapper=dict(constructor='LayerDecayOptimWrapperConstructor')))
        with pytest.raises(ConfigError, match='layer_decay_rate is missing'):
            check_optimizer(cfg)

    def test_preflight_of_training_asks(self):
        cfg = Config(dict(
            default_scope='mmpretrain', model=classifier_cfg(), optim_wrapper=dict(self.CFG),
            train_dataloader=dict(), train_cfg=dict()))
        with pytest.raises(ConfigError, match='no ScaleNetViT'):
            check_train(cfg)


class TestRunner:

    @pytest.fixture
    def run(self, tmp_path):

        def run(backbone, optim_wrapper, **hook):
            hook = {**dict(type='AdapterInjectionHook', require_loaded=False), **hook}
            cfg = Config(dict(
                default_scope='mmpretrain', model=classifier_cfg(**backbone),
                train_dataloader=dict(
                    batch_size=4, num_workers=0, dataset=dict(type='LayerDecayImages'),
                    collate_fn=dict(type='default_collate'),
                    sampler=dict(type='DefaultSampler', shuffle=False)),
                train_cfg=dict(by_epoch=True, max_epochs=2), optim_wrapper=optim_wrapper,
                param_scheduler=[dict(type='MultiStepLR', milestones=[1], gamma=0.1)],
                custom_hooks=[hook], randomness=dict(seed=0),
                work_dir=str(tmp_path / 'work'), experiment_name=tmp_path.name))
            runner, start = Runner.from_cfg(cfg), Start()
            runner.register_hook(start)
            runner.train()
            return runner, start

        yield run
        DefaultScope._instance_dict.clear()

    STOCK = dict(type='VisionTransformer')

    @pytest.mark.parametrize('constructor', ['LayerDecayOptimWrapperConstructor',
                                             'LearningRateDecayOptimWrapperConstructor'])
    @pytest.mark.parametrize('stock', [False, True], ids=['ScaleNetViT', 'hook'])
    def test_rates_survive_the_hooks_rebuild(self, run, stock, constructor):
        growth = dict(growth=dict(start='identity'))
        backbone, hook = (self.STOCK, growth) if stock else (growth, {})
        runner, start = run(backbone, wrapper_cfg(constructor=constructor, lr=1e-2), **hook)
        lr = options(runner.model, runner.optim_wrapper)
        scale = options(runner.model, runner.optim_wrapper, 'lr_scale')
        decay = options(runner.model, runner.optim_wrapper, 'weight_decay')
        for i, factor in enumerate((0.125, 0.25, 0.5)):
            for name in ('ln1.weight', 'ffn.layers.1.adapter_up', 'ffn.layers.1.gain'):
                for block in (f'{i}', f'{i}_r1'):
                    full = f'backbone.layers.{block}.{name}'
                    assert scale[full] == factor, full
                    # the schedule's milestone is behind
                    assert lr[full] == pytest.approx(1e-3 * factor), full
                    assert decay[full] == (0. if name.endswith('gain') else 0.1), full
        assert lr['head.layers.head.weight'] == pytest.approx(1e-3)
        moved = {n for n, p in runner.model.named_parameters()
                 if not torch.equal(p, start.parameters[n])}
        assert moved == set(lr)

    def test_grown_convnext_under_a_constructor_that_cannot_read_it(self, run):
        from mmseg.engine.optimizers import LearningRateDecayOptimizerConstructor  # noqa: F401
        backbone = dict(
            type='ConvNeXt', arch=dict(depths=[1, 1, 2, 1], channels=[8, 8, 16, 16]))
        optim_wrapper = dict(
            optimizer=dict(type='AdamW', lr=1e-3, weight_decay=0.1),
            constructor='mmseg.LearningRateDecayOptimizerConstructor',
            paramwise_cfg=dict(decay_rate=0.9, decay_type='layer_wise', num_layers=6))
        with pytest.raises(ConfigError, match='grown ConvNeXt.*layer_decay_rate=0.9'):
            run(backbone, optim_wrapper, freeze=None)


class Start(Hook):
    priority = 'LOWEST'

    def before_train(self, runner):
        self.parameters = {n: p.detach().clone() for n, p in runner.model.named_parameters()}
