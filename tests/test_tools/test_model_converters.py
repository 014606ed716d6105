"""``tools/model_converters``: publishing, converting names, and unsharing, as a user runs them."""
import contextlib
import copy
import hashlib
import importlib.util
import io
import re
import subprocess
import sys
from collections import OrderedDict
from pathlib import Path

import pytest
import torch
from mmengine.config import Config
from mmengine.logging import HistoryBuffer, MMLogger
from mmengine.registry import MODELS, DefaultScope, init_default_scope
from safetensors.torch import load_file as read_safetensors

from scalenet_mm.analysis.inputs import RANDOM, ModelSource, load_model
from scalenet_mm.checkpoints import load_file, make_delta, read_checkpoint
from scalenet_mm.checkpoints.base_files import open_base
from scalenet_mm.engine import load_config, run_cli

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / 'configs/quickstart'
VIT = CONFIGS / 'scalenet_vit-nano_digits.py'
MASK_RCNN = CONFIGS / 'maskrcnn_scalenet_swin-nano_digits.py'
UPERNET = CONFIGS / 'upernet_scalenet_swin-nano_digits.py'


@pytest.fixture(autouse=True)
def clean(monkeypatch):
    """Leave configs' text as it is (formatting takes long), and no scope behind."""
    monkeypatch.setattr('mmengine.config.config.FormatCode', lambda text, **_: (text, True))
    yield
    DefaultScope._instance_dict.clear()


@pytest.fixture
def use():
    """Run a tool in this process: its exit status and what it printed."""

    def use(tool, *words):
        spec = importlib.util.spec_from_file_location(
            f'tool_{tool}', ROOT / f'tools/model_converters/{tool}.py')
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        MMLogger.get_current_instance()  # it keeps the stream that there is when it is made
        text = io.StringIO()
        with contextlib.redirect_stdout(text), contextlib.redirect_stderr(text):
            status = run_cli(lambda: module.main([str(word) for word in words]))
        return status, text.getvalue()

    return use


def grown_model(config, seed=0, idle=False, **options):
    """A config's model whose backbone's weights are drawn, adapters and gains too."""
    cfg = load_config(str(config))
    cfg.merge_from_dict(options)
    model = load_model(ModelSource('', cfg, str(config), RANDOM))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith('backbone.') and not (idle and name.endswith('adapter_up')):
                parameter.add_(0.1 * torch.randn(parameter.shape, generator=generator))
    return model


def trained(state, averaged=None, **meta):
    """What mmengine saves of a training: with averages, they are the state_dict."""
    checkpoint = dict(
        meta=dict(epoch=3, dataset_meta=dict(classes=('a', 'b')), experiment_name='run',
                  cfg="work_dir = '/home/someone/secret/runs'\ndata = dict(\n"
                  "    root='/mnt/private/coco/', name=\"/a\", url='https://x.org/a/b')\n", **meta),
        state_dict=OrderedDict(state),
        message_hub=dict(log_scalars=dict(loss=HistoryBuffer([1.], [1]))),
        optimizer=dict(state={0: torch.ones(1000)}), param_schedulers=[],
        random_states=[dict(torch=torch.get_rng_state())])
    if averaged is not None:
        checkpoint['ema_state_dict'] = {'steps': torch.tensor(3),
                                        **{f'module.{k}': v for k, v in state.items()}}
        checkpoint['state_dict'] = OrderedDict(averaged)
    return checkpoint


STATE = {'backbone.w': torch.arange(6.).view(2, 3), 'head.b': torch.ones(2)}
AVERAGED = {k: v + 1 for k, v in STATE.items()}


def published(folder, ending='pth'):
    path, = (p for p in folder.glob(f'out-*.{ending}'))
    return path


# --- publish_model


