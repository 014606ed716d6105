"""Deltas: what they leave out, that they come back whole to the bit, and what is refused."""
import copy
import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from delta_toys import (
    Classifier,
    assert_same_tensors,
    checkpoint_of,
    delta_of,
    grown_classifier,
    save_delta_of,
    train,
    trained_names,
)
from hypothesis import given, settings
from hypothesis import strategies as st
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope, init_default_scope
from mmengine.runner.checkpoint import load_checkpoint

from scalenet_mm import CheckpointError
from scalenet_mm.checkpoints import (
    Base,
    base_files,
    is_delta,
    load_delta,
    load_file,
    load_pretrained,
    make_delta,
    merge_delta,
    read_checkpoint,
)
from scalenet_mm.checkpoints.contents import describe_file
from scalenet_mm.checkpoints.delta import VERSION, apply_delta, extract_delta, write_checkpoint
from scalenet_mm.checkpoints.files import save_file
from scalenet_mm.checkpoints.keys import is_derived
from scalenet_mm.engine import load_config
from scalenet_mm.growth import apply_freezing

SWIN = dict(embed_dims=16, depths=(2, 2), num_heads=(2, 4))
CONFIGS = Path(__file__).resolve().parents[2] / 'configs'

FORMATS = [('swin', name) for name in (
    'official', 'official detector', 'backbone', 'backbone in state_dict', 'classifier',
    'old mmpretrain', 'detector', 'distributed', 'official distributed')]
FORMATS += [('vit', name) for name in (
    'official', 'timm', 'backbone', 'classifier', 'mmseg', 'segmentor', 'distributed')]


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch):
    monkeypatch.setattr(base_files, '_found', {})
    monkeypatch.setattr(base_files, '_places', [])
    monkeypatch.delenv(base_files.ENVIRONMENT, raising=False)


@pytest.fixture
def make(swin, vit):
    return dict(swin=swin, vit=vit)


@pytest.fixture
def base(vit, formats, tmp_path):
    path = tmp_path / 'base.pth'
    torch.save(formats['vit']['official'](vit().state_dict()), path)
    return str(path)


@pytest.fixture
def model(vit, base):
    return grown_classifier(vit, base)


@pytest.fixture
def saved(model, base, tmp_path):
    return save_delta_of(model, base, tmp_path / 'delta.pth')


# --- what is left out, and that it comes back ----------------------------------------------------


@pytest.mark.parametrize('family, name', FORMATS)
def test_every_format_of_base(family, name, make, formats, tmp_path, image):
    path = str(tmp_path / 'base.pth')
    torch.save(formats[family][name](make[family]().state_dict()), path)
    model = grown_classifier(make[family], path, growth=dict(times=2, start='identity'))
    delta = delta_of(model, path)
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    given = {key for key in delta['delta']['map'] if not is_derived(key)}
    assert len(frozen) > 10 and frozen == given
    moved = [origin for origin in delta['delta']['map'].values() if not isinstance(origin, str)]
    assert bool(moved) == (family == 'swin' and 'official' in name)
    saved = str(tmp_path / 'delta.pth')
    write_checkpoint(delta, saved)
    whole = read_checkpoint(saved)
    assert not is_delta(whole)
    assert_same_tensors(whole['state_dict'], model.state_dict())
    assert whole['meta']['merged_delta']['base']['name'] == 'base.pth'

    again = Classifier(make[family](seed=9, growth=dict(times=2, start='identity'),
                                    adjustment='paper'), model.head.fc.in_features).eval()
    load_checkpoint(again, saved, map_location='cpu')
    size = 56 if family == 'swin' else 48
    with torch.no_grad():  # which also chooses among equal ways of computing attention
        assert torch.equal(again(image(size)), model(image(size)))


@pytest.mark.parametrize('family', ('swin', 'vit'))
def test_backbone_alone(family, make, formats, tmp_path):
    path = str(tmp_path / 'base.pth')
    torch.save(formats[family]['official'](make[family]().state_dict()), path)
    model = grown_classifier(make[family], path).backbone
    saved = save_delta_of(model, path, tmp_path / 'delta.pth')
    assert len(load_file(saved)['delta']['map']) > 10
    other = make[family](seed=5, growth='paper', adjustment='paper')
    load_pretrained(other, saved)
    assert_same_tensors(other.state_dict(), model.state_dict())


