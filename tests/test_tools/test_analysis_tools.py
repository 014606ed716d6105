"""``tools/analysis_tools``: gradient norms, histograms and CKA, in all three toolboxes."""
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from mmengine.registry import DefaultScope, init_default_scope

from scalenet_mm.analysis.inputs import ModelSource, load_model, without
from scalenet_mm.analysis.samples import SampleBatches
from scalenet_mm.datasets import make_digit_scenes
from scalenet_mm.engine import load_config, run_cli

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / 'configs/quickstart'
VIT = CONFIGS / 'scalenet_vit-nano_digits.py'
MASK_RCNN = CONFIGS / 'maskrcnn_scalenet_swin-nano_digits.py'
UPERNET = CONFIGS / 'upernet_scalenet_swin-nano_digits.py'
UNGROWN = CONFIGS / 'maskrcnn_swin-nano_digits.py'
FOLDERS = {VIT: 'cls', MASK_RCNN: 'det', UPERNET: 'seg', UNGROWN: 'det'}


@pytest.fixture(scope='session')
def scenes(tmp_path_factory):
    """A few digit scenes for each of the three tasks."""
    root = tmp_path_factory.mktemp('scenes') / 'digit_scenes'
    make_digit_scenes(root=str(root), num_train=8, num_val=8)
    return root


@pytest.fixture
def use(tmp_path, scenes):
    """Run a tool in this process: its exit status, and the numbers that it wrote."""

    def use(tool, config, *words, options=()):
        spec = importlib.util.spec_from_file_location(
            f'tool_{tool}', ROOT / f'tools/analysis_tools/{tool}.py')
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        out = tmp_path / 'out'
        data = [f'{split}_dataloader.dataset.data_root={scenes / FOLDERS[config]}'
                for split in ('train', 'val')]
        words = [str(config), *map(str, words), '--out', str(out), '--workers', '0',
                 '--device', 'cpu', '--num-samples', '8', '--cfg-options', *data, *options]
        status = run_cli(lambda: module.main(words))
        path = out / f'{tool}.json'
        return status, json.loads(path.read_text()) if path.is_file() else None

    yield use
    DefaultScope._instance_dict.clear()


@pytest.fixture(scope='session')
def pretrained(tmp_path_factory):
    """A checkpoint of the small ViT before it is grown, with weights large enough for all."""
    cfg = without(load_config(str(VIT)), 'growth', 'adjustment')
    model = load_model(ModelSource('base', cfg, str(VIT), 'random'))
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.1 * torch.randn(parameter.shape))
    path = tmp_path_factory.mktemp('weights') / 'pretrained.pth'
    torch.save(dict(state_dict=model.state_dict()), path)
    DefaultScope._instance_dict.clear()
    return path


def is_picture(path):
    return path.read_bytes().startswith(b'\x89PNG') and path.stat().st_size > 10_000


def test_gradients_of_a_grown_model_and_its_original(use, pretrained, tmp_path):
    status, numbers = use('gradient_norm', VIT, pretrained, '--pretrained', pretrained,
                          '--batch-size', 4, '--per-matrix')
    assert status == 0
    original, shared, grown = numbers['models']
    assert [m['label'] for m in numbers['models']] == [
        'original', 'shared, no adjustment, untrained', 'ScaleNet']
    assert numbers['num_samples'] == 8 and numbers['split'] == 'train'
    assert original['growth'] is None and grown['growth']['start'] == 'identity'
    assert [b['label'] for b in grown['blocks']] == ['0', '1', '2', '3']
    assert [b['uses'] for b in original['blocks'] + grown['blocks']] == [1] * 4 + [2] * 4
    # an identity start is the original, for the gradient too
    for model in (shared, grown):
        assert model['loss'] == pytest.approx(original['loss'], rel=1e-4)
        assert [b['norm'] for b in model['blocks']] == pytest.approx(
            [b['norm'] for b in original['blocks']], rel=1e-3)
    assert all(b['norm'] > 1e-3 for b in original['blocks'])
    assert is_picture(tmp_path / 'out/gradient_norm.png')
    assert is_picture(tmp_path / 'out/gradient_norm_matrices.png')


