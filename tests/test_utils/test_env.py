"""The environment check: made-up version sets, and a run on the real environment."""
import copy
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
ENV_PY = ROOT / 'scalenet_mm' / 'utils' / 'env.py'
CHECK_ENV = ROOT / 'tools' / 'check_env.py'


def load_env():
    spec = importlib.util.spec_from_file_location('scalenet_mm_env_under_test', ENV_PY)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


env = load_env()

# The tested set, as `collect` reports it.
GOOD = {
    'python': '3.11.7',
    'executable': '/opt/python3.11',
    'packages': {
        **dict.fromkeys(env.PACKAGES),
        'torch': '2.11.0', 'torchvision': '0.26.0', 'numpy': '2.4.6', 'scipy': '1.17.1',
        'setuptools': '79.0.1', 'mmengine': '0.10.7', 'mmcv': '2.1.0', 'mmdet': '3.3.0',
        'mmpretrain': '1.2.0', 'mmsegmentation': '1.2.2', 'opencv-python': '4.14.0.94',
        'pycocotools': '2.0.11', 'ftfy': '6.3.1', 'regex': '2026.11.15',
        'scikit-learn': '1.9.1', 'scalenet_mm': '0.1.0',
    },
    'imports': dict.fromkeys(env.MODULES),
    'cuda': {'available': False, 'torch': '13.0', 'devices': [], 'ops': None},
    'nvidia_smi': False,
    'compiler': 'c++ 12.2.0',
}


# What takes the originals' places on the other stack.
ONEDL = {'onedl-mmengine': '0.10.12', 'onedl-mmcv': '2.3.6', 'onedl-mmdetection': '3.5.1',
         'onedl-mmpretrain': '1.3.6', 'onedl-mmsegmentation': '1.4.2', 'imaug': '0.4.3'}


def change(packages=None, imports=None, **others):
    """The tested set with changes; a version of None is a package that is not installed."""
    found = copy.deepcopy(GOOD)
    found['packages'].update(packages or {})
    found['imports'].update(imports or {})
    found.update(others)
    for module, names in env.MODULES.items():
        if not any(found['packages'][name] for name in names):
            found['imports'].pop(module)  # `collect` does not try what is not installed
    return found


def test_tested_set_is_clean():
    assert env.diagnose(GOOD) == []
    assert env.exit_code([]) == 0
    assert 'Nothing found that would not work.' in env.report(GOOD, [])


