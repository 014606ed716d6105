"""Gradient norms against autograd and against unshared twins."""
import pytest
import torch
import torch.nn.functional as F
from analysis_toys import make_batches, make_classifier
from mmengine.registry import MODELS

from scalenet_mm import ConfigError
from scalenet_mm.analysis import measure_gradients


def direct(model, batches):
    """Gradient of the mean loss over all samples at once, by parameter name."""
    images = torch.cat([batch['inputs'] for batch in batches])
    labels = torch.cat([s.gt_label for batch in batches for s in batch['data_samples']])
    model.requires_grad_(True)
    loss = F.cross_entropy(model.head(model.backbone(images)), labels)
    parameters = dict(model.named_parameters())
    gradients = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return loss.item(), dict(zip(parameters, gradients))


@pytest.mark.parametrize('growth', (None, dict(order='interpolate', times=2)))
def test_norms_are_those_of_the_mean_gradient(growth):
    model = make_classifier(growth, None if growth is None else dict(rank=4))
    batches = make_batches(3, 3, 2)
    found = measure_gradients(model, batches)
    loss, expected = direct(model, batches)
    assert found.samples == 8 and found.loss == pytest.approx(loss, rel=1e-5)
    assert set(found.parameters) == set(expected)
    for name, gradient in expected.items():
        assert found.parameters[name]['norm'] == pytest.approx(gradient.norm().item(), rel=1e-4,
                                                               abs=1e-7), name
    of_block = [gradient.norm()**2 for name, gradient in expected.items()
                if name.startswith('backbone.layers.1.') and '.ln' not in name
                and 'adapter' not in name]
    assert len(of_block) == 8
    assert found.blocks[1].norm == pytest.approx(sum(of_block).sqrt().item(), rel=1e-4)
    assert found.blocks[1].matrices == {
        name: found.parameters[f'backbone.layers.1.{name}']['norm']
        for name in ('attn.qkv.weight', 'attn.proj.weight', 'ffn.layers.0.0.weight',
                     'ffn.layers.1.weight')
    }


def test_a_shared_weight_is_one_with_the_sum_of_all_its_uses():
    shared = make_classifier(dict(order='interpolate', times=3))
    copied = make_classifier(dict(order='interpolate', times=3, share='none'))
    state = shared.state_dict()
    for name in copied.state_dict():
        state.setdefault(name, state[name.replace('_r1', '').replace('_r2', '')])
    copied.load_state_dict(state)
    batches = make_batches(4)
    one, many = measure_gradients(shared, batches), measure_gradients(copied, batches)
    assert one.loss == pytest.approx(many.loss, rel=1e-5)
    assert [(b.name, b.label, b.uses) for b in one.blocks] == [
        ('layers.0', '0', 3), ('layers.1', '1', 3), ('layers.2', '2', 3)]
    assert [(b.label, b.uses) for b in many.blocks] == [
        (f'{i}{r}', 1) for i in range(3) for r in ('', '_r1', '_r2')]
    _, gradients = direct(copied, batches)
    for i in range(3):
        summed = sum(gradients[f'backbone.layers.{i}{r}.attn.qkv.weight']
                     for r in ('', '_r1', '_r2'))
        assert one.blocks[i].matrices['attn.qkv.weight'] == pytest.approx(
            summed.norm().item(), rel=1e-4)


def test_adapters_change_nothing_before_training():
    growth, batches = dict(order='stack', times=2), make_batches(4)
    without = measure_gradients(make_classifier(growth), batches)
    with_them = measure_gradients(make_classifier(growth, dict(rank=4)), batches)
    assert [b.norm for b in without.blocks] == pytest.approx([b.norm for b in with_them.blocks])
    kinds = {p['kind'] for p in with_them.parameters.values()}
    assert kinds == {'weight', 'norm', 'adapter'}


def test_swin_labels_name_stage_and_block():
    from scalenet_mm import ScaleNetSwin
    from scalenet_mm.analysis import find_blocks
    backbone = ScaleNetSwin(
        embed_dims=8, depths=(1, 2), num_heads=(1, 2), out_indices=(0, 1), window_size=4,
        growth=dict(stages=(1, ), order='stack', times=2))
    assert [b.label for b in find_blocks(backbone)] == ['0.0', '1.0', '1.1', '1.0_r1', '1.1_r1']
    assert find_blocks(backbone)[3].name == 'stages.1.blocks.0_r1'


def test_frozen_weights_are_measured_and_everything_is_as_before():
    model = make_classifier(dict(times=2), dict(rank=4), drop_path_rate=0.9)
    model.backbone.requires_grad_(False)
    model.backbone.ln1.requires_grad_(True)
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    model.train()
    first = measure_gradients(model, make_batches(4))
    assert all(block.norm > 0 for block in first.blocks)
    assert first == measure_gradients(model, make_batches(4))  # no drop path
    assert {name: p.requires_grad for name, p in model.named_parameters()} == flags
    assert all(p.grad is None for p in model.parameters())


def test_images_are_not_mixed():
    model, batches = make_classifier(), make_batches(4)
    model.head.loss_module = MODELS.build(dict(type='CrossEntropyLoss', use_soft=True))
    model.data_preprocessor = MODELS.build(
        dict(type='ClsDataPreprocessor', mean=[0.] * 3, std=[1.] * 3, num_classes=4,
             to_onehot=True, batch_augments=dict(augments=dict(type='Mixup', alpha=1.))))
    mixing = model.data_preprocessor.batch_augments
    assert measure_gradients(model, batches).loss == pytest.approx(direct(model, batches)[0])
    assert model.data_preprocessor.batch_augments is mixing is not None


def test_what_cannot_be_measured():
    model = make_classifier()
    with pytest.raises(ConfigError, match='the samples hold no labels'):
        measure_gradients(model, make_batches(2, labels=False))
    with pytest.raises(ConfigError, match='no samples'):
        measure_gradients(model, [])
    model.head.layers.head.weight.data[0] = float('inf')
    with pytest.raises(ConfigError, match='the loss is'):
        measure_gradients(model, make_batches(2))
    assert all(p.requires_grad for p in model.parameters())
