"""What trains, by rules."""
import pytest
import torch.nn as nn
from growth_toys import make_blocks
from mmengine.model.utils import revert_sync_batchnorm

from scalenet_mm.errors import GrowthError
from scalenet_mm.growth import (
    FreezeRule,
    apply_freezing,
    frozen_batchnorms,
    grow,
    make_layer_map,
    resolve_rules,
)
from scalenet_mm.growth.freezing import final_module_names

BACKBONE = {
    'patch_embed': False, 'blocks.0.attn.table': False, 'blocks.0.attn.qkv.weight': False,
    'blocks.0.norm1.weight': True, 'blocks.0_r1.norm2.bias': True, 'norm.weight': True,
    'blocks.0.mlp.fc1.adapter_down': True, 'blocks.0_r1.mlp.fc2.adapter_up': True,
    'blocks.0_r1.attn.proj.gain': True, 'blocks.0.mlp.fc2.bias': False}


def tree(**parts):
    """Nested modules from dotted names."""
    root = nn.Module()
    for name, module in parts.items():
        *parents, last = name.split('.')
        at = root
        for parent in parents:
            if not hasattr(at, parent):
                at.add_module(parent, nn.Module())
            at = getattr(at, parent)
        at.add_module(last, module)
    return root


def backbone():
    return {
        'backbone.patch_embed': nn.Conv2d(3, 8, 2),
        'backbone.blocks': grow(make_blocks(1), make_layer_map(1), dict(start='identity'), {}),
        'backbone.norm': nn.LayerNorm(8),
    }


def linears(*names):
    return {name: nn.Linear(2, 2) for name in names}


def detector():
    return tree(**backbone(), **linears(
        'neck.conv', 'rpn_head.rpn_conv', 'rpn_head.rpn_cls', 'rpn_head.rpn_reg',
        'roi_head.bbox_head.shared_fcs', 'roi_head.bbox_head.fc_cls', 'roi_head.bbox_head.fc_reg',
        'roi_head.mask_head.convs', 'roi_head.mask_head.conv_logits'))


def trained(model):
    return sorted({name.rsplit('.', 1)[0] for name, p in model.named_parameters()
                   if p.requires_grad and not name.startswith('backbone.')})


def assert_backbone_is_the_papers(model):
    parameters = {n: p.requires_grad for n, p in model.named_parameters()}
    for name, trains in BACKBONE.items():
        found = [t for n, t in parameters.items() if n.startswith(f'backbone.{name}')]
        assert found and set(found) == {trains}, name