@pytest.mark.parametrize('prefix', ('', 'backbone.'))
def test_a_stock_convnext(prefix, tmp_path):
    pytest.importorskip('mmpretrain')
    from mmpretrain.models import ConvNeXt

    from scalenet_mm import grow_backbone
    backbone = ConvNeXt(dict(depths=[1, 1, 2, 1], channels=[8, 8, 16, 16]))
    path = str(tmp_path / 'base.pth')
    save_file({'state_dict': {prefix + k: v for k, v in backbone.state_dict().items()}}, path)
    model = Classifier(grow_backbone(backbone, 'paper', 'paper'), 16)
    apply_freezing(model, 'backbone-paper')
    delta = delta_of(train(model), path)
    frozen = {n for n, p in model.named_parameters() if not p.requires_grad}
    assert len(frozen) > 10 and frozen == set(delta['delta']['map'])
    assert_same_tensors(merge_delta(delta)['state_dict'], model.state_dict())


def test_another_architecture(tmp_path):
    """Whose names are known to nobody."""
    torch.manual_seed(0)
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 8, 3), torch.nn.BatchNorm2d(8),
                                torch.nn.Linear(8, 200))
    path = str(tmp_path / 'base.pth')
    torch.save({'state_dict': {f'encoder.{k}': v.clone() for k, v in model.state_dict().items()}},
               path)
    model[1].running_mean += 1
    model[0].requires_grad_(False)
    model[2].requires_grad_(False)
    model[1].weight.requires_grad_(False)
    delta = delta_of(model, path)
    # large ones are found by what they hold; small ones are not looked for
    assert delta['delta']['map'] == {'2.weight': 'encoder.2.weight'}
    delta = merge_delta(delta)
    assert_same_tensors(delta['state_dict'], model.state_dict())


def test_what_stays_in(model, base):
    """Trained, moved, resized, cast, and what the base has not."""
    frozen = model.backbone.layers[0].attn.qkv
    frozen.bias.data[0] += 1  # frozen, and yet it changed
    unchanged = model.backbone.layers[0].ln1.weight
    unchanged.data.copy_(torch.load(base)['model']['blocks.0.norm1.weight'])  # trains
    delta = delta_of(model, base)
    held = delta['state_dict']
    for key in ('backbone.layers.0.attn.qkv.bias', 'backbone.layers.0.ln1.weight',
                'backbone.layers.0_r1.ln2.bias', 'norm.running_mean', 'norm.num_batches_tracked',
                'head.fc.weight', 'backbone.layers.2_r1.ffn.layers.1.adapter_up'):
        assert key in held
    assert 'backbone.layers.0.attn.qkv.weight' not in held
    half = copy.deepcopy(model).half()
    assert len(delta_of(half, base)['delta']['map']) == 0


def test_minus_zero_is_not_zero(tmp_path):
    path = str(tmp_path / 'base.pth')
    torch.save({'w': torch.zeros(3), 'v': torch.full((2, ), torch.nan)}, path)
    state = {'w': torch.tensor([0., -0., 0.]), 'v': torch.full((2, ), torch.nan)}
    delta = make_delta({'state_dict': dict(state)}, base_files.open_base(path))
    assert list(delta['delta']['map']) == ['v']
    whole = merge_delta(delta)['state_dict']
    assert whole['w'].view(torch.int32).tolist() == state['w'].view(torch.int32).tolist()


def test_manifest(model, base, saved):
    manifest = load_file(saved)['delta']
    assert manifest == json.loads(json.dumps(manifest))
    assert manifest['format'] == 'scalenet-delta' and manifest['version'] == VERSION == 1
    assert manifest['base'].keys() == {'name', 'source', 'sha256', 'bytes'}
    assert manifest['growth']['blocks'] == {
        'backbone.layers': ['0', '0_r1', '1', '1_r1', '2', '2_r1']}
    assert manifest['growth']['backbone'] == 'ScaleNetViT'
    assert manifest['growth']['adjustment'] == {}
    assert manifest['growth']['growth']['times'] == 2
    assert {'python', 'torch', 'scalenet_mm'} <= manifest['versions'].keys()
    for name in ('mmengine', 'mmcv'):
        assert {name, f'onedl-{name}'} & manifest['versions'].keys()
    assert list(manifest['tensors']) == list(model.state_dict())


def test_averaged_weights(model, base, tmp_path):
    trained = trained_names(model)
    ema = {'steps': torch.tensor(7)}
    for key, value in model.state_dict().items():
        ema[f'module.{key}'] = value + 1 if key in trained else value.clone()
    odd = 'module.backbone.layers.1.attn.qkv.weight'
    ema[odd] = ema[odd] + 1  # begun from other weights
    checkpoint = checkpoint_of(model, ema_state_dict=ema)
    whole = copy.deepcopy(checkpoint)
    path = str(tmp_path / 'delta.pth')
    write_checkpoint(make_delta(checkpoint, base_files.open_base(base), trained), path)
    held = load_file(path)['ema_state_dict']
    assert odd in held and 'module.backbone.layers.2.attn.qkv.weight' not in held
    merged = read_checkpoint(path)
    assert_same_tensors(merged['ema_state_dict'], whole['ema_state_dict'])
    assert_same_tensors(merged['state_dict'], whole['state_dict'])


