"""Auxiliary nets, whose blocks share all of their tensors within a stage, and their sizes."""
import pytest
import torch
from gene_toys import (
    ARCH,
    STAGES,
    auxiliary_cfg,
    build,
    image,
    make_cfg,
    randomise,
    run_classifier,
)
from mmengine.config import Config

from scalenet_mm import ScaleNetViT
from scalenet_mm.checkpoints.unshare import unshare
from scalenet_mm.growth import fast_paths, get_drop_path_rate, shared_parameters, tied_modules

#: Table 5: the assignments of layers to stages, and the numbers of layers and stages.
TABLE_5 = {
    (2, 2, 2, 2, 2, 2): (12, 6),
    (1, 4, 1, 1, 4, 1): (12, 6),
    (1, 5, 1, 4, 1): (12, 5),
    (4, 1, 6, 1, 4): (16, 5),
    (4, 1, 5, 2, 3): (15, 5),
    (3, 3, 4, 3, 3): (16, 5),
}
#: METHOD.md, in millions.
DES_B = {6: 44.0, 7: 51.1, 8: 58.2, 9: 65.3, 10: 72.4, 11: 79.5, 12: 86.6, 13: 93.7, 14: 100.7,
         15: 107.8}
WIDTHS = {'deit-small': 384, 'deit-base': 768}


def count(width, blocks, classes=1000):
    """Parameters of a plain ViT of 224 pixels and patches of 16, by hand."""
    norm = 2 * width
    attention = (width * 3 * width + 3 * width) + (width * width + width)
    mlp = (width * 4 * width + 4 * width) + (4 * width * width + width)
    patches = 3 * 16 * 16 * width + width
    tokens = width + (1 + 14 * 14) * width
    head = width * classes + classes
    return blocks * (2 * norm + attention + mlp) + patches + tokens + norm + head


def classifier(**backbone):
    """A classifier of 1000 classes, without data."""
    cfg = Config(dict(model=dict(
        type='ImageClassifier',
        backbone=dict(dict(type='ScaleNetViT', adjustment=None), **backbone),
        head=dict(type='VisionTransformerClsHead', num_classes=1000,
                  in_channels=WIDTHS[backbone['arch']]))))
    with torch.device('meta'):
        return build(cfg)


def size(model):
    return sum(p.numel() for p in model.parameters())


def aux(arch, times, **growth):
    growth = dict(times=times, share='all', depth=sum(times), **growth)
    return classifier(arch=arch, num_layers=len(times), growth=growth)


# --- sizes ---------------------------------------------------------------------------------------


def test_the_exact_sizes_of_auxiliary_nets():
    assert size(aux('deit-base', (3, 3, 4, 3, 3))) == 36_952_552
    assert size(aux('deit-base', (2, ) * 6)) == 44_040_424
    assert size(aux('deit-small', (3, 3, 4, 3, 3))) == count(384, 5) == 9_629_416


@pytest.mark.parametrize('times', TABLE_5)
def test_table_5(times):
    depth, stages = TABLE_5[times]
    model = aux('deit-base', times)
    assert len(model.backbone.layers) == depth and model.backbone.num_layers == stages
    assert model.backbone.layer_maps[0].sources == tuple(
        stage for stage, length in enumerate(times) for _ in range(length))
    assert size(model) == {5: 36_952_552, 6: 44_040_424}[stages] == count(768, stages)


@pytest.mark.parametrize('depth', DES_B)
def test_the_exact_sizes_of_descendants(depth):
    base = classifier(arch='deit-base', num_layers=depth, growth=None)
    small = classifier(arch='deit-small', num_layers=depth, growth=None)
    assert size(base) == count(768, depth) and round(size(base) / 1e6, 1) == DES_B[depth]
    assert size(small) == count(384, depth)
    stock = stock_classifier(depth)
    assert {k: v.shape for k, v in base.state_dict().items()} == {
        k: v.shape for k, v in stock.state_dict().items()}


def stock_classifier(depth):
    cfg = Config(dict(model=dict(
        type='ImageClassifier',
        backbone=dict(type='VisionTransformer', arch=dict(
            embed_dims=768, num_layers=depth, num_heads=12, feedforward_channels=3072)),
        head=dict(type='VisionTransformerClsHead', num_classes=1000, in_channels=768))))
    with torch.device('meta'):
        return build(cfg)


