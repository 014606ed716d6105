"""``make metafiles``: what is committed is what the configs build, and others can read it.

Every config is built on the device 'meta' and counted anew: a minute and a half in all.
"""
import importlib.util
import json
import re
import subprocess
import sys
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

from scalenet_mm import ConfigError

ROOT = Path(__file__).resolve().parents[2]
ADVICE = 'run make metafiles'


@lru_cache(maxsize=None)
def load_tool():
    spec = importlib.util.spec_from_file_location(
        'make_metafiles', ROOT / 'tools/dev/make_metafiles.py')
    tool = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    path = list(sys.path)
    try:
        spec.loader.exec_module(tool)
    finally:
        sys.path[:] = path
    return tool


TOOL = load_tool()
CONFIGS = TOOL.find_configs()


@lru_cache(maxsize=None)
def committed():
    """All models' entries by config; none may be named twice."""
    found = {}
    index = yaml.safe_load((ROOT / 'model-index.yml').read_text())
    for name in index['Import']:
        assert (ROOT / name).is_file(), f'{name} is missing: {ADVICE}'
        for model in yaml.safe_load((ROOT / name).read_text())['Models']:
            assert model['Config'] not in found
            found[model['Config']] = (name, model)
    return found


def toolbox_of(path):
    """Which toolbox a config needs, known without reading it."""
    data = TOOL.DATA[Path(path).stem.rpartition('_')[2]]
    task = Path(path).stem.split('_')[0]
    if task in ('upernet', 'segformer') or (task, data) == ('mask2former', 'ADE20K'):
        return 'mmseg'
    return 'mmdet' if task in ('maskrcnn', 'cascade-maskrcnn', 'retinanet', 'dino',
                               'mask2former') else 'mmpretrain'


def needs(*toolboxes):
    lacking = [name for name in toolboxes if find_spec(name) is None]
    return pytest.mark.skipif(bool(lacking), reason=f'{", ".join(lacking)} is not installed')


@lru_cache(maxsize=None)
def measured(path):
    return TOOL.complete(TOOL.measure(path))


def as_param(path):
    toolboxes = [toolbox_of(path)]
    if path == 'mask2former_scalenet_swin-t_160k_ade20k.py':
        toolboxes.append('mmdet')
    return pytest.param(path, marks=needs(*toolboxes), id=path.removesuffix('.py'))


def test_every_config_has_an_entry_and_no_entry_lacks_its_config():
    wanted = {f'configs/{path}' for path in CONFIGS}
    assert set(committed()) == wanted, ADVICE
    assert all((ROOT / name).is_file() for name in committed())
    # the tool's own way of looking does not pass over any
    found = {path.relative_to(ROOT).as_posix() for path in (ROOT / 'configs').rglob('*.py')}
    assert wanted == {name for name in found if '/_base_/' not in name}
    names = [model['Name'] for _, model in committed().values()]
    assert len({name.lower() for name in names}) == len(names) > 200


@pytest.mark.parametrize('path', [as_param(path) for path in CONFIGS])
def test_an_entry_says_what_its_config_builds(path):
    metafile, model = committed()[f'configs/{path}']
    entry = measured(path)
    assert model == entry.as_model(), f'{metafile}: {ADVICE}'
    assert metafile == TOOL.metafile_of(entry.family)
    assert type(model['Metadata']['FLOPs']) is type(model['Metadata']['Parameters']) is int


@needs('mmpretrain', 'mmdet', 'mmseg')
def test_the_files_are_those_the_tool_writes():
    texts = TOOL.write_texts([measured(path) for path in CONFIGS])
    assert TOOL.differing(texts) == [], ADVICE
    assert set(texts) == {'model-index.yml', 'docs/model_zoo.md',
                          *(name for name, _ in committed().values())}
    again = TOOL.write_texts([measured(path) for path in CONFIGS])
    assert texts == again


# --- what others read -------------------------------------------------------------------------


def test_modelindex_finds_no_error():
    load_model_index = pytest.importorskip('modelindex.load_model_index')
    index = load_model_index.load(str(ROOT / 'model-index.yml'))
    assert index.check(silent=True) == []
    assert len(index.models.data) == len(CONFIGS)
    assert {model.in_collection for model in index.models} == {
        collection.name for collection in index.collections}
    # with what a model has from its collection
    model = next(m for m in index.models if m.name == 'scalenet_deit-b_100e_imagenet').full_model
    assert model.paper['URL'] == 'https://arxiv.org/abs/2510.18431'
    assert model.metadata.parameters == 89_553_640
    assert model.metadata.training_data == 'ImageNet-1k'


