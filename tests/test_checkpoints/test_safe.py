"""Loading executes nothing, from files and URLs, through every door of mmengine."""
import os
import pickle
import sys

import numpy as np
import pytest
import torch
from mmengine.logging import HistoryBuffer
from mmengine.runner.checkpoint import _load_checkpoint
from safetensors.torch import save_file

from scalenet_mm import CheckpointError, load_pretrained
from scalenet_mm.checkpoints import allow_types, load_file
from scalenet_mm.checkpoints.safe import TypeRefusedError, find_refused


@pytest.mark.parametrize('zipped', [True, False], ids=['zip', 'legacy'])
@pytest.mark.parametrize('load', [load_file, _load_checkpoint], ids=['own', 'mmengine'])
def test_code_in_a_file_is_not_run(load, zipped, tmp_path, write_evil):
    path, trace = str(tmp_path / 'evil.pth'), tmp_path / 'trace'
    write_evil(path, trace, zipped)
    with pytest.raises(CheckpointError, match=r'evil.pth holds posix.mkdir, which is not on the '
                       r'list.*allow_types') as error:
        load(path)
    assert not trace.exists()
    assert 'weights_only' not in str(error.value)
    torch.load(path, weights_only=False)  # the file would have done it
    assert trace.exists()


def test_plain_pickle_is_not_run(tmp_path, write_evil):
    path, trace = tmp_path / 'evil.pkl', tmp_path / 'trace'
    path.write_bytes(pickle.dumps(write_evil.Evil(trace)))
    with pytest.raises(CheckpointError):
        load_file(str(path))
    assert not trace.exists()


@pytest.mark.parametrize('load', [load_file, _load_checkpoint], ids=['own', 'mmengine'])
def test_code_behind_a_url_is_not_run(load, serve, tmp_path, write_evil):
    root, url, hub = serve
    write_evil(root / 'evil.pth', tmp_path / 'trace')
    with pytest.raises(CheckpointError, match='holds posix.mkdir'):
        load(f'{url}/evil.pth')
    assert not (tmp_path / 'trace').exists()
    assert (hub / 'checkpoints' / 'evil.pth').exists()  # it was there to be run


@pytest.mark.parametrize('load', [load_file, _load_checkpoint], ids=['own', 'mmengine'])
def test_urls(load, serve, vit):
    root, url, hub = serve
    torch.save(vit().state_dict(), root / 'vit.pth')
    assert set(load(f'{url}/vit.pth')) == set(vit().state_dict())
    (root / 'vit.pth').unlink()  # downloaded once
    assert load(f'{url}/vit.pth')


def test_a_backbone_from_a_url(serve, vit):
    root, url, _ = serve
    source, model = vit(), vit(seed=1)
    torch.save(source.state_dict(), root / 'vit.pth')
    assert f'{url}/vit.pth' in str(load_pretrained(model, f'{url}/vit.pth'))
    assert torch.equal(model.pos_embed, source.pos_embed)


def test_broken_urls(serve):
    root, url, hub = serve
    with pytest.raises(CheckpointError, match='missing.pth cannot be read: HTTP Error 404'):
        load_file(f'{url}/missing.pth')
    torch.save(torch.ones(1000), root / 'cut.pth')
    (root / 'cut.pth').write_bytes((root / 'cut.pth').read_bytes()[:700])
    with pytest.raises(CheckpointError, match='truncated or damaged.*delete .*cut.pth to download '
                       'it again') as error:
        load_file(f'{url}/cut.pth')
    assert str(hub / 'checkpoints' / 'cut.pth') in str(error.value)
    with pytest.raises(CheckpointError, match='cannot be read'):
        load_file('http://127.0.0.1:1/vit.pth')


