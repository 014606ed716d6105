"""The hook in configs as the toolboxes ship them, of several families of backbones.

Each config is loaded from the installed package, made small, and fed with digit scenes.
"""
from importlib import import_module
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import MODELS, DefaultScope
from mmengine.runner import Runner, load_checkpoint

from scalenet_mm import ConfigError, GrowthError, fast_paths, grow_backbone
from scalenet_mm.growth import growth_of
from scalenet_mm.growth.adjustment import kinds_of
from scalenet_mm.growth.sharing import is_norm

DIGITS = Path(__file__).resolve().parents[2] / 'configs' / 'quickstart' / '_base_'
WIDTHS = [8, 16, 32, 64]
SWIN = dict(embed_dims=8, depths=[1, 1, 2, 1], num_heads=[1, 1, 2, 2], window_size=4)
CONVNEXT = dict(depths=[1, 1, 2, 1], channels=WIDTHS)


def small_mask_rcnn(model):
    model.neck.update(in_channels=WIDTHS, out_channels=8)
    model.rpn_head.update(in_channels=8, feat_channels=8)
    for head in (model.roi_head.bbox_roi_extractor, model.roi_head.mask_roi_extractor):
        head.out_channels = 8
    model.roi_head.bbox_head.update(in_channels=8, fc_out_channels=16, num_classes=10)
    model.roi_head.mask_head.update(in_channels=8, conv_out_channels=8, num_classes=10)


def small_retinanet(model):
    model.neck.update(in_channels=WIDTHS, out_channels=8)
    model.bbox_head.update(in_channels=8, feat_channels=8, num_classes=10)


def small_segmentor(model, widths=WIDTHS):
    model.data_preprocessor.size = (64, 64)
    model.decode_head.update(in_channels=widths, channels=8, num_classes=11)
    if model.get('auxiliary_head'):
        model.auxiliary_head.update(in_channels=widths[2], channels=8, num_classes=11)
    model.test_cfg = dict(mode='whole')


def small_beit_segmentor(model):
    model.pretrained = None
    model.neck.embed_dim = 16
    small_segmentor(model, [16] * 4)


def small_classifier(model):
    model.head.update(num_classes=10, in_channels=64)
    model.train_cfg = None  # Mixup and CutMix


#: name -> config, what makes the backbone small, what makes the rest small, the hook's arguments
STOCK = {
    'mmdet Swin': (
        'mmdet::swin/mask-rcnn_swin-t-p4-w7_fpn_1x_coco.py', SWIN, small_mask_rcnn,
        dict(growth=dict(stages=None))),
    # as it stands it decays from layer to layer by names that the grown model does not have
    'mmdet ConvNeXt': (
        'mmdet::convnext/mask-rcnn_convnext-t-p4-w7_fpn_amp-ms-crop-3x_coco.py',
        dict(arch=CONVNEXT), small_mask_rcnn, dict(growth=dict(start='identity', stages=None))),
    # its MLPs are convolutions: repeats with norms of their own, and nothing else
    'mmdet PVTv2': (
        'mmdet::pvt/retinanet_pvtv2-b0_fpn_1x_coco.py',
        dict(embed_dims=8, num_layers=[1, 1, 2, 1], num_heads=[1, 2, 4, 8]), small_retinanet,
        dict(adjustment=None)),
    'mmseg Swin': (
        'mmseg::swin/swin-tiny-patch4-window7-in1k-pre_upernet_8xb2-160k_ade20k-512x512.py',
        SWIN, small_segmentor,
        dict(growth=dict(stages=None, start=dict(type='split', share=0.5)))),
    'mmseg MiT': (
        'mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py',
        dict(embed_dims=8, num_layers=[1, 1, 2, 1], num_heads=[1, 2, 4, 8]), small_segmentor,
        dict(adjustment=None, freeze='segformer')),
    'mmseg BEiT': (
        'mmseg::beit/beit-base_upernet_8xb2-160k_ade20k-640x640.py',
        dict(img_size=(64, 64), embed_dims=16, num_layers=4, num_heads=2, out_indices=(0, 1, 2, 3)),
        small_beit_segmentor, dict(growth=dict(start='identity'), adjustment=dict(rank=4))),
    'mmseg Twins': (
        'mmseg::twins/twins_pcpvt-s_uperhead_8xb4-160k_ade20k-512x512.py',
        dict(embed_dims=WIDTHS, num_heads=[1, 2, 2, 4], depths=[1, 1, 2, 1]), small_segmentor, {}),
    'mmpretrain ConvNeXt': (
        'mmpretrain::convnext/convnext-tiny_32xb128_in1k.py',
        # the start of a fresh model; a trained one's layer scale is not so small
        dict(arch=CONVNEXT, layer_scale_init_value=1.), small_classifier,
        dict(growth=dict(start='identity', stages=None))),
    'mmpretrain Swin': (
        'mmpretrain::swin_transformer/swin-tiny_16xb64_in1k.py',
        dict(arch={k: v for k, v in SWIN.items() if k != 'window_size'}, img_size=64,
             window_size=2), small_classifier, dict(growth=dict(stages=[2]))),
}