@needs('mmpretrain')
def test_mmpretrain_lists_and_builds_by_name(monkeypatch):
    from mmpretrain.apis import ModelHub, get_model, list_models
    monkeypatch.setattr(ModelHub, '_models_dict', {})
    monkeypatch.setattr(ModelHub, '_register_mmpretrain_models', lambda: None)
    ModelHub.register_model_index(ROOT / 'model-index.yml', config_prefix=ROOT)
    assert len(list_models()) == len(CONFIGS)
    assert list_models('scalenet_deit-t', task='Image Classification') == [
        'scalenet_deit-t-split_20e_folder', 'scalenet_deit-t-ungrown_20e_folder',
        'scalenet_deit-t_20e_folder']
    model = get_model('scalenet_vit-nano_digits')
    assert type(model.backbone).__name__ == 'ScaleNetViT' and len(list(model.backbone.layers)) == 8
    assert model._metainfo.metadata.parameters == sum(p.numel() for p in model.parameters())
    with pytest.warns(UserWarning, match='Unable to find pre-defined checkpoint'):
        get_model('scalenet_vit-nano_digits', pretrained=True)


@needs('mmpretrain')
def test_no_name_is_one_of_mmpretrains():
    from modelindex.load_model_index import load
    theirs = load(str(Path(find_spec('mmpretrain').origin).parent / '.mim/model-index.yml'))
    ours = {model['Name'].lower() for _, model in committed().values()}
    assert len(theirs.models.data) > 400
    assert ours.isdisjoint(model.name.lower() for model in theirs.models)


def test_mmengine_finds_a_packages_entry(tmp_path):
    """As in an installed package, where .mim holds the index and the configs."""
    from mmengine.config.utils import _get_cfg_metainfo
    mim = tmp_path / '.mim'
    mim.mkdir()
    for name in ('configs', 'model-index.yml'):
        (mim / name).symlink_to(ROOT / name)
    found = _get_cfg_metainfo(str(tmp_path), 'learngene/aux/sws_aux-b_100e_imagenet.py')
    assert found['Name'] == 'sws_aux-b_100e_imagenet'
    assert (tmp_path / '.mim' / found['Config']).is_file()
    assert 'Weights' not in found


def test_what_mim_makes_of_an_entry():
    """Its rules for a table: lists hold words, no list is empty, and numbers can be compared."""
    for _, model in committed().values():
        for key, value in model['Metadata'].items():
            if isinstance(value, list):
                assert value and all(isinstance(word, str) for word in value), key
            else:
                assert isinstance(value, (int, str)) and not isinstance(value, bool), key
        for result in model.get('Results', ()):
            assert isinstance(result['Dataset'], str)
            assert all(isinstance(x, float) for x in result['Metrics'].values())


# --- figures ----------------------------------------------------------------------------------


def test_results_are_measured_ones_alone():
    """The papers' figures stand under another key, and what was never trained has no results."""
    with_results = {name.removeprefix('configs/'): model for name, (_, model)
                    in committed().items() if 'Results' in model}
    assert set(with_results) == {run.config for run in TOOL.RUNS}
    for run in TOOL.RUNS:
        _, figures = TOOL.read_run(run)
        results = with_results[run.config]['Results']
        assert [next(iter(r['Metrics'].values())) for r in results] == figures
        assert with_results[run.config]['Metadata']['Results Of'] == run.command
    assert not any('Weights' in model for _, model in committed().values())
    grown = committed()['configs/scalenet_deit-b_100e_imagenet.py'][1]
    assert 'Results' not in grown
    assert grown['Paper Results']['Paper'] == 'https://arxiv.org/abs/2510.18431'
    assert grown['Paper Results']['Table I'] == {
        'Parameters (M)': 89.55, 'GFLOPs': 35.2, 'Top 1 Accuracy': 82.53}


