"""From a config and a checkpoint to a model: what fits, what is said, what does not fit."""
import copy
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from api_toys import TASKS, assert_same
from mmengine.config import Config

from scalenet_mm import CheckpointError, ConfigError, infer, init_model
from scalenet_mm.apis import model as module
from scalenet_mm.apis.model import read_config


def test_a_file_a_config_and_options(toys):
    toy = toys['classification']
    by_file = init_model(toy.config, toy.whole, 'cpu')
    assert not by_file.training and by_file.dataset_meta['classes'] == tuple('0123456789')
    cfg = toy.read()
    text = cfg.pretty_text
    by_config = init_model(cfg, Path(toy.whole), 'cpu')
    assert cfg.pretty_text == text  # it is the user's
    found = [infer(model, toy.images[0])[0].sample for model in (by_file, by_config)]
    assert_same(*found)
    smaller = init_model(toy.config, toy.whole, 'cpu', cfg_options={
        'test_dataloader.dataset.pipeline.1.scale': 48, 'model.backbone.img_size': 48})
    assert infer(smaller, toy.images[0])[0].sample.img_shape == (48, 48)


def test_names_in_packages():
    """No weights are loaded."""
    pytest.importorskip('mmpretrain')
    assert read_config('scalenet_mm::quickstart/scalenet_vit-nano_digits.py')[0].model
    model = init_model('mmpretrain::deit/deit-tiny_4xb256_in1k.py', device='cpu')
    assert type(model).__name__ == 'ImageClassifier' and len(model.dataset_meta['classes']) == 1000
    assert model.dataset_meta['classes'][0] == 'tench, Tinca tinca'
    for name in ('mmpretrain::deit/none.py', 'scalenet_mm::none.py', 'nothing::a.py'):
        with pytest.raises(ConfigError, match=name.split(':')[0]):
            init_model(name, device='cpu')


def test_random_state_is_left_alone(toys):
    toy = toys['classification']
    torch.manual_seed(3)
    expected = torch.rand(2)
    torch.manual_seed(3)
    init_model(toy.config, toy.whole, 'cpu')
    assert torch.equal(torch.rand(2), expected)


@pytest.fixture
def said(monkeypatch):
    """What was logged."""
    lines = []
    monkeypatch.setattr(module, 'print_log', lambda text, **_: lines.append(text))
    return lines


def test_no_checkpoint_is_said(toys, said):
    init_model(toys['classification'].config, device='cpu')
    assert 'the weights are random' in said[0]


def test_the_base_alone_starts_as_the_grown_model(toys, said):
    """The identity start: what the base computes."""
    toy = toys['classification']
    model = init_model(toy.config, toy.base, 'cpu')
    assert 'is not of the grown model' in said[0]
    ungrown = init_model(toy.config, toy.base, 'cpu', cfg_options={
        'model.backbone.growth': None, 'model.backbone.adjustment': None})
    a, b = (infer(m, toy.images[0])[0].sample.pred_score for m in (model, ungrown))
    assert torch.equal(a, b)


def test_averaged_weights(toys, tmp_path):
    """With EMA mmengine saves the averaged weights under 'state_dict', the others beside."""
    toy = toys['classification']
    content = torch.load(toy.whole)
    content['ema_state_dict'] = {f'module.{k}': v + 1 if v.is_floating_point() else v
                                 for k, v in content['state_dict'].items()}
    torch.save(content, tmp_path / 'ema.pth')
    model = init_model(toy.config, str(tmp_path / 'ema.pth'), 'cpu')
    for key, value in model.state_dict().items():
        assert torch.equal(value, content['state_dict'][key])


def test_the_base_of_a_delta(toys, tmp_path, monkeypatch):
    toy = toys['segmentation']
    content = torch.load(toy.delta)
    content['delta']['base'].update(name='other.pth', source=str(tmp_path / 'gone.pth'))
    (tmp_path / 'here').mkdir()
    torch.save(content, tmp_path / 'delta.pth')
    monkeypatch.setattr('scalenet_mm.checkpoints.base_files._found', {})
    monkeypatch.setattr('scalenet_mm.checkpoints.base_files._places', [])
    with pytest.raises(CheckpointError, match=r'checkpoint: .*other\.pth'):
        init_model(toy.config, str(tmp_path / 'delta.pth'), 'cpu')
    (tmp_path / 'here' / 'other.pth').write_bytes(Path(toy.base).read_bytes())
    model = init_model(toy.config, str(tmp_path / 'delta.pth'), 'cpu', base=tmp_path / 'here')
    whole = init_model(toy.config, toy.whole, 'cpu')
    for key, value in whole.state_dict().items():
        assert torch.equal(value, model.state_dict()[key])