def test_metadata_is_kept(model, base, saved):
    assert read_checkpoint(saved)['state_dict']._metadata == model.state_dict()._metadata


def test_parts_of_larger_tensors_are_copied(tmp_path):
    """torch would save all the memory behind a tensor."""
    large = torch.randn(100_000)
    torch.save({'w': torch.zeros(5)}, tmp_path / 'base.pth')
    delta = make_delta({'state_dict': {'v': large[:10]}},
                       base_files.open_base(str(tmp_path / 'base.pth')))
    write_checkpoint(delta, str(tmp_path / 'delta.pth'))
    assert (tmp_path / 'delta.pth').stat().st_size < 10_000


def test_the_base_stays_on_the_disk(model, base, saved):
    """It costs no memory to compare with, and a loaded checkpoint cannot change it."""
    opened = base_files.open_base(base)
    before = open(base, 'rb').read()
    read_checkpoint(saved)['state_dict']['backbone.layers.0.attn.qkv.weight'].zero_()
    assert open(base, 'rb').read() == before
    assert opened.tensors['blocks.0.attn.qkv.weight'].abs().sum() > 0


class TestSafetensors:

    def test_loads_as_the_other_does(self, model, base, saved, vit, image, tmp_path):
        path = save_delta_of(model, base, tmp_path / 'delta.safetensors')
        one, other = read_checkpoint(path), read_checkpoint(saved)
        assert_same_tensors(one['state_dict'], other['state_dict'])
        assert one['state_dict']._metadata == other['state_dict']._metadata
        assert one['meta']['epoch'] == 3
        assert one['meta']['dataset_meta'] == {'classes': ['a', 'b', 'c']}
        assert load_file(path)['delta'] == load_file(saved)['delta']
        again = Classifier(vit(seed=9, growth='paper', adjustment='paper'), 24).eval()
        load_checkpoint(again, path, map_location='cpu')
        assert torch.equal(again(image(48)), model(image(48)))

    def test_a_safetensors_base(self, vit, tmp_path):
        from safetensors.torch import save_file as save
        path = str(tmp_path / 'base.safetensors')
        save(vit().state_dict(), path)
        model = grown_classifier(vit, path)
        saved = save_delta_of(model, path, tmp_path / 'delta.pth')
        assert len(load_file(saved)['delta']['map']) > 10
        assert_same_tensors(read_checkpoint(saved)['state_dict'], model.state_dict())

    def test_what_it_cannot_hold(self, model, base, tmp_path):
        averaged = {f'module.{k}': v for k, v in model.state_dict().items()}
        delta = delta_of(model, base, optimizer={'state': {}}, ema_state_dict=averaged)
        delta['meta']['odd'] = np.ones(3)
        path = str(tmp_path / 'delta.safetensors')
        write_checkpoint(delta, path)
        read = load_file(path)
        assert set(read) == {'meta', 'state_dict', 'delta'} and 'odd' not in read['meta']
        read_checkpoint(path)
        delta['state_dict']['extra'] = 'text'
        with pytest.raises(CheckpointError, match='holds tensors alone, and extra is none'):
            write_checkpoint(delta, path)

    def test_a_flipped_bit(self, model, base, tmp_path):
        path = tmp_path / 'delta.safetensors'
        save_delta_of(model, base, path)
        content = bytearray(path.read_bytes())
        content[-5] ^= 1
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match='damaged delta: the checksum of its state_dict'):
            read_checkpoint(str(path))

    @pytest.mark.parametrize('note', ('{', '[1]'))
    def test_notes_that_are_no_manifest(self, note, tmp_path):
        from safetensors.torch import save_file as save
        path = str(tmp_path / 'delta.safetensors')
        save({'w': torch.ones(2)}, path, {'scalenet_delta': note})
        with pytest.raises(CheckpointError, match='damaged'):
            read_checkpoint(path)


VALUES = st.lists(st.sampled_from([-0., 0., 1., float('nan'), float('inf')]), min_size=0,
                  max_size=4)


@settings(max_examples=60, deadline=None)
@given(given=st.dictionaries(st.sampled_from('abcdef'), VALUES, min_size=1),
       wanted=st.dictionaries(st.sampled_from('abcdefgh'), VALUES, min_size=1),
       trained=st.sets(st.sampled_from('abcdefgh')),
       dtype=st.sampled_from([torch.float32, torch.float16, torch.bfloat16, torch.int64]))