def test_the_documents_figures(tmp_path):
    """Read, not typed: what is not in the document is an error that names it."""
    run = next(run for run in TOOL.RUNS if 'maskrcnn_scalenet' in run.config)
    row = 'trained, start=identity          3,783,722   314,880    334,643     {}     {}\n'
    (tmp_path / 'README.md').write_text('text\n' + row.format(12.5, 34.0))
    assert TOOL.read_run(run, tmp_path) == ('', [12.5, 34.0])
    photos = next(run for run in TOOL.RUNS if run.config == 'scalenet_deit-t_20e_folder.py')
    (tmp_path / 'docs').mkdir()
    text = ('grown, identity start   9.9 +- 0.1\n'
            '7 px, 1 epochs, 3 seed(s), mean +- standard deviation\n'
            'grown, identity start     91.3 +- 0.3  92.4 +- 0.3    765,698   0.001  12.5   3.1\n')
    (tmp_path / 'docs/imagenet.md').write_text(text)
    with pytest.raises(ConfigError, match="imagenet.md has no line that begins with '112 px, '"):
        TOOL.read_run(photos, tmp_path)
    (tmp_path / 'docs/imagenet.md').write_text(text.replace('7 px', '112 px'))
    assert TOOL.read_run(photos, tmp_path) == ('112 px, 1 epochs, 3 seed(s), mean', [91.3])
    (tmp_path / 'README.md').write_text('text\n')
    with pytest.raises(ConfigError, match="README.md has no line 'trained, start=identity'"):
        TOOL.read_run(run, tmp_path)


def test_rows_that_options_make_are_not_the_configs():
    """SWS's Table 4 has three rows of one config, two of them by options."""
    figures, url = TOOL.paper_figures('learngene/descendants/sws_des-b-8_10e_imagenet.py')
    assert figures['Table 4']['Top 1 Accuracy'] == '74.4' and url.endswith('2404.16897')
    assert TOOL.paper_figures('scalenet_deit-t_20e_folder.py') == ({}, '')


def test_sizes_of_images():
    sizes = {name: model['Metadata']['FLOPs Input Size'] for name, (_, model)
             in committed().items()}
    for name, size in (('scalenet_deit-b_100e_imagenet', '224 x 224'),
                       ('maskrcnn_scalenet_swin-t_1x_coco', '800 x 1280'),
                       ('upernet_scalenet_swin-t_40k_ade20k', '512 x 512'),
                       ('upernet_scalenet_deit-t_2k_camvid', '320 x 320'),
                       ('quickstart/maskrcnn_swin-nano_digits', '128 x 128'),
                       ('quickstart/scalenet_vit-nano_digits', '64 x 64')):
        assert sizes[f'configs/{name}.py'] == size
    assert set(sizes.values()) == {'224 x 224', '800 x 1280', '512 x 512', '320 x 320',
                                   '128 x 128', '64 x 64'}


