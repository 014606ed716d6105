"""Every place that mmengine loads from executes nothing, and gives what mmengine understands."""
import sys
from types import SimpleNamespace

import pytest
import torch
from mmengine.model import PretrainedInit
from mmengine.runner import checkpoint as mmengine_checkpoint
from mmengine.runner.checkpoint import CheckpointLoader

from scalenet_mm import CheckpointError, grow_backbone
from scalenet_mm.checkpoints import loaders

PLACES = [
    '{path}', '{url}', 'open-mmlab://evil', 'openmmlab://evil', 'openmmlab://old',
    'openmmlab://local', 'mmcls://evil', 'torchvision://evil', 'modelzoo://evil', 's3://x/evil.pth',
    'petrel://x/evil.pth', 'mine:s3://x/evil.pth', 'pavi://evil'
]


@pytest.fixture
def places(serve, monkeypatch):
    """One file behind every kind of path; gives it and what turns a place into a path."""
    root, url, _ = serve
    urls = dict(evil=f'{url}/evil.pth', local='evil.pth')
    monkeypatch.setattr(mmengine_checkpoint, 'get_external_models', lambda: urls)
    monkeypatch.setattr(mmengine_checkpoint, 'get_deprecated_model_names',
                        lambda: dict(old='evil'))
    monkeypatch.setattr(mmengine_checkpoint, 'get_mmcls_models', lambda: urls)
    monkeypatch.setattr(mmengine_checkpoint, 'get_torchvision_models', lambda: urls)
    monkeypatch.setattr(mmengine_checkpoint, '_get_mmengine_home', lambda: str(root))
    path = root / 'evil.pth'
    storage = SimpleNamespace(get=lambda name: path.read_bytes())
    # mmengine's own loader and ours look it up in their own modules
    for module in (mmengine_checkpoint, loaders):
        monkeypatch.setattr(module, 'get_file_backend', lambda *args, **kwargs: storage)
    cloud = SimpleNamespace(get=lambda name: SimpleNamespace(
        name='evil.pth', download=lambda to: open(to, 'wb').write(path.read_bytes())))
    monkeypatch.setitem(sys.modules, 'pavi', SimpleNamespace(modelcloud=cloud))
    return path, lambda place: place.format(path=path, url=f'{url}/evil.pth')


@pytest.mark.parametrize('place', PLACES)
def test_no_place_runs_code(place, places, write_evil, tmp_path, monkeypatch):
    # as before torch 2.6, when it asked for nothing
    safe = torch.load
    monkeypatch.setattr(torch, 'load', lambda *args, weights_only=False, **kwargs: safe(
        *args, weights_only=weights_only, **kwargs))
    path, find = places
    write_evil(path, tmp_path / 'trace')
    with pytest.raises(CheckpointError, match='holds posix.mkdir, which is not on the list'):
        CheckpointLoader.load_checkpoint(find(place))
    assert not (tmp_path / 'trace').exists()


@pytest.mark.parametrize('place', PLACES)
def test_every_place_gives_the_weights(place, places):
    path, find = places
    torch.save({'state_dict': {'backbone.w': torch.ones(2)}}, path)
    loaded = CheckpointLoader.load_checkpoint(find(place), map_location='cpu')
    state = loaded['state_dict']
    assert dict(state).keys() == {'w' if 'mmcls' in place else 'backbone.w'}


def test_no_scheme_is_forgotten():
    """A place that mmengine adds one day must not stay open."""
    ours = {prefix for prefixes in loaders.LOADERS for prefix in prefixes}
    assert set(CheckpointLoader._schemes) == ours
    for loader in CheckpointLoader._schemes.values():
        assert loader.__module__ == loaders.__name__
        assert loader.__name__.startswith('load_from_')  # mmengine prints what follows
    reached = {CheckpointLoader._get_checkpoint_loader(p.format(path='/a', url='http://a'))
               for p in PLACES}
    assert reached == set(loaders.LOADERS.values())


def test_unknown_models(places):
    for scheme in ('openmmlab', 'mmcls', 'torchvision'):
        with pytest.raises(CheckpointError, match=f"{scheme} has no model 'nope'"):
            CheckpointLoader.load_checkpoint(f'{scheme}://nope')


def test_without_pavi(monkeypatch):
    monkeypatch.setitem(sys.modules, 'pavi', None)
    with pytest.raises(CheckpointError, match='pavi://x is in a model cloud'):
        CheckpointLoader.load_checkpoint('pavi://x')


