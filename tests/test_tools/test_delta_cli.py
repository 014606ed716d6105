"""``tools/delta.py``, as a user types it."""
import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from scalenet_mm import ScaleNetViT
from scalenet_mm.checkpoints import base_files, load_file, load_pretrained, read_checkpoint
from scalenet_mm.checkpoints.files import save_file
from scalenet_mm.engine import run_cli

TOOL = Path(__file__).resolve().parents[2] / 'tools/delta.py'
ARCH = dict(embed_dims=16, num_layers=2, num_heads=2, feedforward_channels=32)


@pytest.fixture
def run(monkeypatch, capsys):
    """Run the tool in this process; give its exit status, output and error."""
    spec = importlib.util.spec_from_file_location('delta_tool', TOOL)
    tool = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(tool)
    monkeypatch.setattr(base_files, '_found', {})
    monkeypatch.setattr(base_files, '_places', [])

    def call(*words):
        monkeypatch.setattr(sys, 'argv', ['delta.py', *map(str, words)])
        capsys.readouterr()
        status = run_cli(tool.main)
        return status, *capsys.readouterr()

    return call


def vit(**growth):
    growth = growth or dict(growth='paper', adjustment='paper')
    return ScaleNetViT(arch=ARCH, img_size=32, patch_size=16, **growth)


@pytest.fixture
def files(tmp_path):
    """A base, and a whole checkpoint of a training that started from it."""
    torch.manual_seed(0)
    base, whole = tmp_path / 'base.pth', tmp_path / 'whole.pth'
    torch.save(vit(growth=None, adjustment=None).state_dict(), base)
    model = vit()
    load_pretrained(model, str(base))
    state = {f'backbone.{k}': v.clone() for k, v in model.state_dict().items()}
    for key in state:
        if 'ln' in key or 'adapter' in key:
            state[key] += 1
    state['head.fc.weight'] = torch.randn(3, 16)
    averaged = {f'module.{k}': v for k, v in state.items()}
    save_file(
        dict(
            meta=dict(epoch=2, iter=40, time='20260102_030405', mmengine_version='0.10.7',
                      dataset_meta=dict(classes=('cat', 'dog', 'cow'))),
            state_dict=state, ema_state_dict=averaged,
            optimizer=dict(state={0: dict(exp_avg=torch.zeros(100))}, param_groups=[]),
            param_schedulers=[dict(last_step=1)],
            message_hub=dict(log_scalars=dict(loss=[1.] * 1000), runtime_info=dict(cfg='x = 1'))),
        str(whole))
    return base, whole


def test_whole_as_safetensors(files, run, tmp_path):
    base, whole = files
    delta, again = tmp_path / 'delta.pth', tmp_path / 'again.safetensors'
    assert run('extract', whole, '--base', base, '--out', delta)[0] == 0
    status, out, _ = run('apply', delta, '--out', again)
    assert status == 0 and 'a whole checkpoint of a grown model' in out
    state = load_file(str(whole))['state_dict']
    content = load_file(str(again))
    assert content['meta']['dataset_meta'] == dict(classes=['cat', 'dog', 'cow'])
    written = content['state_dict']
    assert written.keys() == state.keys()
    assert all(torch.equal(written[key], value) for key, value in state.items())


def test_safetensors_hold_no_optimizer(files, run, tmp_path):
    base, whole = files
    delta = tmp_path / 'delta.safetensors'
    status, _, error = run('extract', whole, '--base', base, '--out', delta, '--keep-optimizer')
    assert status == 2 and '--keep-optimizer: a safetensors file holds no optimizer' in error
    assert not delta.exists()


def test_the_base_is_not_overwritten(files, run, tmp_path):
    base, whole = files
    before, delta = base.read_bytes(), tmp_path / 'delta.pth'
    assert run('extract', whole, '--base', base, '--out', delta)[0] == 0
    for words in (('extract', whole, '--base', base), ('apply', delta)):
        status, _, error = run(*words, '--out', base, '--force')
        assert status == 2 and 'base.pth is the base, which deltas need' in error
        assert base.read_bytes() == before


@pytest.mark.parametrize('ending', ('pth', 'safetensors'))
def test_extract_and_apply(ending, files, run, tmp_path):
    base, whole = files
    delta, again = tmp_path / f'delta.{ending}', tmp_path / 'again.pth'
    status, out, _ = run('extract', whole, '--base', base, '--out', delta)
    assert status == 0 and 'a delta: what differs from its base' in out
    assert delta.stat().st_size < whole.stat().st_size / 2
    raw = load_file(str(delta))
    assert raw['meta']['epoch'] == 2 and 'optimizer' not in raw and 'ema_state_dict' not in raw

    status, out, _ = run('apply', delta, '--out', again)
    assert status == 0 and 'a whole checkpoint of a grown model' in out
    assert 'made from     a delta of base.pth' in out
    one, other = (torch.load(path, weights_only=True) for path in (again, whole))
    assert list(one['state_dict']) == list(other['state_dict'])
    assert all(torch.equal(v, one['state_dict'][k]) for k, v in other['state_dict'].items())
    assert abs(again.stat().st_size - whole.stat().st_size) < 20_000


