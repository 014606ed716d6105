"""A crafted file executes nothing, by whichever door it comes in."""
import json
import os
import pickle
import runpy
import sys
from pathlib import Path

import evil_configs
import evil_files
import pytest
import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope, init_default_scope
from mmengine.runner.checkpoint import (
    CheckpointLoader,
    _load_checkpoint,
    _load_checkpoint_with_prefix,
    load_checkpoint,
)

from scalenet_mm import CheckpointError, ConfigError, GrowthError, init_model, load_pretrained
from scalenet_mm.analysis.inputs import ModelSource, load_model
from scalenet_mm.checkpoints import allow_types, load_file, read_checkpoint
from scalenet_mm.checkpoints.base_files import BaseFile, open_base
from scalenet_mm.checkpoints.contents import describe_file
from scalenet_mm.checkpoints.delta import apply_delta, extract_delta, make_delta
from scalenet_mm.checkpoints.files import check_resumable, find_newest_whole
from scalenet_mm.checkpoints.stored_config import read_stored_config
from scalenet_mm.datasets import make_digit_scenes
from scalenet_mm.engine import load_config
from scalenet_mm.learngene import extract_gene, read_gene
from scalenet_mm.learngene.describe import describe
from scalenet_mm.learngene.gene import build_backbone

ROOT = Path(__file__).resolve().parents[2]
VIT = ROOT / 'configs/quickstart/scalenet_vit-nano_digits.py'
REFUSED = r'holds posix.mkdir, which is not on the list of types that are safe.*allow_types'
ARCH = dict(embed_dims=24, num_layers=3, num_heads=2, feedforward_channels=48)


@pytest.fixture(autouse=True)
def scope():
    yield
    DefaultScope._instance_dict.clear()


@pytest.fixture
def evil(tmp_path):
    """Make a crafted file; afterwards nothing may have been executed."""
    trace = tmp_path / 'executed'
    yield lambda kind='in meta', name='evil.pth': evil_files.write(tmp_path / name, trace, kind)
    assert not trace.exists()


# --- what is crafted -----------------------------------------------------------------------------


@pytest.mark.parametrize('ending', ['.pth', '.bin', '.pkl', ''])
@pytest.mark.parametrize('kind', evil_files.KINDS)
def test_no_kind_is_executed(kind, ending, evil):
    for load in (load_file, read_checkpoint, _load_checkpoint):
        with pytest.raises(CheckpointError) as error:
            load(evil(kind, f'evil{ending}'))
        assert f'evil{ending}' in str(error.value)
    with open(evil(kind), 'rb') as file, pytest.raises(CheckpointError):
        load_file(file, name='evil.pth')
    with pytest.raises(CheckpointError):
        load_file(evil(kind, 'evil.safetensors'))


@pytest.mark.parametrize('kind', [kind for kind in evil_files.KINDS if kind not in (
    'TorchScript', 'archive', 'tar', 'numpy')])
def test_the_files_would_have_executed(kind, tmp_path):
    """Or the tests above say nothing."""
    path = evil_files.write(tmp_path / 'evil.pth', tmp_path / 'executed', kind)
    try:
        torch.load(path, weights_only=False)
    except (pickle.UnpicklingError, AttributeError, RuntimeError, TypeError):  # only afterwards
        with open(path, 'rb') as file:
            if file.read(2) != b'PK' and not (tmp_path / 'executed').exists():
                file.seek(0)
                pickle.load(file)
    assert (tmp_path / 'executed').exists()


def test_torch_s_switch_does_not_open_the_doors(evil, monkeypatch):
    monkeypatch.setenv('TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD', '1')
    for load in (load_file, _load_checkpoint):
        with pytest.raises(CheckpointError, match=REFUSED):
            load(evil())


def test_a_config_in_a_file_is_not_run(tmp_path):
    """mmengine's Runner executes meta['config'] when it resumes, to look for 'gpu_ids'."""
    trace = tmp_path / 'executed'
    content = evil_files.training()
    content['meta']['config'] = f'import os\nos.mkdir({str(trace)!r})\n'
    torch.save(content, tmp_path / 'evil.pth')
    loaded = _load_checkpoint(str(tmp_path / 'evil.pth'))
    assert 'config' not in loaded['meta'] and loaded['meta']['epoch'] == 1
    assert not trace.exists()


# --- doors that are functions --------------------------------------------------------------------


