"""From configs and checkpoints to models."""
import pytest
import torch
from analysis_toys import classifier_cfg, make_batches, make_classifier
from mmengine.config import Config

from scalenet_mm import CheckpointError, ConfigError, GrowthError
from scalenet_mm.analysis.inputs import ModelSource, load_model, pick_device, without
from scalenet_mm.growth import growth_of

STOCK = dict(
    type='VisionTransformer',
    arch=dict(embed_dims=16, num_layers=3, num_heads=2, feedforward_channels=32),
    img_size=16,
    patch_size=8)


def source(checkpoint='random', model=None, **top):
    cfg = dict(default_scope='mmpretrain', model=model or classifier_cfg(), **top)
    return ModelSource('toy', Config(cfg), 'toy.py', str(checkpoint))


@pytest.fixture
def base(tmp_path):
    """An ungrown model, and its checkpoint with backbone and head."""
    model = make_classifier()
    path = tmp_path / 'base.pth'
    torch.save(dict(state_dict=model.state_dict()), path)
    return model, path


def logits(model):
    with torch.no_grad():
        return model.head(model.backbone(make_batches(2)[0]['inputs']))


def test_weights_come_from_the_checkpoint(base):
    model = load_model(source(base[1]), needs_head=True)
    assert not model.training
    torch.testing.assert_close(logits(model), logits(base[0]))


def test_an_ungrown_checkpoint_starts_a_grown_model(base):
    grown = classifier_cfg(dict(times=2, start='identity'), dict(rank=4))
    torch.testing.assert_close(logits(load_model(source(base[1], grown))), logits(base[0]))


def test_random_weights_depend_on_the_seed_alone():
    first, second, other = (load_model(source(), seed=seed).backbone.layers[0].attn.qkv.weight
                            for seed in (0, 0, 1))
    assert torch.equal(first, second) and not torch.equal(first, other)


def test_weights_that_the_config_names_are_not_fetched():
    cfg = classifier_cfg()
    cfg['backbone']['init_cfg'] = [
        dict(type='Pretrained', checkpoint='https://nowhere.invalid/weights.pth')]
    cfg['init_cfg'] = dict(type='Pretrained', checkpoint='no such file')
    load_model(source(model=cfg))


def test_the_hook_of_a_stock_model_grows_it(base):
    cfg = dict(classifier_cfg(), backbone=STOCK)
    hook = dict(type='AdapterInjectionHook', growth=dict(times=3, start='identity'),
                adjustment=None)
    one = source(base[1], cfg, custom_hooks=[hook])
    model = load_model(one)
    assert [len(m) for _, _, m in growth_of(model)] == [9]
    assert one.describe()['growth'] == dict(times=3, start='identity')
    torch.testing.assert_close(logits(model), logits(base[0]))
    original = ModelSource('original', without(one.cfg, 'growth', 'adjustment'), '', str(base[1]))
    assert list(growth_of(load_model(original))) == []
    assert original.describe()['growth'] is original.describe()['adjustment'] is None
    assert hook['growth'] is not None


def test_what_is_left_out_of_a_grown_config():
    cfg = source(model=classifier_cfg(dict(times=2), dict(rank=4))).cfg
    assert without(cfg, 'growth', 'adjustment').model.backbone.growth is None
    shared = without(cfg, 'adjustment').model.backbone
    assert (shared.growth.to_dict(), shared.adjustment) == (dict(times=2), None)
    assert cfg.model.backbone.adjustment == dict(rank=4)
    with pytest.raises(ConfigError, match='the config grows nothing'):
        without(source().cfg, 'growth')
    with pytest.raises(ConfigError, match='the config grows nothing'):
        without(source(model=dict(classifier_cfg(), backbone=STOCK)).cfg, 'growth')


def test_a_checkpoint_without_head(base, tmp_path):
    state = {k: v for k, v in base[0].state_dict().items() if k.startswith('backbone.')}
    path = tmp_path / 'backbone.pth'
    torch.save(dict(state_dict=state), path)
    with pytest.raises(CheckpointError, match="does not hold the head of 'toy'.*--new-head"):
        load_model(source(path), needs_head=True)
    assert torch.equal(load_model(source(path)).backbone.cls_token, base[0].backbone.cls_token)


def test_what_does_not_fit_is_refused(base):
    cfg = classifier_cfg()
    cfg['backbone']['arch']['num_layers'] = 4
    with pytest.raises(CheckpointError, match='another architecture'):
        load_model(source(base[1], cfg))
    with pytest.raises(CheckpointError, match="checkpoint of 'toy': no such file"):
        source('nope.pth').check()
    with pytest.raises(GrowthError, match='tims'):
        source(model=classifier_cfg(dict(tims=2))).check()
    with pytest.raises(ConfigError, match='toy.py has no model.backbone'):
        ModelSource('toy', Config(dict(model=dict(type='X'))), 'toy.py', 'random').check()


def test_device():
    assert pick_device('cpu') == 'cpu' and pick_device(None) in ('cpu', 'cuda')
    with pytest.raises(ConfigError, match='--device nonsense: '):
        pick_device('nonsense')