def test_the_range_of_small_descendants():
    sizes = {depth: size(classifier(arch='deit-small', num_layers=depth, growth=None))
             for depth in (6, 15)}
    assert sizes == {6: 11_403_880, 15: 27_374_056}  # 11.4 to 27.4 M


# --- sharing -------------------------------------------------------------------------------------


def test_repeats_own_nothing():
    shared = build(auxiliary_cfg())
    plain = ScaleNetViT(arch=ARCH, img_size=32, patch_size=8, growth=None, adjustment=None)
    assert len(shared.backbone.layers) == sum(STAGES)
    assert list(shared.backbone.state_dict()) == list(plain.state_dict())
    assert [n for n, _ in shared.backbone.named_parameters()] == [
        n for n, _ in plain.named_parameters()]
    for name, block in shared.backbone.layers.named_children():
        assert ('_r' in name) == (not list(block.parameters()))
    # norms too: everything in the blocks is shared
    of_blocks = {id(p) for n, p in shared.named_parameters() if '.layers.' in n and 'head' not in n}
    assert {id(p) for p in shared_parameters(shared)} == of_blocks
    tied = {name.split('layers.', 1)[1] for name, _, _ in tied_modules(shared.backbone)}
    assert {'0_r1.ln1', '1_r2.ln2', '2_r1.attn.qkv'} <= tied


@pytest.mark.parametrize('fast', [False, True])
def test_an_auxiliary_net_is_a_loop_over_its_stages(fast, monkeypatch):
    """Outputs, and gradients that gather over all the instances of a block."""
    monkeypatch.setattr('scalenet_mm.growth.fused.SMALLEST', 1)
    dtype = torch.float32 if fast else torch.float64
    model = randomise(build(auxiliary_cfg())).to(dtype).train()
    images = image().to(dtype)
    target = torch.tensor([1, 3])
    with fast_paths(fast):
        logits = model(images)
        torch.nn.functional.cross_entropy(logits, target).backward()

    state = {k: v.detach().clone().requires_grad_() for k, v in model.state_dict().items()}
    sources = [stage for stage, length in enumerate(STAGES) for _ in range(length)]
    expected = run_classifier(state, sources, images)
    torch.nn.functional.cross_entropy(expected, target).backward()
    tolerance = dict(rtol=1e-3, atol=1e-5) if fast else dict(rtol=1e-9, atol=1e-11)
    torch.testing.assert_close(logits, expected, **tolerance)
    assert len(dict(model.named_parameters())) == len(state)
    for name, parameter in model.named_parameters():
        assert state[name].grad.abs().max() > 1e-6
        torch.testing.assert_close(parameter.grad, state[name].grad, **tolerance)


def test_a_step_moves_every_instance():
    model = randomise(build(auxiliary_cfg()))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    torch.nn.functional.cross_entropy(model(image()), torch.tensor([0, 1])).backward()
    optimizer.step()
    layers = model.backbone.layers
    for first, again in ((0, 1), (2, 3), (2, 4), (5, 6)):
        assert layers[first].attn.qkv.weight is layers[again].attn.qkv.weight
        assert layers[first].ln1.weight is layers[again].ln1.weight
    sources = [0, 0, 1, 1, 1, 2, 2]
    torch.testing.assert_close(model(image()), run_classifier(model.state_dict(), sources, image()),
                               rtol=1e-3, atol=1e-5)


def test_an_ordinary_model_of_its_depth():
    """What a checkpoint of it is turned into by tools/model_converters/unshare.py."""
    net = randomise(build(auxiliary_cfg())).eval()
    plain = build(make_cfg(num_layers=7)).eval()
    plain.load_state_dict(unshare(net).state, strict=True)
    with fast_paths(False), torch.no_grad():
        assert torch.equal(plain(image()), net(image()))


def test_drop_path_rises_over_the_depth_that_runs():
    kwargs = dict(arch=ARCH, img_size=32, patch_size=8, adjustment=None, drop_path_rate=0.3)
    net = ScaleNetViT(growth=dict(times=STAGES, share='all'), **kwargs)
    descendant = ScaleNetViT(growth=None, num_layers=9, **kwargs)
    for backbone, depth in ((net, 7), (descendant, 9)):
        rates = [get_drop_path_rate(block) for block in backbone.layers]
        assert rates == pytest.approx([0.3 * i / (depth - 1) for i in range(depth)])