def backbone(**kwargs):
    return MODELS.build(dict(type='ScaleNetViT', arch=ARCH, img_size=48, **kwargs))


def pretrained(path):
    return dict(type='Pretrained', checkpoint=path)


def classifier(path=None):
    """A config of mmpretrain, as init_model and the like take it."""
    return Config(dict(
        default_scope='mmpretrain',
        model=dict(
            type='ImageClassifier',
            backbone=dict(type='ScaleNetViT', arch=ARCH, img_size=48),
            head=dict(type='VisionTransformerClsHead', num_classes=3, in_channels=24),
            init_cfg=path and pretrained(path)),
        test_dataloader=dict(dataset=dict(pipeline=[]))))


def stock_classifier():
    """Of which the checkpoint's config may say how it was grown."""
    cfg = classifier()
    cfg.model.backbone.type = 'VisionTransformer'
    return cfg


def build(cfg):
    init_default_scope(cfg.default_scope)
    return MODELS.build(cfg.model)


def by_mmpretrain(path):
    from mmpretrain.apis import get_model
    get_model(classifier(), pretrained=path)


def by_mmdet(path):
    from mmdet.apis import init_detector
    init_detector(Config(dict(
        default_scope='mmdet',
        model=dict(
            type='RetinaNet', backbone=dict(type='ScaleNetViT', arch=ARCH, img_size=48), neck=None,
            bbox_head=dict(type='RetinaHead', num_classes=3, in_channels=24)),
        test_dataloader=dict(dataset=dict(pipeline=[])))), path, device='cpu', palette='random')


def by_mmseg(path):
    from mmseg.apis import init_model
    init_model(Config(dict(
        default_scope='mmseg',
        model=dict(
            type='EncoderDecoder',
            backbone=dict(type='ScaleNetViT', arch=ARCH, img_size=48),
            decode_head=dict(type='FCNHead', in_channels=24, channels=8, num_classes=3,
                             norm_cfg=dict(type='BN'))))), path, device='cpu')


def by_inferencer(path):
    from mmpretrain import ImageClassificationInferencer
    ImageClassificationInferencer(classifier(), pretrained=path, device='cpu')


def by_analysis(path):
    load_model(ModelSource('a', load_config(str(VIT)), str(VIT), path))


FUNCTIONS = {
    'load_file': load_file,
    'load_file, mapped': lambda path: load_file(path, mmap=True),
    'read_checkpoint': read_checkpoint,
    'check_resumable': check_resumable,
    'load_pretrained': lambda path: load_pretrained(backbone(), path),
    'open_base': lambda path: open_base(path).tensors,
    'apply_delta': apply_delta,
    'extract_delta': lambda path: extract_delta(path, path),
    'describe_file': describe_file,
    'a model of the analysis': by_analysis,
    'init_model': lambda path: init_model(str(VIT), path, 'cpu'),
    'init_model, a stock config': lambda path: init_model(stock_classifier(), path, 'cpu'),
    'read_gene': read_gene,
    'extract_gene': extract_gene,
    'init_cfg of type Learngene': lambda path: backbone(
        init_cfg=dict(type='Learngene', checkpoint=path)).init_weights(),
    'init_cfg of type WeightSelection': lambda path: backbone(
        growth=None, adjustment=None,
        init_cfg=dict(type='WeightSelection', checkpoint=path)).init_weights(),
    'init_cfg of a backbone': lambda path: backbone(init_cfg=pretrained(path)).init_weights(),
    'pretrained of a backbone': lambda path: backbone(pretrained=path).init_weights(),
    'init_cfg of a model': lambda path: build(classifier(path)).init_weights(),
    'mmengine _load_checkpoint': _load_checkpoint,
    'mmengine load_checkpoint': lambda path: load_checkpoint(torch.nn.Linear(2, 2), path),
    'mmengine CheckpointLoader': CheckpointLoader.load_checkpoint,
    'mmengine _load_checkpoint_with_prefix':
        lambda path: _load_checkpoint_with_prefix('backbone.', path),
    'mmpretrain get_model': by_mmpretrain,
    'mmpretrain inferencer': by_inferencer,
    'mmdet init_detector': by_mmdet,
    'mmseg init_model': by_mmseg,
}


@pytest.mark.parametrize('door', FUNCTIONS)
def test_functions(door, evil):
    with pytest.raises(CheckpointError, match=REFUSED):
        FUNCTIONS[door](evil('in state_dict'))