def test_publish(tmp_path, use):
    torch.save(trained(STATE), tmp_path / 'epoch_3.pth')
    status, text = use('publish_model', tmp_path / 'epoch_3.pth', tmp_path / 'out.pth')
    assert status == 0, text
    path = published(tmp_path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert re.fullmatch(r'out-[0-9a-f]{8}\.pth', path.name) and path.stem.endswith(digest[:8])
    content = load_file(path)
    assert set(content) == {'meta', 'state_dict'}
    assert list(content['state_dict']) == list(STATE)
    assert all(torch.equal(v, STATE[k]) for k, v in content['state_dict'].items())
    assert content['meta']['dataset_meta'] == {'classes': ('a', 'b')}
    assert 'left out message_hub, optimizer, param_schedulers, random_states' in text
    assert path.stat().st_size < (tmp_path / 'epoch_3.pth').stat().st_size

    assert b'someone' not in path.read_bytes() and b'/mnt/private' not in path.read_bytes()
    cfg = Config.fromstring(content['meta']['cfg'], '.py')
    assert cfg.work_dir == 'runs'
    assert cfg.data == dict(root='coco/', name='/a', url='https://x.org/a/b')


def test_names_of_classes_that_look_like_paths_stay(tmp_path, use):
    classes = ('/m/011k07', '/m/01226z')
    checkpoint = trained(STATE, CLASSES=classes, PALETTE=['/a/b'], work_dir='/home/someone/runs')
    checkpoint['meta']['dataset_meta'] = dict(classes=classes)
    torch.save(checkpoint, tmp_path / 'epoch_3.pth')
    assert use('publish_model', tmp_path / 'epoch_3.pth', tmp_path / 'out.pth')[0] == 0
    meta = load_file(published(tmp_path))['meta']
    assert meta['dataset_meta'] == dict(classes=classes)
    assert meta['CLASSES'] == classes and meta['PALETTE'] == ['/a/b']
    assert meta['work_dir'] == 'runs' and '/home' not in meta['cfg']


@pytest.mark.parametrize('ending', ['pth', 'safetensors'])
def test_the_same_content_has_the_same_name(ending, tmp_path, use):
    """In another process and folder; safetensors' own writer puts notes in any order."""
    torch.save(trained(STATE), tmp_path / 'epoch_3.pth')
    for folder in 'abc':
        assert use('publish_model', tmp_path / 'epoch_3.pth',
                   tmp_path / folder / f'out.{ending}')[0] == 0
    done = subprocess.run(
        [sys.executable, str(ROOT / 'tools/model_converters/publish_model.py'),
         str(tmp_path / 'epoch_3.pth'), str(tmp_path / 'd' / f'out.{ending}')],
        capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    files = [published(tmp_path / folder, ending) for folder in 'abcd']
    assert len({f.name for f in files}) == 1
    assert len({f.read_bytes() for f in files}) == 1


def test_publish_safetensors(tmp_path, use):
    torch.save(trained(STATE), tmp_path / 'epoch_3.pth')
    status, text = use('publish_model', tmp_path / 'epoch_3.pth', tmp_path / 'out.safetensors')
    assert status == 0, text
    content = load_file(published(tmp_path, 'safetensors'))
    assert content['meta']['dataset_meta'] == dict(classes=['a', 'b'])
    state = content['state_dict']
    assert all(torch.equal(v, STATE[k]) for k, v in state.items()) and set(state) == set(STATE)


def test_publish_averaged_or_trained_weights(tmp_path, use):
    torch.save(trained(STATE, AVERAGED), tmp_path / 'epoch_3.pth')
    for words, wanted, told in (((), AVERAGED, 'averaged weights'),
                                (('--no-ema', ), STATE, 'trained weights')):
        out = tmp_path / f'{len(words)}'
        status, text = use('publish_model', tmp_path / 'epoch_3.pth', out / 'out.pth', *words)
        assert status == 0 and told in text
        content = load_file(published(out))
        assert set(content) == {'meta', 'state_dict'}
        assert all(torch.equal(v, wanted[k]) for k, v in content['state_dict'].items())


def test_save_keys(tmp_path, use):
    torch.save(trained(STATE, AVERAGED), tmp_path / 'epoch_3.pth')
    words = (tmp_path / 'epoch_3.pth', tmp_path / 'out')
    status, text = use('publish_model', *words, '--save-keys', 'state_dict', 'ema_state_dict')
    assert status == 0
    assert set(load_file(published(tmp_path))) == {'state_dict', 'ema_state_dict'}
    status, text = use('publish_model', *words, '--save-keys', 'weights')
    assert status == 2 and 'holds no weights, only meta, state_dict' in text
    assert len(list(tmp_path.glob('out-*'))) == 1


def test_publish_twice(tmp_path, use):
    torch.save(trained(STATE), tmp_path / 'epoch_3.pth')
    words = ('publish_model', tmp_path / 'epoch_3.pth', tmp_path / 'out.pth')
    assert use(*words)[0] == 0
    status, text = use(*words)
    assert status == 2 and 'is there already: --force' in text
    assert use(*words, '--force')[0] == 0


def test_publish_other_files(tmp_path, use):
    """Official releases become what mmengine reads; what they hold beside is dropped."""
    torch.save({'model': STATE, 'optimizer': {}}, tmp_path / 'official.pth')
    assert use('publish_model', tmp_path / 'official.pth', tmp_path / 'out.pth')[0] == 0
    assert set(load_file(published(tmp_path))) == {'state_dict'}
    status, text = use('publish_model', tmp_path / 'official.pth', tmp_path / 'o.pth', '--no-ema')
    assert status == 2 and 'no averaged weights' in text


@pytest.mark.parametrize('ending', ['pth', 'safetensors'])
def test_a_published_delta_is_a_delta(ending, tmp_path, use):
    model = grown_model(VIT, idle=True)
    state = model.state_dict()
    own = re.compile(r'.*(_r\d|adapter|gain|ln\d|head)')
    base = {k: v for k, v in state.items() if not own.match(k)}
    torch.save({'state_dict': base}, tmp_path / 'base.pth')
    checkpoint = trained(state, {k: v + 1 if own.match(k) else v for k, v in state.items()})
    whole = copy.deepcopy(checkpoint)
    torch.save(make_delta(checkpoint, open_base(str(tmp_path / 'base.pth'))),
               tmp_path / 'delta.pth')
    status, text = use('publish_model', tmp_path / 'delta.pth', tmp_path / f'out.{ending}')
    assert status == 0 and 'it is a delta: it needs base.pth' in text
    path = published(tmp_path, ending)
    content = load_file(path)
    assert set(content['state_dict']) == set(state) - set(base)
    assert content['delta']['base']['source'] == 'base.pth'
    assert str(tmp_path).encode() not in path.read_bytes()
    merged = read_checkpoint(path)
    assert set(merged['state_dict']) == set(state)
    assert all(torch.equal(v, whole['state_dict'][k]) for k, v in merged['state_dict'].items())
    status, text = use('publish_model', tmp_path / 'delta.pth', tmp_path / 'raw.pth', '--no-ema')
    assert status == 2 and 'tools/delta.py apply' in text


# --- convert_keys


def test_convert_keys(tmp_path, use):
    model = grown_model(VIT)
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'grown.pth')
    words = ('convert_keys', tmp_path / 'grown.pth', tmp_path / 'timm.safetensors', '--to', 'timm')
    status, text = use(*words)
    assert status == 2 and 'is grown' in text and not (tmp_path / 'timm.safetensors').exists()
    status, text = use(*words, '--part', 'ungrown')
    assert status == 0 and 'left out, repeats: layers.0_r1.ln1.weight' in text
    timm = read_safetensors(tmp_path / 'timm.safetensors')  # as others do
    assert torch.equal(timm['blocks.3.mlp.fc1.weight'],
                       model.backbone.layers[6].ffn.layers[0][0].weight)
    status, text = use(*words, '--part', 'ungrown')
    assert status == 2 and 'is there already: --force' in text
    assert use(*words, '--part', 'ungrown', '--force')[0] == 0

    assert use('convert_keys', tmp_path / 'timm.safetensors', tmp_path / 'back.pth', '--to',
               'openmmlab')[0] == 0
    cfg = load_config(str(VIT))
    cfg.model.backbone.growth = cfg.model.backbone.adjustment = None
    init_default_scope('mmpretrain')
    ungrown = MODELS.build(cfg.model)
    back = load_file(tmp_path / 'back.pth')['state_dict']
    ungrown.load_state_dict(back)
    assert all(torch.equal(v, model.state_dict()[k]) for k, v in back.items())


def test_convert_swin_to_official(tmp_path, use):
    model = grown_model(UPERNET)
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'grown.pth')
    status, text = use('convert_keys', tmp_path / 'grown.pth', tmp_path / 'out.pth', '--to',
                       'official', '--part', 'ungrown')
    assert status == 0 and 'attn_mask' in text and 'other parts of the model' in text
    assert 'layers.3.blocks.1.attn.relative_position_index' in load_file(
        tmp_path / 'out.pth')['model']