class TestPresets:

    @pytest.mark.parametrize('more, final', [
        (linears('neck', 'roi_head.bbox_head.shared_fcs.0', 'roi_head.bbox_head.fc_cls',
                 'roi_head.bbox_head.fc_reg'),
         ['roi_head.bbox_head.fc_cls', 'roi_head.bbox_head.fc_reg']),
        (linears('neck', *(f'roi_head.bbox_head.{i}.{n}' for i in range(2)
                           for n in ('shared_fcs', 'fc_cls', 'fc_reg'))),
         [f'roi_head.bbox_head.{i}.{n}' for i in range(2) for n in ('fc_cls', 'fc_reg')]),
        (linears('bbox_head.cls_convs', 'bbox_head.retina_cls', 'bbox_head.retina_reg'),
         ['bbox_head.retina_cls', 'bbox_head.retina_reg']),
        (linears('decode_head.convs', 'decode_head.conv_seg', 'auxiliary_head.convs',
                 'auxiliary_head.conv_seg'),
         ['auxiliary_head.conv_seg', 'decode_head.conv_seg']),
        (linears('decode_head.0.conv_seg', 'decode_head.1.conv_seg', 'auxiliary_head.0.conv_seg',
                 'decode_head.1.convs'),
         ['auxiliary_head.0.conv_seg', 'decode_head.0.conv_seg', 'decode_head.1.conv_seg']),
        (linears('head.fc'), ['head.fc']),
        (linears('head.layers.pre_logits', 'head.layers.head', 'head.layers.head_dist'),
         ['head.layers.head', 'head.layers.head_dist']),
    ], ids=['mask_rcnn', 'cascade', 'retinanet', 'upernet', 'cascade_seg', 'linear', 'deit'])
    def test_paper(self, more, final):
        model = tree(**backbone(), **more)
        apply_freezing(model, 'paper')
        assert_backbone_is_the_papers(model)
        assert trained(model) == final
        apply_freezing(model, 'paper-strict')
        assert_backbone_is_the_papers(model)
        assert trained(model) == []

    @pytest.mark.parametrize('preset, more', [
        ('final-layers', []), ('final-layers+rpn', ['rpn_head.rpn_cls', 'rpn_head.rpn_reg']),
        ('final-layers+rpn+mask', ['rpn_head.rpn_cls', 'rpn_head.rpn_reg',
                                   'roi_head.mask_head.conv_logits'])])
    def test_final_layers(self, preset, more):
        model = detector()
        apply_freezing(model, preset)
        assert trained(model) == sorted(
            ['roi_head.bbox_head.fc_cls', 'roi_head.bbox_head.fc_reg', *more])
        assert all(p.requires_grad for p in model.backbone.parameters())

    def test_backbone_alone(self):
        model = detector()
        apply_freezing(model, 'backbone-paper')
        assert_backbone_is_the_papers(model)
        assert len(trained(model)) == 9

    def test_all(self):
        model = detector().requires_grad_(False)
        apply_freezing(model, 'all')
        assert all(p.requires_grad for p in model.parameters())

    @pytest.mark.parametrize('preset, names, final', [
        ('mask-rcnn', ['rpn_head.rpn_cls', 'roi_head.bbox_head.shared_fcs.0'],
         ['roi_head.bbox_head.fc_cls', 'roi_head.bbox_head.fc_reg']),
        ('cascade-mask-rcnn', ['roi_head.bbox_head.0.shared_fcs.0'],
         ['roi_head.bbox_head.0.fc_cls', 'roi_head.bbox_head.1.fc_reg']),
        ('retinanet', ['bbox_head.cls_convs.0'], ['bbox_head.retina_cls', 'bbox_head.retina_reg']),
        ('dino', ['bbox_head.reg_branches.0.0', 'bbox_head.reg_branches.0.2', 'encoder.x'],
         ['bbox_head.cls_branches.0', 'bbox_head.cls_branches.1', 'bbox_head.reg_branches.0.4']),
        ('mask2former', ['panoptic_head.mask_embed.0'],
         ['panoptic_head.cls_embed', 'panoptic_head.mask_embed.4']),
        ('mask2former', ['decode_head.mask_embed.2'],
         ['decode_head.cls_embed', 'decode_head.mask_embed.4']),
        ('upernet', ['decode_head.bottleneck'],
         ['auxiliary_head.conv_seg', 'decode_head.conv_seg']),
        ('segformer', ['decode_head.fusion_conv'], ['decode_head.conv_seg']),
        ('linear-cls', ['neck'], ['head.fc']),
        ('vit-cls', ['head.layers.pre_logits'], ['head.layers.head']),
    ])
    def test_one_head(self, preset, names, final):
        model = tree(**backbone(), **linears('neck', *names, *final))
        apply_freezing(model, preset)
        assert_backbone_is_the_papers(model)
        assert trained(model) == final
        lines = apply_freezing(model, 'paper')  # the head is found out
        assert trained(model) == final
        assert len(lines) == len(set(lines))

        with pytest.raises(GrowthError, match=f"preset '{preset}' knows .* does not have"):
            apply_freezing(tree(**backbone(), **linears('head.classifier')), preset)

    @pytest.mark.parametrize('preset, only', [('dino', 'bbox_head.cls_branches.0'),
                                              ('mask2former', 'panoptic_head.cls_embed')])
    def test_half_a_head(self, preset, only):
        with pytest.raises(GrowthError, match=f"preset '{preset}' knows .* does not have"):
            apply_freezing(tree(**backbone(), **linears(only)), preset)

    def test_the_right_preset_is_named(self):
        with pytest.raises(GrowthError, match="Presets for its head: mask-rcnn. Or name"):
            apply_freezing(detector(), 'retinanet')

    @pytest.mark.parametrize('preset', ['final-layers+rpn', 'final-layers+rpn+mask'])
    def test_a_part_that_is_not_there(self, preset):
        model = tree(**backbone(), **linears('neck', 'head.fc'))
        with pytest.raises(GrowthError, match=r"preset '.*' knows .*rpn_head.* does not have"):
            apply_freezing(model, preset)

    def test_unknown_final_layers(self):
        with pytest.raises(GrowthError, match="preset 'paper' knows none of the final layers"):
            apply_freezing(tree(**backbone(), **linears('head.classifier')), 'paper')