@pytest.fixture
def stock(tmp_path, digits, classes):
    """Make a stock config small, with the hook and digits for data."""

    def make(name, as_is=False, **change):
        base, backbone, shrink, hook = STOCK[name]
        scope = name.split()[0]
        path = tmp_path / f'mine{len(list(tmp_path.glob("mine*.py")))}.py'
        hook = {**dict(type='AdapterInjectionHook'), **hook, **change}
        path.write_text(f"_base_ = ['{base}']\n"
                        "custom_imports = dict(imports=['mmpretrain.models', 'scalenet_mm'])\n"
                        f'custom_hooks = [{hook!r}]\n')
        cfg = read(path)
        cfg.model.backbone.update(init_cfg=None, **backbone)
        shrink(cfg.model)

        task = dict(mmdet='detection', mmseg='segmentation', mmpretrain='classification')[scope]
        data = Config.fromfile(DIGITS / f'digits_{task}.py')
        root = classes if scope == 'mmpretrain' else digits
        for split in ('train', 'val', 'test'):
            loader = data[f'{split}_dataloader']
            loader.update(num_workers=0, persistent_workers=False, batch_size=2)
            loader.dataset.data_root = loader.dataset.data_root.replace(
                'data/digit_scenes', str(root))
            for transform in loader.dataset.pipeline:
                for key in ('scale', 'crop_size'):
                    if key in transform:
                        transform[key] = 64 if scope == 'mmpretrain' else (64, 64)
            cfg[f'{split}_dataloader'] = loader
        cfg.train_dataloader.sampler = dict(type='InfiniteSampler', shuffle=False)
        cfg.update(
            work_dir=str(tmp_path / 'work'), test_evaluator=data.test_evaluator,
            val_cfg=None, val_dataloader=None, val_evaluator=None, test_cfg=dict(),
            param_scheduler=None, randomness=dict(seed=0), log_level='WARNING',
            experiment_name=tmp_path.name)
        cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=2)
        cfg.default_hooks.checkpoint = dict(type='CheckpointHook', by_epoch=False, interval=2)
        if scope == 'mmdet':
            cfg.test_evaluator.ann_file = f'{digits}/det/annotations/val.json'
        cfg.optim_wrapper.type = 'OptimWrapper'  # the CPU has no mixed precision
        cfg.optim_wrapper.optimizer.lr = 1e-3
        if cfg.optim_wrapper.get('constructor') and not as_is:
            # what the hook says to put there
            cfg.optim_wrapper.constructor = 'LayerDecayOptimWrapperConstructor'
            cfg.optim_wrapper.paramwise_cfg = dict(layer_decay_rate=0.9, flat_decay_mult=0.)
        cfg.load_from = base_checkpoint(cfg, scope, tmp_path / 'ungrown.pth')
        return cfg

    yield make
    DefaultScope._instance_dict.clear()


@pytest.fixture(scope='session')
def classes(tmp_path_factory):
    """A folder of digits by class."""
    from scalenet_mm.datasets import make_digit_scenes
    root = tmp_path_factory.mktemp('classes') / 'digit_scenes'
    make_digit_scenes(root=str(root), tasks=('cls', ), cls_num_train=20, cls_num_val=10)
    return root


def get_config_path(name):
    """str: The file of a config that a toolbox ships."""
    scope, _, path = name.partition('::')
    return Path(import_module(scope).__file__).parent / '.mim' / 'configs' / path


def read(path):
    """Read a config whose text will not be formatted: that takes two thirds of a run's time."""
    cfg = Config.fromfile(path)  # which has an argument for it, and forgets it
    return Config(cfg.to_dict(), filename=cfg.filename, format_python_code=False)


def build(cfg, scope):
    model = cfg.model.copy()
    if cfg.get('data_preprocessor'):
        model.setdefault('data_preprocessor', cfg.data_preprocessor)
    with DefaultScope.overwrite_default_scope(scope):
        return MODELS.build(model)


def base_checkpoint(cfg, scope, path):
    """A file of the ungrown model, none of whose tensors is all zeros or ones."""
    model = build(cfg, scope)
    model.init_weights()
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    torch.save(dict(state_dict=model.state_dict(), meta={}), path)
    return str(path)


