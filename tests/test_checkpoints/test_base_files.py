"""Bases are found wherever they are, and are that very file; their names are understood."""
import os
import shutil

import pytest
import torch
from delta_toys import assert_same_tensors, grown_classifier, save_delta_of
from mmengine.runner import checkpoint as mmengine_checkpoint

from scalenet_mm import CheckpointError, add_base
from scalenet_mm.checkpoints import base_files, load_file, read_checkpoint
from scalenet_mm.checkpoints.base_files import BaseFile, find_base, map_base, open_base


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch, tmp_path):
    monkeypatch.setattr(base_files, '_found', {})
    monkeypatch.setattr(base_files, '_places', [])
    monkeypatch.delenv(base_files.ENVIRONMENT, raising=False)
    monkeypatch.setattr(torch.hub, '_hub_dir', str(tmp_path / 'hub'))


@pytest.fixture
def base(vit, tmp_path):
    (tmp_path / 'pretrained').mkdir()
    path = str(tmp_path / 'pretrained/base.pth')
    torch.save(vit().state_dict(), path)
    return path


@pytest.fixture
def model(vit, base):
    return grown_classifier(vit, base)


@pytest.fixture
def saved(model, base, tmp_path):
    """A delta, in a folder of its own; nothing is known of its base any more."""
    (tmp_path / 'work').mkdir()
    path = save_delta_of(model, base, tmp_path / 'work/delta.pth')
    base_files._found.clear()
    return path


def move(base, place):
    place.parent.mkdir(parents=True, exist_ok=True)
    shutil.move(base, place)
    return str(place)


class TestPlaces:

    def test_where_it_was(self, model, saved):
        assert_same_tensors(read_checkpoint(saved)['state_dict'], model.state_dict())

    def test_named_file_or_folder(self, base, saved, tmp_path):
        there = move(base, tmp_path / 'far/other_name.pth')
        with pytest.raises(CheckpointError):
            read_checkpoint(saved)
        add_base(str(tmp_path / 'far'))  # there it must have its name
        with pytest.raises(CheckpointError):
            read_checkpoint(saved)
        add_base(there)
        read_checkpoint(saved)

    def test_named_folder(self, base, saved, tmp_path):
        move(base, tmp_path / 'far/base.pth')
        add_base(str(tmp_path / 'far'))
        read_checkpoint(saved)

    def test_environment(self, base, saved, tmp_path, monkeypatch):
        there = move(base, tmp_path / 'far/other_name.pth')
        monkeypatch.setenv('SCALENET_BASE', os.pathsep.join([str(tmp_path / 'nope'), there]))
        read_checkpoint(saved)

    def test_beside_the_delta(self, base, saved, tmp_path):
        move(base, tmp_path / 'work/base.pth')
        read_checkpoint(saved)

    @pytest.mark.parametrize('where', ('current folder', "delta's folder"))
    def test_relative_paths(self, where, model, base, tmp_path, monkeypatch):
        monkeypatch.chdir(tmp_path)
        (tmp_path / 'work').mkdir()
        saved = save_delta_of(model, 'pretrained/base.pth', tmp_path / 'work/delta.pth')
        base_files._found.clear()
        if where != 'current folder':
            move(base, tmp_path / 'work/pretrained/base.pth')
            monkeypatch.chdir('/')
        assert load_file(saved)['delta']['base']['source'] == 'pretrained/base.pth'
        read_checkpoint(saved)

    def test_downloads(self, base, saved, tmp_path):
        move(base, tmp_path / 'hub/checkpoints/base.pth')
        read_checkpoint(saved)

    def test_known_in_this_process(self, base, saved, tmp_path):
        there = move(base, tmp_path / 'far/other.pth')
        open_base(there)
        read_checkpoint(saved)

    def test_a_named_place_comes_first(self, base, saved, tmp_path):
        there = str(tmp_path / 'copy.pth')
        shutil.copy(base, there)
        add_base(there)
        identity = load_file(saved)['delta']['base']
        assert find_base(identity, saved).path == there
        base_files._found.clear()
        assert find_base(identity, saved, base).path == base

    def test_named_places_must_be_there(self, tmp_path):
        with pytest.raises(CheckpointError, match='base: there is no file or folder .*nope'):
            add_base(str(tmp_path / 'nope'))