def test_official_releases_get_a_state_dict():
    state = {'blocks.0.attn.qkv.weight': torch.ones(2)}
    prepared = loaders.prepare_for_mmengine({'model': state, 'epoch': 3})
    assert dict(prepared['state_dict']) == state and prepared['model'] is state
    for other in ({'model': 'swin', 'w': torch.ones(1)}, {'model': {}}, {'model': {'a': 3}}):
        assert 'state_dict' not in loaders.prepare_for_mmengine(other)
    both = {'model': state, 'state_dict': {'w': torch.ones(1)}}
    assert list(loaders.prepare_for_mmengine(both)['state_dict']) == ['w']
    assert loaders.prepare_for_mmengine([1]) == [1]


def test_versions_of_modules_are_kept():
    state = torch.nn.BatchNorm2d(2).state_dict()
    prepared = loaders.prepare_for_mmengine({'state_dict': state})
    assert prepared['state_dict']._metadata['']['version'] == 2
    assert loaders.FILE_NOTE not in state._metadata['']


@pytest.mark.parametrize('name', [
    'head.gain', 'head.new1.weight', 'neck.layers.0_r1.weight', 'backbone.stem.conv.gain',
    'backbone.new1.weight', 'backbone.layers.gain'])
def test_foreign_names_that_look_like_growth(name, tmp_path):
    """timm's NFNets have gains, too. mmengine loads what fits, and so it stays."""
    model = torch.nn.ModuleDict(dict(backbone=torch.nn.Linear(2, 2), head=torch.nn.Linear(2, 2)))
    state = {'backbone.weight': torch.full((2, 2), 7.), name: torch.ones(2)}
    torch.save(dict(state_dict=state), tmp_path / 'foreign.pth')
    mmengine_checkpoint.load_checkpoint(model, str(tmp_path / 'foreign.pth'), 'cpu')
    assert torch.equal(model.backbone.weight, state['backbone.weight'])


@pytest.mark.parametrize('growth, adjustment', [
    ('paper', None), (None, 'paper'), (dict(share='all', start='identity'), None),
    (dict(order=[0, [0, 1], 1]), None), (dict(order=[0, [], 1], start='identity'), None)])
def test_every_growth_is_seen_in_a_stock_model(growth, adjustment, tmp_path):
    vit = pytest.importorskip('mmpretrain.models').VisionTransformer

    def stock():
        return torch.nn.ModuleDict(dict(backbone=vit(img_size=32, patch_size=16, arch=dict(
            embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32))))

    model = stock()
    grow_backbone(model.backbone, growth, adjustment, probe=False)
    torch.save(dict(state_dict=model.state_dict()), tmp_path / 'grown.pth')
    with pytest.raises(CheckpointError, match='grown.pth is of a grown model'):
        mmengine_checkpoint.load_checkpoint(stock(), str(tmp_path / 'grown.pth'), 'cpu')


@pytest.mark.parametrize('growth, told', [('paper', False), (dict(share='all'), True)])
def test_a_grown_backbone_by_its_prefix(growth, told, tmp_path):
    """As a classifier's backbone is taken into a detector; a head of the same file is no matter."""
    vit = pytest.importorskip('mmpretrain.models').VisionTransformer
    small = dict(img_size=32, patch_size=16, arch=dict(
        embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32))
    path = str(tmp_path / 'grown.pth')
    grown = torch.nn.ModuleDict(dict(
        backbone=grow_backbone(vit(**small), growth, None), head=torch.nn.Linear(3, 3)))
    meta = dict(cfg='model = dict(backbone=dict(type="GrownBackbone", adjustment=None))')
    torch.save(dict(state_dict=grown.state_dict(), meta=meta if told else {}), path)

    def load(module, prefix):
        PretrainedInit(path, prefix=prefix)(module)

    for prefix in ('backbone', 'backbone.'):
        with pytest.raises(CheckpointError, match='grown.pth is of a grown model'):
            load(vit(**small), prefix)
    again = grow_backbone(vit(**small), growth, None)
    load(again, 'backbone.')
    for key, value in again.state_dict().items():
        assert torch.equal(value, grown.backbone.state_dict()[key]), key
    head = torch.nn.Linear(3, 3)
    load(head, 'head.')
    assert torch.equal(head.weight, grown.head.weight)
    with pytest.raises(CheckpointError, match="nothing whose name begins with 'neck'.*backbone"):
        load(head, 'neck.')
