"""A model that the hook grew is rebuilt from the stock config and its checkpoint alone."""
from pathlib import Path

import mmengine
import pytest
import torch
from mmengine.config import Config
from mmengine.runner import Runner

from scalenet_mm import AdapterInjectionHook, CheckpointError, engine, infer, init_model
from scalenet_mm.checkpoints import extract_delta, read_checkpoint, write_checkpoint
from scalenet_mm.engine.stored_growth import apply_stored_growth, grows_nothing
from scalenet_mm.growth import growth_of

QUICKSTART = Path(__file__).resolve().parents[2] / 'configs' / 'quickstart'
STOCK = """
_base_ = ['{config}']
model = dict(backbone=dict(
    _delete_=True, type='VisionTransformer', img_size=64, patch_size=16, drop_path_rate=0.1,
    arch=dict(embed_dims=64, num_layers=3, num_heads=2, feedforward_channels=64)))
custom_hooks = []
train_dataloader = dict(
    batch_size=5, num_workers=0, persistent_workers=False, dataset=dict(data_root='{root}/cls/'))
test_dataloader = dict(
    batch_size=1, num_workers=0, persistent_workers=False, dataset=dict(data_root='{root}/cls/'))
train_cfg = dict(max_epochs=1, val_interval=10)
optim_wrapper = dict(optimizer=dict(lr=0.01))
val_cfg = val_dataloader = val_evaluator = None
param_scheduler = []
randomness = dict(seed=0)
"""
HOOK = """
_base_ = ['{stock}']
custom_hooks = [dict(
    type='AdapterInjectionHook', growth=dict(order='stack', start='paper', blocks=(1, 2)),
    adjustment=dict(rank=3, act_cfg=dict(type='GELU')), freeze='paper', require_loaded=False)]
"""


class Grown:
    """A stock config, the same with the hook, and what was trained by the latter."""

    def __init__(self, folder, root):
        self.stock, self.hook = str(folder / 'stock.py'), str(folder / 'hook.py')
        Path(self.stock).write_text(
            STOCK.format(config=QUICKSTART / 'scalenet_vit-nano_digits.py', root=root))
        Path(self.hook).write_text(HOOK.format(stock=self.stock))
        cfg = Config.fromfile(self.hook)
        cfg.work_dir, cfg.experiment_name = str(folder / 'work'), folder.name
        runner = Runner.from_cfg(cfg)
        runner.train()
        self.model = runner.model.eval()
        self.whole, self.delta = str(folder / 'work/epoch_1.pth'), str(folder / 'delta.pth')
        torch.save(dict(state_dict={
            k: v for k, v in self.model.state_dict().items() if '_r1' not in k
            and 'adapter' not in k and not k.endswith('.gain')}), folder / 'base.pth')
        write_checkpoint(extract_delta(self.whole, str(folder / 'base.pth')), self.delta)
        self.images = sorted(map(str, (root / 'cls/val').rglob('*.png')))


@pytest.fixture(scope='module')
def grown(tmp_path_factory, digits):
    pytest.importorskip('mmpretrain')
    return Grown(tmp_path_factory.mktemp('grown'), digits)


@pytest.mark.parametrize('kind', ['whole', 'delta'])
def test_rebuilt_from_the_stock_config(kind, grown):
    path = getattr(grown, kind)
    rebuilt = init_model(grown.stock, path, 'cpu')
    assert type(rebuilt.backbone).__name__ == 'VisionTransformer'
    maps = [[m.names for *_, m in growth_of(model)] for model in (rebuilt, grown.model)]
    assert maps[0] == maps[1] and len(maps[0][0]) == 5
    for key, value in grown.model.state_dict().items():
        assert torch.equal(value, rebuilt.state_dict()[key]), key
    assert all(p.any() for n, p in rebuilt.named_parameters() if n.endswith('adapter_up'))
    image = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        assert torch.equal(rebuilt(image), grown.model(image))
    by_hook = init_model(grown.hook, path, 'cpu')
    for a, b in zip(infer(rebuilt, grown.images), infer(by_hook, grown.images), strict=True):
        assert torch.equal(a.sample.pred_score, b.sample.pred_score)