def test_mmengine_training_checkpoints_load(tmp_path):
    history = HistoryBuffer([0.5, 0.25], [1, 1])
    path = str(tmp_path / 'epoch_1.pth')
    checkpoint = dict(
        meta=dict(epoch=1, seed=3, time='now', experiment_name='x'),
        message_hub=dict(
            log_scalars={'train/loss': history},
            runtime_info=dict(iter=5, best=np.float64(0.5), count=np.int64(3)),
            resumed_keys={'train/loss': True}),
        optimizer=torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))]).state_dict(),
        param_schedulers=[dict(last_step=3)],
        state_dict={'w': torch.ones(2)})
    torch.save(checkpoint, path)
    for load in (load_file, _load_checkpoint):
        loaded = load(path)
        assert loaded['message_hub']['log_scalars']['train/loss'].current() == 0.25
        assert loaded['message_hub']['runtime_info']['best'] == 0.5
    assert _load_checkpoint(path, map_location='meta')['state_dict']['w'].device.type == 'meta'


def test_a_real_message_hub_loads(tmp_path):
    from mmengine.logging import MessageHub
    hub = MessageHub.get_instance('test_a_real_message_hub')
    hub.update_scalar('train/loss', torch.tensor(2.))
    hub.update_scalar('train/acc', np.float32(0.5))
    hub.update_info('iter', 7)
    torch.save(dict(message_hub=hub.state_dict()), tmp_path / 'hub.pth')
    loaded = load_file(tmp_path / 'hub.pth')['message_hub']  # a Path is taken as well
    assert loaded['runtime_info']['iter'] == 7


@pytest.mark.parametrize('code', '?bhilqBHILQefdgFDGUS')
def test_arrays_of_numbers_and_texts_load(code, tmp_path):
    array = np.array(['cat', 'dog'] if code in 'US' else [0, 1]).astype(code)
    torch.save(dict(array=array, scalar=array[1]), tmp_path / 'file.pth')
    loaded = load_file(str(tmp_path / 'file.pth'))
    for value, wanted in ((loaded['array'], array), (loaded['scalar'], array[1])):
        assert np.asarray(value).dtype == array.dtype and np.array_equal(value, wanted)


@pytest.mark.parametrize('value, name', [
    (np.array(['a', None]), 'ObjectDType'), (np.zeros(2, 'M8[s]'), 'DateTime64DType'),
    (np.zeros(2, 'i4, f4'), 'VoidDType')])
def test_other_arrays_are_refused_and_not_called_damaged(value, name, tmp_path):
    torch.save(dict(meta=dict(classes=value)), tmp_path / 'file.pth')
    with pytest.raises(TypeRefusedError, match=f'file.pth holds numpy.dtypes.{name}, which is not '
                       'on the list') as error:
        load_file(str(tmp_path / 'file.pth'))
    assert error.value.type_name == f'numpy.dtypes.{name}'
    assert 'damaged' not in str(error.value)


def test_where_the_refused_stands():
    checkpoint = dict(meta=dict(epoch=1, sets=[1, (2, dict(x=Listed(3)))]), state_dict={})
    assert find_refused(checkpoint) == 'meta.sets.1.1.x'
    assert find_refused(dict(meta=dict(epoch=1))) is None


def test_types_are_allowed_by_name_only(tmp_path):
    torch.save({'x': Listed(3)}, tmp_path / 'listed.pth')
    with pytest.raises(CheckpointError, match='Listed, which is not on the list'):
        load_file(str(tmp_path / 'listed.pth'))
    allow_types(Listed)
    try:
        assert load_file(str(tmp_path / 'listed.pth'))['x'].value == 3
    finally:
        kept = [t for t in torch.serialization.get_safe_globals() if t is not Listed]
        torch.serialization.clear_safe_globals()
        torch.serialization.add_safe_globals(kept)


class Listed:

    def __init__(self, value):
        self.value = value


def test_the_list_of_safe_types_holds_no_way_to_run_code():
    allowed = torch.serialization.get_safe_globals()
    for dangerous in (getattr, eval, exec, __import__, os.system, open, type):
        assert dangerous not in allowed


@pytest.mark.parametrize('content', [b'', b'hello\nthis is a text, not weights\n',
                                     b'<html><body>404</body></html>', b'\x80', b'PK\x03\x04'])
def test_what_is_no_checkpoint(content, tmp_path):
    path = tmp_path / 'file.pth'
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match='file.pth is no checkpoint file, or is truncated or '
                       'damaged.*copy or download it again') as error:
        load_file(str(path))
    assert 'weights_only' not in str(error.value)  # torch's advice is to switch the check off