def test_histograms_before_and_after(use, pretrained, tmp_path):
    trained = tmp_path / 'trained.pth'
    cfg = load_config(str(VIT))
    model = load_model(ModelSource('grown', cfg, str(VIT), str(pretrained)))
    for name, parameter in model.named_parameters():
        if name.endswith('.gain'):
            parameter.data.fill_(1.)
    torch.save(dict(state_dict=model.state_dict()), trained)
    status, numbers = use('feature_histogram', VIT, trained, '--pretrained', pretrained,
                          '--batch-size', 3, '--layers', 0, 3, '3_r1', '--bins', 20)
    assert status == 0
    labels = [(m['label'], [layer['label'] for layer in m['layers']]) for m in numbers['models']]
    assert labels == [('original', ['0', '3']),
                      ('ScaleNet before training', ['0', '3', '3_r1']),
                      ('ScaleNet', ['0', '3', '3_r1'])]
    for of_model in numbers['models']:
        for layer in of_model['layers']:
            assert sum(layer['bins']) + layer['below'] + layer['above'] == layer['count']
            assert layer['count'] == 8 * 17 * 64 and len(layer['edges']) == 21
    original, before, after = ([layer['bins'] for layer in m['layers']] for m in numbers['models'])
    assert before[:2] == original and before[2] == original[1]  # an identity start
    assert after != before
    assert is_picture(tmp_path / 'out/feature_histogram.png')


def test_cka_of_the_original_with_both(use, pretrained, tmp_path):
    status, numbers = use('cka', VIT, pretrained, '--pretrained', pretrained, '--batch-size', 4,
                          '--compare', 'other', VIT, 'random', '--split', 'train')
    assert status == 0
    first, second = numbers['comparisons']
    assert (first['rows'], first['columns'], second['columns']) == ('original', 'ScaleNet',
                                                                    'other')
    assert first['row_blocks'] == ['0', '1', '2', '3']
    assert first['column_blocks'] == [f'{i}{r}' for i in range(4) for r in ('', '_r1')]
    same, random = np.array(first['cka']), np.array(second['cka'])
    assert same.shape == random.shape == (4, 8)
    for i in range(4):  # an identity start
        assert same[i, 2 * i:2 * i + 2] == pytest.approx(1, abs=1e-4)
    assert random[3, 7] < 0.99 and numbers['estimator'] == 'unbiased'
    assert is_picture(tmp_path / 'out/cka.png')


@pytest.mark.parametrize('tool, words', (
    ('gradient_norm', ('--batch-size', 4)),
    ('gradient_norm', ('--batch-size', 4, '--split', 'val')),
    ('feature_histogram', ('--batch-size', 4, '--num-layers', 2)),
    ('cka', ('--batch-size', 4, '--pool', 'mean')),
))
@pytest.mark.parametrize('config', (MASK_RCNN, UPERNET))
def test_detectors_and_segmentors(use, tool, words, config):
    status, numbers = use(tool, config, 'random', *words)
    assert status == 0
    blocks = [f'{stage}.{i}' for stage in range(4) for i in range(2)]
    if tool == 'gradient_norm':
        found, = numbers['models']
        assert [b['label'] for b in found['blocks']] == blocks
        assert all(b['norm'] > 0 and b['uses'] == 2 for b in found['blocks'])
        assert all(p['norm'] is not None for p in found['parameters'].values())
    elif tool == 'feature_histogram':
        assert [x['label'] for x in numbers['models'][0]['layers']] == ['0.0', '3.1_r1']
    else:
        cka = np.array(numbers['comparisons'][0]['cka'])
        assert cka.shape == (16, 16) and np.diag(cka) == pytest.approx(1)


