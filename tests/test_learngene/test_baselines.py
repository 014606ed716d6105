"""The baselines end to end: trained, taken out, expanded, and built from a config alone."""
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS

import scalenet_mm  # noqa: F401
from scalenet_mm import fast_paths
from scalenet_mm.checkpoints.files import save_file
from scalenet_mm.learngene.expand import expand_checkpoint
from scalenet_mm.learngene.gene import extract_gene, read_gene, save_gene

SIZES = dict(embed_dims=12, num_heads=2, feedforward_channels=24)
BLOCK = 12 * 12 * 4 + 12 * 4 + 2 * 12 * 24 + 24 + 12 + 4 * 12
REST = 12 * 3 * 64 + 12 + 12 + 5 * 12 + 2 * 12 + 12 * 3 + 3
PLAIN = dict(type='ScaleNetViT', arch=dict(SIZES, num_layers=3), growth=None, adjustment=None)
#: What trains, how its gene is taken out, and the gene's blocks.
BASELINES = dict(
    simple=(PLAIN, dict(), (1, 1, 1)),
    vanilla=(PLAIN, dict(method='vanilla', last_blocks=2), (1, 1)),
    tleg=(dict(type='TLEGViT', arch=SIZES, depth=4), dict(), (1, 1)))
#: Which block of the trained net each block of a descendant starts from; None: a random one.
MAPS = dict(
    simple={1: (0, ), 2: (0, 1), 3: (0, 1, 2), 5: (0, 0, 1, 1, 2), 7: (0, 0, 0, 1, 1, 2, 2)},
    vanilla={1: (2, ), 2: (1, 2), 3: (None, 1, 2), 5: (None, None, None, 1, 2)})


def classifier_cfg(backbone, init_cfg=None):
    return dict(
        type='mmpretrain.ImageClassifier',
        backbone=dict(backbone, img_size=16, patch_size=8),
        head=dict(type='mmpretrain.VisionTransformerClsHead', num_classes=3, in_channels=12),
        init_cfg=init_cfg)


def train(model, steps=2):
    """Some steps on random images, so that no two blocks are alike and no norm is as at first."""
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    for _ in range(steps):
        loss = torch.nn.functional.cross_entropy(
            model(torch.randn(6, 3, 16, 16)), torch.arange(6) % 3)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()


@pytest.fixture(scope='module', params=BASELINES)
def trained(request, tmp_path_factory):
    """A baseline's name, its trained net, and its gene as read from the file."""
    backbone, how, _ = BASELINES[request.param]
    folder = tmp_path_factory.mktemp(request.param)
    cfg = Config(dict(model=classifier_cfg(backbone)))
    torch.manual_seed(1)
    model = MODELS.build(cfg.model)
    model.init_weights()
    train(model)
    save_file(dict(meta=dict(cfg=cfg.pretty_text, epoch=2), state_dict=model.state_dict()),
              str(folder / 'net.pth'))
    gene = extract_gene(str(folder / 'net.pth'), **how)
    save_gene(gene, str(folder / 'gene.pth'))
    return request.param, model, read_gene(str(folder / 'gene.pth'))


def descendant(name, gene, depth):
    """A descendant, from nothing but a config."""
    seed = 5 if name == 'vanilla' else None
    init = dict(type='Learngene', checkpoint=gene.name, seed=seed)
    model = MODELS.build(classifier_cfg(
        dict(PLAIN, arch=dict(SIZES, num_layers=depth)), init))
    torch.manual_seed(depth)  # what is drawn elsewhere makes no difference
    model.init_weights()
    return model, expand_checkpoint(gene, depth, seed=seed)


def of_block(model, index):
    prefix = f'backbone.layers.{index}.'
    return {k[len(prefix):]: v for k, v in model.state_dict().items() if k.startswith(prefix)}


def test_gene(trained):
    name, model, gene = trained
    stages = BASELINES[name][2]
    assert gene.method == name and gene.stages == stages
    assert gene.manifest['parameters'] == len(stages) * BLOCK + REST
    assert gene.num_classes == 3 and gene.arch['embed_dims'] == 12
    kept = [k for k in model.state_dict() if '.layers.' not in k or k.startswith('head.')]
    assert all(torch.equal(gene.state[k], model.state_dict()[k]) for k in kept) and len(kept) == 8


@pytest.mark.parametrize('depth', [1, 2, 3, 5, 7, 48])
def test_descendants(trained, depth):
    name, net, gene = trained
    model, checkpoint = descendant(name, gene, depth)
    assert sum(p.numel() for p in model.parameters()) == depth * BLOCK + REST == gene.count(depth)
    state = model.state_dict()
    assert set(state) == set(checkpoint['state_dict'])
    assert all(torch.equal(v, checkpoint['state_dict'][k]) for k, v in state.items())
    assert all(torch.equal(state[k], v) for k, v in gene.state.items()
               if not k.startswith('backbone.layers.'))

    blocks = [of_block(model, i) for i in range(depth)]
    if name == 'tleg':
        a, b = of_block(net, 0), of_block(net, 1)
        for position, block in enumerate(blocks):
            for key, value in block.items():
                torch.testing.assert_close(value, a[key] + position / depth * b[key])
        assert not torch.equal(a['ln1.weight'], torch.ones(12))
        assert b['ln1.weight'].abs().max() > 0
        return
    for block, source in zip(blocks, MAPS[name].get(depth, ())):
        for key, value in block.items():
            if source is not None:
                assert torch.equal(value, of_block(net, source)[key]), (source, key)
            elif value.ndim == 2:
                assert 0.01 < value.std() < 0.03
            else:
                assert (value == (1 if key in ('ln1.weight', 'ln2.weight') else 0)).all()
    fresh = [block['attn.qkv.weight'] for block, source in zip(blocks, MAPS[name].get(depth, ()))
             if source is None]
    assert all(not torch.equal(one, other) for one, other in zip(fresh, fresh[1:]))


def test_of_the_trained_depth_it_computes_the_trained_net(trained):
    name, net, gene = trained
    if name == 'vanilla':
        return  # a part of the net alone is in its gene
    model, _ = descendant(name, gene, 4 if name == 'tleg' else 3)
    images = torch.randn(2, 3, 16, 16)
    with fast_paths(False):
        assert torch.equal(model.eval()(images), net.eval()(images))


def test_descendants_share_nothing(trained):
    name, _, gene = trained
    model, _ = descendant(name, gene, 5)
    storages = [p.untyped_storage().data_ptr() for p in model.parameters()]
    assert len(set(storages)) == len(storages)
    before = {k: v.clone() for k, v in model.state_dict().items()}
    train(model.train(), steps=3)
    assert all(not torch.equal(v, before[k]) for k, v in model.state_dict().items())
    assert not torch.equal(of_block(model, 0)['ln1.weight'], of_block(model, 1)['ln1.weight'])
    fresh = read_gene(gene.name)
    assert all(torch.equal(v, fresh.state[k]) for k, v in gene.state.items())