class TestURL:

    def test_downloaded_once(self, model, base, serve, tmp_path):
        root, url, hub = serve
        shutil.copy(base, root / 'base.pth')
        saved = save_delta_of(model, f'{url}/base.pth', tmp_path / 'delta.pth')
        identity = load_file(saved)['delta']['base']
        assert identity['source'] == f'{url}/base.pth' and identity['name'] == 'base.pth'
        base_files._found.clear()
        (root / 'base.pth').unlink()  # the download is still there
        assert_same_tensors(read_checkpoint(saved)['state_dict'], model.state_dict())

        shutil.rmtree(hub)
        base_files._found.clear()
        with pytest.raises(CheckpointError, match='cannot be downloaded: .*404'):
            read_checkpoint(saved)
        shutil.copy(base, root / 'base.pth')
        read_checkpoint(saved)
        # a delta does not decide what is found under the name of another URL
        kept, = (hub / 'checkpoints').iterdir()
        assert kept.name == f'{identity["sha256"][:16]}-base.pth'
        base_files._found.clear()
        (root / 'base.pth').unlink()
        read_checkpoint(saved)

    def test_another_file_behind_it(self, model, base, vit, serve, tmp_path):
        root, url, hub = serve
        shutil.copy(base, root / 'base.pth')
        saved = save_delta_of(model, f'{url}/base.pth', tmp_path / 'delta.pth')
        base_files._found.clear()
        shutil.rmtree(hub)
        torch.save(vit(seed=8).state_dict(), root / 'base.pth')
        with pytest.raises(CheckpointError, match='base.pth: another file'):
            read_checkpoint(saved)
        assert not list((hub / 'checkpoints').iterdir())
        shutil.copy(base, root / 'base.pth')
        read_checkpoint(saved)

    def test_a_delta_behind_a_url(self, base, model, saved, serve):
        root, url, _ = serve
        shutil.copy(saved, root / 'delta.pth')
        whole = read_checkpoint(f'{url}/delta.pth')
        assert_same_tensors(whole['state_dict'], model.state_dict())

    def test_names_of_zoos(self, model, base, serve, tmp_path, monkeypatch):
        root, url, _ = serve
        shutil.copy(base, root / 'base.pth')
        monkeypatch.setattr(mmengine_checkpoint, 'get_torchvision_models',
                            lambda: {'toy': f'{url}/base.pth'})
        saved = save_delta_of(model, 'torchvision://toy', tmp_path / 'delta.pth')
        base_files._found.clear()
        assert load_file(saved)['delta']['base']['source'] == 'torchvision://toy'
        read_checkpoint(saved)

    def test_a_url_as_a_place(self, base, saved, serve, tmp_path):
        root, url, _ = serve
        move(base, root / 'renamed.pth')
        add_base(f'{url}/renamed.pth')
        read_checkpoint(saved)