class Recorder(Hook):
    """Keep the parameters before the first iteration, and which of them got a gradient."""
    priority = 'LOWEST'

    def before_train(self, runner):
        self.before = {k: v.detach().clone() for k, v in runner.model.named_parameters()}
        self.features = features(runner.model)
        self.graded = set()
        for name, parameter in runner.model.named_parameters():
            if parameter.requires_grad:
                parameter.register_hook(
                    lambda grad, name=name: self.graded.add(name) if grad.any() else None)


def features(model):
    """What backbone and neck make of a fixed image, in eval mode."""
    training = model.training
    model.eval()
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        found = model.extract_feat(images)
    model.train(training)
    return [found] if isinstance(found, torch.Tensor) else list(found)


def predictions(model, batch):
    model.eval()
    with torch.no_grad():
        results = model.test_step(batch)
    found = []
    for result in results:
        for key in ('pred_instances', 'seg_logits', 'pred_score'):
            value = result.get(key)
            if value is not None:
                found += [value] if isinstance(value, torch.Tensor) else [
                    v for v in value.all_values() if isinstance(v, torch.Tensor)] \
                    if hasattr(value, 'all_values') else list(value.values())
    return found


def train(cfg):
    runner, recorder = Runner.from_cfg(cfg), Recorder()
    runner.register_hook(recorder)
    runner.train()
    return runner, recorder


def assert_equal(found, expected):
    assert len(found) == len(expected) > 0
    assert all(map(torch.equal, found, expected))


@pytest.mark.parametrize('name', STOCK)
def test_grows_trains_saves_and_comes_back(name, stock, tmp_path):
    scope = name.split()[0]
    cfg = stock(name)
    ungrown = build(cfg, scope)
    load_checkpoint(ungrown, cfg.load_from, strict=True)
    runner, recorder = train(cfg.copy())
    model = runner.model

    # grown as asked; with the identity start the ungrown model's function is kept
    repeats = {n for n in recorder.before if '_r1.' in n}
    assert repeats and set(dict(ungrown.named_parameters())) < set(recorder.before)
    start = (cfg.custom_hooks[0].get('growth') or {}).get('start')
    same = all(map(torch.equal, recorder.features, features(ungrown)))
    assert same == (start == 'identity')

    # what trains moves, what is frozen does not
    kinds = kinds_of(model, is_norm)
    moved = {n for n, p in model.named_parameters() if not torch.equal(p, recorder.before[n])}
    trains = {n for n, p in model.named_parameters() if p.requires_grad}
    assert moved <= trains
    idle = trains - moved
    assert all('adapter_down' in n or 'lora_down' in n for n in idle), idle
    assert {n for n in trains if n.startswith('backbone.')} == {
        n for n, kind in kinds.items() if n.startswith('backbone.') and kind != 'weight'}
    of_repeats = trains & repeats
    expected = {'norm'}
    if cfg.custom_hooks[0].get('adjustment', 'paper') is not None:
        expected.add('adapter')
    if start is not None:
        expected.add('gain')
    assert {kinds[n] for n in of_repeats & moved & recorder.graded} == expected

    # the saved config builds the same model without the hook, and it has the same outputs
    saved = read(next((tmp_path / 'work').glob('*.py')))
    assert saved.model.backbone.type == 'GrownBackbone'
    again = build(saved, scope)
    checkpoint = str(tmp_path / 'work' / 'iter_2.pth')
    load_checkpoint(again, checkpoint, strict=True)
    for name, parameter in again.named_parameters():
        # torch's MultiheadAttention chooses its kernel by it, with rounding of its own
        parameter.requires_grad_(name in trains)
    assert_equal(features(again), features(model))
    batch = next(iter(runner.build_dataloader(cfg.test_dataloader)))
    # the hook lets the heads take the fast paths too, which round otherwise
    with fast_paths(False):
        found = predictions(model, batch)
        assert_equal(predictions(again, batch), found)

    # so does a Runner, from the stock config and from the saved one
    for source in (cfg, saved):
        source = source.copy()
        source.update(load_from=checkpoint, resume=False, experiment_name=f'{tmp_path.name}_test')
        tested = Runner.from_cfg(source)
        tested.test()
        assert [n for n, *_ in growth_of(tested.model)] == [n for n, *_ in growth_of(model)]
        with fast_paths(False):
            assert_equal(predictions(tested.model, batch), found)