def test_round_trip(given, wanted, trained, dtype, tmp_path_factory):
    """Whatever base and model hold, what comes back has the same bits."""

    def tensors(values):
        return {k: torch.tensor(v).nan_to_num(3, 2, 1).to(dtype) if dtype == torch.int64
                else torch.tensor(v).to(dtype) for k, v in values.items()}

    folder = tmp_path_factory.mktemp('round')
    path, saved = str(folder / 'base.pth'), str(folder / 'delta.pth')
    torch.save(tensors(given), path)
    state = tensors(wanted)
    delta = make_delta({'state_dict': dict(state)}, base_files.open_base(path), trained)
    assert not trained & delta['delta']['map'].keys()
    write_checkpoint(delta, saved)
    merged = read_checkpoint(saved)['state_dict']
    assert list(merged) == list(state)
    for key, value in state.items():
        assert merged[key].dtype == value.dtype and merged[key].shape == value.shape
        assert merged[key].numpy().tobytes() == value.numpy().tobytes() \
            if dtype != torch.bfloat16 else base_files.same(merged[key], value)


@pytest.mark.parametrize('config, family, strict, classifier', (
    ('scalenet_deit-b_100e_imagenet', 'vit', 0.036, 0.045),
    ('scalenet_swin-t_100e_imagenet', 'swin', 0.036, 0.063),
))
def test_size(config, family, strict, classifier, formats, tmp_path):
    """Of the paper's models, beside the files that they start from."""
    pytest.importorskip('mmpretrain')
    from mmpretrain.datasets.categories import IMAGENET_CATEGORIES
    from mmpretrain.registry import MODELS as CLASSIFIERS
    cfg = load_config(f'{CONFIGS}/{config}.py')
    model = CLASSIFIERS.build(cfg.model)
    ungrown = CLASSIFIERS.build({**cfg.model.backbone, 'growth': None, 'adjustment': None})
    content = formats[family]['official'](ungrown.state_dict())
    head = {n: p.detach() for n, p in model.named_parameters() if n.startswith('head.')}
    content['model'].update({f'head.{n.split(".")[-1]}': value for n, value in head.items()})
    base, saved = tmp_path / 'base.pth', tmp_path / 'delta.pth'
    torch.save(content, base)
    load_pretrained(model.backbone, str(base))
    meta = dict(cfg=cfg.pretty_text, dataset_meta=dict(classes=IMAGENET_CATEGORIES))
    hub = dict(log_scalars={}, runtime_info=dict(cfg=cfg.pretty_text))
    for rules, limit in (('paper-strict', strict), ('paper', classifier)):
        for parameter in model.parameters():
            parameter.requires_grad_(True)
        apply_freezing(model, rules)
        save_delta_of(model, str(base), saved, meta=dict(meta), message_hub=dict(hub))
        assert 0.9 * limit <= saved.stat().st_size / base.stat().st_size <= limit
    base.unlink()  # pytest keeps folders


INFERENCE = {
    'mmpretrain': dict(type='ImageClassifier', neck=dict(type='GlobalAveragePooling'),
                       head=dict(type='LinearClsHead', num_classes=3, in_channels=32)),
    'mmseg': dict(type='EncoderDecoder', test_cfg=dict(mode='whole'), decode_head=dict(
        type='FCNHead', in_channels=32, channels=8, num_convs=1, num_classes=3, in_index=0)),
    'mmdet': dict(
        type='FCOS', neck=dict(type='FPN', in_channels=[32], out_channels=32, num_outs=5),
        bbox_head=dict(type='FCOSHead', num_classes=3, in_channels=32, feat_channels=32,
                       stacked_convs=1),
        test_cfg=dict(nms_pre=10, score_thr=0., nms=dict(type='nms', iou_threshold=0.5),
                      max_per_img=5)),
}