class TestErrors:

    def test_missing(self, base, saved, tmp_path, monkeypatch):
        sha, size = base_files.sha256_of(base), os.path.getsize(base)
        os.remove(base)
        (tmp_path / 'far').mkdir()
        add_base(str(tmp_path / 'far'))
        with pytest.raises(CheckpointError) as caught:
            read_checkpoint(saved)
        text = str(caught.value)
        for part in (saved, 'Wanted is base.pth', base, f'{size:,} bytes', sha, '--base',
                     'SCALENET_BASE', 'scalenet_mm.add_base', f'{base}: not there',
                     f'{tmp_path}/far/base.pth: not there', f'{tmp_path}/work/base.pth: not there',
                     f'{tmp_path}/hub/checkpoints/base.pth: not there'):
            assert part in text

    def test_another_file(self, base, saved, vit, tmp_path):
        torch.save({}, tmp_path / 'work/base.pth')
        torch.save(vit(seed=4).state_dict(), base)  # of the same size
        with pytest.raises(CheckpointError) as caught:
            read_checkpoint(saved)
        assert f'{base}: another file, of SHA-256 {base_files.sha256_of(base)}' in str(caught.value)
        assert f'{tmp_path}/work/base.pth: another file, of ' in str(caught.value)

    def test_cut_off(self, base, saved):
        content = open(base, 'rb').read()
        open(base, 'wb').write(content[:-100])
        with pytest.raises(CheckpointError, match=f'another file, of {len(content) - 100:,} bytes'):
            read_checkpoint(saved)

    def test_changed_after_it_was_found(self, base, saved):
        read_checkpoint(saved)
        content = bytearray(open(base, 'rb').read())
        content[1000] ^= 1
        os.remove(base)
        open(base, 'wb').write(content)
        with pytest.raises(CheckpointError, match='another file, of SHA-256'):
            read_checkpoint(saved)

    @pytest.mark.parametrize('source, message', (
        ('nope.pth', 'base: there is no file .*nope.pth'),
        ('s3://bucket/base.pth', 'in a storage that cannot be looked into; copy it to a local'),
        ('torchvision://nope', "torchvision has no model 'nope'"),
        ('http://127.0.0.1:9/base.pth', 'cannot be downloaded'),
        ('http://127.0.0.1:9/a b.pth', 'cannot be downloaded'),
    ))
    def test_what_cannot_be_opened(self, source, message, monkeypatch):
        for name in ('http_proxy', 'HTTP_PROXY'):
            monkeypatch.delenv(name, raising=False)
        monkeypatch.setenv('no_proxy', '127.0.0.1')
        with pytest.raises(CheckpointError, match=message):
            open_base(source)

    def test_no_state_dict(self, tmp_path):
        torch.save({'epoch': 3}, tmp_path / 'x.pth')
        with pytest.raises(CheckpointError, match='holds no state dict'):
            BaseFile(str(tmp_path / 'x.pth')).tensors

    def test_nothing_is_executed(self, write_evil, tmp_path):
        write_evil(tmp_path / 'evil.pth', tmp_path / 'trace')
        with pytest.raises(CheckpointError, match='holds posix.mkdir'):
            BaseFile(str(tmp_path / 'evil.pth')).tensors
        assert not (tmp_path / 'trace').exists()


class TestNames:

    def test_head_of_a_classifier(self):
        given = ['cls_token', 'blocks.0.attn.qkv.weight', 'head.weight', 'head.bias']
        wanted = ['backbone.cls_token', 'backbone.layers.0.attn.qkv.weight',
                  'backbone.layers.0.ln1.weight', 'head.layers.head.weight']
        assert map_base(dict.fromkeys(given), dict.fromkeys(wanted)) == {
            'backbone.cls_token': 'cls_token',
            'backbone.layers.0.attn.qkv.weight': 'blocks.0.attn.qkv.weight',
            'head.layers.head.weight': 'head.weight'}

    def test_a_whole_detector(self):
        names = dict.fromkeys(['backbone.conv1.weight', 'neck.x.weight', 'roi_head.fc.weight'])
        assert map_base(names, names) == {name: name for name in names}

    def test_a_backbone_in_a_model(self):
        wanted = {'backbone.stages.0.0.gamma': None, 'head.fc.weight': None}
        for name in ('stages.0.0.gamma', 'backbone.stages.0.0.gamma'):
            assert map_base({name: None}, wanted) == {'backbone.stages.0.0.gamma': name}

    def test_another_family(self, vit, swin):
        own = {f'backbone.{k}': v for k, v in vit().state_dict().items()}
        assert map_base(swin().state_dict(), own) == {}
