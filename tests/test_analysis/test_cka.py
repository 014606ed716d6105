"""CKA against direct computations, its known values and its invariances."""
import pytest
import torch
from analysis_toys import make_batches, make_classifier

from scalenet_mm import ConfigError
from scalenet_mm.analysis import (
    MinibatchCKA,
    compare_models,
    find_blocks,
    gram_matrix,
    linear_cka,
)


def features(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.double)


def kornblith(x, y):
    """Linear CKA by its other formula, from features and without Gram matrices (eq. 15)."""
    x, y = x - x.mean(0), y - y.mean(0)
    return ((y.T @ x).norm()**2 / ((x.T @ x).norm() * (y.T @ y).norm())).item()


def song(x, y):
    """The unbiased HSIC of Song et al. (2012, eq. 5), written out."""
    n = len(x)
    k, m = x @ x.T, y @ y.T
    k, m = k - torch.diag(k.diag()), m - torch.diag(m.diag())
    one = torch.ones(n, dtype=torch.double)
    return ((k @ m).trace() + (one @ k @ one) * (one @ m @ one) / ((n - 1) * (n - 2))
            - 2 / (n - 2) * (one @ k @ m @ one)) / (n * (n - 3))


def test_biased_on_one_batch_is_the_direct_computation():
    x, y = features(20, 7) + 3, features(20, 3, 4, seed=1)
    y[:, 0] += x[:, :4]
    direct = kornblith(x, y.flatten(1))
    assert linear_cka(x, y) == pytest.approx(direct, rel=1e-9)
    assert 0.3 < direct < 0.95


def test_unbiased_is_songs_estimator():
    x, y = features(9, 7) + 5, features(9, 4, seed=1)
    y += x[:, :4]
    direct = song(x, y) / (song(x, x) * song(y, y)).sqrt()
    assert linear_cka(x, y, unbiased=True) == pytest.approx(direct.item(), rel=1e-8)


@pytest.mark.parametrize('unbiased', (True, False))
def test_the_same_up_to_rotation_scale_and_shift(unbiased):
    x, y = features(16, 6), features(16, 5, seed=1)
    y[:, :3] += 2 * x[:, :3]
    rotation = torch.linalg.qr(features(6, 6, seed=2))[0]
    assert linear_cka(x, x, unbiased) == pytest.approx(1)
    assert linear_cka(x, -3 * x @ rotation + 100, unbiased) == pytest.approx(1, abs=1e-6)
    assert linear_cka(x @ rotation * 0.1 - 5, y, unbiased) == pytest.approx(
        linear_cka(x, y, unbiased))
    assert linear_cka(x, y, unbiased) == pytest.approx(linear_cka(y, x, unbiased))
    # not up to any linear map: then it would say nothing of wide layers
    stretched = x * torch.tensor([10., 1, 1, 1, 1, 1])
    assert linear_cka(x, stretched, unbiased) < 0.9


def test_minibatches_average_the_estimates_of_hsic():
    x, y = features(24, 5), features(24, 5, seed=1)
    y += x
    cka, between, first, second = MinibatchCKA(), 0, 0, 0
    for i in range(0, 24, 6):
        a, b = x[i:i + 6], y[i:i + 6]
        cka.update([gram_matrix(a)], [gram_matrix(b)])
        between, first, second = between + song(a, b), first + song(a, a), second + song(b, b)
    assert cka.compute().item() == pytest.approx((between / (first * second).sqrt()).item())


def test_unbiased_does_not_depend_on_the_batch_size_as_biased_does():
    x, y = features(960, 50), features(960, 50, seed=1)  # independent: CKA is 0
    values = {}
    for unbiased in (True, False):
        for size in (8, 160):
            cka = MinibatchCKA(unbiased)
            for i in range(0, 960, size):
                cka.update([gram_matrix(x[i:i + size])], [gram_matrix(y[i:i + size])])
            values[unbiased, size] = cka.compute().item()
    assert abs(values[True, 8]) < 0.1 and abs(values[True, 160]) < 0.02
    assert values[False, 8] > 0.8 and values[False, 160] > 0.2


def test_float_features_far_from_zero_keep_their_digits():
    x = features(8, 40)
    far = (x + 1000).float()
    assert linear_cka(x, far, unbiased=True) == pytest.approx(1, abs=1e-5)


def test_what_is_kept_does_not_grow():
    cka = MinibatchCKA()
    for seed in range(5):
        grams = [gram_matrix(features(6, 5, seed=seed + i)) for i in range(3)]
        cka.update(grams, grams[:2])
        sizes = [v.numel() for v in vars(cka).values() if isinstance(v, torch.Tensor)]
        assert sorted(sizes) == [2, 3, 6]
    assert cka.batches == 5 and cka.compute().shape == (3, 2)


def test_constant_features_and_small_batches():
    same = torch.ones(6, 4)
    assert torch.isnan(torch.tensor(linear_cka(same, features(6, 4))))
    cka, grams = MinibatchCKA(), [gram_matrix(features(3, 4))]
    with pytest.raises(ValueError, match='4 images or more, got 3'):
        cka.update(grams, grams)


def outputs(model, batch, pool):
    """The outputs of all blocks, by running the ViT step by step."""
    backbone = model.backbone
    x, _ = backbone.patch_embed(batch['inputs'])
    x = torch.cat((backbone.cls_token.expand(len(x), -1, -1), x), dim=1) + backbone.pos_embed
    found = []
    for block in backbone.layers:
        x = block(x)
        found.append(dict(flat=x.flatten(1), mean=x.mean(1), cls=x[:, 0])[pool].double())
    return found


@pytest.mark.parametrize('pool', ('flat', 'mean', 'cls'))
def test_models_are_compared_layer_by_layer(pool):
    models = [make_classifier(), make_classifier(dict(order='interpolate', times=2)),
              make_classifier(seed=1)]
    blocks = [find_blocks(model.backbone) for model in models]
    batch, = make_batches(12)
    found = compare_models(models, blocks, [batch], pool, unbiased=False)
    with torch.no_grad():
        features = [outputs(model, batch, pool) for model in models]
    assert [m.shape for m in found] == [(3, 6), (3, 3)]
    for matrix, other in zip(found, features[1:]):
        expected = torch.tensor([[kornblith(a, b) for b in other] for a in features[0]])
        torch.testing.assert_close(matrix.float(), expected, rtol=1e-4, atol=1e-5)


def test_one_model_is_compared_with_itself():
    model = make_classifier()
    matrix, = compare_models([model], [find_blocks(model.backbone)], make_batches(6, 6))
    assert torch.allclose(matrix.diagonal(), torch.ones(3).double())
    assert torch.allclose(matrix, matrix.T) and matrix[0, 2] < 0.999


def test_not_finite_and_no_samples():
    model = make_classifier()
    blocks = [find_blocks(model.backbone)]
    with pytest.raises(ConfigError, match='no samples'):
        compare_models([model], blocks, [])
    model.backbone.layers[1].ffn.layers[1].weight.data[0] = float('nan')
    with pytest.raises(ConfigError, match='block layers.1 gives features that are not finite'):
        compare_models([model], blocks, make_batches(6))