@pytest.mark.parametrize('ending', ('pth', 'safetensors'))
@pytest.mark.parametrize('scope', INFERENCE)
def test_inference(scope, ending, swin, formats, tmp_path, monkeypatch):
    """The toolboxes' own functions make a delta whole, with the classes that it knows."""
    pytest.importorskip(scope)
    base = str(tmp_path / 'base.pth')
    torch.save(formats['swin']['official'](swin().state_dict()), base)
    backbone = dict(type='ScaleNetSwin', img_size=56, arch=SWIN, out_indices=(1, ))
    cfg = Config(dict(default_scope=scope, model=dict(INFERENCE[scope], backbone=backbone)))
    init_default_scope(scope)
    try:
        model = MODELS.build(cfg.model)
        load_pretrained(model.backbone, base)
        apply_freezing(model, 'backbone-paper')
        path = save_delta_of(train(model), base, tmp_path / f'delta.{ending}')
        if scope == 'mmpretrain':
            from mmpretrain import get_model
            loaded = get_model(cfg, path)
        elif scope == 'mmseg':
            from mmseg.apis import init_model
            loaded = init_model(cfg, path, device='cpu')
        else:
            from mmdet.apis import init_detector
            loaded = init_detector(cfg, path, device='cpu', palette='coco')
    finally:
        DefaultScope._instance_dict.clear()
    assert_same_tensors(loaded.state_dict(), model.state_dict())
    classes = (getattr(loaded, 'dataset_meta', None) or loaded._dataset_meta)['classes']
    assert list(classes) == ['a', 'b', 'c']


# --- what is refused -----------------------------------------------------------------------------


def doors(path):
    return dict(
        mmengine=lambda model: load_checkpoint(model, path, map_location='cpu'),
        load_pretrained=lambda model: load_pretrained(model.backbone, path),
        load_delta=lambda model: load_delta(model, path))


def _set(*keys):
    """Change something in a manifest."""

    def change(checkpoint, value):
        place = checkpoint['delta']
        for key in keys[:-1]:
            place = place[key]
        if value is KeyError:
            del place[keys[-1]]
        else:
            place[keys[-1]] = value

    return change


QKV = 'backbone.layers.0.attn.qkv.weight'
LN = 'backbone.layers.0.ln1.weight'
DAMAGES = {
    'another format': (_set('format'), 'peft', 'not the manifest of a delta'),
    'no version': (_set('version'), KeyError, 'not the manifest of a delta'),
    'a newer version': (_set('version'), 2, 'delta of format version 2, written by scalenet_mm .*'
                                            'reads versions up to 1: upgrade scalenet_mm'),
    'no base': (_set('base'), KeyError, "manifest has no 'base'"),
    'no hash': (_set('base', 'sha256'), KeyError, "does not say 'sha256' of its base"),
    'a path for a hash': (_set('base', 'sha256'), '../../else', 'SHA-256 of its base is none'),
    'no size': (_set('base', 'bytes'), 'x', "does not say 'bytes' of its base"),
    'no map': (_set('map'), None, "manifest has no 'map'"),
    'no tensors': (_set('tensors'), KeyError, "manifest has no 'tensors'"),
    'no digests': (_set('digests'), KeyError, "manifest has no 'digests'"),
    'no growth': (_set('growth'), [], "manifest has no 'growth'"),
    'no versions': (_set('versions'), KeyError, "manifest has no 'versions'"),
    'a wrong shape': (_set('tensors', LN), ['float32', [3]], f'manifest says .* of {LN}'),
    'unknown step': (_set('map', QKV), ['blocks.0.attn.qkv.weight', 'rotate'], 'cannot be read'),
    'odd origin': (_set('map', QKV), [3], 'cannot be read'),
    'origin empty': (_set('map', QKV), [], 'cannot be read'),
    'named twice': (_set('map', LN), 'blocks.0.norm1.weight', f'{LN} is in it and in'),
    'named nowhere': (_set('map', QKV), KeyError, f'{QKV} is neither in it nor in'),
    'unknown to the manifest': (_set('tensors', QKV), KeyError, f'does not know {QKV}'),
    'origin not in the base': (_set('map', QKV), 'nope', f'takes {QKV} .* which is not there'),
    'origin of another shape': (_set('map', QKV), 'blocks.0.attn.proj.weight', f'takes {QKV} '),
    'no state dict': (lambda c, _: c.pop('state_dict'), None, 'has no state_dict'),
    'a tensor changed': (lambda c, _: c['state_dict'][LN].add_(1), None,
                         'checksum of its state_dict'),
    'a tensor of another type': (lambda c, _: c['state_dict'].update(
        {LN: c['state_dict'][LN].view(torch.int32)}), None, 'checksum of its state_dict'),
    'a tensor of another shape': (lambda c, _: c['state_dict'].update(
        {LN: c['state_dict'][LN].reshape(2, -1)}), None, 'checksum of its state_dict'),
    'a tensor missing': (lambda c, _: c['state_dict'].pop(LN), None, f'{LN} is neither'),
    'a tensor too much': (lambda c, _: c['state_dict'].update(x=torch.ones(1)), None,
                          'does not know x'),
    'averaged weights changed': (lambda c, _: c['ema_state_dict'].update(steps=torch.ones(1)),
                                 None, 'checksum of its ema_state_dict'),
}


