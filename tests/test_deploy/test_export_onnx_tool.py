"""``tools/deployment/export_onnx.py``."""
import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from deploy_toys import STOCK_SWIN, assert_close, build, classifier_cfg, images, run_onnx
from mmengine.config import Config

from scalenet_mm.checkpoints.delta import extract_delta, write_checkpoint
from scalenet_mm.engine import run_cli

ROOT = Path(__file__).resolve().parents[2]
TOOL = ROOT / 'tools/deployment/export_onnx.py'


@pytest.fixture(scope='module')
def tool():
    spec = importlib.util.spec_from_file_location('export_onnx_tool', TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def use(tool, tmp_path):
    """Run the tool; gives its status and the file that it was to write."""

    def run(*words, out='out.onnx'):
        path = tmp_path / out
        words = [str(word) for word in words]
        return run_cli(lambda: tool.main([*words[:2], str(path), *words[2:]])), path

    return run


@pytest.fixture
def config(tmp_path):
    path = tmp_path / 'toy.py'
    Config(dict(default_scope='mmpretrain', model=classifier_cfg())).dump(str(path))
    return path


@pytest.fixture
def trained(tmp_path):
    """A classifier and its checkpoint."""
    model, path = build(classifier_cfg()), tmp_path / 'epoch_1.pth'
    torch.save(dict(meta=dict(dataset_meta=dict(classes=('a', 'b', 'c', 'd'))),
                    state_dict=model.state_dict()), path)
    return model, path


def test_a_classifier_and_its_backbone(use, config, trained, capsys):
    model, checkpoint = trained
    status, path = use(config, checkpoint, '--check')
    assert status == 0 and 'classifier' in capsys.readouterr().out
    image = images(3, 3, 32, 32)
    assert_close(run_onnx(path, image)['logits'], model(image, mode='tensor'))
    about = {entry.key: entry.value for entry in onnx.load(path).metadata_props}
    assert json.loads(about['classes']) == ['a', 'b', 'c', 'd']
    assert json.loads(about['preprocessing'])['to_rgb'] is True

    status, path = use(config, checkpoint, '--part', 'backbone', '--size', 48, 64, '--batch', 2,
                       '--opset', 18, '--no-check', '--cfg-options',
                       'model.backbone.out_type=featmap')
    assert status == 0 and 'not checked' in capsys.readouterr().out
    image = images(2, 3, 48, 64)
    model.backbone.out_type = 'featmap'
    assert_close(run_onnx(path, image)['feat0'], model.backbone(image)[0])


def test_a_delta_gives_what_the_whole_checkpoint_gives(use, config, trained, tmp_path):
    model, whole = trained
    base = tmp_path / 'base.pth'
    state = model.state_dict()
    ungrown = build(classifier_cfg(growth=None, adjustment=None)).state_dict()
    torch.save(dict(state_dict={key: state[key] for key in ungrown}), base)
    delta = tmp_path / 'delta.pth'
    write_checkpoint(extract_delta(str(whole), str(base)), str(delta))
    assert delta.stat().st_size < whole.stat().st_size
    image = images(2, 3, 32, 32)
    outputs = []
    for checkpoint in (whole, delta):
        status, path = use(config, checkpoint)
        assert status == 0
        outputs.append(run_onnx(path, image)['logits'])
    assert np.array_equal(*outputs)


def test_a_stock_model_that_the_hook_grows(use, tmp_path):
    """A segmentor: its backbone is exported, in the size that is asked for."""
    model = dict(
        type='EncoderDecoder',
        backbone=dict(STOCK_SWIN, type='mmseg.SwinTransformer'),
        decode_head=dict(type='FCNHead', in_channels=16, channels=8, in_index=0, num_classes=3,
                         num_convs=1, norm_cfg=dict(type='BN')))
    hook = dict(type='AdapterInjectionHook', growth=dict(order='stack', stages=(0, )))
    config = tmp_path / 'segmentor.py'
    Config(dict(default_scope='mmseg', model=model, custom_hooks=[hook])).dump(str(config))
    status, path = use(config, 'random', '--size', 24)
    assert status == 0
    proto = onnx.load(path)
    assert [value.name for value in proto.graph.output] == ['feat0']
    # two blocks, and a repeat of each
    assert sum(node.op_type == 'Softmax' for node in proto.graph.node) == 4


class Evil:
    """Unpickling it makes a folder."""

    def __init__(self, path):
        self.path = str(path)

    def __reduce__(self):
        return os.mkdir, (self.path, )


def test_a_crafted_pickle_is_not_executed(use, config, trained, tmp_path, capsys):
    state = trained[0].state_dict()
    for zipped in (True, False):
        checkpoint, trace = tmp_path / 'evil.pth', tmp_path / 'trace'
        torch.save(dict(state_dict=state, evil=Evil(trace)), checkpoint,
                   _use_new_zipfile_serialization=zipped)
        status, path = use(config, checkpoint)
        assert status == 2 and 'not on the list of types' in capsys.readouterr().err
        assert not trace.exists() and not path.exists()


@pytest.mark.parametrize('words, message', (
    (('nope.pth', ), 'no such file'),
    (('random', '--size', 1, 2, 3), '--size must be one number, two'),
    (('random', '--size', 'dynamic', 32), '--size must be one number, two'),
    (('random', '--size', 'big'), "--size must be a number or 'dynamic'"),
    (('random', '--batch', '-1'), "--batch must be a number or 'dynamic'"),
    (('random', '--batch', '0'), 'batch must be a number of images'),
    (('random', '--opset', '9'), 'opset must be from 18'),
))
def test_what_cannot_work(words, message, use, config, capsys):
    status, path = use(config, *words)
    assert status == 2 and message in capsys.readouterr().err and not path.exists()


def test_a_checkpoint_without_the_head(use, config, trained, tmp_path, capsys):
    backbone = tmp_path / 'backbone.pth'
    torch.save(dict(state_dict={key: value for key, value in trained[0].state_dict().items()
                                if key.startswith('backbone.')}), backbone)
    status, path = use(config, backbone)
    assert status == 2 and 'does not hold the head' in capsys.readouterr().err
    assert not path.exists()
    assert use(config, backbone, '--part', 'backbone', '--no-check')[0] == 0


def test_the_command():
    done = subprocess.run([sys.executable, str(TOOL), 'nope.py', 'random', 'out.onnx'],
                          capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and done.stderr.startswith('error: ') and 'nope.py' in done.stderr