class TestRules:

    def test_the_last_match_wins(self):
        model = tree(**linears('a.x', 'a.y', 'b'))
        apply_freezing(model, [dict(freeze='a'), dict(train='a.x')])
        assert trained(model) == ['a.x', 'b']
        apply_freezing(model, [dict(train='a.x'), dict(freeze='a')])
        assert trained(model) == ['b']

    def test_an_unmatched_parameter_is_left(self):
        model = tree(**linears('a', 'b'))
        model.b.weight.requires_grad_(False)
        apply_freezing(model, dict(freeze=r'a\.'))
        assert {n for n, p in model.named_parameters() if p.requires_grad} == {'b.bias'}

    def test_patterns_match_at_the_start(self):
        model = tree(**linears('head.fc', 'neck.head'))
        apply_freezing(model, dict(freeze='head'))
        assert trained(model) == ['neck.head']

    @pytest.mark.parametrize('kind, ends', [
        ('norm', {'norm1', 'norm2', 'norm'}), ('gain', {'proj', 'fc2'}),
        ('adapter', {'fc1', 'fc2'}),
        (['gain', 'norm'], {'norm1', 'norm2', 'norm', 'proj', 'fc2'}),
        (('weight', ), {'patch_embed', 'attn', 'qkv', 'proj', 'fc1', 'fc2'})])
    def test_kinds(self, kind, ends):
        model = tree(**backbone())
        apply_freezing(model, [dict(freeze=''), dict(train='', kind=kind)])
        names = [n for n, p in model.named_parameters() if p.requires_grad]
        assert {name.split('.')[-2] for name in names} == ends
        if kind == 'gain':
            assert all(name.endswith('.gain') for name in names)

    def test_presets_and_rules_mix(self):
        model = detector()
        lines = apply_freezing(model, ['paper', dict(train='roi_head.mask_head.conv_logits'),
                                       FreezeRule('neck', True)])
        assert trained(model) == ['neck.conv', 'roi_head.bbox_head.fc_cls',
                                  'roi_head.bbox_head.fc_reg', 'roi_head.mask_head.conv_logits']
        assert lines[-1] == 'train neck: 2 tensors'
        assert any(line.startswith(r'train backbone\. (adapter, gain, norm): ') for line in lines)

    @pytest.mark.parametrize('freeze, message', [
        ('papers', "unknown preset 'papers'; the presets are backbone-paper, final-layers"),
        (dict(freeze='nek'), "the rule 'freeze nek' matches no parameter .* backbone, neck"),
        ([dict(freeze='neck'), dict(train='neck', kind='norm')],
         r"the rule 'train neck \(norm\)' matches no parameter"),
        (dict(freeze='(neck'), r"'\(neck' is no regular expression"),
        (dict(freeze='neck', kind='conv'), r"unknown kind \['conv'\]; the kinds are"),
        (dict(freeze='neck', kind=5), 'kind must be one of'),
        (dict(freeze='neck', train='neck'), 'a rule is dict'),
        (dict(pattern='neck'), 'a rule is dict'),
        (dict(freeze='neck', kinds='norm'), 'a rule is dict'),
        (dict(freeze=['neck']), 'a rule is dict'),
        ([['neck']], 'a rule is dict'),
        ([], 'must be a preset, a rule, or a list'),
        (None, 'must be a preset, a rule, or a list'),
        (5, 'must be a preset, a rule, or a list'),
    ])
    def test_refusals_change_nothing(self, freeze, message):
        model = detector()
        many = [dict(freeze='backbone'), *freeze] if isinstance(freeze, list) and freeze else freeze
        with pytest.raises(GrowthError, match=message):
            apply_freezing(model, many)
        assert all(p.requires_grad for p in model.parameters())

    def test_resolving_needs_no_model(self):
        rules = resolve_rules(['final-layers', dict(train='x', kind='norm')], ['head.fc.weight'])
        assert [str(rule) for rule in rules] == [r'freeze (?!backbone\.)', r'train head\.fc\.',
                                                 'train x (norm)']


class TestBatchNorms:

    def test_only_frozen_ones(self):
        model = tree(a=nn.BatchNorm2d(2), b=nn.BatchNorm2d(2), c=nn.BatchNorm2d(2, affine=False),
                     d=nn.LayerNorm(2), e=nn.SyncBatchNorm(2), f=nn.InstanceNorm2d(2, affine=True))
        assert frozen_batchnorms(model) == []
        model.requires_grad_(False)
        model.b.bias.requires_grad_(True)
        assert frozen_batchnorms(model) == [model.a, model.e]

    def test_what_mmengine_makes_of_sync_bn(self):
        model = revert_sync_batchnorm(tree(a=nn.SyncBatchNorm(2), b=nn.SyncBatchNorm(2)))
        assert not isinstance(model.a, (nn.SyncBatchNorm, nn.BatchNorm2d))
        model.a.requires_grad_(False)
        assert frozen_batchnorms(model) == [model.a]

    def test_mmcv_sync_bn(self):
        norm = pytest.importorskip('mmcv.ops').SyncBatchNorm.__new__(
            pytest.importorskip('mmcv.ops').SyncBatchNorm)
        nn.Module.__init__(norm)  # its constructor wants a process group
        for name in ('weight', 'bias'):
            norm.register_parameter(name, nn.Parameter(nn.Linear(1, 2).bias.detach(), False))
        norm.register_buffer('running_mean', norm.weight.detach().clone())
        assert frozen_batchnorms(tree(a=norm)) == [norm]

    def test_freezing_a_head_finds_its_batchnorms(self):
        model = tree(**backbone(), **linears('decode_head.conv_seg'),
                     **{'decode_head.bn': nn.BatchNorm2d(2)})
        apply_freezing(model, 'paper')
        assert frozen_batchnorms(model) == [model.decode_head.bn]


def test_final_module_names():
    model = tree(**backbone(), **linears('neck', 'head.a', 'head.b', 'rpn'))
    model.neck.requires_grad_(False)
    model.head.a.requires_grad_(False)
    assert final_module_names(model) == ['head.b', 'rpn']
