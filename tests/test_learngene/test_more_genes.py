"""Learngenes of all methods: what is asked of them and cannot be, and the precision they keep."""
import pytest
import torch
from gene_toys import ARCH, auxiliary_cfg, build, make_cfg, save_trained, tleg_cfg

from scalenet_mm.checkpoints.files import save_file, sha256_of
from scalenet_mm.checkpoints.safe import load_file
from scalenet_mm.checkpoints.stored_config import read_stored_config
from scalenet_mm.errors import CheckpointError, GrowthError
from scalenet_mm.learngene import (
    Learngene,
    expand_checkpoint,
    expand_gene,
    expand_map,
    extract_gene,
    read_gene,
    save_gene,
)
from scalenet_mm.learngene.describe import describe
from scalenet_mm.learngene.expand import check_request
from scalenet_mm.learngene.learngene_init import check_learngene

METHODS = ('sws', 'simple', 'vanilla', 'tleg')


@pytest.fixture(scope='module')
def genes(tmp_path_factory):
    folder = tmp_path_factory.mktemp('genes')
    made = {}
    for name, cfg in (('sws', auxiliary_cfg()), ('simple', make_cfg()), ('tleg', tleg_cfg())):
        save_trained(folder / f'{name}.pth', cfg)
        made[name] = extract_gene(str(folder / f'{name}.pth'))
    made['vanilla'] = extract_gene(str(folder / 'simple.pth'), method='vanilla', last_blocks=2)
    return made


@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('depth, order, seed, text', [
    (5, 'last-first', 0, "order must be one of .*got 'last-first'"),
    (5, 'front-mid-last', 'x', "seed must be an integer, got 'x'"),
    (5, 'front-mid-last', True, 'seed must be an integer, got True'),
    (0, 'front-mid-last', 0, 'integer >= 1, got 0'),
    (2.5, 'front-mid-last', 0, 'integer >= 1, got 2.5'),
])
def test_requests(genes, method, depth, order, seed, text):
    with pytest.raises(GrowthError, match=text):
        expand_map(genes[method], depth, order, seed)
    with pytest.raises(GrowthError, match=text):
        check_request(depth, order, seed)  # told before any file is read


@pytest.mark.parametrize('method', ['vanilla', 'tleg'])
def test_orders_without_meaning(genes, method):
    for order in ('front-last-mid', 'random-assigned', 'random-sorted'):
        with pytest.raises(GrowthError, match=f"order='{order}' has no meaning"):
            expand_map(genes[method], 5, order, 0)


def test_a_random_order_needs_a_seed():
    with pytest.raises(GrowthError, match='give a seed'):
        check_request(5, 'random-sorted')


@pytest.mark.parametrize('method', METHODS)
def test_precision_is_kept(genes, method):
    gene = genes[method]
    half = type(gene)(gene.manifest, {k: v.half() for k, v in gene.state.items()}, 'half.pth')
    for head in (dict(), dict(head=False, num_classes=7)):
        state = expand_checkpoint(half, 4, seed=0, **head)['state_dict']
        assert {value.dtype for value in state.values()} == {torch.float16}
    assert state['head.layers.head.weight'].shape == (7, 24)
    assert not state['head.layers.head.weight'].any() and not state['head.layers.head.bias'].any()


@pytest.mark.parametrize('method', METHODS)
@pytest.mark.parametrize('depth', [2, 3])
def test_a_tleg_net_is_no_descendant(genes, method, depth):
    model = build(tleg_cfg(depth))
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match='cannot initialise a TLEGViT.*load_from'):
        expand_gene(genes[method], model, seed=0)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())


def test_vanilla_of_a_tleg_net(genes, tmp_path):
    save_trained(tmp_path / 'tleg.pth', tleg_cfg(depth=5))
    with pytest.raises(GrowthError, match="method 'vanilla' takes the last blocks"):
        extract_gene(str(tmp_path / 'tleg.pth'), method='vanilla')


def test_a_tleg_gene_tells_the_depth_it_was_trained_at(tmp_path):
    for depth in (1, 2, 9):
        save_trained(tmp_path / 'tleg.pth', tleg_cfg(depth=depth))
        gene = extract_gene(str(tmp_path / 'tleg.pth'))
        assert (gene.method, gene.blocks, gene.manifest['trained_depth']) == ('tleg', 2, depth)
        assert {key: gene.arch[key] for key in ARCH if key != 'num_layers'} == {
            key: value for key, value in ARCH.items() if key != 'num_layers'}