# --- unshare


def outputs(model, size):
    """What a model computes behind its backbone, in eval mode."""
    image = torch.randn(1, 3, size, size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        if hasattr(model, 'rpn_head'):
            features = model.extract_feat(image)
            return [*features, *model.rpn_head(features)[0]]
        out = model(image, mode='tensor')
        return [out] if isinstance(out, torch.Tensor) else list(out)


def load_written(path):
    """The model of a written config with the written weights, loaded strictly."""
    cfg = Config.fromfile(path.with_suffix('.py'))
    init_default_scope(cfg.default_scope)
    model = MODELS.build(copy.deepcopy(cfg.model))
    state = load_file(path)
    model.load_state_dict(state.get('state_dict', state))
    model.eval()
    return cfg, model


def assert_same(model, deeper, size):
    for ours, theirs in zip(outputs(model, size), outputs(deeper, size), strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-3, atol=1e-4 * float(ours.abs().max()))


STOCK = {VIT: 'mmpretrain.VisionTransformer', MASK_RCNN: 'mmdet.SwinTransformer',
         UPERNET: 'mmseg.SwinTransformer'}


@pytest.mark.parametrize('idle', [True, False], ids=['stock', 'adapters'])
@pytest.mark.parametrize('config', [VIT, MASK_RCNN, UPERNET], ids=['cls', 'det', 'seg'])
def test_unshare(config, idle, tmp_path, use):
    model = grown_model(config, idle=idle)
    torch.save(dict(meta=dict(epoch=3, dataset_meta=dict(classes=('a', ))),
                    state_dict=model.state_dict(), optimizer={}), tmp_path / 'grown.pth')
    status, text = use('unshare', config, tmp_path / 'grown.pth', tmp_path / 'deep.pth')
    assert status == 0, text
    assert ('adapters stay' in text) != idle and 'are folded into their weights' in text
    cfg, deeper = load_written(tmp_path / 'deep.pth')
    assert cfg.model.backbone.type == (STOCK[config] if idle else
                                       load_config(str(config)).model.backbone.type)
    assert 'AdapterInjectionHook' not in cfg.pretty_text and cfg.load_from is None
    assert idle or cfg.custom_imports.imports == ['scalenet_mm']
    assert_same(model, deeper, 64)
    meta = load_file(tmp_path / 'deep.pth')['meta']
    assert meta['epoch'] == 3 and meta['dataset_meta'] == dict(classes=('a', ))
    assert meta['unshared_from'] == 'grown.pth'
    assert Config.fromstring(meta['cfg'], '.py').model == cfg.model


def test_an_ordinary_model_does_not_need_this_package(tmp_path, use):
    model = grown_model(VIT, idle=True)
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'grown.pth')
    assert use('unshare', VIT, tmp_path / 'grown.pth', tmp_path / 'deep.safetensors')[0] == 0
    done = subprocess.run([sys.executable, '-c', f'''
import sys
from mmengine.config import Config
from mmengine.registry import MODELS, init_default_scope
from safetensors.torch import load_file
cfg = Config.fromfile({str(tmp_path / 'deep.py')!r})
init_default_scope(cfg.default_scope)
model = MODELS.build(cfg.model)
model.load_state_dict(load_file({str(tmp_path / 'deep.safetensors')!r}))
assert not any(name.startswith('scalenet_mm') for name in sys.modules)
'''], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr


HOOKED = '''
custom_imports = dict(imports=['scalenet_mm'])
default_scope = 'mmpretrain'
model = dict(
    type='ImageClassifier',
    backbone=dict(type='VisionTransformer', img_size=32, arch=dict(
        embed_dims=8, num_layers=3, num_heads=2, feedforward_channels=16)),
    head=dict(type='VisionTransformerClsHead', num_classes=4, in_channels=8))
custom_hooks = [dict(type='AdapterInjectionHook', growth=dict(order='interpolate'),
                     adjustment=dict(type='LoRA', rank=2)),
                dict(type='EMAHook')]
'''


def test_unshare_a_stock_model_that_the_hook_grows(tmp_path, use):
    config = tmp_path / 'hooked.py'
    config.write_text(HOOKED)
    model = grown_model(config)
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'grown.pth')
    status, text = use('unshare', config, tmp_path / 'grown.pth', tmp_path / 'deep.pth')
    assert status == 0 and 'out_indices are [5]' in text, text
    cfg, deeper = load_written(tmp_path / 'deep.pth')
    assert cfg.model.backbone.type == 'VisionTransformer'
    assert [hook.type for hook in cfg.custom_hooks] == ['EMAHook']
    assert 'scalenet_mm' not in cfg.pretty_text
    assert_same(model, deeper, 32)