def test_keep_optimizer(files, run, tmp_path):
    base, whole = files
    delta = tmp_path / 'delta.pth'
    assert run('extract', whole, '--base', base, '--out', delta, '--keep-optimizer')[0] == 0
    one, other = read_checkpoint(str(delta)), load_file(str(whole))
    assert one['message_hub'] == other['message_hub']
    assert one['param_schedulers'] == other['param_schedulers'] and 'optimizer' in one
    assert all(torch.equal(v, one['ema_state_dict'][k]) for k, v in other['ema_state_dict'].items())


def test_nothing_is_overwritten(files, run):
    base, whole = files
    before = whole.read_bytes()
    for words in (('extract', whole, '--base', base), ('apply', base)):
        status, _, error = run(*words, '--out', whole)
        assert status == 2 and 'is there already; give --force' in error
        assert whole.read_bytes() == before
    assert run('extract', whole, '--base', base, '--out', whole, '--force')[0] == 0
    assert whole.read_bytes() != before


def test_base_elsewhere(files, run, tmp_path):
    base, whole = files
    delta, out = tmp_path / 'delta.pth', tmp_path / 'out.pth'
    run('extract', whole, '--base', base, '--out', delta)
    base_files._found.clear()
    base.rename(tmp_path / 'moved.pth')
    status, _, error = run('apply', delta, '--out', out)
    assert status == 2 and 'Wanted is base.pth' in error and not out.exists()
    assert 'not found here' in run('inspect', delta)[1]
    status, _, error = run('apply', delta, '--base', whole, '--out', out)
    assert status == 2 and 'whole.pth: another file' in error and not out.exists()
    assert run('apply', delta, '--base', tmp_path / 'moved.pth', '--out', out)[0] == 0


@pytest.mark.parametrize('words, message', (
    (('extract', 'base.pth', '--base', 'nope.pth', '--out', 'x.pth'), 'base: there is no file /'),
    (('extract', 'nope.pth', '--base', 'base.pth', '--out', 'x.pth'), 'no checkpoint file nope'),
    (('extract', 'whole.pth', '--base', 'whole.pth', '--out', 'no/such/\0.pth'), 'cannot be'),
    (('apply', 'whole.pth', '--out', 'x.pth'), 'whole.pth is no delta, but whole already'),
    (('inspect', 'nope.pth'), 'there is no checkpoint file nope.pth'),
    (('inspect', 'text.pth'), 'text.pth is no checkpoint file'),
))
def test_errors(words, message, files, run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'text.pth').write_text('no')
    if '\0' in words[-1]:
        (tmp_path / 'no').write_text('a file where a folder should be')
        words = (*words[:-1], 'no/such.pth')
    status, out, error = run(*words)
    assert status == 2 and message in error and error.startswith('error: ')
    assert not (tmp_path / 'x.pth').exists()


def test_wrong_base(files, run, tmp_path):
    base, whole = files
    other = tmp_path / 'other.pth'
    torch.save({k: v + 1 for k, v in torch.load(base).items()}, other)
    status, _, error = run('extract', whole, '--base', other, '--out', tmp_path / 'x.pth')
    assert status == 2 and 'other.pth is not the base of' in error
    assert '% of its bytes are there' in error and not (tmp_path / 'x.pth').exists()


class TestInspect:

    def test_delta(self, files, run, tmp_path):
        base, whole = files
        delta = tmp_path / 'delta.pth'
        run('extract', whole, '--base', base, '--out', delta, '--keep-optimizer')
        out = run('inspect', delta)[1]
        sha = load_file(str(delta))['delta']['base']['sha256']
        for part in (
                'a delta: what differs from its base', 'base.pth, ', f'from {base}', sha,
                f'found here: {base}', 'epoch 2, iteration 40, saved 2026-01-02 03:04:05',
                '3: cat, dog, cow', 'backbone.layers: 4 blocks: 0 0_r1 1 1_r1', 'left out',
                'tensors', 'adapters, LoRA', 'norms', 'head, neck', 'averaged (EMA)',
                'that equal the weights', 'optimizer', 'message hub', 'scalenet_mm '):
            assert part in out
        assert '    16 tensors' in next(x for x in out.splitlines() if 'adapters' in x)

    def test_whole(self, files, run):
        out = run('inspect', files[1])[1]
        assert 'a whole checkpoint of a grown model' in out and 'weights' in out
        assert 'mmengine 0.10.7' in out

    def test_ungrown(self, files, run, tmp_path):
        assert 'an ungrown vit, in OpenMMLab names' in run('inspect', files[0])[1]
        torch.save({'model': {'blocks.0.attn.qkv.weight': torch.ones(3)}}, tmp_path / 'deit.pth')
        out = run('inspect', tmp_path / 'deit.pth')[1]
        assert 'an ungrown vit, in official names' in out and 'growth        none' in out

    def test_anything(self, run, tmp_path):
        half = torch.ones(3, dtype=torch.bfloat16)
        torch.save({'conv.weight': torch.ones(3), 'bn1.weight': half}, tmp_path / 'x.pth')
        assert 'a whole checkpoint, not grown' in run('inspect', tmp_path / 'x.pth')[1]


def test_as_a_program(files, tmp_path):
    base, whole = files
    done = subprocess.run([sys.executable, TOOL, 'extract', whole, '--base', base, '--out',
                           tmp_path / 'x.pth'], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert (tmp_path / 'x.pth').is_file()
