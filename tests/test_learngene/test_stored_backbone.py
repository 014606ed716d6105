"""What a checkpoint's own config may have built from it."""
import copy

import pytest
from gene_toys import ARCH, auxiliary_cfg, make_cfg, save_trained, tleg_cfg
from mmengine.config import Config

from scalenet_mm.checkpoints.stored_config import read_stored_config
from scalenet_mm.errors import CheckpointError, ConfigError
from scalenet_mm.learngene import extract_gene
from scalenet_mm.learngene.gene import build_backbone
from scalenet_mm.learngene.stored_backbone import TYPES, check_stored

STOCK = dict(type='mmpretrain.VisionTransformer', arch=ARCH, img_size=32, patch_size=8)


def stored(backbone, scope='mmpretrain', **model):
    return dict(model=dict(type='ImageClassifier', backbone=backbone, **model),
                default_scope=scope)


@pytest.mark.parametrize('change, place', [
    (dict(type='os.mkdir'), 'type'), (dict(type='mmpretrain.os.mkdir'), 'type'),
    (dict(type='mmyolo.VisionTransformer'), 'type'), (dict(type='ResNet'), 'type'),
    (dict(type=5), 'type'), (dict(type=None), 'type'),
    (dict(type='GrownBackbone', base='x'), 'base'),
    (dict(type='GrownBackbone', base=dict(type='GrownBackbone', base=STOCK)), 'base.type'),
    (dict(arch='os.mkdir'), 'arch'), (dict(_scope_='os'), '_scope_'),
    (dict(norm_cfg=dict(type='os.mkdir')), 'norm_cfg.type'),
    (dict(norm_cfg=[dict(type='LN'), dict(type='numpy.LN')]), 'norm_cfg.type'),
    (dict(norm_cfg=(dict(a=dict(layer_type='os')), )), 'norm_cfg.a.layer_type'),
    (dict(norm_cfg=dict(type=dict(type='x'))), 'norm_cfg.type.type'),
    (dict(layer_cfgs=dict(ffn_type='os')), 'layer_cfgs.ffn_type'),
    (dict(layer_cfgs=dict(other='word')), 'layer_cfgs.other'),
    (dict(layer_cfgs=dict(_scope_='numpy')), 'layer_cfgs._scope_'),
    (dict(qkv_bias=b'x'), 'qkv_bias'), (dict(qkv_bias={1}), 'qkv_bias'),
    (dict(qkv_bias='word' * 50), 'qkv_bias'),
])
def test_what_is_not_known_is_refused(change, place):
    with pytest.raises(ConfigError) as error:
        check_stored(stored(dict(STOCK, **change)), 'evil.pth')
    said = str(error.value)
    assert said.startswith(f'evil.pth has model.backbone.{place}=') and said.endswith('--config')
    assert len(said) < 260


@pytest.mark.parametrize('scope', ['os', 'mmpretrain.os', 5, ['mmpretrain'], dict(a=1)])
def test_scopes(scope):
    with pytest.raises(ConfigError, match='evil.pth has default_scope='):
        check_stored(stored(STOCK, scope), 'evil.pth')


@pytest.mark.parametrize('backbone', [
    dict(STOCK),
    dict(STOCK, type='VisionTransformer', arch='deit-small', out_type='avg_featmap'),
    dict(STOCK, norm_cfg=dict(type='LN', eps=1e-5), pre_norm=True,
         patch_cfg=dict(conv_type='Conv2d', norm_cfg=dict(type='mmpretrain.LN2d'),
                        padding='corner'),
         layer_cfgs=dict(act_cfg=dict(type='ReLU', inplace=True), num_fcs=2)),
    dict(STOCK, layer_cfgs=dict(act_cfg=dict(type='mmpretrain.QuickGELU'))),
    dict(type='mmseg.VisionTransformer', embed_dims=24, num_layers=2, num_heads=2, img_size=32,
         patch_size=8, patch_pad='corner', act_cfg=dict(type='GELU'), norm_cfg=dict(type='LN'),
         interpolate_mode='bicubic', frozen_exclude=['all']),
    dict(type='ScaleNetViT', arch=ARCH, img_size=(32, 32), patch_size=8, interpolate_mode='bicubic',
         growth=dict(order='interpolate', times=(1, 2, 1), share='all', depth=4), adjustment=None),
    dict(type='TLEGViT', arch='deit-tiny', depth=3),
    dict(type='GrownBackbone', base=STOCK, growth=dict(times=2, share='all'), adjustment=None,
         targets=None, init_cfg=None),
])
def test_ordinary_configs_pass_as_they_are(backbone):
    cfg = stored(backbone)
    before = copy.deepcopy(cfg)
    checked = check_stored(cfg, 'net.pth')
    assert cfg == before
    want = {k: v for k, v in backbone.items() if k != 'init_cfg'}
    assert checked == dict(model=dict(backbone=want), default_scope='mmpretrain')
    built = build_backbone(checked, 'net.pth')
    assert all(p.is_meta for p in built.parameters())


def test_weights_are_named_nowhere():
    backbone = dict(STOCK, pretrained='a.pth', init_cfg=dict(type='Pretrained', checkpoint='a'),
                    patch_cfg=dict(init_cfg=[dict(type='Anything')]))
    assert check_stored(stored(backbone, init_cfg=dict(type='X')), 'a')['model'] == dict(
        backbone=dict(STOCK, patch_cfg={}))