INTERPOLATED = '''
_base_ = [{base!r}]
model = dict(backbone=dict(growth=dict(order='interpolate')))
'''


def test_unshare_a_swin_whose_shifts_are_of_another_order(tmp_path, use):
    config = tmp_path / 'interpolated.py'
    config.write_text(INTERPOLATED.format(base=str(UPERNET)))
    model = grown_model(config, idle=True)
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'grown.pth')
    words = ('unshare', config, tmp_path / 'grown.pth', tmp_path / 'deep.pth')
    status, text = use(*words)
    assert status == 2 and 'in stage 1 and 2 and 3 and 4' in text and '--empty-blocks' in text
    assert not list(tmp_path.glob('deep*'))
    status, text = use(*words, '--empty-blocks')
    assert status == 0 and '8 blocks without effect' in text, text
    cfg, deeper = load_written(tmp_path / 'deep.pth')
    assert cfg.model.backbone.depths == [6, 6, 6, 6]
    assert_same(model, deeper, 128)


def test_unshare_says_where_hidden_shifts_would_show(tmp_path, use):
    config = tmp_path / 'classifier.py'
    config.write_text('''
custom_imports = dict(imports=['scalenet_mm'])
default_scope = 'mmpretrain'
model = dict(
    type='ImageClassifier',
    backbone=dict(type='ScaleNetSwin', img_size=56, adjustment=None,
                  arch=dict(embed_dims=8, depths=(2, 2), num_heads=(1, 2)),
                  growth=dict(order='interpolate', stages=(1, ))),
    neck=dict(type='GlobalAveragePooling'),
    head=dict(type='LinearClsHead', num_classes=4, in_channels=16))
''')
    model = grown_model(config)
    torch.save({'state_dict': model.state_dict()}, tmp_path / 'grown.pth')
    words = ('unshare', config, tmp_path / 'grown.pth', tmp_path / 'deep.pth')
    status, text = use(*words, '--size', 112)
    assert status == 2 and 'in stage 2' in text
    status, text = use(*words)
    assert status == 0 and 'NOTE: in stage 2' in text and 'images of 56 x 56' in text
    assert_same(model, load_written(tmp_path / 'deep.pth')[1], 56)


