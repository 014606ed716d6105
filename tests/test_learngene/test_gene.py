"""Taking learngenes out of checkpoints, and their files."""
import copy
import json
import os

import pytest
import torch
from gene_toys import (
    ARCH,
    CLASSES,
    STAGES,
    auxiliary_cfg,
    build,
    make_cfg,
    randomise,
    save_trained,
    tleg_cfg,
)

from scalenet_mm.checkpoints import load_file
from scalenet_mm.checkpoints.base_files import BaseFile
from scalenet_mm.checkpoints.contents import describe_file
from scalenet_mm.checkpoints.delta import make_delta
from scalenet_mm.checkpoints.files import save_file, sha256_of
from scalenet_mm.checkpoints.publish import publish, select
from scalenet_mm.errors import CheckpointError, ConfigError, GrowthError
from scalenet_mm.learngene import extract_gene, is_gene, read_gene, save_gene
from scalenet_mm.learngene.gene import check_out
from scalenet_mm.version import __version__


def equal(state, other):
    return list(state) == list(other) and all(torch.equal(state[k], other[k]) for k in state)


# --- taking it out -------------------------------------------------------------------------------


def test_the_gene_of_an_auxiliary_net(aux):
    path, model = aux
    gene = extract_gene(path)
    # all that the net owns, and nothing else: no optimizer
    assert equal(gene.state, model.state_dict())
    assert (gene.method, gene.stages, gene.blocks) == ('sws', STAGES, 3)
    assert gene.manifest['trained_depth'] == 7
    assert gene.num_classes == 5 and tuple(gene.manifest['classes']) == CLASSES
    assert gene.arch == dict(
        embed_dims=24, num_heads=2, feedforward_channels=48, patch_size=[8, 8], img_size=[32, 32],
        in_channels=3, with_cls_token=True, qkv_bias=True, pre_norm=False, final_norm=True)
    assert gene.manifest['source'] == dict(name='aux.pth', sha256=sha256_of(path), epoch=3)
    assert gene.manifest['parameters'] == sum(p.numel() for p in model.parameters())
    assert gene.manifest['versions']['scalenet_mm'] == __version__
    assert gene.block(1)['ln2.bias'] is gene.state['backbone.layers.1.ln2.bias']


def test_the_numbers_of_descendants(aux):
    gene = extract_gene(aux[0])
    for depth in (1, 3, 9):
        model = build(make_cfg(num_layers=depth))
        assert gene.count(depth) == sum(p.numel() for p in model.parameters())


def test_a_file_and_back(aux, tmp_path):
    gene = extract_gene(aux[0])
    path = str(tmp_path / 'new' / 'gene.pth')
    save_gene(gene, path)
    again = read_gene(path)
    assert equal(again.state, gene.state) and again.manifest == gene.manifest
    assert again.name == path
    content = load_file(path)
    assert set(content) == {'learngene', 'state_dict'} and is_gene(content)
    assert json.loads(json.dumps(content['learngene'])) == content['learngene']  # plain data
    assert os.path.getsize(path) < os.path.getsize(aux[0])


def test_the_gene_of_a_plain_model(tmp_path):
    model = save_trained(tmp_path / 'plain.pth', make_cfg())
    gene = extract_gene(str(tmp_path / 'plain.pth'))
    assert (gene.method, gene.stages) == ('simple', (1, 1, 1))
    assert equal(gene.state, model.state_dict())


def test_the_last_blocks(tmp_path):
    path = str(tmp_path / 'plain.pth')
    state = save_trained(path, make_cfg(num_layers=5)).state_dict()
    gene = extract_gene(path, method='vanilla')
    assert (gene.method, gene.stages, gene.manifest['trained_depth']) == ('vanilla', (1, 1, 1), 5)
    for index, block in enumerate((2, 3, 4)):
        for name, value in gene.block(index).items():
            assert torch.equal(value, state[f'backbone.layers.{block}.{name}'])
    assert torch.equal(gene.backbone['pos_embed'], state['backbone.pos_embed'])
    two = extract_gene(path, method='vanilla', last_blocks=2)
    assert torch.equal(two.block(0)['ln1.bias'], state['backbone.layers.3.ln1.bias'])
    assert two.blocks == 2