URL_DOORS = [door for door in FUNCTIONS if door not in (
    'load_file, mapped', 'check_resumable', 'describe_file', 'extract_delta', 'apply_delta')]


@pytest.mark.parametrize('door', URL_DOORS)
def test_functions_with_a_url(door, serve, tmp_path):
    root, url, _ = serve
    evil_files.write(root / 'evil.pth', tmp_path / 'executed')
    with pytest.raises(CheckpointError, match=REFUSED):
        FUNCTIONS[door](f'{url}/evil.pth')
    assert not (tmp_path / 'executed').exists()


def test_the_base_of_a_delta(evil, tmp_path):
    """The base's hash is the crafted file's own: that alone must not be trust."""
    path = str(tmp_path / 'base.pth')
    torch.save({'w': torch.ones(2)}, path)
    delta = make_delta(dict(state_dict={'w': torch.ones(2)}, meta={}), BaseFile(path))
    for kind in ('in state_dict', 'legacy'):
        evil(kind, 'base.pth')
        delta['delta']['base'] = BaseFile(path).identity
        torch.save(delta, tmp_path / 'delta.pth')
        for load in (read_checkpoint, apply_delta, _load_checkpoint):
            with pytest.raises(CheckpointError, match=f'base.pth {REFUSED}'):
                load(str(tmp_path / 'delta.pth'))


@pytest.mark.parametrize('note', [True, False])
def test_what_is_resumed_from(note, evil, tmp_path):
    path = evil('in message_hub', 'epoch_9.pth')
    if note:
        (tmp_path / 'last_checkpoint').write_text(path)
    with pytest.raises(CheckpointError, match=f'no checkpoint to resume from.*{REFUSED}'):
        find_newest_whole(str(tmp_path))
    torch.save(evil_files.training(), tmp_path / 'epoch_1.pth')
    os.utime(tmp_path / 'epoch_1.pth', (1, 1))  # older, as its number says
    said = []
    assert find_newest_whole(str(tmp_path), said.append) == str(tmp_path / 'epoch_1.pth')
    assert 'posix.mkdir' in said[0]


@pytest.mark.parametrize('note', [pickle.dumps(evil_files.Evil('/tmp/never-made')),
                                  b'$(touch x)', b'`touch x`', b'; touch x'])
def test_a_crafted_note(note, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / 'last_checkpoint').write_bytes(note)
    try:
        assert find_newest_whole(str(tmp_path)) is None
    except CheckpointError as error:
        assert 'last_checkpoint names' in str(error)
    assert [p.name for p in tmp_path.iterdir()] == ['last_checkpoint']
    assert not os.path.exists('/tmp/never-made')


# --- command lines -------------------------------------------------------------------------------


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    root = tmp_path_factory.mktemp('scenes') / 'digit_scenes'
    make_digit_scenes(root=str(root), num_train=4, num_val=4)
    return root


@pytest.fixture
def command(tmp_path, scenes, monkeypatch, capsys):
    """Run a command line in this process: its exit status and what it said."""
    data = [f'{split}_dataloader.dataset.data_root={scenes / "cls"}'
            for split in ('train', 'val', 'test')]

    distilled, pretrained = tmp_path / 'distilled.py', tmp_path / 'pretrained.py'

    def run(line, evil):
        for path, text in ((distilled, DISTILLED), (pretrained, PRETRAINED)):
            if f'{{{path.stem}}}' in line:
                path.write_text(text.format(base=str(VIT)))
        places = dict(config=VIT, distilled=distilled, pretrained=pretrained, evil=evil,
                      out=tmp_path / 'out.pth', work=tmp_path / 'w', root=ROOT,
                      image=next(scenes.rglob('*.png')))
        words = [word.format(**places) for word in line.split()]
        if '--cfg-options' in words:
            words += [*data, f'experiment_name={tmp_path.name}']
        monkeypatch.setattr(sys, 'argv', [str(ROOT / words[0]), *words[1:]])
        monkeypatch.setattr(sys, 'path', [*sys.path])
        monkeypatch.chdir(tmp_path)
        with pytest.raises(SystemExit) as ended:
            runpy.run_path(str(ROOT / words[0]), run_name='__main__')
        return ended.value.code, capsys.readouterr()

    return run