def test_deltas_are_read(tmp_path, use, monkeypatch):
    monkeypatch.setattr('scalenet_mm.checkpoints.base_files._places', [])
    model = grown_model(VIT)
    state = model.state_dict()
    base = {k: v for k, v in state.items() if not re.match(r'.*(_r\d|adapter|gain|head)', k)}
    torch.save({'state_dict': base}, tmp_path / 'base.pth')
    torch.save(make_delta({'meta': {}, 'state_dict': copy.copy(state)},
                          open_base(str(tmp_path / 'base.pth'))), tmp_path / 'delta.pth')
    (tmp_path / 'elsewhere').mkdir()
    (tmp_path / 'base.pth').rename(tmp_path / 'elsewhere/base.pth')
    convert = ('convert_keys', tmp_path / 'delta.pth', tmp_path / 'timm.pth', '--to', 'timm',
               '--part', 'ungrown')
    status, text = use(*convert)
    assert status == 2 and 'base.pth' in text and not (tmp_path / 'timm.pth').exists()
    for words in (convert, ('unshare', VIT, tmp_path / 'delta.pth', tmp_path / 'deep.pth')):
        status, text = use(*words, '--base', tmp_path / 'elsewhere')
        assert status == 0, text
    assert_same(model, load_written(tmp_path / 'deep.pth')[1], 64)
    assert torch.equal(load_file(tmp_path / 'timm.pth')['blocks.0.attn.qkv.weight'],
                       base['backbone.layers.0.attn.qkv.weight'])