def test_slide_mode_and_another_size(toys):
    toy = toys['segmentation']
    options = {'model.test_cfg': dict(mode='slide', crop_size=(64, 64), stride=(42, 42))}
    slide, whole = (init_model(toy.config, toy.whole, 'cpu', cfg_options=o)
                    for o in (options, None))
    image = np.random.RandomState(0).randint(0, 255, (90, 150, 3), np.uint8)
    labels = [infer(m, image)[0].labels() for m in (slide, whole)]
    assert labels[0].shape == labels[1].shape == (90, 150) and (labels[0] != labels[1]).any()


def test_a_distilled_classifier_is_its_student(toys, tmp_path):
    toy = toys['classification']
    (tmp_path / 'distilled.py').write_text(f"""
_base_ = [{toy.config!r}]
student = {{{{_base_.model}}}}
model = dict(_delete_=True, type='DistilledClassifier', student=student,
             teacher='mmpretrain::levit/levit-384_8xb256_in1k.py',
             teacher_checkpoint='nowhere.pth')
""")
    model = init_model(str(tmp_path / 'distilled.py'), toy.whole, 'cpu')
    assert type(model).__name__ == 'ImageClassifier'
    plain = init_model(toy.config, toy.whole, 'cpu')
    assert_same(*(infer(m, toy.images[0])[0].sample for m in (model, plain)))


# --- classes -------------------------------------------------------------------------------------


def test_names_of_classes(toys, tmp_path):
    toy = toys['segmentation']
    content = torch.load(toy.whole)
    content['meta']['dataset_meta'] = dict(CLASSES=[f'c{i}' for i in range(11)])
    torch.save(content, tmp_path / 'other.pth')
    meta = init_model(toy.config, str(tmp_path / 'other.pth'), 'cpu').dataset_meta
    assert meta['classes'][10] == 'c10' and meta['palette'][1] == (31, 119, 180)
    # as many names as classes, or none
    content['meta']['dataset_meta'] = dict(classes=['a', 'b'], palette=[(1, 2, 3)] * 2)
    torch.save(content, tmp_path / 'other.pth')
    meta = init_model(toy.config, str(tmp_path / 'other.pth'), 'cpu').dataset_meta
    assert meta['classes'] == ('background', *'0123456789')


@pytest.mark.parametrize('meta', [
    dict(dataset_meta=dict(classes=5, palette=7)), dict(CLASSES=3),
    dict(dataset_meta=dict(classes=torch.zeros(11), palette=torch.zeros(11, 3)))])
def test_names_that_are_none(meta, toys, tmp_path):
    toy = toys['segmentation']
    torch.save(dict(torch.load(toy.whole), meta=meta), tmp_path / 'other.pth')
    meta = init_model(toy.config, str(tmp_path / 'other.pth'), 'cpu').dataset_meta
    assert meta['classes'] == ('background', *'0123456789') and meta['palette'][1] == (31, 119, 180)


# --- what does not fit ---------------------------------------------------------------------------


@pytest.mark.parametrize('config, checkpoint, error, match', [
    ('none.py', None, ConfigError, "no such file: 'none.py'"),
    (3, None, ConfigError, 'config must be a file'),
    ('detection', 'none.pth', CheckpointError, "checkpoint: no such file: 'none.pth'"),
    ('detection', 'classification', CheckpointError, 'does not fit ScaleNetSwin'),
    ('segmentation', 'detection', CheckpointError, 'does not hold the head of this model.*'
     'decode_head'),
])
def test_what_does_not_fit(config, checkpoint, error, match, toys):
    config = toys[config].config if config in TASKS else config
    checkpoint = toys[checkpoint].whole if checkpoint in TASKS else checkpoint
    with pytest.raises(error, match=match):
        init_model(config, checkpoint, 'cpu')