def test_both_genes_of_a_linear_expansion(tmp_path):
    path = str(tmp_path / 'tleg.pth')
    model = save_trained(path, tleg_cfg(depth=4))
    gene = extract_gene(path)
    assert (gene.method, gene.stages, gene.manifest['trained_depth']) == ('tleg', (1, 1), 4)
    assert equal(gene.state, model.state_dict())
    assert gene.arch['num_heads'] == 2 and gene.arch['feedforward_channels'] == 48


def test_of_a_distilled_student(tmp_path):
    """The config of the training wraps the student's; the tensors have the student's names."""
    cfg = auxiliary_cfg()
    model = randomise(build(cfg))
    cfg.model = dict(type='DistilledClassifier', student=cfg.model,
                     teacher=dict(type='ImageClassifier', backbone=dict(type='LeViT', arch='384')))
    path = str(tmp_path / 'student.pth')
    save_file(dict(meta=dict(cfg=cfg.pretty_text), state_dict=model.state_dict()), path)
    gene = extract_gene(path)
    assert (gene.method, gene.stages) == ('sws', STAGES) and equal(gene.state, model.state_dict())
    assert gene.manifest['source']['epoch'] is None and gene.manifest['classes'] is None


def test_of_a_delta(tmp_path):
    base, delta = str(tmp_path / 'base.pth'), str(tmp_path / 'delta.pth')
    model = save_trained(base, auxiliary_cfg())
    whole = load_file(base)
    whole['state_dict']['backbone.ln1.bias'] += 1
    save_file(make_delta(whole, BaseFile(base)), delta)
    gene = extract_gene(delta)
    assert torch.equal(gene.state['backbone.ln1.bias'], model.backbone.ln1.bias + 1)
    assert torch.equal(gene.state['backbone.cls_token'], model.backbone.cls_token)
    os.remove(base)
    with pytest.raises(CheckpointError, match='delta.pth'):
        extract_gene(delta)


def test_of_files_of_others(tmp_path):
    """Names of the official DeiT, whose file holds no config."""
    model = randomise(build(make_cfg()))
    names = {'patch_embed.projection': 'patch_embed.proj', 'ffn.layers.0.0': 'mlp.fc1',
             'ffn.layers.1': 'mlp.fc2', 'layers.': 'blocks.', '.ln': '.norm', 'ln1.': 'norm.'}
    official = {}
    for key, value in model.state_dict().items():
        key = key.removeprefix('backbone.').replace('head.layers.head', 'head')
        for ours, theirs in names.items():
            if ours != 'ln1.' or key.startswith('ln1.'):
                key = key.replace(ours, theirs)
        official[key] = value
    path = str(tmp_path / 'deit.pth')
    torch.save(dict(model=official), path)
    with pytest.raises(CheckpointError, match=r"holds no config \(meta\['cfg'\]\): give it by"):
        extract_gene(path)
    gene = extract_gene(path, make_cfg())
    assert equal(gene.state, model.state_dict()) and gene.num_classes == 5


def test_of_a_stock_backbone(tmp_path):
    """mmpretrain's own class, which cannot be built on 'meta' everywhere."""
    stock = make_cfg(type='VisionTransformer', arch=ARCH, img_size=32, patch_size=8)
    model = save_trained(tmp_path / 'stock.pth', stock)
    gene = extract_gene(str(tmp_path / 'stock.pth'))
    assert gene.method == 'simple' and equal(gene.state, model.state_dict())
    save_trained(tmp_path / 'ours.pth', make_cfg())
    assert extract_gene(str(tmp_path / 'ours.pth')).arch == gene.arch