DISTILLED = """
_base_ = [{base!r}]
plain = dict(
    type='ImageClassifier',
    backbone=dict(type='ScaleNetViT', arch='deit-tiny', num_layers=1, img_size=64, growth=None),
    head=dict(type='VisionTransformerClsHead', num_classes=10, in_channels=192))
model = dict(_delete_=True, type='DistilledClassifier', student=plain, teacher=plain)
"""
PRETRAINED = """
_base_ = [{base!r}]
model = dict(backbone=dict(init_cfg=dict(_delete_=True, type='Pretrained', checkpoint='')))
"""
ANALYSIS = '--device cpu --workers 0 --num-samples 4 --out {work} --cfg-options'
COMMANDS = [
    'tools/train.py {config} --work-dir {work} --cfg-options load_from={evil}',
    'tools/train.py {pretrained} --work-dir {work} --cfg-options '
    'model.backbone.init_cfg.checkpoint={evil}',
    'tools/train.py {config} --work-dir {work} --resume {evil} --cfg-options',
    'tools/train.py {config} --work-dir {work} --cfg-options resume=True load_from={evil}',
    'tools/test.py {config} {evil} --work-dir {work} --cfg-options',
    'tools/infer.py {config} {evil} {image} --device cpu --out {work}/out.json',
    'tools/infer.py {config} {evil} {image} --device cpu --base {evil}',
    'tools/analysis_tools/gradient_norm.py {config} {evil} ' + ANALYSIS,
    'tools/analysis_tools/gradient_norm.py {config} random --pretrained {evil} ' + ANALYSIS,
    'tools/analysis_tools/gradient_norm.py {config} random --compare a {config} {evil} '
    + ANALYSIS,
    'tools/analysis_tools/feature_histogram.py {config} {evil} ' + ANALYSIS,
    'tools/analysis_tools/cka.py {config} {evil} ' + ANALYSIS,
    'tools/delta.py inspect {evil}',
    'tools/delta.py apply {evil} --out {out}',
    'tools/delta.py extract {evil} --base {evil} --out {out}',
    'tools/model_converters/publish_model.py {evil} {out}',
    'tools/model_converters/convert_keys.py {evil} {out} --to timm',
    'tools/model_converters/unshare.py {config} {evil} {out}',
    'tools/deployment/export_onnx.py {config} {evil} out.onnx',
    'tools/train.py {distilled} --work-dir {work} --cfg-options model.teacher_checkpoint={evil}',
    'tools/cache_teacher.py {distilled} {out} --device cpu --workers 0 --cfg-options '
    'model.teacher_checkpoint={evil}',
    'tools/learngene.py extract {evil} {out}',
    'tools/learngene.py extract {evil} {out} --config {config}',
    'tools/learngene.py expand {evil} 3 {out}',
    'tools/learngene.py inspect {evil}',
    'tools/train.py {config} --work-dir {work} --cfg-options '
    'model.init_cfg.type=Learngene model.init_cfg.checkpoint={evil}',
    'tools/train.py {config} --work-dir {work} --cfg-options '
    'model.init_cfg.type=WeightSelection model.init_cfg.checkpoint={evil} '
    'model.backbone.growth=None model.backbone.adjustment=None',
]


@pytest.mark.parametrize('line', COMMANDS)
def test_command_lines(line, command, evil, tmp_path):
    status, said = command(line, evil('in state_dict'))
    assert status == 2, said.err
    last = said.err.splitlines()[-1]
    assert last.startswith('error: ') and 'holds posix.mkdir, which is not on the list' in last
    assert not (tmp_path / 'out.pth').exists() and not (tmp_path / 'out.onnx').exists()


def test_resuming_by_itself(command, tmp_path):
    (tmp_path / 'w').mkdir()
    trace = tmp_path / 'executed'
    (tmp_path / 'w' / 'last_checkpoint').write_text(
        evil_files.write(tmp_path / 'w' / 'epoch_3.pth', trace))
    for line in ('tools/train.py {config} --work-dir {work} --resume --cfg-options',
                 'tools/train.py {config} --work-dir {work} --cfg-options resume=True'):
        status, said = command(line, '')
        assert status == 2 and 'holds no checkpoint to resume from' in said.err
        assert 'holds posix.mkdir' in said.err and not trace.exists()
    assert sorted(p.name for p in (tmp_path / 'w').iterdir()) == ['epoch_3.pth', 'last_checkpoint']