def test_errors_come_before_anything_is_built(toys, monkeypatch):
    monkeypatch.setattr(module, '_build', None)
    for options, match in (
            (dict(checkpoint='none.pth'), 'no such file'),
            (dict(checkpoint=toys['detection'].whole, device='cuda:77'), "device 'cuda:77'"),
            (dict(cfg_options={'model.backbone.gowth': 1}), "no argument 'gowth'")):
        with pytest.raises((ConfigError, CheckpointError), match=match):
            init_model(toys['detection'].config, **options)


@pytest.mark.parametrize('change, match', [
    (dict(default_scope='mmpose'), "default_scope='mmpose': inference is for configs of"),
    (dict(default_scope=None), 'default_scope=None'),
    (dict(model=None), 'has no model'),
])
def test_another_task(change, match, toys):
    cfg = toys['classification'].read()
    for key, value in change.items():
        setattr(cfg, key, value)
    with pytest.raises(ConfigError, match=match):
        init_model(cfg, device='cpu')


def test_a_model_without_classes():
    pytest.importorskip('mmpretrain')
    cfg = Config(dict(default_scope='mmpretrain', model=dict(
        type='MAE', backbone=dict(type='MAEViT', arch=dict(
            embed_dims=24, num_layers=2, num_heads=2, feedforward_channels=48), img_size=32),
        neck=dict(type='MAEPretrainDecoder', num_patches=4, embed_dim=24, decoder_embed_dim=24,
                  decoder_depth=1, decoder_num_heads=2),
        head=dict(type='MAEPretrainHead', patch_size=16, loss=dict(type='PixelReconstructionLoss',
                                                                   criterion='L2')))))
    with pytest.raises(ConfigError, match='builds a MAE, which is no model for classification'):
        init_model(cfg, device='cpu')


def test_an_auxiliary_head_need_not_be_in_the_file(toys):
    """It serves the losses alone; mmseg's own function takes the file, too."""
    toy = toys['segmentation']
    cfg = toy.read()
    head = cfg.model.decode_head
    cfg.model.auxiliary_head = dict(
        type='FCNHead', in_channels=head.in_channels[-1], in_index=len(head.in_channels) - 1,
        channels=8, num_convs=1, concat_input=False, num_classes=11, norm_cfg=dict(type='BN'))
    model = init_model(cfg, toy.whole, 'cpu')
    assert model.with_auxiliary_head
    assert_same(*(infer(m, toy.images[0])[0].sample
                  for m in (model, init_model(toy.config, toy.whole, 'cpu'))))


def test_pipelines(toys):
    toy = toys['classification']
    for change, match in (
            (dict(pipeline=[dict(type='PackInputs')]), 'begins with PackInputs'),
            (dict(pipeline=None), 'has no test_dataloader.dataset.pipeline')):
        cfg = toy.read()
        cfg.pop('test_pipeline')
        cfg.test_dataloader.dataset.update(change)
        with pytest.raises(ConfigError, match=match):
            infer(init_model(cfg, toy.whole, 'cpu'), toy.images[0])


def test_annotations_within_transforms_are_left_out():
    from scalenet_mm.apis.images import without_annotations
    steps = [dict(type='LoadImageFromFile'), dict(type='mmdet.LoadAnnotations', with_bbox=True),
             dict(type='TestTimeAug', transforms=[
                 [dict(type='RandomFlip', prob=1.)], [dict(type='LoadAnnotations')],
                 [dict(type='PackSegInputs')]])]
    before = copy.deepcopy(steps)
    kept = without_annotations(steps)
    assert steps == before
    assert json.loads(json.dumps(kept)) == [
        dict(type='LoadImageFromFile'), dict(type='TestTimeAug', transforms=[
            [dict(type='RandomFlip', prob=1.)], [], [dict(type='PackSegInputs')]])]


# --- device --------------------------------------------------------------------------------------


def test_a_device_that_computes_nothing():
    with pytest.raises(ConfigError, match="device 'meta' computes nothing"):
        module.choose_device('meta', 'mmpretrain')


@pytest.mark.parametrize('scope, ops, expected', [
    ('mmdet', 'not available', 'cpu'), ('mmseg', '12.8', 'cuda'), ('mmpretrain', '', 'cuda')])
def test_the_default_device(scope, ops, expected, monkeypatch):
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: True)
    monkeypatch.setattr('mmcv.ops.get_compiling_cuda_version', lambda: ops)
    assert module.choose_device(None, scope) == expected
    monkeypatch.setattr(torch.cuda, 'is_available', lambda: False)
    assert module.choose_device(None, scope) == 'cpu'