def test_of_a_backbone_that_was_grown_in_place(tmp_path):
    """As the AdapterInjectionHook writes it into the config."""
    cfg = make_cfg(
        type='GrownBackbone', growth=dict(times=STAGES, share='all'), adjustment=None,
        base=dict(type='VisionTransformer', arch=ARCH, img_size=32, patch_size=8))
    model = save_trained(tmp_path / 'grown.pth', cfg)
    gene = extract_gene(str(tmp_path / 'grown.pth'))
    assert (gene.method, gene.stages) == ('sws', STAGES) and equal(gene.state, model.state_dict())


def test_the_copies_are_the_genes_own(tmp_path):
    """Tensors that lie in one piece of memory would take all of it into the gene's file."""
    path = str(tmp_path / 'flat.pth')
    state = save_trained(path, make_cfg()).state_dict()
    content = load_file(path)
    flat = torch.cat([value.flatten() for value in state.values()])
    parts = flat.split([value.numel() for value in state.values()])
    content['state_dict'] = {k: part.view(v.shape) for (k, v), part in zip(state.items(), parts)}
    save_file(content, path)
    gene = extract_gene(path, method='vanilla', last_blocks=1)
    places = [value.untyped_storage().data_ptr() for value in gene.state.values()]
    assert len(set(places)) == len(places)
    assert all(v.untyped_storage().nbytes() == v.numel() * 4 for v in gene.state.values())


# --- what is no source of one --------------------------------------------------------------------


@pytest.mark.parametrize('growth, adjustment, message', [
    (dict(times=2, share='weights'), None, 'it has 12 repeats of its own.*share='),
    (dict(times=2, share='none'), None, '36 repeats'),
    (dict(times=2, share='all'), dict(rank=2), 'adapters, LoRA or gains of its own.*adjustment=No'),
    (dict(times=2, share='all', start='identity'), None, 'adapters, LoRA or gains'),
    (dict(order=[0, 1, 2, []], share='all'), None, 'new blocks'),
    (dict(order='cyclic', times=2, share='all'), None,
     "in the order 0 1 2 0 1 2, which are no stages.*order='interpolate'"),
])
def test_growth_of_other_kinds(growth, adjustment, message, tmp_path):
    cfg = make_cfg()
    cfg.model.backbone.update(growth=growth, adjustment=adjustment)
    save_trained(tmp_path / 'grown.pth', cfg)
    with pytest.raises(GrowthError, match=f'grown.pth .*{message}'):
        extract_gene(str(tmp_path / 'grown.pth'))


@pytest.mark.parametrize('cfg', [auxiliary_cfg(), tleg_cfg()])
def test_last_blocks_of_what_is_no_plain_model(cfg, tmp_path):
    save_trained(tmp_path / 'net.pth', cfg)
    with pytest.raises(GrowthError, match="net.pth is of a grown backbone: method 'vanilla'"):
        extract_gene(str(tmp_path / 'net.pth'), method='vanilla')


@pytest.mark.parametrize('options, message', [
    (dict(method='sws'), "method must be 'auto' or 'vanilla', got 'sws'"),
    (dict(last_blocks=2), "last_blocks is how many blocks method 'vanilla' takes"),
    (dict(method='vanilla', last_blocks=0), 'last_blocks must be an integer from 1 to 3.*got 0'),
    (dict(method='vanilla', last_blocks=4), 'last_blocks must be an integer from 1 to 3.*got 4'),
    (dict(method='vanilla', last_blocks=True), 'last_blocks must be an integer'),
])
def test_options_that_cannot_be(options, message, tmp_path):
    save_trained(tmp_path / 'plain.pth', make_cfg())
    with pytest.raises(ConfigError, match=message):
        extract_gene(str(tmp_path / 'plain.pth'), **options)