def test_known_counts():
    """Published figures, and a doubled stage by its own arithmetic."""
    flops = {name.removeprefix('configs/').removesuffix('.py'): model['Metadata']['FLOPs']
             for name, (_, model) in committed().items()}
    for arch, published in (('deit-t', 1.3), ('deit-s', 4.6), ('deit-b', 17.6), ('swin-t', 4.5),
                            ('swin-s', 8.7), ('swin-b', 15.4)):
        ours = flops[f'scalenet_{arch}-ungrown_100e_imagenet'] / 1e9
        assert abs(ours - published) <= 0.051
    # two more blocks of width 768 on 49 tokens, and adapters on the blocks of all stages
    block = 49 * (12 * 768**2 + 2 * 49 * 768 + 10 * 768 * 16)
    others = sum(depth * (56 // 2**i)**2 * 10 * 96 * 2**i * 16 for i, depth in
                 enumerate((2, 2, 6))) + 2 * 49 * 10 * 768 * 16
    name = 'scalenet_swin-t{}_100e_imagenet'
    assert flops[name.format('')] - flops[name.format('-ungrown')] == 2 * block + others


# --- the tool ---------------------------------------------------------------------------------


def toy_entries():
    return [TOOL.Entry(path, ('Image Classification', ), 'ImageNet-1k', ['ScaleNetViT'], {}, 7, 0,
                       7, 9, (4, 4), []) for path in (
        'a.py', 'ablations/b.py', 'baselines/c.py', 'scratch/d.py', 'quickstart/e.py',
        'learngene/aux/f.py')]


def test_check_says_where_a_file_is_stale(tmp_path):
    texts = TOOL.write_texts(toy_entries())
    assert len(TOOL.differing(texts, tmp_path)) == len(texts) == 8
    TOOL.write_all(texts, tmp_path)
    assert TOOL.differing(texts, tmp_path) == []
    assert {p.relative_to(tmp_path).as_posix() for p in tmp_path.rglob('*') if p.is_file()} == set(
        texts)
    file = tmp_path / 'configs/scratch/metafile.yml'
    file.write_text(file.read_text().replace('Parameters: 7', 'Parameters: 8', 1))
    (tmp_path / 'configs/old').mkdir()
    (tmp_path / 'configs/old/metafile.yml').write_text('Models: []\n')
    stale, stranger = TOOL.differing(texts, tmp_path)
    assert re.match(r"configs/scratch/metafile.yml:\d+ is 'Parameters: 8', should be "
                    "'Parameters: 7'", stale)
    assert stranger == 'configs/old/metafile.yml belongs to no family'
    TOOL.write_all(texts, tmp_path)
    assert TOOL.differing(texts, tmp_path) == []


def test_all_files_are_written_or_none(tmp_path, monkeypatch):
    texts = TOOL.write_texts(toy_entries())
    TOOL.write_all(texts, tmp_path)
    before = {p: p.read_text() for p in tmp_path.rglob('*') if p.is_file()}
    made = []

    def fails(path, mode):
        made.append(path)
        if len(made) == 5:
            raise OSError(28, 'No space left on device')

    monkeypatch.setattr(TOOL.os, 'chmod', fails)
    with pytest.raises(OSError):
        TOOL.write_all({name: text + '\n' for name, text in texts.items()}, tmp_path)
    assert {p: p.read_text() for p in tmp_path.rglob('*') if p.is_file()} == before


def test_two_configs_of_one_name_are_refused():
    first, second = toy_entries()[:2]
    second.path = 'ablations/a.py'
    with pytest.raises(ConfigError, match='configs/ablations/a.py and configs/a.py have one name'):
        TOOL.write_texts([first, second])
    second.path = 'new/b.py'
    with pytest.raises(ConfigError, match="FAMILIES .* has no folder 'new'"):
        TOOL.write_texts([first, second])


def test_check_of_the_command_line(monkeypatch, capsys):
    monkeypatch.setattr(TOOL, 'find_configs', lambda: ['quickstart/scalenet_vit-nano_digits.py'])
    monkeypatch.setattr(TOOL, 'lacking_toolboxes', list)
    monkeypatch.setattr(TOOL, 'write_all', lambda texts: pytest.fail('--check must not write'))
    monkeypatch.setattr(TOOL, 'measure', lambda path: toy_entries()[4])
    with pytest.raises(ConfigError, match='not up to date; run make metafiles:\n  .*metafile.yml'):
        TOOL.main(['--check'])
    monkeypatch.setattr(TOOL, 'lacking_toolboxes', lambda: ['mmdet'])
    with pytest.raises(ConfigError, match='mmdet is not installed'):
        TOOL.main([])


def test_the_tool_runs_alone():
    done = subprocess.run([sys.executable, str(ROOT / 'tools/dev/make_metafiles.py'), '--help'],
                          capture_output=True, text=True, timeout=300, cwd=ROOT)
    assert done.returncode == 0 and '--check' in done.stdout, done.stderr


@needs('mmpretrain')
def test_only_what_does_not_matter_is_left_out():
    """Models that are counted once differ in their first weights and drop path alone."""
    cfg = TOOL.load_config(str(ROOT / 'configs/quickstart/scalenet_vit-nano_digits.py'))
    first = TOOL.count_model(cfg, (64, 64))
    cfg.model.init_cfg = dict(type='Pretrained', checkpoint='nowhere.pth')
    cfg.model.backbone.drop_path_rate = 0.1
    assert TOOL.count_model(cfg, (64, 64)) is first
    assert TOOL.count_model(cfg, (72, 72)) is not first
    cfg.custom_hooks = [dict(type='AdapterInjectionHook', freeze='paper')]
    frozen, flops = TOOL.count_model(cfg, (64, 64))
    assert frozen.trainable < first[0].trainable and flops == first[1]
    cfg.model.backbone.adjustment = None
    assert TOOL.count_model(cfg, (64, 64))[0].total < frozen.total


def test_names_are_sorted_as_one_reads_them():
    names = ['s_des-b-10_x', 's_des-b-6_x', 'n_deit-b_x', 'n_deit-t-split_x', 'n_deit-t_x']
    assert sorted(names, key=TOOL.natural) == [
        'n_deit-t_x', 'n_deit-t-split_x', 'n_deit-b_x', 's_des-b-6_x', 's_des-b-10_x']


def test_metafiles_are_read_once_and_the_loader_is_put_back():
    load = TOOL.config_utils.load
    with TOOL.toolboxes_metafiles_read_once():
        assert TOOL.config_utils.load is not load
    assert TOOL.config_utils.load is load


def test_the_page_links_every_config():
    page = (ROOT / 'docs/model_zoo.md').read_text()
    linked = re.findall(r'\]\(\.\./(configs/[^)]+\.py)\)', page)
    assert sorted(linked) == sorted(committed())
    assert json.dumps(len(CONFIGS)) in page