# (changes, level, code, part of the line that mends it)
CASES = {
    'mmcv 2.2 with mmdet':
        (dict(packages={'mmcv': '2.2.0', 'mmsegmentation': None},
              imports={'mmdet.models': 'AssertionError: MMCV==2.2.0 is used but incompatible'}),
         'error', 'mmcv-too-new', 'mmcv==2.1.0'),
    'mmcv 2.2 with mmseg':
        (dict(packages={'mmcv': '2.2.0', 'mmdet': None}), 'error', 'mmcv-too-new',
         'MMCV_WITH_OPS=1'),
    'onedl-mmcv with mmdet':
        (dict(packages={'mmcv': None, 'onedl-mmcv': '2.3.6', 'mmsegmentation': None},
              imports={'mmdet.models': 'AssertionError: MMCV==2.3.6 is used but incompatible'}),
         'error', 'mixed-stacks', 'uninstall -y onedl-mmcv && pip install "setuptools<81"'),
    'onedl-mmengine with originals':
        (dict(packages={'mmengine': None, 'onedl-mmengine': '0.10.12'}), 'error', 'mixed-stacks',
         'uninstall -y onedl-mmengine && pip install mmengine==0.10.7'),
    'an original among forks':
        (dict(packages={**dict.fromkeys(env.FORKS), **ONEDL, 'onedl-mmpretrain': None,
                        'mmpretrain': '1.2.0'}), 'error', 'mixed-stacks',
         'uninstall -y mmpretrain && pip install onedl-mmpretrain==1.3.6'),
    'onedl-mmdetection without imaug':
        (dict(packages={**dict.fromkeys(env.FORKS), **ONEDL, 'imaug': None},
              imports={'mmdet.models': "ModuleNotFoundError: No module named 'imgaug'"}), 'error',
         'imaug-missing', 'pip install --no-deps imaug'),
    'onedl without mmcv':
        (dict(packages={**dict.fromkeys(env.FORKS), **ONEDL, 'onedl-mmcv': None}), 'error',
         'mmcv-missing', '--no-binary onedl-mmcv onedl-mmcv==2.3.6'),
    'mmcv 2.4 with mmpretrain':
        (dict(packages={'mmcv': '2.4.0', 'mmdet': None, 'mmsegmentation': None}), 'error',
         'mmcv-too-new', 'mmcv==2.1.0'),
    'mmcv 1.x': (dict(packages={'mmcv': '1.7.2'}), 'error', 'mmcv-old', 'mmcv==2.1.0'),
    'mmcv-full': (dict(packages={'mmcv': None, 'mmcv-full': '1.7.2'}), 'error', 'mmcv-old',
                  'uninstall -y mmcv-full'),
    'no mmcv': (dict(packages={'mmcv': None}), 'error', 'mmcv-missing', '--no-build-isolation'),
    'no mmcv, no compiler': (dict(packages={'mmcv': None}, compiler=None), 'error',
                             'mmcv-missing', 'C++ compiler'),
    'mmcv-lite with mmdet':
        (dict(packages={'mmcv': None, 'mmcv-lite': '2.1.0'},
              imports={'mmcv.ops': "ModuleNotFoundError: No module named 'mmcv._ext'",
                       'mmdet.models': "ModuleNotFoundError: No module named 'mmcv._ext'",
                       'mmseg.models': "ModuleNotFoundError: No module named 'mmcv._ext'"}),
         'error', 'mmcv-lite', 'uninstall -y mmcv-lite'),
    'mmcv-lite with mmpretrain alone':
        (dict(packages={'mmcv': None, 'mmcv-lite': '2.1.0', 'mmdet': None,
                        'mmsegmentation': None},
              imports={'mmcv.ops': "ModuleNotFoundError: No module named 'mmcv._ext'"}),
         'warning', 'mmcv-lite', 'mmcv==2.1.0'),
    'mmcv-lite beside mmcv': (dict(packages={'mmcv-lite': '2.1.0'}), 'error', 'lite-beside-full',
                              'uninstall -y mmcv-lite mmcv'),
    'mmcv without ops':
        (dict(imports={'mmcv.ops': "ModuleNotFoundError: No module named 'mmcv._ext'",
                       'mmdet.models': "ModuleNotFoundError: No module named 'mmcv._ext'",
                       'mmseg.models': "ModuleNotFoundError: No module named 'mmcv._ext'"}),
         'error', 'mmcv-no-ops', 'uninstall -y mmcv &&'),
    'setuptools 82': (dict(packages={'setuptools': '82.0.0'},
                           imports={'pkg_resources': 'ModuleNotFoundError: pkg_resources'}),
                      'error', 'setuptools-pkg-resources', 'setuptools<81'),
    'no setuptools': (dict(packages={'setuptools': None}), 'error', 'setuptools-pkg-resources',
                      'setuptools<81'),
    'no setuptools on 3.12': (dict(packages={'setuptools': None}, python='3.12.1'), 'error',
                              'setuptools-missing', 'setuptools<81'),
    'torchvision of another torch':
        (dict(packages={'torchvision': '0.28.0'},
              imports={'torchvision': 'RuntimeError: operator torchvision::nms does not exist',
                       'mmpretrain.models': 'RuntimeError: operator torchvision::nms does not'}),
         'error', 'torchvision-broken', 'torchvision==0.26.*'),
    'torchvision that happens to load': (dict(packages={'torchvision': '0.25.0'}), 'warning',
                                         'torchvision-mismatch', 'torchvision==0.26.*'),
    'no torchvision': (dict(packages={'torchvision': None}), 'error', 'torchvision-missing',
                       'torchvision==0.26.*'),
    'no torch': (dict(packages={'torch': None, 'torchvision': None}), 'error', 'torch-missing',
                 'pip install torch'),
    'torch does not load': (dict(imports={'torch': 'OSError: libcudart.so'}), 'error',
                            'torch-broken', 'torch==2.11.0'),
    'torch 1.13': (dict(packages={'torch': '1.13.1', 'numpy': '1.26.4'}), 'error', 'torch-old',
                   'torch'),
    'numpy 2 with an old torch': (dict(packages={'torch': '2.1.2', 'torchvision': '0.16.2'}),
                                  'error', 'numpy-torch', 'numpy<2'),
    'mmseg without ftfy and regex':
        (dict(packages={'ftfy': None, 'regex': None},
              imports={'mmseg.models': "ModuleNotFoundError: No module named 'ftfy'"}),
         'error', 'mmseg-undeclared', 'pip install ftfy regex'),
    'opencv 5': (dict(packages={'opencv-python': '5.0.0.93'}), 'warning', 'opencv-new', '<5'),
    'two opencv': (dict(packages={'opencv-python-headless': '4.11.0.86'}), 'warning',
                   'opencv-twice', 'uninstall -y opencv-python opencv-python-headless'),
    'no opencv': (dict(packages={'opencv-python': None},
                       imports={name: "ModuleNotFoundError: No module named 'cv2'"
                                for name in env.MODULES if name.startswith('mm')}),
                  'error', 'opencv-missing', 'opencv-python<5'),
    'opencv without libGL':
        (dict(imports={name: 'ImportError: libGL.so.1: cannot open shared object file'
                       for name in env.MODULES if name.startswith(('mm', 'cv2'))}),
         'error', 'opencv-broken', 'libgl1'),
    'no mmengine': (dict(packages={'mmengine': None}), 'error', 'mmengine-missing', '0.10.7'),
    'mmengine 0.7': (dict(packages={'mmengine': '0.7.4'}), 'error', 'mmengine-version', '0.10.7'),
    'mmengine 1.0': (dict(packages={'mmengine': '1.0.0'}), 'error', 'mmengine-version', '0.10.7'),
    'Adafactor': (dict(packages={'mmengine': '0.10.5', 'transformers': '4.46.0'},
                       imports={name: "KeyError: 'Adafactor is already registered'"
                                for name in env.MODULES if name.startswith('mm')}),
                  'error', 'mmengine-adafactor', '0.10.7'),
    'Adafactor, not yet': (dict(packages={'mmengine': '0.10.5'}), 'warning',
                           'mmengine-adafactor', '0.10.7'),
    'transformers that mmpretrain does not know':
        (dict(packages={'transformers': '4.57.6'}, imports=dict.fromkeys(
            ('mmdet.models', 'mmpretrain.models', 'mmseg.models'),
            'TypeError: NoneType takes no arguments')),
         'error', 'mmpretrain-transformers', 'transformers<4.49'),
    'a fork beside its original': (dict(packages={'onedl-mmdetection': '3.5.1'}), 'error',
                                   'fork-beside-original', 'uninstall -y mmdet'),
    'pycocotools of numpy 1':
        (dict(packages={'pycocotools': '2.0.6'},
              imports={'pycocotools.mask': 'ValueError: numpy.dtype size changed',
                       'mmdet.models': 'ValueError: numpy.dtype size changed'}),
         'error', 'pycocotools-numpy', 'pycocotools>=2.0.8'),
    'no pycocotools': (dict(packages={'pycocotools': None}), 'error', 'pycocotools-missing',
                       'pip install pycocotools'),
    'python 3.9': (dict(python='3.9.18'), 'error', 'python-old', '3.11'),
    'python 3.13': (dict(python='3.13.0'), 'warning', 'python-new', '3.11'),
    'python 3.14': (dict(python='3.14.1'), 'error', 'python-new', '3.11'),
    'no toolbox': (dict(packages={'mmdet': None, 'mmpretrain': None, 'mmsegmentation': None}),
                   'warning', 'no-toolbox', 'mmdet==3.3.0'),
    'GPU, ops for the CPU': (dict(cuda={'available': True, 'torch': '13.0', 'devices': ['GPU'],
                                        'ops': None}),
                             'warning', 'mmcv-cpu-ops', 'FORCE_CUDA=1 MMCV_WITH_OPS=1'),
    'ops of another CUDA': (dict(cuda={'available': True, 'torch': '13.0', 'devices': ['GPU'],
                                       'ops': '11.8'}),
                            'warning', 'mmcv-cuda-version', 'nvcc 13.0'),
    'a driver, but no GPU': (dict(nvidia_smi=True), 'warning', 'cuda-unavailable', 'nvidia-smi'),
    'no scikit-learn': (dict(packages={'scikit-learn': None}), 'warning', 'sklearn-missing',
                        'scikit-learn'),
    'not installed': (dict(packages={'scalenet_mm': None}), 'warning', 'scalenet-not-installed',
                      'pip install -e .'),
    'an unknown failure': (dict(imports={'mmdet.models': "ImportError: cannot import name 'x'"}),
                           'error', 'import-fails', 'mmdet==3.3.0'),
}