def test_configs_that_do_not_fit(aux, tmp_path):
    path, _ = aux
    cfg = auxiliary_cfg()
    cfg.model.backbone.num_layers = 4
    cfg.model.backbone.growth = dict(times=2, share='all')
    with pytest.raises(CheckpointError, match='aux.pth is of another architecture.*layers.3'):
        extract_gene(path, cfg)
    with pytest.raises(ConfigError, match='the config has no model'):
        extract_gene(path, dict(default_scope='mmpretrain'))
    with pytest.raises(ConfigError, match='has no backbone, so it is no classifier'):
        extract_gene(path, dict(model=dict(type='Linear')))
    swin = dict(model=dict(backbone=dict(type='ScaleNetSwin')))
    with pytest.raises(ConfigError, match='aux.pth is of a ScaleNetSwin: learngenes are taken fro'):
        extract_gene(path, swin)
    with pytest.raises(ConfigError, match='NoSuchViT'):
        extract_gene(path, dict(model=dict(backbone=dict(type='NoSuchViT'))))


def test_a_gene_has_no_gene(gene_file):
    with pytest.raises(CheckpointError, match='gene.pth is a learngene already'):
        extract_gene(gene_file)


def test_a_training_that_diverged(tmp_path):
    path = str(tmp_path / 'nan.pth')
    save_trained(path, auxiliary_cfg())
    content = load_file(path)
    content['state_dict']['backbone.layers.1.ln2.bias'][3] = float('nan')
    save_file(content, path)
    with pytest.raises(CheckpointError, match=r'nan.pth holds NaN .*layers.1.ln2.bias'):
        extract_gene(path)


# --- files that are none -------------------------------------------------------------------------


@pytest.mark.parametrize('change, message', [
    (lambda g: g.pop('learngene'), 'bad.pth is no learngene, but another checkpoint: tools/learn'),
    (lambda g: g.update(learngene=5), 'not the manifest of a learngene'),
    (lambda g: g['learngene'].update(format='other'), 'not the manifest of a learngene'),
    (lambda g: g['learngene'].update(version=True), 'not the manifest'),
    (lambda g: g['learngene'].update(version=2),
     'format version 2, written by scalenet_mm .*versions up to 1: upgrade'),
    (lambda g: g['learngene'].update(method='other'), "damaged learngene: .*method 'other'"),
    (lambda g: g['learngene'].update(stages=[2, 3]), 'damaged.*holds 3 blocks, .* says 2'),
    (lambda g: g['learngene'].update(stages=[]), 'damaged.*stages'),
    (lambda g: g['learngene'].update(stages=[2, 0, 2]), 'damaged.*stages'),
    (lambda g: g['learngene'].update(stages='232'), 'damaged.*stages'),
    (lambda g: g['learngene'].update(method='tleg'), "damaged.*method 'tleg' has 2"),
    (lambda g: g['learngene']['arch'].pop('num_heads'), "damaged.*'arch'"),
    (lambda g: g['learngene'].pop('source'), "damaged.*'source'"),
    (lambda g: g['learngene']['arch'].update(embed_dims=48), 'damaged.*not of the width'),
    (lambda g: g['learngene'].update(num_classes=7), 'damaged.*head is of 5 classes.*says 7'),
    (lambda g: g['learngene'].update(parameters=3), 'damaged.*number of its parameters'),
    (lambda g: g.pop('state_dict'), 'damaged.*state_dict is not that of a classifier'),
    (lambda g: g['state_dict'].update(neck=torch.ones(1)), 'damaged.*state_dict is not'),
    (lambda g: g['state_dict'].pop('backbone.layers.1.ln1.bias'), 'damaged.*blocks differ'),
    (lambda g: g['state_dict'].pop('backbone.ln1.bias'), 'damaged.*number of its parameters'),
])
def test_files_that_are_no_gene(change, message, gene_file, tmp_path):
    content = copy.deepcopy(load_file(gene_file))
    change(content)
    save_file(content, str(tmp_path / 'bad.pth'))
    with pytest.raises(CheckpointError, match=message):
        read_gene(str(tmp_path / 'bad.pth'))


def test_a_flipped_bit(gene_file):
    with open(gene_file, 'r+b') as file:
        content = bytearray(file.read())
        value = load_file(gene_file)['state_dict']['backbone.pos_embed'].numpy().tobytes()
        content[content.index(value) + 17] ^= 1
        file.seek(0)
        file.write(content)
    with pytest.raises(CheckpointError, match='gene.pth is no checkpoint file, or is truncated'):
        read_gene(gene_file)
    with open(gene_file, 'r+b') as file:
        file.truncate(1000)
    with pytest.raises(CheckpointError, match='gene.pth is no checkpoint file, or is truncated'):
        read_gene(gene_file)