def test_what_unshare_refuses(tmp_path, use):
    state = grown_model(VIT).state_dict()
    ungrown = {k: v for k, v in state.items() if not re.match(r'.*(_r\d|adapter|gain)', k)}
    headless = {k: v for k, v in state.items() if not k.startswith('head')}
    for name, content, told in (('ungrown', ungrown, 'does not hold the whole model'),
                                ('headless', headless, 'does not hold the whole model')):
        torch.save({'state_dict': content}, tmp_path / f'{name}.pth')
        status, text = use('unshare', VIT, tmp_path / f'{name}.pth', tmp_path / 'deep.pth')
        assert status == 2 and told in text, text
    broken = {k: v.clone() for k, v in state.items()}
    broken['backbone.ln1.weight'][0] = float('nan')
    torch.save({'state_dict': broken}, tmp_path / 'broken.pth')
    status, text = use('unshare', VIT, tmp_path / 'broken.pth', tmp_path / 'deep.pth')
    assert status == 2 and 'nothing was written' in text and 'differ by nan' in text
    torch.save({'state_dict': state}, tmp_path / 'grown.pth')
    status, text = use('unshare', CONFIGS / 'maskrcnn_swin-nano_digits.py',
                       tmp_path / 'grown.pth', tmp_path / 'deep.pth')
    assert status == 2
    (tmp_path / 'deep.py').write_text('precious')
    status, text = use('unshare', VIT, tmp_path / 'grown.pth', tmp_path / 'deep.pth')
    assert status == 2 and 'deep.py is there already: --force' in text
    assert (tmp_path / 'deep.py').read_text() == 'precious'
    assert not (tmp_path / 'deep.pth').exists()
    assert use('unshare', VIT, tmp_path / 'grown.pth', tmp_path / 'deep.pth', '--force')[0] == 0


# --- all of them


class Evil:
    """Unpickling it makes a folder."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        import os
        return os.mkdir, (self.path, )


@pytest.mark.parametrize('tool', ['publish_model', 'convert_keys', 'unshare'])
def test_nothing_in_a_file_is_executed(tool, tmp_path, use):
    torch.save({'state_dict': {'w': torch.ones(2)}, 'evil': Evil(tmp_path / 'trace')},
               tmp_path / 'evil.pth')
    words = {'publish_model': (), 'convert_keys': ('--to', 'timm'), 'unshare': ()}[tool]
    first = (VIT, ) if tool == 'unshare' else ()
    status, text = use(tool, *first, tmp_path / 'evil.pth', tmp_path / 'out.pth', *words)
    assert status == 2 and 'not on the list of types that are safe to load' in text
    assert not (tmp_path / 'trace').exists()
    assert sorted(p.name for p in tmp_path.iterdir()) == ['evil.pth']


@pytest.mark.parametrize('tool', ['publish_model', 'convert_keys', 'unshare'])
def test_no_such_file(tool, tmp_path, use):
    words = {'convert_keys': ('--to', 'timm')}.get(tool, ())
    first = (VIT, ) if tool == 'unshare' else ()
    status, text = use(tool, *first, tmp_path / 'none.pth', tmp_path / 'out.pth', *words)
    assert status == 2 and 'none.pth' in text and not list(tmp_path.iterdir())