@pytest.mark.parametrize('name', CASES)
def test_one_fault_gives_its_one_finding(name):
    changes, level, code, fix = CASES[name]
    findings = env.diagnose(change(**changes))
    # One cause, one finding: imports that fail because of it are not reported besides.
    assert [(item.level, item.code) for item in findings] == [(level, code)]
    assert fix in findings[0].fix
    assert env.exit_code(findings) == (level == 'error')


@pytest.mark.parametrize('toolbox', ['mmdet', 'mmpretrain', 'mmsegmentation'])
def test_one_toolbox_is_enough(toolbox):
    others = {'mmdet', 'mmpretrain', 'mmsegmentation'} - {toolbox}
    packages = dict.fromkeys(others)
    if toolbox != 'mmsegmentation':
        packages.update(ftfy=None, regex=None)
    if toolbox != 'mmdet':
        packages.update(pycocotools=None)
    assert env.diagnose(change(packages=packages)) == []


def test_onedl_stack_is_accepted():
    packages = {**dict.fromkeys(env.FORKS), **ONEDL, 'setuptools': '82.0.0'}
    found = change(packages=packages,
                   imports={'pkg_resources': 'ModuleNotFoundError: pkg_resources'})
    assert env.diagnose(found) == []
    rows = {line.split()[0] for line in env.report(found, []).splitlines()
            if line and not line.startswith('mmcv ops')}
    assert rows >= set(ONEDL) and not rows & set(env.FORKS)  # nothing is called missing