def test_a_damaged_file_to_resume_from(command, tmp_path):
    """It is named before anything is written."""
    path = tmp_path / 'epoch_3.pth'
    torch.save(evil_files.training(), path)
    content = bytearray(path.read_bytes())
    content[content.index(torch.ones(2).numpy().tobytes())] ^= 1
    path.write_bytes(content)
    for line in ('tools/train.py {config} --work-dir {work} --resume {evil} --cfg-options',
                 'tools/train.py {config} --work-dir {work} --cfg-options load_from={evil}',
                 'tools/test.py {config} {evil} --work-dir {work} --cfg-options'):
        status, said = command(line, str(path))
        assert status == 2 and f'{path} is no checkpoint file, or is truncated or dam' in said.err
    assert [p.name for p in tmp_path.iterdir()] == ['epoch_3.pth']


def test_weights_are_nothing_to_resume_from(command, tmp_path):
    torch.save(dict(meta={}, state_dict={}), tmp_path / 'weights.pth')
    status, said = command('tools/train.py {config} --work-dir {work} --resume {evil} '
                           '--cfg-options', 'weights.pth')
    assert status == 2 and 'weights.pth is no checkpoint of a training: it has no' in said.err
    assert [p.name for p in tmp_path.iterdir()] == ['weights.pth']


def test_no_door_is_forgotten():
    """Every program that takes a checkpoint is tried above."""
    takes = set()
    for path in [*ROOT.glob('tools/**/*.py')]:
        text = path.read_text()
        if path.parent.name == 'dev':  # for those who work on the project: no user's file
            for word in ('read_checkpoint', 'load_file', 'load_checkpoint', 'init_model'):
                assert word not in text, (path, word)
        elif 'checkpoint' in text.lower() and 'add_argument' in text or path.name in (
                'train.py', 'test.py'):
            takes.add(str(path.relative_to(ROOT)))
    # paper_tables, count_parameters and the like read configs alone
    assert takes - {line.split()[0] for line in COMMANDS} == {
        'tools/quickstart.py'}, takes
    for folder in ('scalenet_mm', 'tools', 'benchmarks'):
        for path in ROOT.glob(f'{folder}/**/*.py'):
            text = path.read_text()
            for word in ('weights_only=False', 'pickle.load', 'allow_pickle=True', 'torch.jit.load',
                         'pickle_module', 'joblib', 'dill'):
                assert word not in text, (path, word)
            for line in text.splitlines():  # a benchmark may time torch's own loader, safe as it is
                if 'torch.load(' in line and path.name != 'safe.py':
                    assert folder == 'benchmarks' and 'weights_only=True' in line, (path, line)


# --- configs in files ----------------------------------------------------------------------------


@pytest.fixture
def evil_config(tmp_path, monkeypatch):
    """Make a checkpoint, whole or a delta, with a crafted config."""
    trace = tmp_path / 'executed'
    evil_configs.write_package(tmp_path / 'evil_package', trace)
    monkeypatch.syspath_prepend(str(tmp_path))

    def write(kind, delta=False):
        meta = dict(cfg=evil_configs.text(kind, trace))
        state = backbone(growth=None, adjustment=None).state_dict()
        content = dict(meta=meta, state_dict={f'backbone.{k}': v for k, v in state.items()})
        if delta:
            torch.save(dict(content, meta={}), tmp_path / 'base.pth')
            make_delta(content, BaseFile(str(tmp_path / 'base.pth')))
            assert not content['state_dict']
        torch.save(content, tmp_path / 'evil.pth')
        return str(tmp_path / 'evil.pth')

    yield write
    evil_configs.forget_package()


@pytest.mark.parametrize('delta', [False, True])
@pytest.mark.parametrize('kind', evil_configs.KINDS)
def test_nothing_is_built_from_a_crafted_config(kind, delta, evil_config, tmp_path):
    path = evil_config(kind, delta)
    with pytest.raises(ConfigError, match=r'evil.pth \(meta.*only known parts of.*--config$'):
        extract_gene(path)
    assert 'none can be taken out of it: the config in ' in describe(path)
    plain = classifier()
    plain.model.backbone.update(growth=None, adjustment=None)
    assert extract_gene(path, plain).method == 'simple'  # the file's own is looked at, too
    describe_file(path)
    read_checkpoint(path)
    assert not (tmp_path / 'executed').exists()