@pytest.mark.parametrize('damage', DAMAGES)
def test_damaged_or_foreign_deltas(damage, model, base, tmp_path, vit):
    change, value, message = DAMAGES[damage]
    averaged = {f'module.{k}': v for k, v in model.state_dict().items()}
    averaged['steps'] = torch.zeros(1)
    delta = delta_of(model, base, ema_state_dict=averaged)
    change(delta, value)
    path = str(tmp_path / 'delta.pth')
    save_file(delta, path)
    other = Classifier(vit(seed=9, growth='paper', adjustment='paper'), 24)
    before = copy.deepcopy(other.state_dict())
    for door in (*doors(path).values(), lambda model: apply_delta(path)):
        with pytest.raises(CheckpointError, match=message) as caught:
            door(other)
        assert path in str(caught.value)
    assert_same_tensors(other.state_dict(), before)


JSON = st.recursive(st.none() | st.booleans() | st.integers(-3, 3) | st.text(max_size=3),
                    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(
                        st.text(max_size=3), inner, max_size=3), max_leaves=4)


@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_any_damage_of_a_manifest(data, tmp_path_factory):
    """It is told, or does not matter; and is never another kind of error."""
    folder = tmp_path_factory.mktemp('damage')
    base, saved = str(folder / 'base.pth'), str(folder / 'delta.pth')
    torch.save({'a': torch.ones(3), 'b': torch.ones(2)}, base)
    state = {'a': torch.ones(3), 'b': torch.zeros(2)}
    delta = make_delta({'meta': {}, 'state_dict': dict(state)}, base_files.open_base(base))
    place = delta['delta']
    while True:
        key = data.draw(st.sampled_from(sorted(place) if isinstance(place, dict) else
                                        range(len(place))))
        inner = place[key]
        if not isinstance(inner, (dict, list)) or not inner or data.draw(st.booleans()):
            break
        place = inner
    place[key] = data.draw(JSON)
    write_checkpoint(delta, saved)
    try:
        merged = read_checkpoint(saved)['state_dict']
    except CheckpointError as error:
        assert saved in str(error) or 'too' in str(error)
    else:
        assert_same_tensors(merged, state)
        describe_file(saved)


OTHERS = {
    'deeper': ('vit', dict(arch=dict(embed_dims=24, num_layers=4, num_heads=2,
                                     feedforward_channels=48))),
    'wider': ('vit', dict(arch=dict(embed_dims=48, num_layers=3, num_heads=2,
                                    feedforward_channels=48))),
    'ungrown': ('vit', dict(growth=None)),
    'grown further': ('vit', dict(growth=dict(times=3))),
    'another order': ('vit', dict(growth=dict(order='stack'))),
    'other blocks': ('vit', dict(growth=dict(blocks=(0, )))),
    'another share': ('vit', dict(growth=dict(share='none'))),
    'gains': ('vit', dict(growth=dict(start='identity'))),
    'no adapters': ('vit', dict(adjustment=None)),
    'LoRA': ('vit', dict(adjustment=dict(type='LoRA'))),
    'another rank': ('vit', dict(adjustment=dict(rank=4))),
    'swin': ('swin', dict()),
}


@pytest.mark.parametrize('door', ('mmengine', 'load_pretrained', 'load_delta'))
@pytest.mark.parametrize('other', OTHERS)
def test_delta_of_another_model(door, other, make, saved):
    family, options = OTHERS[other]
    backbone = make[family](seed=9, **{'growth': 'paper', 'adjustment': 'paper', **options})
    model = Classifier(backbone, 24)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(CheckpointError):
        doors(saved)[door](model)
    assert_same_tensors(model.state_dict(), before)


@pytest.mark.parametrize('other, message', [
    ('ungrown', r'a model with 6 blocks in layers \(0 0_r1 1 1_r1 ...\), and this one has 3'),
    ('no adapters', 'of another architecture or growth'),
    ('another rank', 'of another architecture or growth'),
    ('deeper', 'a model with 6 blocks in layers .*, and this one has 8')])
def test_stock_backbones_refuse_too(other, message, base, saved, tmp_path):
    pytest.importorskip('mmpretrain')
    from mmpretrain.models import VisionTransformer

    from scalenet_mm import grow_backbone
    arch = dict(embed_dims=24, num_layers=4 if other == 'deeper' else 3, num_heads=2,
                feedforward_channels=48)
    backbone = VisionTransformer(arch, img_size=48, patch_size=16)
    grow_backbone(backbone, None if other == 'ungrown' else 'paper', {
        'no adapters': None, 'another rank': dict(rank=4)}.get(other, 'paper'))
    model = Classifier(copy.deepcopy(backbone), 24)
    before = copy.deepcopy(model.state_dict())
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint(model, saved)
    assert_same_tensors(model.state_dict(), before)


