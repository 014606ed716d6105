"""The machinery of test_blocks.py finds what is wrong with a block."""
import os
import sys

import pytest
from block_runner import ROOT, BlockError, do_page, make_folder, read_blocks
from mmengine.registry import DefaultScope

import scalenet_mm  # noqa: F401


@pytest.fixture(autouse=True)
def page_folder(tmp_path, monkeypatch):
    make_folder(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr('mmengine.config.config.FormatCode', lambda text, **_: (text, True))
    yield tmp_path
    DefaultScope._instance_dict.clear()


def block(text, language='bash', marker=''):
    return f'{marker}\n```{language}\n{text}\n```\n'


def do(text):
    return do_page('docs/page.md', text)


GOOD = [
    block('x = 1', 'python') + block('assert x == 1', 'python'),
    '<!-- test: before\n  y = 2\n  z = 3\n-->\n' + block('assert y + z == 5', 'python'),
    block("print('one  two', 3)", 'python') + block('one two ...', '', '<!-- test: output -->'),
    block("int('x')", 'python', '<!-- test: raises ValueError -->')
    + block("invalid literal ... 'x'", 'text', '<!-- test: output -->'),
    block("raise KeyError('a')", 'python', '<!-- test: raises LookupError -->'),
    block('a = 1', 'python', '<!-- test: file mine.py -->')
    + block('from pathlib import Path\nassert Path("mine.py").read_text() == "a = 1\\n"', 'python'),
    '- item\n\n  ```python\n  x = [\n      1]\n  ```\n',
    block('1 / 0', 'python', '<!-- test: skip needs a GPU and patience -->'),
    block('{"a": [1]}', 'json') + block('a: [1, 2]', 'yaml'),
    block('anything at all | <', 'text'),
    block('$ python tools/train.py CONFIG\nepoch 1\npython --bad', 'text'),
    # commands
    block('make quickstart   # with a remark\nmake test ARGS="-k growth -x"'),
    block('python tools/train.py configs/quickstart/maskrcnn_swin-nano_digits.py \\\n'
          '    --work-dir w --cfg-options train_cfg.max_epochs=1 "a.b=[1,2]"'),
    block('python tools/train.py CONFIG --resume\npython tools/train.py configs/my_own.py'),
    block('for k in 0 1; do\n    python tools/test.py CONFIG FILE_$k.pth\ndone'),
    block('C=configs/scalenet_deit-t_20e_folder.py\npython tools/train.py $C --amp | tee log'),
    block('tools/dist_train.sh configs/scalenet_deit-{t,s}_100e_imagenet.py 8'
          .replace('{t,s}', 't') + ' --delta'),
    block('GPUS=4 tools/slurm_train.sh part name CONFIG work_dirs/x --amp'),
    block('cd folder && pip install -e . && git status'),
    block('SCALENET_FAST_PATHS=0 python tools/train.py CONFIG'),
    block('python tools/delta.py extract A.pth --base B.pth --out C.pth'),
    block('echo hello >there.txt\ntest -f there.txt', marker='<!-- test: run -->'),
    block("python -c 'import scalenet_mm.errors; print(1 + 1)'", marker='<!-- test: run -->')
    + block('2', 'text', '<!-- test: output -->'),
    block('python tools/model_converters/convert_keys.py IN OUT --to timm|official|openmmlab '
          '[--part ungrown]', marker='<!-- test: usage -->'),
    # configs
    block("_base_ = './scalenet_deit-t_20e_folder.py'\nmodel = dict(head=dict(num_classes=3))",
          'python', '<!-- test: config configs/my_net.py -->')
    + block("model['backbone'] = dict(growth=dict(times=3))", 'python',
            '<!-- test: config after configs/my_net.py -->')
    + block('python tools/train.py configs/my_net.py --cfg-options model.head.num_classes=4'),
    block('optim_wrapper = dict(optimizer=dict(lr=1.))', 'python',
          '<!-- test: config on ./scalenet_deit-t_20e_folder.py -->'),
    block("model = dict(backbone=dict(type='ScaleNetViT', arch='deit-tiny'))", 'python',
          '<!-- test: config -->'),
]


@pytest.mark.parametrize('text', GOOD)
def test_good(text):
    do(text)


BAD = [
    (block('x = 1\n1 / 0', 'python'), r'page\.md:3.*ZeroDivisionError'),
    (block('x = 1', 'python') + block('y', 'python'), 'NameError'),
    (block("int('x')", 'python', '<!-- test: raises KeyError -->'),
     'should raise KeyError, raised'),
    (block('1', 'python', '<!-- test: raises KeyError -->'), 'and does not'),
    (block('print(1)', 'python') + block('2', '', '<!-- test: output -->'), 'another one'),
    (block('1', '', '<!-- test: output -->'), 'no block before'),
    (block('x', 'pyhton'), 'a block is one of'),
    (block('x', 'python', '<!-- test: skip -->'), 'needs a reason'),
    (block('x', 'python', '<!-- test: skip it is dull -->'), 'needs a reason'),
    (block('x', 'python', '<!-- test: run -->'), 'test: run before a block of python'),
    (block('x', 'bash', '<!-- test: confg -->'), 'test: confg before'),
    ('<!-- test: config -->\n\ntext\n', 'marker has no block'),
    ('<!-- test: config -->\n', 'marker has no block'),
    ('```python\nx = 1\n', 'has no end'),
    (block('{"a": }', 'json'), 'page.md:3'),
    # commands
    (block('make quikstart'), 'no target quikstart'),
    (block('make test ARG=1'), 'no variable ARG'),
    (block('make quickstart ARGS=--sene'), 'unrecognized arguments'),
    (block('python tools/trane.py CONFIG'), 'tools/trane.py is not there'),
    (block('python tools/train.py CONFIG --resum-e'), 'unrecognized arguments'),
    (block('python tools/train.py'), 'required: config'),
    (block('python tools/train.py configs/scalenet_deit-x_100e_imagenet.py'), 'is not there'),
    (block('python tools/train.py deit.py'), 'deit.py is not there'),
    (block('python tools/train.py configs/scalenet_deit-t_20e_folder.py --cfg-options '
           'custom_hooks.7.type=x'), '--cfg-options: KeyError'),
    (block('python tools/train.py CONFIG --cfg-options x'), 'KEY=VALUE'),
    (block('tools/dist_train.sh CONFIG --delta'), 'number of processes'),
    (block('tools/dist_trane.sh CONFIG 8'), 'No such file'),
    (block('for k in 0 1; do\n    python tools/test.py CONFIG'), 'syntax error'),
    (block('python tools/train.py $CFG'), 'unbound variable'),
    (block('frobnicate --now'), 'no such command'),
    (block('python -m no_such_module'), 'no module'),
    (block('SCALENET_FAST=0 python tools/train.py CONFIG'), 'nothing reads'),
    (block('$ python tools/train.py\nerror: ...', 'text'), 'required: config'),
    (block('python tools/train.py CONFIG \\\n    --nothing\n\nout', ''), 'unrecognized'),
    (block('false\ntrue', marker='<!-- test: run -->'), 'ended with 1'),
    (block('python -c "import nothing_of_the_kind"', marker='<!-- test: run -->'),
     'No module named'),
    (block('python tools/model_converters/convert_keys.py IN OUT --to timm|keras',
           marker='<!-- test: usage -->'), 'has the choices'),
    (block('python tools/delta.py apply DELTA [--nothing X]', marker='<!-- test: usage -->'),
     'no option --nothing'),
    # configs
    (block("_base_ = './none.py'", 'python', '<!-- test: config -->'), 'none.py'),
    (block('model = dict(backbone=dict(growth=dict(tims=2)))', 'python',
           '<!-- test: config on ./scalenet_deit-t_20e_folder.py -->'), 'tims'),
    (block("custom_hooks = [dict(type='AdapterInjectionHook', freze=1)]", 'python',
           '<!-- test: config -->'), 'freze'),
    (block("optim_wrapper = dict(optimizer=dict(type='Adma'))", 'python',
           '<!-- test: config on ./scalenet_deit-t_20e_folder.py -->'), 'build_optim_wrapper'),
    (block('a = 1', 'python', '<!-- test: config after configs/none.py -->'), 'after NAME.py'),
    (block('a = 1', 'python', '<!-- test: config configs/scalenet_deit-t_20e_folder.py -->'),
     'must be new'),
    (block('a = 1', 'python', '<!-- test: config tools/new.py -->'), 'must be new'),
    (block('a = 1', 'python', '<!-- test: file ../new.py -->'), 'must be new'),
]


@pytest.mark.parametrize('text, message', BAD, ids=range(len(BAD)))
def test_bad(text, message):
    with pytest.raises(BlockError, match=f'(?s){message}'):
        do(text)


def test_checking_runs_nothing(page_folder):
    do(block(f'mkdir made\nrm -r {page_folder}/docs\n'
             'python tools/dataset_converters/digit_scenes.py --root made_too\ncp a b'))
    assert not {'made', 'made_too', 'b'} & set(os.listdir(page_folder))
    assert (ROOT / 'docs' / 'index.md').is_file()


def test_a_check_leaves_the_process_as_it_was():
    argv, path, environ = list(sys.argv), list(sys.path), dict(os.environ)
    do(block('python tools/estimate.py configs/scalenet_deit-t_20e_folder.py --gpus 8'))
    assert (argv, path, environ) == (sys.argv, sys.path, dict(os.environ))


def test_blocks_have_their_lines():
    found = read_blocks('docs/page.md', 'text\n\n' + block('x = 1', 'python') + block('ls'))
    assert [(b.line, b.language, b.action) for b in found] == [
        (5, 'python', 'execute'), (9, 'bash', 'check')]