@pytest.mark.parametrize('zipped', [True, False], ids=['zip', 'legacy'])
def test_truncated_anywhere(zipped, tmp_path):
    path = tmp_path / 'cut.pth'
    torch.save({'a.weight': torch.randn(20, 20), 'b': torch.ones(3), 'meta': {'x': 'y'}}, path,
               _use_new_zipfile_serialization=zipped)
    whole = path.read_bytes()
    assert set(load_file(str(path))) == {'a.weight', 'b', 'meta'}
    for length in range(0, len(whole) - 1, 23):
        path.write_bytes(whole[:length])
        with pytest.raises(CheckpointError, match='truncated or damaged|not on the list'):
            load_file(str(path))


def test_missing_and_folders(tmp_path):
    with pytest.raises(CheckpointError, match='there is no checkpoint file .*nope.pth'):
        load_file(str(tmp_path / 'nope.pth'))
    with pytest.raises(CheckpointError, match='is a folder; name a checkpoint file in it'):
        load_file(str(tmp_path))


def test_home_folder(tmp_path, monkeypatch):
    monkeypatch.setenv('HOME', str(tmp_path))
    torch.save({'w': torch.ones(1)}, tmp_path / 'w.pth')
    assert load_file('~/w.pth')


# --- safetensors ---------------------------------------------------------------------------------


def write_safetensors(path, tensors):
    save_file(tensors, path)


@pytest.mark.parametrize('load', [load_file, _load_checkpoint], ids=['own', 'mmengine'])
def test_safetensors(load, tmp_path, vit, formats):
    source = vit()
    path = str(tmp_path / 'model.safetensors')
    write_safetensors(path, {k: v.contiguous() for k, v in formats['vit']['timm'](
        source.state_dict()).items()})
    loaded = load(path, map_location='cpu')
    assert torch.equal(loaded['blocks.1.mlp.fc1.weight'],
                       source.get_parameter('layers.1.ffn.layers.0.0.weight'))
    assert load(path, map_location='meta')['pos_embed'].device.type == 'meta'
    model = vit(seed=1)
    assert load_pretrained(model, path).format == 'official'
    assert torch.equal(model.pos_embed, source.pos_embed)


def test_safetensors_behind_urls_of_one_name(serve):
    root, url, hub = serve
    for i, folder in enumerate(('a', 'b')):
        (root / folder).mkdir()
        write_safetensors(root / folder / 'model.safetensors', {'w': torch.full((2, ), float(i))})
    for i, folder in enumerate(('a', 'b')):
        assert load_file(f'{url}/{folder}/model.safetensors')['w'][0] == i
    (root / 'a' / 'model.safetensors').unlink()  # downloaded once
    assert load_file(f'{url}/a/model.safetensors')['w'][0] == 0


def test_damaged_safetensors(tmp_path, serve):
    path = tmp_path / 'cut.safetensors'
    write_safetensors(path, {'w': torch.ones(100)})
    path.write_bytes(path.read_bytes()[:200])
    with pytest.raises(CheckpointError, match='cut.safetensors is no checkpoint file, or is '
                       'truncated or damaged.*copy or download it again'):
        load_file(str(path))
    root, url, hub = serve
    (root / 'cut.safetensors').write_bytes(path.read_bytes())
    with pytest.raises(CheckpointError, match='delete .*cut.safetensors to download') as error:
        load_file(f'{url}/cut.safetensors')
    kept, = (hub / 'checkpoints').iterdir()
    assert str(kept) in str(error.value)


def test_safetensors_without_the_package(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, 'safetensors', None)
    path = tmp_path / 'model.safetensors'
    path.write_bytes(b'x')
    with pytest.raises(CheckpointError, match='model.safetensors is in the safetensors format; to '
                       'read it, pip install safetensors'):
        load_file(str(path))


def test_a_refusal_can_be_sent_to_other_processes():
    error = TypeRefusedError('epoch_1.pth', 'my.Type')
    again = pickle.loads(pickle.dumps(error))
    assert type(again) is TypeRefusedError
    assert (str(again), again.type_name) == (str(error), 'my.Type')