class TestWrongFiles:

    def test_delta_of_a_delta(self, model, base, saved, tmp_path):
        with pytest.raises(CheckpointError, match='is a delta already, of the base base.pth'):
            make_delta(load_file(saved), base_files.open_base(base))
        with pytest.raises(CheckpointError, match='is a delta itself .of the base base.pth'):
            delta_of(model, saved)
        with pytest.raises(CheckpointError, match='delta.pth is a delta already'):
            extract_delta(saved, base)

    def test_two_deltas_at_once(self, model, base, saved, tmp_path):
        """A delta whose base was overwritten by another delta."""
        second = save_delta_of(train(model, 1), base, tmp_path / 'second.pth')
        shutil.copy(second, base)
        base_files._found.clear()
        with pytest.raises(CheckpointError, match='base.pth: another file, of'):
            read_checkpoint(saved)
        with pytest.raises(CheckpointError, match='second.pth: another file'):
            apply_delta(saved, second)

    def test_apply_to_a_whole_file(self, base):
        with pytest.raises(CheckpointError, match='base.pth is no delta, but whole already'):
            apply_delta(base)
        with pytest.raises(CheckpointError, match='base.pth is no delta: load it as any'):
            load_delta(torch.nn.Linear(1, 1), base)

    def test_extract_with_a_wrong_base(self, model, base, vit, tmp_path):
        whole, other = str(tmp_path / 'whole.pth'), str(tmp_path / 'other.pth')
        save_file(checkpoint_of(model), whole)
        torch.save(vit(seed=3).state_dict(), other)
        with pytest.raises(CheckpointError, match='other.pth is not the base of .*whole.pth: 0% '):
            extract_delta(whole, other)
        assert extract_delta(whole, base)['delta']['base']['source'] == base

    def test_a_base_that_is_another_file(self, model, base, saved, vit, tmp_path):
        other = str(tmp_path / 'other.pth')
        torch.save(vit(seed=3).state_dict(), other)
        with pytest.raises(CheckpointError, match='delta of another base: wanted is base.pth'):
            merge_delta(load_file(saved), base_files.open_base(other))
        with pytest.raises(CheckpointError, match='delta of another base: wanted is base.pth'):
            load_delta(model, saved, Base(other))

    @pytest.mark.parametrize('manifest', (1, {}, {'growth': 2}, {'growth': {'blocks': 3}}))
    def test_a_note_that_means_nothing(self, manifest, model, tmp_path):
        checkpoint = checkpoint_of(model)
        checkpoint['meta']['merged_delta'] = manifest
        torch.save(checkpoint, tmp_path / 'x.pth')
        load_checkpoint(model, str(tmp_path / 'x.pth'))

    def test_made_whole_it_may_start_a_model_that_is_grown_further(self, vit, saved, tmp_path):
        whole = str(tmp_path / 'whole.pth')
        write_checkpoint(apply_delta(saved), whole)
        further = vit(seed=9, growth=dict(times=3), adjustment='paper')
        with pytest.raises(CheckpointError, match='tools/delta.py apply'):
            load_pretrained(further, saved)
        load_pretrained(further, whole)
        state = load_file(whole)['state_dict']
        assert torch.equal(further.state_dict()['layers.0_r2.ln1.weight'],
                           state['backbone.layers.0_r1.ln1.weight'])

    @pytest.mark.parametrize('layers', (3, 4))
    def test_a_stock_model_that_was_never_grown(self, layers, saved):
        pytest.importorskip('mmpretrain')
        from mmpretrain.models import VisionTransformer
        arch = dict(embed_dims=24, num_layers=layers, num_heads=2, feedforward_channels=48)
        model = Classifier(VisionTransformer(arch, img_size=48, patch_size=16), 24)
        before = copy.deepcopy(model.state_dict())
        with pytest.raises(CheckpointError, match='delta.pth is of a grown model.*is not grown'):
            load_checkpoint(model, saved)
        assert_same_tensors(model.state_dict(), before)

    @pytest.mark.parametrize('ending', ('pth', 'safetensors'))
    def test_extracted_from_a_file_in_another_order(self, ending, vit, base, tmp_path):
        trained = grown_classifier(vit, base, growth=dict(order='stack'))
        whole, delta = str(tmp_path / f'whole.{ending}'), str(tmp_path / 'delta.pth')
        write_checkpoint(checkpoint_of(trained), whole)
        write_checkpoint(extract_delta(whole, base), delta)
        fits = grown_classifier(vit, None, 9, growth=dict(order='stack'))
        load_delta(fits, delta)
        assert_same_tensors(fits.state_dict(), trained.state_dict())
        others = dict(order='interpolate'), dict(blocks=(0, ))
        for growth in others[ending == 'safetensors':]:  # which has its tensors sorted
            with pytest.raises(CheckpointError):
                load_pretrained(vit(growth=growth, adjustment='paper'), delta)

    @pytest.mark.parametrize('value', (torch.ones(2), 0.1, {'beta': 1}))
    def test_something_else_called_delta(self, value, tmp_path):
        torch.save({'delta': value, 'state_dict': {'w': torch.ones(1)}}, tmp_path / 'x.pth')
        assert not is_delta(read_checkpoint(str(tmp_path / 'x.pth')))


