"""The config in a checkpoint is read, and never run."""
import pytest
from mmengine.config import Config

from scalenet_mm.checkpoints.stored_config import read_stored_config
from scalenet_mm.errors import CheckpointError

CFG = dict(
    default_scope='mmpretrain',
    model=dict(
        type='ImageClassifier',
        backbone=dict(type='ScaleNetViT', growth=dict(times=(3, -1, 4), order=[0, [1, 2], []]),
                      adjustment=None, drop_path_rate=1e-6),
        head={'.cls_token': dict(decay_mult=0.0), 5: True}),
    work_dir='work_dirs/a')


def read(text, *args):
    return read_stored_config(dict(meta=dict(cfg=text)), 'a.pth', *args)


def test_what_mmengine_writes():
    text = Config(CFG).pretty_text
    assert read(text) == dict(model=CFG['model'])
    assert read(text, ('default_scope', 'work_dir', 'nothing')) == dict(
        default_scope='mmpretrain', work_dir='work_dirs/a')


def test_dicts_of_any_spelling():
    text = "model = dict({'a': 1}, b=dict(**dict(c=(1, ), d={}), e='x'))"
    assert read(text) == dict(model=dict(a=1, b=dict(c=(1, ), d={}, e='x')))


@pytest.mark.parametrize('value', [
    "__import__('os').mkdir('{trace}')", "dict(a=open('{trace}', 'w'))", '[x for x in (1, )]',
    'lambda: 1', 'dict.fromkeys([1])', 'dict(1, 2)', 'dict(5)', 'other', '{{**{{}}}}', "f'{{1}}'",
    '{{[]: 1}}', "list({{'a': 1}})", "open({{'a': 1}})",
])
def test_anything_else_is_refused(value, tmp_path):
    trace = tmp_path / 'executed'
    with pytest.raises(CheckpointError, match=r"in a.pth \(meta\['cfg'\]\) has in model what is no "
                                              'plain data.*--config'):
        read(f'other = 1\nmodel = {value.format(trace=trace)}\n')
    assert not trace.exists()


def test_what_is_not_asked_for_is_not_read(tmp_path):
    text = f"import os\nos.mkdir({str(tmp_path / 'executed')!r})\nx = os\nmodel = dict(a=1)\n"
    assert read(text) == dict(model=dict(a=1))
    assert not (tmp_path / 'executed').exists()


@pytest.mark.parametrize('content', [
    {}, dict(meta={}), dict(meta=None), dict(meta=dict(cfg=5)), None, [1]])
def test_no_config(content):
    with pytest.raises(CheckpointError, match=r"a.pth holds no config .*give it by --config"):
        read_stored_config(content, 'a.pth')


@pytest.mark.parametrize('text', ['model = dict(', 'model = dict(a=1)\0', '[' * 500 + ']' * 500])
def test_text_that_is_no_config(text):
    with pytest.raises(CheckpointError, match='cannot be read|no plain data'):
        read(f'model = 1 +\n{text}')