def test_tested_with_the_stock_config(grown, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    found = []
    for config in (grown.stock, grown.hook, str(Path(grown.whole).parent / 'hook.py')):
        engine.test([config, grown.whole, '--work-dir', 'w', '--out', 'out.pkl', '--cfg-options',
                     f'experiment_name={tmp_path.name}_{len(found)}'])
        said = 'is grown as' in capsys.readouterr().out
        assert said == (config == grown.stock)
        found.append(mmengine.load('out.pkl'))
    for a, b, c in zip(*found, strict=True):
        assert torch.equal(a['pred_score'], b['pred_score'])
        assert torch.equal(a['pred_score'], c['pred_score'])


def test_the_toolbox_with_the_stock_config_is_told(grown):
    from mmpretrain import get_model
    for path in (grown.whole, grown.delta):
        with pytest.raises(CheckpointError, match='is of a grown model.*ImageClassifier is not '
                           'grown.*init_model'):
            get_model(grown.stock, pretrained=path)
    saved = str(Path(grown.whole).parent / 'hook.py')  # what the training wrote beside it
    image = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        for path in (grown.whole, grown.delta):
            assert torch.equal(get_model(saved, pretrained=path)(image), grown.model(image))


def test_repeats_that_share_everything(grown, tmp_path):
    """Such a file has the names of the ungrown model: its config alone tells of the repeats."""
    from mmpretrain import get_model
    path = tmp_path / 'shared.py'
    path.write_text(f"""
_base_ = ['{grown.stock}']
custom_hooks = [dict(
    type='AdapterInjectionHook', growth=dict(order='stack', share='all'), adjustment=None,
    freeze=None, require_loaded=False)]
""")
    cfg = Config.fromfile(path)
    cfg.work_dir, cfg.experiment_name = str(tmp_path / 'work'), tmp_path.name
    Runner.from_cfg(cfg).train()
    trained = str(tmp_path / 'work/epoch_1.pth')
    stock = init_model(grown.stock, None, 'cpu')
    assert read_checkpoint(trained)['state_dict'].keys() == stock.state_dict().keys()
    assert len(init_model(grown.stock, trained, 'cpu').backbone.layers) == 6
    with pytest.raises(CheckpointError, match=r"is of a grown model \(its config.*repeats blocks"):
        get_model(grown.stock, pretrained=trained)
    assert len(get_model(str(tmp_path / 'work/shared.py'), pretrained=trained).backbone.layers) == 6


@pytest.mark.parametrize('kind', ['scalenet_mm.hooks.AdapterInjectionHook', AdapterInjectionHook],
                         ids=['as Config.dump writes it', 'class'])
def test_a_hook_by_its_whole_name(kind, grown):
    cfg = Config.fromfile(grown.hook)
    cfg.custom_hooks[0]['type'] = kind
    assert not grows_nothing(cfg)
    rebuilt = init_model(cfg, grown.whole, 'cpu')
    assert len(rebuilt.backbone.layers) == len(init_model(cfg, None, 'cpu').backbone.layers) == 5


@pytest.mark.parametrize('text, key', [
    ("growth=dict(times=3000, share='all')", 'growth.times=3000'),
    ('growth=dict(times=[2, 65])', r'growth.times=\[2, 65\]'),
    (f'growth=dict(order={[[0] * 2100] * 2})', r'growth.order=\[\[0, 0'),
    ('adjustment=dict(rank=500000)', 'adjustment.rank=500000'),
    ('targets=7', 'targets=7'), ("targets=['layers', 7]", 'targets='),
])
def test_growth_that_cannot_be_meant(text, key, grown):
    """Not to be built for minutes, nor to end in an error that names no file."""
    content = read_checkpoint(grown.whole)
    content['meta']['cfg'] = f"model = dict(backbone=dict(type='GrownBackbone', {text}))"
    with pytest.raises(CheckpointError, match=f'^file.pth: .*cannot be meant: {key}'):
        apply_stored_growth(Config.fromfile(grown.stock), 'file.pth', content)


@pytest.mark.parametrize('text, done', [
    ("model = dict(backbone=dict(type='GrownBackbone', base=dict(), growth=dict(times=2)))", True),
    ("model = dict(backbone=dict(type='GrownBackbone', base=dict(), growth=dict(times=b'2')))",
     None),
    ("model = dict(backbone=dict(type='GrownBackbone', growth=__import__('os').mkdir('made')))",
     False),
    ("model = dict(backbone=dict(type='VisionTransformer'))", False),
    ('model = 3', False), ('(', False), (None, False),
])
def test_what_the_config_in_a_file_may_say(text, done, grown, tmp_path, monkeypatch):
    """Nothing of it is run or built but growth, and that is plain data."""
    monkeypatch.chdir(tmp_path)
    content = read_checkpoint(grown.whole)
    content['meta']['cfg'] = text
    cfg = Config.fromfile(grown.stock)
    if done is None:
        with pytest.raises(CheckpointError, match='no plain data'):
            apply_stored_growth(cfg, 'file.pth', content)
    else:
        told = apply_stored_growth(cfg, 'file.pth', content)
        assert told == (dict(growth=dict(times=2), adjustment='paper', targets=None) if done
                        else None)
        assert [hook.type for hook in cfg.custom_hooks] == ['AdapterInjectionHook'] * done
    assert not (tmp_path / 'made').exists()
    if done is False:  # and then the file is refused, with what to do
        torch.save(content, 'file.pth')
        with pytest.raises(CheckpointError, match='growth'):
            init_model(grown.stock, 'file.pth', 'cpu')


def test_a_config_that_grows_is_left_alone(grown):
    cfg = Config.fromfile(grown.hook)
    text = cfg.pretty_text
    assert apply_stored_growth(cfg, grown.whole) is None and cfg.pretty_text == text