# --- several on one base -------------------------------------------------------------------------


def unique_bytes(*models):
    storages = {}
    for model in models:
        for tensor in (*model.parameters(), *model.buffers()):
            storage = tensor.untyped_storage()
            storages[storage.data_ptr()] = storage.nbytes()
    return sum(storages.values())


class TestSharedBase:

    @pytest.mark.parametrize('family', ('vit', 'swin'))
    def test_two_tasks(self, family, make, formats, image, tmp_path):
        path = str(tmp_path / 'base.pth')
        torch.save(formats[family]['official'](make[family]().state_dict()), path)
        trained = [grown_classifier(make[family], path, seed, classes)
                   for seed, classes in ((1, 3), (2, 7))]
        # of the second task the backbone alone, as for a segmentor
        trained[1] = trained[1].backbone
        deltas = [save_delta_of(m, path, tmp_path / f'{i}.pth') for i, m in enumerate(trained)]
        base = Base(path)
        models = [grown_classifier(make[family], None, 8, 3),
                  grown_classifier(make[family], None, 9, 7).backbone]
        models[1].requires_grad_(True)
        for model, delta in zip(models, deltas):
            load_delta(model, delta, base)
        size = 56 if family == 'swin' else 48
        for model, expected in zip(models, trained):
            with torch.no_grad():
                outputs, wanted = model.eval()(image(size)), expected.eval()(image(size))
            outputs, wanted = (x if isinstance(x, tuple) else (x, ) for x in (outputs, wanted))
            assert all(map(torch.equal, outputs, wanted))
            assert_same_tensors(model.state_dict(), expected.state_dict())
        frozen = [n for n, p in models[1].named_parameters() if not p.requires_grad]
        assert len(frozen) > 10
        for name in frozen:
            one = models[0].backbone.get_parameter(name)
            assert one.data_ptr() == models[1].get_parameter(name).data_ptr()
        own = sum(v.numel() * v.element_size()
                  for d in deltas for v in load_file(d)['state_dict'].values())
        shared = sum(v.numel() * v.element_size() for v in base._held.values())
        file = sum(v.numel() * v.element_size() for v in base.tensors.values())
        assert shared <= file
        assert unique_bytes(*models) <= (shared + own) * 1.01

    def test_switching(self, vit, base, image, tmp_path):
        trained = [grown_classifier(vit, base, seed) for seed in (1, 2)]
        deltas = [save_delta_of(m, base, tmp_path / f'{i}.pth') for i, m in enumerate(trained)]
        model, shared = grown_classifier(vit, None, 9), Base(base)
        for which in (0, 1, 0):
            load_delta(model, deltas[which], shared)
            assert torch.equal(model(image(48)), trained[which](image(48)))

    def test_statistics_are_each_models_own(self, vit, base, image, tmp_path):
        whole, delta = str(tmp_path / 'base.pth'), str(tmp_path / 'delta.pth')
        trained = grown_classifier(vit, base)
        torch.save(checkpoint_of(trained), whole)
        write_checkpoint(delta_of(trained, whole), delta)
        assert 'norm.running_mean' not in load_file(delta)['state_dict']
        shared = Base(whole)
        one, other = (load_delta(grown_classifier(vit, None, 9), delta, shared) for _ in '12')
        one.train()(image(48))
        assert torch.equal(other.eval()(image(48)), trained(image(48)))
        assert torch.equal(load_delta(one, delta, shared).eval()(image(48)), trained(image(48)))

    def test_without_a_base_named(self, vit, model, saved, image):
        other = grown_classifier(vit, None, 9)
        load_delta(other, saved)
        assert torch.equal(other(image(48)), model(image(48)))

    def test_from_nothing(self, vit, model, saved, image):
        """A model that has no weights yet."""
        other = grown_classifier(vit, None, 9).to('meta')
        load_delta(other, saved).eval()
        assert torch.equal(other(image(48)), model(image(48)))