@pytest.mark.parametrize('delta', [False, True])
@pytest.mark.parametrize('kind', evil_configs.KINDS)
def test_a_stock_model_is_not_grown_by_a_crafted_config(kind, delta, evil_config, tmp_path):
    """At most the options of growth are taken from it."""
    with pytest.raises((CheckpointError, GrowthError)):
        init_model(stock_classifier(), evil_config(kind, delta), 'cpu')
    assert not (tmp_path / 'executed').exists()


CONFIG_COMMANDS = ['tools/learngene.py extract {evil} {out}', 'tools/learngene.py inspect {evil}',
                   'tools/learngene.py extract {evil} {out} --config {config}',
                   'tools/learngene.py inspect {evil} --config {config}',
                   'tools/delta.py inspect {evil}']


@pytest.mark.parametrize('delta', [False, True])
@pytest.mark.parametrize('line', CONFIG_COMMANDS)
@pytest.mark.parametrize('kind', ['backbone, a program', 'argument', 'base'])
def test_command_lines_with_a_crafted_config(kind, line, delta, command, evil_config, tmp_path):
    status, said = command(line, evil_config(kind, delta))
    assert status == (2 if 'extract' in line else 0), said.err
    if '--config' not in line and 'learngene' in line:
        assert 'only known parts of plain ViTs are built' in said.out + said.err
    assert not (tmp_path / 'executed').exists() and not (tmp_path / 'out.pth').exists()


@pytest.mark.needs_toolbox('mmpretrain')
@pytest.mark.parametrize('kind', evil_configs.KINDS)
def test_the_configs_would_have_executed(kind, evil_config, tmp_path):
    """Or the tests above say nothing."""
    content = load_file(evil_config(kind))
    cfg = read_stored_config(content, 'evil.pth', ('model', 'default_scope'))
    try:
        build_backbone(cfg, 'a config that is trusted')
    except ConfigError:
        pass
    assert (tmp_path / 'executed').exists()


# --- the opt-in ----------------------------------------------------------------------------------

MY_TYPES = """
class Split:

    def __init__(self, name):
        self.name = name


class Other(Split):
    pass
"""
MY_OPT_IN = """
from my_types import Split
from scalenet_mm.checkpoints import allow_types
allow_types(Split)
"""


@pytest.fixture
def safe_types():
    """Afterwards the list of types is as it is now, and what was imported is forgotten."""
    kept = torch.serialization.get_safe_globals()
    modules = {*sys.modules}
    yield
    for name in {'my_types', 'my_opt_in'} - modules:
        sys.modules.pop(name, None)
    torch.serialization.clear_safe_globals()
    torch.serialization.add_safe_globals(kept)


def test_the_opt_in_on_the_command_line(command, safe_types, tmp_path, monkeypatch):
    """A module of one's own, named in the config, allows a type; and no other one."""
    (tmp_path / 'my_types.py').write_text(MY_TYPES)
    (tmp_path / 'my_opt_in.py').write_text(MY_OPT_IN)
    for name, module in (('plain', 'my_types'), ('allowing', 'my_opt_in')):
        (tmp_path / f'{name}.py').write_text(
            f"_base_ = [{str(VIT)!r}]\n"
            f"custom_imports = dict(imports=['scalenet_mm', {module!r}])\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    import my_types
    model = load_model(ModelSource('a', load_config(str(VIT)), str(VIT), 'random'))
    for name in ('Split', 'Other'):
        torch.save(dict(state_dict=model.state_dict(), meta=dict(x=getattr(my_types, name)('a'))),
                   tmp_path / f'{name}.pth')

    def test(config, checkpoint):
        return command(f'tools/test.py {config}.py {checkpoint}.pth --work-dir {{work}} --out '
                       'metrics.json --out-item metrics --cfg-options', '')

    status, said = test('plain', 'Split')
    assert status == 2 and 'Split.pth holds my_types.Split, which is not on the' in said.err
    status, said = test('allowing', 'Split')
    assert status == 0, said.err
    assert json.loads((tmp_path / 'metrics.json').read_text())
    status, said = test('allowing', 'Other')
    assert status == 2 and 'Other.pth holds my_types.Other, which is not on the' in said.err


def test_the_opt_in_is_by_name(evil, safe_types):
    allow_types(os.getcwd)  # one function of a module allows no other one
    with pytest.raises(CheckpointError, match=REFUSED):
        load_file(evil())