def test_errors_come_first_and_versions_alone_are_enough():
    packages = {**GOOD['packages'], 'opencv-python': '5.0.0.93', 'torchvision': '0.28.0',
                'mmcv': '2.2.0'}
    findings = env.diagnose({'python': '3.11.7', 'packages': packages})
    assert [item.level for item in findings] == ['error', 'error', 'error', 'warning']
    assert {item.code for item in findings} == {'torchvision-broken', 'mmcv-too-new',
                                                'opencv-new'}


def test_a_bare_environment():
    found = {'python': '3.11.7', 'executable': 'python', 'packages': dict.fromkeys(env.PACKAGES)}
    findings = env.diagnose(found)
    assert [item.code for item in findings if item.level == 'error'] == [
        'torch-missing', 'mmengine-missing', 'mmcv-missing']
    text = env.report(found, findings)
    assert 'not installed' in text
    assert '3 errors, 3 warnings.' in text


@pytest.mark.parametrize('text, numbers', [('2.11.0+cu130', (2, 11, 0)), ('3.0.0rc4', (3, 0, 0)),
                                           ('v0.26', (0, 26)), ('', ()), ('unknown', ())])
def test_parse_version(text, numbers):
    assert env.parse_version(text) == numbers


@pytest.mark.parametrize('torch, series', [('2.0.1', '0.15'), ('2.11.0+cpu', '0.26'),
                                           ('1.13.1', None)])
def test_matching_torchvision(torch, series):
    assert env.matching_torchvision(torch) == series


def test_probe_survives_what_kills_the_process(tmp_path, monkeypatch):
    (tmp_path / 'falls.py').write_text('import os\nos.abort()\n')
    (tmp_path / 'leaves.py').write_text('raise SystemExit(0)\n')
    (tmp_path / 'talks.py').write_text('print("{}")\nprint("hello")\n')
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    answers = env.probe_imports(['json', 'falls', 'leaves', 'talks', 'no_such_module'])
    assert answers['json']['error'] is None
    assert 'ends the process' in answers['falls']['error']
    assert 'SystemExit' in answers['leaves']['error']
    assert answers['talks']['error'] is None
    assert 'ModuleNotFoundError' in answers['no_such_module']['error']


def test_probe_gives_up_on_an_import_that_hangs(tmp_path, monkeypatch):
    (tmp_path / 'hangs.py').write_text('import time\ntime.sleep(60)\n')
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    answers = env.probe_imports(['json', 'hangs', 're'], timeout=2)
    assert 'more than 2 s' in answers['hangs']['error']
    assert answers['json']['error'] is None and answers['re']['error'] is None


def test_runs_where_nothing_is_installed():
    # -I -S: no site-packages at all, so anything but the standard library would fail.
    done = subprocess.run([sys.executable, '-I', '-S', str(CHECK_ENV)], capture_output=True,
                          text=True)
    assert done.returncode == 1, done.stderr
    assert 'ERROR [torch-missing]' in done.stdout


def test_real_environment():
    done = subprocess.run([sys.executable, str(CHECK_ENV), '--json'], capture_output=True,
                          text=True, cwd='/')
    answer = json.loads(done.stdout)
    errors = [item for item in answer['findings'] if item['level'] == 'error']
    assert done.returncode == 0 and errors == [], errors
    assert answer['found']['imports']['mmcv.ops'] is None
    found = {name: version for name, version in answer['found']['packages'].items() if version}
    stack = {name: version for name, version in env.TESTED.items() if name in found}
    assert stack == {name: found[name] for name in stack}
    assert ('mmcv' in stack) != ('onedl-mmcv' in stack)