@pytest.mark.parametrize('method', METHODS)
def test_it_says_what_was_initialised(genes, method, monkeypatch):
    said = []
    monkeypatch.setattr('scalenet_mm.learngene.expand.print_log',
                        lambda message, **kwargs: said.append(message))
    cfg = make_cfg()
    cfg.model.backbone.arch = dict(ARCH, num_layers=4)
    gene, model = genes[method], build(cfg)
    report = expand_gene(gene, model, seed=0)
    assert said == [str(report)] and len(report.matched) == len(model.state_dict())
    assert f"learngene '{method}', {gene.blocks} blocks to 4" in said[0]
    assert 'initialised: none' in said[0] and 'ignored: none' in said[0]


def test_a_gene_without_head(genes):
    gene = genes['sws']
    state = {k: v for k, v in gene.state.items() if not k.startswith('head.')}
    bare = type(gene)({**gene.manifest, 'num_classes': None}, state, 'bare.pth')
    model = build(make_cfg())
    before = {key: value.clone() for key, value in model.state_dict().items()}
    with pytest.raises(CheckpointError, match='bare.pth holds no head: set head=False'):
        expand_gene(bare, model)
    assert all(torch.equal(value, before[key]) for key, value in model.state_dict().items())
    expand_gene(bare, model, head=False)
    assert torch.equal(model.backbone.cls_token, gene.backbone['cls_token'])
    assert not [k for k in expand_checkpoint(bare, 3)['state_dict'] if k.startswith('head.')]


def test_a_gene_is_of_backbone_and_head_alone(tmp_path):
    path = str(tmp_path / 'net.pth')
    model = save_trained(path, auxiliary_cfg())
    content = load_file(path)
    content['state_dict'].update({'neck.weight': torch.ones(2), 'data_preprocessor.mean':
                                  torch.ones(3), 'head_dist.weight': torch.ones(2)})
    save_file(content, path)
    assert set(extract_gene(path).state) == set(model.state_dict())


@pytest.mark.parametrize('change, text', [
    (lambda m: m.update(version=0), 'not the manifest of a learngene'),
    (lambda m: m['arch'].pop('img_size'), "does not say all of 'arch'"),
    (lambda m: m['source'].pop('name'), "does not say all of 'source'"),
    (lambda m: m['source'].pop('sha256'), "does not say all of 'source'"),
    (lambda m: m['source'].pop('epoch'), "does not say all of 'source'"),
    (lambda m: m.pop('trained_depth'), 'says None of the depth'),
    (lambda m: m.update(versions='1.0'), "says '1.0' of versions"),
], ids=['version', 'arch', 'name', 'sha256', 'epoch', 'depth', 'versions'])
def test_damaged_manifests(genes, tmp_path, change, text):
    path = str(tmp_path / 'gene.pth')
    save_gene(genes['sws'], path)
    assert describe(path)
    content = load_file(path)
    change(content['learngene'])
    save_file(content, path)
    for read in (read_gene, describe):
        with pytest.raises(CheckpointError, match=text):
            read(path)


def test_blocks_without_norms(genes, tmp_path):
    path = str(tmp_path / 'gene.pth')
    save_gene(genes['sws'], path)
    content = load_file(path)
    lost = [k for k in content['state_dict'] if k.endswith('ln1.weight') and '.layers.' in k]
    for key in lost:
        del content['state_dict'][key]
    content['learngene']['parameters'] -= 24 * len(lost)
    save_file(content, path)
    with pytest.raises(CheckpointError, match='not of the width'):
        read_gene(path)


def test_a_checkpoint_in_the_home_folder(tmp_path, monkeypatch):
    save_trained(tmp_path / 'net.pth', auxiliary_cfg())
    monkeypatch.setenv('HOME', str(tmp_path))
    gene = extract_gene('~/net.pth')
    assert gene.manifest['source']['sha256'] == sha256_of(str(tmp_path / 'net.pth'))


def test_an_initialiser_checks_its_order_when_it_is_made():
    for order, seed in (('last-first', 0), ('random-assigned', None), ('front-mid-last', 'x')):
        with pytest.raises(GrowthError):
            Learngene('gene.pth', order, seed)


def test_a_gene_of_the_web_is_checked_where_it_is_loaded(monkeypatch):

    def read(path):
        raise AssertionError('downloaded')

    monkeypatch.setattr('scalenet_mm.learngene.learngene_init.read_gene', read)
    check_learngene(make_cfg(init_cfg=dict(type='Learngene', checkpoint='https://a.b/gene.pth')))
    with pytest.raises(AssertionError, match='downloaded'):
        check_learngene(make_cfg(init_cfg=dict(type='Learngene', checkpoint='gene.pth')))


@pytest.mark.parametrize('call', ['Config(a=1)', 'list(a=1)', 'print()', 'dict.fromkeys([1])'])
def test_calls_in_a_stored_config(call):
    with pytest.raises(CheckpointError, match='no plain data'):
        read_stored_config(dict(meta=dict(cfg=f'model = {call}')), 'net.pth')