@pytest.mark.parametrize('name, rate', [('mmdet ConvNeXt', 0.95), ('mmseg BEiT', 0.9)])
def test_their_layer_wise_decay_is_refused_with_the_fix(name, rate, stock):
    """mmdet's and mmseg's constructors cannot read the names of repeats."""
    cfg = stock(name, as_is=True)
    assert 'DecayOptimizerConstructor' in cfg.optim_wrapper.constructor
    with pytest.raises(ConfigError) as error:
        train(cfg)
    assert "constructor='LayerDecayOptimWrapperConstructor'" in str(error.value)
    assert f'layer_decay_rate={rate},' in str(error.value)


def test_layer_wise_decay_reaches_the_repeats(stock):
    runner, _ = train(stock('mmdet ConvNeXt'))
    names = {id(p): n for n, p in runner.model.named_parameters()}
    scale = {names[id(p)]: group['lr_scale']
             for group in runner.optim_wrapper.optimizer.param_groups for p in group['params']}
    assert set(scale) == {n for n, p in runner.model.named_parameters() if p.requires_grad}
    for stage, depth in enumerate((1, 2, 3, 6)):  # ConvNeXt's own count of layers: 0 to 7
        for block in ('0', '0_r1'):
            name = f'backbone.stages.{stage}.{block}.pointwise_conv2.gain'
            assert scale[name] == pytest.approx(0.9**(7 - depth)), name
    assert scale['roi_head.bbox_head.fc_cls.weight'] == 1.


def test_what_a_repeat_of_convnext_has_for_itself(stock):
    """Layer scale and depthwise convolution are weights: shared, and frozen by 'paper'."""
    runner, _ = train(stock('mmpretrain ConvNeXt'))
    own = {n for n, _ in runner.model.backbone.stages[0][1].named_parameters()}
    assert own == {'norm.weight', 'norm.bias', *(
        f'pointwise_conv{i}.adapter_{part}' for i in (1, 2) for part in ('down', 'up')),
        'pointwise_conv2.gain'}
    first, repeat = runner.model.backbone.stages[0]
    assert repeat.gamma is first.gamma and not first.gamma.requires_grad
    assert repeat.depthwise_conv.weight is first.depthwise_conv.weight
    assert not first.depthwise_conv.weight.requires_grad


REFUSED = {
    'position embeddings among the blocks': (
        'mmdet::pvt/retinanet_pvt-t_fpn_1x_coco.py', {},
        'layers.0.1 holds members of several classes, AbsolutePositionEmbedding and PVTEncoder'),
    'convolutional MLPs': (
        'mmdet::pvt/retinanet_pvtv2-b0_fpn_1x_coco.py', {}, 'set adjustment=None'),
    'convolutional MLPs too': (
        'mmseg::segformer/segformer_mit-b0_8xb2-160k_ade20k-512x512.py', {},
        'set adjustment=None'),
    'attention whose last layer is not called': (
        'mmseg::twins/twins_pcpvt-s_uperhead_8xb4-160k_ade20k-512x512.py',
        dict(growth=dict(start='identity')), 'output projection of torch.nn.MultiheadAttention'),
    'attention whose first layer is not called': (
        'mmseg::beit/beit-base_upernet_8xb2-160k_ade20k-640x640.py',
        dict(adjustment=dict(type='LoRA')), r'never called by the model.*layers\.0\.attn\.qkv'),
    'convolution beside the branches': (
        'mmpretrain::twins/twins-pcpvt-small_8xb128_in1k.py',
        dict(growth=dict(start='identity')), 'does not start as an identity'),
    'blocks without linear layers': (
        'mmseg::segnext/segnext_mscan-t_1xb16-adamw-160k_ade20k-512x512.py', {},
        'no list of transformer blocks was found in MSCAN'),
    'a change of width': (
        'mmpretrain::mvit/mvitv2-tiny_8xb256_in1k.py', {}, 'takes 96 features and gives 192'),
}


@pytest.mark.parametrize('case', REFUSED)
def test_what_cannot_be_grown_says_why(case):
    name, options, reason = REFUSED[case]
    cfg = Config.fromfile(get_config_path(name))
    small = {'BEiT': dict(embed_dims=24, num_layers=2, num_heads=2, img_size=(64, 64),
                          out_indices=(0, 1)),
             'PCPVT': {} if 'mmpretrain' in name else dict(depths=[1, 1, 1, 1])}
    backbone = {**cfg.model.backbone, **small.get(cfg.model.backbone.type, {}), 'init_cfg': None}
    with DefaultScope.overwrite_default_scope(name.split(':')[0]):
        built = MODELS.build(backbone)
    with pytest.raises(GrowthError, match=reason):
        grow_backbone(built, **options)
