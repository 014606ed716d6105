"""Every freezing preset finds what it names in a built model of the recipes."""
import pytest
from imagenet_toys import CONFIGS
from mmengine.config import Config

from scalenet_mm.analysis.meta_model import build_on_meta
from scalenet_mm.growth import PRESETS, apply_freezing, resolve_rules
from scalenet_mm.growth.freezing import HEADS, final_module_names

MASK_RCNN = 'maskrcnn_scalenet_swin-t_1x_coco'
ROI = ['roi_head.bbox_head.fc_cls', 'roi_head.bbox_head.fc_reg']
RPN = ['rpn_head.rpn_cls', 'rpn_head.rpn_reg']

#: preset, config, what trains outside of the backbone
CASES = [
    ('mask-rcnn', MASK_RCNN, ROI),
    ('mask-rcnn', 'maskrcnn_scalenet_deit-t_in1k-pre_1x_coco', ROI),
    ('final-layers', MASK_RCNN, ROI),
    ('final-layers+rpn', MASK_RCNN, RPN + ROI),
    ('final-layers+rpn+mask', MASK_RCNN, RPN + ROI + ['roi_head.mask_head.conv_logits']),
    ('cascade-mask-rcnn', 'cascade-maskrcnn_scalenet_swin-t_1x_coco',
     [f'roi_head.bbox_head.{i}.{n}' for i in range(3) for n in ('fc_cls', 'fc_reg')]),
    ('retinanet', 'retinanet_scalenet_swin-t_1x_coco',
     ['bbox_head.retina_cls', 'bbox_head.retina_reg']),
    ('dino', 'dino_scalenet_swin-l_12e_coco',
     [f'bbox_head.cls_branches.{i}' for i in range(7)]
     + [f'bbox_head.reg_branches.{i}.4' for i in range(7)]),
    ('mask2former', 'mask2former_scalenet_swin-t_50e_coco',
     ['panoptic_head.cls_embed', 'panoptic_head.mask_embed.4']),
    ('mask2former', 'mask2former_scalenet_swin-t_160k_ade20k',
     ['decode_head.cls_embed', 'decode_head.mask_embed.4']),
    ('upernet', 'upernet_scalenet_swin-t_40k_ade20k',
     ['decode_head.conv_seg', 'auxiliary_head.conv_seg']),
    ('upernet', 'upernet_scalenet_deit-t_in1k-pre_160k_ade20k',
     ['decode_head.conv_seg', 'auxiliary_head.conv_seg']),
    ('segformer', 'segformer_scalenet_swin-t_160k_ade20k', ['decode_head.conv_seg']),
    ('linear-cls', 'scalenet_swin-t_100e_imagenet', ['head']),
    ('vit-cls', 'scalenet_deit-b_100e_imagenet', ['head']),
    ('paper-strict', MASK_RCNN, []),
]


def build(name):
    return build_on_meta(Config.fromfile(CONFIGS / f'{name}.py'))


@pytest.mark.parametrize('preset, name, final', CASES,
                         ids=[f'{preset}-{name.split("_")[0]}' for preset, name, _ in CASES])
def test_preset(preset, name, final):
    model = build(name)
    names = [n for n, _ in model.named_parameters()]
    rules = resolve_rules(preset, names)
    for rule in rules:  # gains need another start than the paper's: one rule names three kinds
        assert any(rule.matches(n, k) for n in names for k in rule.kinds or ('weight', )), rule
    apply_freezing(model, preset)
    assert sorted(final_module_names(model)) == sorted(final)
    increments = {n for n, p in model.backbone.named_parameters()
                  if n.endswith(('adapter_down', 'adapter_up'))}
    if not preset.startswith('final-layers'):
        assert increments
        for n, parameter in model.backbone.named_parameters():
            is_norm = n.split('.')[-2].startswith(('norm', 'ln')) if '.' in n else False
            assert parameter.requires_grad == (n in increments or is_norm), n
    if preset in HEADS:
        apply_freezing(model, 'paper')  # it finds the same by itself
        assert sorted(final_module_names(model)) == sorted(final)


def test_every_preset_is_tested():
    without_layers = {'backbone-paper', 'paper', 'all'}
    assert set(PRESETS) - without_layers == {preset for preset, _, _ in CASES}
