"""Helpers of the backbones' tests: weights that hide nothing."""
import pytest
import torch

from scalenet_mm.growth import fused


@pytest.fixture(autouse=True)
def any_size(monkeypatch):
    """The maps of these tests are smaller than what is worth the fast paths."""
    monkeypatch.setattr(fused, 'SMALLEST', 1)


def randomise(model, seed=0):
    """Draw every parameter, norms and biases too, so that no two could be mixed up unseen."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in sorted(model.named_parameters()):
            noise = torch.randn(parameter.shape, generator=generator)
            is_norm_weight = parameter.ndim == 1 and name.endswith('weight')
            parameter.copy_(1 + 0.2 * noise if is_norm_weight else 0.1 * noise)
    return model


@pytest.fixture(name='randomise')
def randomise_fixture():
    return randomise


def tensors_of(outputs):
    """All tensors of a possibly nested output."""
    if isinstance(outputs, torch.Tensor):
        return [outputs]
    return [tensor for output in outputs for tensor in tensors_of(output)]


@pytest.fixture(name='assert_same_outputs')
def assert_same_outputs_fixture():

    def check(got, expected, **tolerance):
        got, expected = tensors_of(got), tensors_of(expected)
        assert len(got) == len(expected)
        for a, b in zip(got, expected):
            assert a.shape == b.shape
            assert b.abs().max() > 1e-3  # an output of zeros would be equal to anything
            torch.testing.assert_close(a, b, **{**dict(rtol=1e-4, atol=2e-5), **tolerance})

    return check


@pytest.fixture(name='image')
def image_fixture():

    def make(*shape, seed=0):
        return torch.randn(shape, generator=torch.Generator().manual_seed(seed))

    return make


@pytest.fixture(scope='session', autouse=True)
def registered():
    import scalenet_mm  # noqa: F401
