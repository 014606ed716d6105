"""mmengine's option ``compile`` with a model that the hook grows, and with one that is grown."""
import pytest
import torch
import torch._dynamo
from hook_toys import classifier
from torch._dynamo.utils import counters

from scalenet_mm.checkpoints import is_delta, load_file, read_checkpoint

OURS = dict(
    type='ScaleNetViT',
    arch=dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32),
    img_size=16,
    patch_size=8)
STOCK = {**OURS, 'type': 'VisionTransformer'}
# the default backend would compile the graphs for minutes; test_backbones/test_compile.py uses it
COMPILE = dict(backend='eager')


@pytest.fixture(autouse=True)
def fresh():
    torch._dynamo.reset()
    counters.clear()
    yield
    torch._dynamo.reset()


def train(make_runner, backbone, **top):
    runner = make_runner(classifier(backbone), **top)
    runner.train()
    return runner


def assert_same(one, other):
    assert list(one) == list(other)
    for key, value in one.items():
        torch.testing.assert_close(value, other[key], rtol=1e-3, atol=1e-4)


def test_a_model_that_the_hook_grows(make_runner):
    """With the default backend's division into forward and backward."""
    eager = train(make_runner, STOCK)
    assert not counters['stats']
    compiled = train(make_runner, STOCK, compile=dict(backend='aot_eager'))
    assert counters['stats']['unique_graphs'] > 0
    assert len(compiled.model.backbone.layers) == 4
    # mmengine compiles the model's train_step, so no name changes
    assert_same(compiled.model.state_dict(), eager.model.state_dict())
    start = make_runner(classifier(STOCK)).model.state_dict()
    assert not torch.allclose(start['head.layers.head.weight'],
                              compiled.model.state_dict()['head.layers.head.weight'], atol=1e-3)


def test_saves_and_resumes(make_runner, tmp_path):
    """Files are those of eager mode: either resumes from the other's."""
    unbroken = train(make_runner, OURS)
    path = tmp_path / 'work' / 'epoch_1.pth'
    eager = load_file(str(path))
    train(make_runner, OURS, compile=COMPILE)
    assert counters['stats']['unique_graphs'] > 0
    compiled = load_file(str(path))
    assert_same(eager['state_dict'], compiled['state_dict'])
    resumed = train(make_runner, OURS, compile=COMPILE, load_from=str(path), resume=True)
    assert resumed.epoch == 2
    assert_same(resumed.model.state_dict(), unbroken.model.state_dict())


def test_delta(make_runner, tmp_path):
    """A delta of a compiled training is small, and is made whole as ever."""
    base = str(tmp_path / 'base.pth')
    torch.save(make_runner(classifier(OURS)).model.state_dict(), base)
    cfg = classifier(OURS)
    cfg['custom_hooks'] = [*cfg['custom_hooks'], dict(type='DeltaCheckpointHook')]
    runner = make_runner(cfg, compile=COMPILE, load_from=base)
    runner.train()
    assert counters['stats']['unique_graphs'] > 0
    path = str(tmp_path / 'work' / 'epoch_2.pth')
    delta, state = load_file(path), runner.model.state_dict()
    assert is_delta(delta) and len(delta['state_dict']) < len(state)
    whole = read_checkpoint(path)['state_dict']
    assert list(whole) == list(state)
    assert all(torch.equal(whole[key], value) for key, value in state.items())