def test_nothing_is_written_over(gene_file, tmp_path):
    before = open(gene_file, 'rb').read()
    gene = read_gene(gene_file)
    with pytest.raises(CheckpointError, match='gene.pth is there already: --force'):
        save_gene(gene, gene_file)
    with pytest.raises(CheckpointError, match='gene.safetensors: give the file to write the end'):
        save_gene(gene, str(tmp_path / 'gene.safetensors'))
    assert open(gene_file, 'rb').read() == before
    save_gene(gene, gene_file, force=True)
    assert equal(read_gene(gene_file).state, gene.state)


def test_what_other_tools_make_of_one(gene_file, tmp_path):
    content = load_file(gene_file)
    path = publish(select(content, gene_file), str(tmp_path / 'published'))
    again = read_gene(path)
    assert equal(again.state, content['state_dict']) and again.manifest == content['learngene']
    with pytest.raises(CheckpointError, match='learngene ends with .pth; safetensors has no place'):
        publish(select(content, gene_file), str(tmp_path / 'published.safetensors'))
    assert 'a learngene; tools/learngene.py inspect' in describe_file(gene_file).splitlines()[0]


def test_a_disk_without_room(gene_file, monkeypatch, tmp_path):
    gene = read_gene(gene_file)

    def full(descriptor):
        raise OSError(28, 'No space left on device')

    monkeypatch.setattr(os, 'fsync', full)
    with pytest.raises(CheckpointError, match='cannot be written: No space left'):
        save_gene(gene, str(tmp_path / 'other.pth'))
    assert not [name for name in os.listdir(tmp_path) if 'other' in name]


# --- ordinary files that are odd -----------------------------------------------------------------


@pytest.mark.parametrize('data', [
    'x', 5, ['ant'], None, dict(classes='abcde'), dict(classes=3), dict(classes=list(range(5))),
    dict(classes=dict(a=1))])
def test_names_of_classes_that_are_none(data, tmp_path):
    path = str(tmp_path / 'net.pth')
    save_trained(path, auxiliary_cfg())
    content = load_file(path)
    content['meta'].update(dataset_meta=data, epoch=torch.tensor(3))
    save_file(content, path)
    gene = extract_gene(path)
    assert gene.manifest['classes'] is None and gene.manifest['source']['epoch'] is None
    save_gene(gene, str(tmp_path / 'gene.pth'))
    assert read_gene(str(tmp_path / 'gene.pth')).num_classes == 5


@pytest.mark.parametrize('classes', ['abcde', [1, 2], dict(a=1), 5])
def test_a_manifest_with_odd_names_of_classes(classes, gene_file):
    content = load_file(gene_file)
    content['learngene']['classes'] = classes
    save_file(content, gene_file)
    with pytest.raises(CheckpointError, match='is a damaged .* of the names of classes'):
        read_gene(gene_file)


def test_vanilla_of_a_net_with_adapters(tmp_path):
    path = str(tmp_path / 'net.pth')
    cfg = make_cfg()
    cfg.model.backbone.adjustment = 'paper'
    save_trained(path, cfg)
    for method in ('vanilla', 'auto'):
        with pytest.raises(GrowthError, match='a plain model with additions.*adjustment=None'):
            extract_gene(path, method=method)


@pytest.mark.parametrize('link', [None, os.symlink, os.link])
def test_what_is_read_is_not_written_over(link, gene_file, tmp_path):
    out = gene_file
    if link:
        out = str(tmp_path / 'other.pth')
        link(gene_file, out)
    with pytest.raises(CheckpointError, match='is the file that is read .*another name'):
        check_out(out, True, gene_file)
    check_out(str(tmp_path / 'new.pth'), False, gene_file)
    check_out(out, True, 'https://a.b/gene.pth')
    check_out(out, True)