def test_of_a_distilled_net_the_student_counts():
    model = dict(type='DistilledClassifier', student=stored(STOCK)['model'],
                 teacher=dict(type='os.mkdir'))
    assert check_stored(dict(model=model), 'a') == dict(
        model=dict(backbone=STOCK), default_scope='mmengine')


def test_all_names_are_in_a_registry():
    """Or mmengine would go on to import a module of that name."""
    import mmpretrain.models  # noqa: F401
    from mmengine.registry import MODELS
    from mmpretrain.registry import MODELS as PRETRAIN
    assert {name for name in TYPES if name not in MODELS.module_dict} \
        <= set(PRETRAIN.module_dict)


@pytest.mark.parametrize('model', [None, 5, 'x', [], [1], dict(type='A'), dict(backbone='x'),
                                   dict(backbone=[1]), dict(type='DistilledClassifier')])
def test_no_backbone(model):
    with pytest.raises(ConfigError, match='^a.pth(: the model .* has no backbone| has no model)'):
        check_stored(dict(model=model), 'a.pth')


@pytest.mark.parametrize('change, message', [
    (dict(gone_argument=1), 'gone_argument'), (dict(arch=5), 'cannot be built'),
    (dict(arch='deit-huger'), 'deit-huger'), (dict(patch_cfg=3), 'cannot be built'),
    (dict(drop_path_rate='none'), 'cannot be built'), (dict(img_size=(1, 2, 3)), 'cannot be built'),
])
@pytest.mark.parametrize('given', [False, True])
def test_what_a_class_does_not_take(change, message, given, tmp_path):
    cfg = Config(stored(dict(STOCK, type='VisionTransformer')))
    path = str(tmp_path / 'net.pth')
    save_trained(path, Config(dict(make_cfg(), **{
        'model': dict(make_cfg().model, backbone=dict(STOCK))})), text=False)
    cfg.model.backbone.update(change)
    with pytest.raises(ConfigError, match=message) as error:
        if given:
            extract_gene(path, cfg)
        else:
            build_backbone(check_stored(cfg.to_dict(), 'a.pth'), 'a.pth')
    assert '\n' not in str(error.value)


def test_gated_mlps(tmp_path):
    cfg = make_cfg(**dict(STOCK, layer_cfgs=dict(ffn_type='swiglu_fused')))
    save_trained(tmp_path / 'net.pth', cfg)
    with pytest.raises(ConfigError, match='of type SwiGLUFFNFused, and those of a learngene are'):
        extract_gene(str(tmp_path / 'net.pth'))


def test_a_type_that_makes_no_module():
    with pytest.raises(ConfigError, match="'builtins.dict', is no module but a dict"):
        build_backbone(dict(model=dict(backbone=dict(type='builtins.dict', a=1))), 'c.py')


# --- a config that is given, and the file's own --------------------------------------------------


def test_a_config_that_says_another_growth(aux):
    """An auxiliary net has the names of a plain one: only the file's own config knows."""
    path, _ = aux
    with pytest.raises(CheckpointError, match=r"aux.pth \(meta\['cfg'\]\) says that it is of a net "
                                              'that runs its blocks in the order 0 0 1 1 1 2 2, '
                                              'and the config that it is of a plain model of 3'):
        extract_gene(path, make_cfg())
    with pytest.raises(CheckpointError, match='in the order 0 0 1 1 1 2 2, and the config'):
        extract_gene(path, make_cfg(), 'vanilla', 1)
    assert extract_gene(path, auxiliary_cfg()).method == 'sws'


def test_a_config_that_knows_more_than_the_file(tmp_path, caplog):
    """A hook may have grown what the stored config says is plain."""
    path = str(tmp_path / 'net.pth')
    save_trained(path, make_cfg())
    assert extract_gene(path, auxiliary_cfg()).method == 'sws'
    save_trained(path, make_cfg(), text=False)
    assert extract_gene(path, auxiliary_cfg()).stages == (2, 3, 2)
    save_trained(path, tleg_cfg(4))
    with pytest.raises(CheckpointError, match='a TLEGViT of 4 blocks, and the config that it is '
                                              'of a plain model of 2 blocks'):
        extract_gene(path, make_cfg(num_layers=2))


def test_the_warning(tmp_path, monkeypatch):
    said = []
    monkeypatch.setattr('scalenet_mm.learngene.gene.print_log', lambda text, **_: said.append(text))
    path = str(tmp_path / 'net.pth')
    save_trained(path, make_cfg())
    extract_gene(path, make_cfg())
    assert not said
    extract_gene(path, auxiliary_cfg())
    assert len(said) == 1 and 'a plain model of 3 blocks (growth=None), and the config that' in \
        said[0] and 'net.pth' in said[0]


@pytest.mark.parametrize('text', ['model = ' + '-' * 100000 + '1',
                                  'model = ' + '(' * 5000 + ')' * 5000,
                                  'model = ' + 'dict(a=' * 3000 + '1' + ')' * 3000,
                                  'model = ' + ' + '.join('1' * 60000)])
def test_deep_expressions(text):
    with pytest.raises(CheckpointError, match='cannot be read|no plain data') as error:
        read_stored_config(dict(meta=dict(cfg=text)), 'net.pth')
    assert '\n' not in str(error.value) and len(str(error.value)) < 600