@pytest.mark.parametrize('config, size_of', (
    (MASK_RCNN, lambda sample: sample.gt_instances.masks.masks.shape[1:]),
    (UPERNET, lambda sample: sample.gt_sem_seg.shape),
))
def test_labels_fit_the_resized_image(scenes, config, size_of):
    """Pipelines for evaluation load annotations after resizing: as large as the file has them."""
    cfg = load_config(str(config))
    cfg.merge_from_dict({'val_dataloader.dataset.data_root': str(scenes / FOLDERS[config]),
                         'val_dataloader.dataset.pipeline.1.scale': (64, 64)})
    init_default_scope(cfg.default_scope)
    for with_labels, size in ((True, (64, 64)), (False, (128, 128))):
        batch, = SampleBatches(cfg, 'val', 2, 2, workers=0, with_labels=with_labels)
        assert [sample.img_shape for sample in batch['data_samples']] == [(64, 64)] * 2
        assert [tuple(size_of(sample)) for sample in batch['data_samples']] == [size] * 2
    DefaultScope._instance_dict.clear()


@pytest.mark.parametrize('tool, config, words, message', (
    ('cka', VIT, ('nope.pth', ), "checkpoint of 'scalenet_vit-nano_digits': no such file"),
    ('cka', VIT, ('random', '--compare', 'x', 'nope.py', 'random'), "no such file: 'nope.py'"),
    ('cka', VIT, ('random', '--compare', 'x', UPERNET, 'random'), 'must be of one toolbox'),
    ('cka', VIT, ('random', '--compare', 'a', VIT, 'random', '--label', 'a'), 'the same name'),
    ('cka', VIT, ('random', '--batch-size', 3), '--batch-size must be 4 or more'),
    ('cka', UNGROWN, ('random', '--pretrained', 'random'), 'the config grows nothing'),
    ('feature_histogram', VIT, ('random', '--layers', '0', '7'), "no model has the block(s) 7"),
    ('feature_histogram', VIT, ('random', '--range', 1, 1), 'LOW must be less than HIGH'),
))
def test_what_cannot_work_is_refused(use, tool, config, words, message, capsys, tmp_path):
    status, _ = use(tool, config, *words)
    printed = capsys.readouterr().err
    assert status == 2 and 'error: ' in printed and message in printed
    assert not (tmp_path / 'out').exists()


@pytest.mark.parametrize('tool, option, message', (
    ('cka', 'model.backbone.growth.tims=3', "'tims'"),
    ('cka', 'val_dataloder.batch_size=3', 'did you mean val_dataloader'),
    ('cka', 'val_dataloader.dataset.data_root=nope/', "data_root='nope/': no such folder"),
    ('gradient_norm', 'model.head.num_classes=7', 'num_classes=7'),
))
def test_options_that_cannot_be_meant(use, tool, option, message, capsys, tmp_path):
    assert use(tool, VIT, 'random', options=[option])[0] == 2
    assert message in capsys.readouterr().err and not (tmp_path / 'out').exists()


def test_a_class_token_is_asked_of_swin(use, capsys):
    status, _ = use('cka', UPERNET, 'random', '--pool', 'cls', '--batch-size', 4)
    assert status == 2 and 'see no class token' in capsys.readouterr().err


def test_a_new_head_must_be_asked_for(use, pretrained, capsys):
    state = torch.load(pretrained)['state_dict']
    headless = pretrained.with_name('headless.pth')
    torch.save({k: v for k, v in state.items() if not k.startswith('head.')}, headless)
    words = ('gradient_norm', VIT, headless, '--batch-size', 8)
    assert use(*words)[0] == 2 and '--new-head' in capsys.readouterr().err
    assert use(*words, '--new-head')[0] == 0


def test_as_a_user_types_it(tmp_path, scenes):
    done = subprocess.run(
        [sys.executable, ROOT / 'tools/analysis_tools/cka.py', VIT, 'random', '--num-samples', '9',
         '--batch-size', '4', '--workers', '1', '--cfg-options',
         f'val_dataloader.dataset.data_root={scenes / "cls"}'],
        capture_output=True, text=True, timeout=300, cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    folder = 'work_dirs/scalenet_vit-nano_digits/analysis'
    assert done.stdout.splitlines()[-2:] == [f'{folder}/cka.png', f'{folder}/cka.json']
    assert 'note: 8 samples instead of 9' in done.stderr
    assert sorted(p.name for p in (tmp_path / folder).iterdir()) == ['cka.json', 'cka.png']
