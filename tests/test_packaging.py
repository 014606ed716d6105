"""The wheel and the sdist: what is in them, and that what is installed from them works alone."""
import os
import re
import shutil
import subprocess
import sys
import tarfile
import zipfile
from email import message_from_string
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement

import scalenet_mm

ROOT = Path(__file__).resolve().parents[1]
PACKAGE, MIM, INFO = (f'scalenet_mm{rest}' for rest in (
    '/', '/.mim/', f'-{scalenet_mm.__version__}.dist-info/'))
#: What is no part of the project, and what no package has to carry.
LEFT_OUT = shutil.ignore_patterns(
    '.git', '.venv*', 'venv', '.mim', '*_cache', '.hypothesis', 'data', 'work_dirs', 'checkpoints',
    '_build', 'build', 'dist', '*.egg-info', '.mypy_cache', 'node_modules', '*.pth')


def run(command, cwd, *paths):
    """Run a command outside of the clone, with ``paths`` alone on the path; its output."""
    env = dict(os.environ, PYTHONPATH=os.pathsep.join(map(str, paths)), OMP_NUM_THREADS='1',
               CUDA_VISIBLE_DEVICES='', PYTHONDONTWRITEBYTECODE='1')
    done = subprocess.run([sys.executable, '-W', 'ignore', *map(str, command)], cwd=cwd, env=env,
                          text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    assert done.returncode == 0, done.stdout[-4000:]
    return done.stdout


@pytest.fixture(scope='module')
def tree(tmp_path_factory):
    """A copy of the clone, with what users leave there beside the project's files."""
    root = tmp_path_factory.mktemp('packaging') / 'tree'
    # the package's own folder of this name is part of it
    shutil.copytree(ROOT, root, ignore=lambda folder, names: LEFT_OUT(folder, names) - (
        {'checkpoints'} if Path(folder).name == 'scalenet_mm' else set()))
    for junk in ('configs/__pycache__/a.cpython-311.pyc', 'tools/__pycache__/a.py',
                 'configs/.ipynb_checkpoints/a.py', 'scalenet_mm/__pycache__/a.cpython-311.pyc',
                 'configs/quickstart/.a.py.swp', 'configs/my_task.py',
                 'configs/quickstart/my_task.py'):
        (root / junk).parent.mkdir(parents=True, exist_ok=True)
        (root / junk).write_text('x = 1\n')
    return root


@pytest.fixture(scope='module')
def built(tree):
    """tuple[Path, Path, Path]: The sdist, the wheel that is built from it, the clone's own."""
    run(['-m', 'build', '--no-isolation', tree], tree.parent)
    run(['-m', 'build', '--no-isolation', '--wheel', '--outdir', 'direct', tree], tree.parent)
    name = f'scalenet_mm-{scalenet_mm.__version__}'
    wheel = f'{name}-py3-none-any.whl'
    return tree / 'dist' / f'{name}.tar.gz', tree / 'dist' / wheel, tree.parent / 'direct' / wheel


@pytest.fixture(scope='module')
def installed(built, tmp_path_factory):
    """Path: A folder with the wheel installed, and nothing else."""
    folder = tmp_path_factory.mktemp('installed')
    run(['-m', 'pip', 'install', '--quiet', '--no-deps', '--no-index', '--no-compile', '--target',
         folder, built[1]], folder)
    return folder


def sources(root, folder, *suffixes):
    """set[str]: Files of the project below a folder of a clone, relative to the clone."""
    files = (path.relative_to(root) for path in (root / folder).rglob('*'))
    return {path.as_posix() for path in files if path.suffix in suffixes and not any(
        part.startswith(('.', 'my_')) or part == '__pycache__' for part in path.parts)}


def test_wheel(tree, built):
    with zipfile.ZipFile(built[1]) as file:
        names = set(file.namelist())
        modes = {info.filename: info.external_attr >> 16 for info in file.infolist()}
        for name in names:
            if name.startswith(MIM):
                assert file.read(name) == (tree / name[len(MIM):]).read_bytes(), name
    tools = {name for name in sources(tree, 'tools', '.py', '.sh')
             if not name.startswith('tools/dev/')}
    configs = sources(tree, 'configs', '.py', '.yml', '.md')
    assert len(configs) > 150 and len(tools) > 20
    own = sources(tree, 'scalenet_mm', '.py') | {'scalenet_mm/py.typed'}
    carried = {MIM + name for name in (*tools, *configs, 'model-index.yml')}
    written = {INFO + name for name in ('METADATA', 'WHEEL', 'RECORD', 'top_level.txt',
                                        'licenses/LICENSE')}
    assert names == own | carried | written
    for name in tools:
        executable = name.endswith('.sh')
        assert not executable or modes[MIM + name] & 0o111, name


def test_sdist(tree, built):
    with tarfile.open(built[0]) as file:
        prefix = f'scalenet_mm-{scalenet_mm.__version__}/'
        names = {info.name.removeprefix(prefix) for info in file.getmembers() if info.isfile()}
    generated = {name for name in names if name.startswith('scalenet_mm.egg-info/')}
    generated |= {'PKG-INFO', 'setup.cfg'}
    at_root = {'setup.py', 'pyproject.toml', 'MANIFEST.in', 'LICENSE', 'README.md', 'CHANGELOG.md',
               'CITATION.cff', 'CONTRIBUTING.md', 'model-index.yml', 'constraints.txt',
               *(path.name for path in tree.glob('requirements*.txt'))}
    own = sources(tree, 'scalenet_mm', '.py') | {'scalenet_mm/py.typed'}
    tools = sources(tree, 'tools', '.py', '.sh', '.toml')
    assert 'tools/dev/make_env.sh' in tools
    assert names - generated == at_root | tools | own | sources(
        tree, 'configs', '.py', '.yml', '.md')


def test_sdist_builds_the_same_wheel(built):
    contents = []
    for wheel in built[1:]:
        with zipfile.ZipFile(wheel) as file:
            contents.append({name: file.read(name) for name in file.namelist()})
    assert contents[0] == contents[1]


def test_the_clone_is_left_alone(tree, built):
    assert not (tree / MIM).exists()


def test_metadata(built):
    with zipfile.ZipFile(built[1]) as file:
        metadata = message_from_string(file.read(f'{INFO}METADATA').decode())
        assert file.read(f'{INFO}licenses/LICENSE') == (ROOT / 'LICENSE').read_bytes()
    assert metadata['Version'] == scalenet_mm.__version__
    assert metadata['License-Expression'] == 'Apache-2.0'
    assert metadata['Requires-Python'] == '>=3.10'
    assert metadata['Description-Content-Type'] == 'text/markdown'
    for url in metadata.get_all('Project-URL'):
        assert re.fullmatch(r'.*, https://arxiv\.org/abs/\d{4}\.\d{5}', url)
    needed = [Requirement(text) for text in metadata.get_all('Requires-Dist')]
    assert {one.name for one in needed if one.marker is None} == {'torch', 'numpy', 'mmengine'}
    # an extra names no package that the tested set lacks
    tested = {line.partition('==')[0].lower().replace('_', '-') for line in
              (ROOT / 'constraints.txt').read_text().splitlines() if '==' in line}
    assert {one.name.lower().replace('_', '-') for one in needed} <= tested
    extras = set(metadata.get_all('Provides-Extra'))
    assert {'det', 'seg', 'pretrain', 'test', 'docs', 'lint', 'all'} <= extras
    wanted = {one.name for one in needed if one.marker and one.marker.evaluate({'extra': 'test'})}
    for_tests = {line.lower() for line in (ROOT / 'requirements-test.txt').read_text().splitlines()
                 if line and not line.startswith('#')}
    assert for_tests <= wanted


def test_description_leads_nowhere_else(built):
    """A page of a package index has neither the clone's files nor its pictures."""
    with zipfile.ZipFile(built[1]) as file:
        text = message_from_string(file.read(f'{INFO}METADATA').decode()).get_payload()
    from markdown_it import MarkdownIt
    html = MarkdownIt('commonmark').enable('table').render(text)
    targets = re.findall(r'(?:href|src)="([^"]*)"', html)
    assert any('arxiv.org' in target for target in targets)
    assert [target for target in targets if not target.startswith('https://')] == []
    assert '<!--' not in html and '<h1>' in html
    # the words of the links are there
    assert 'learngene' in html and '](' not in re.sub(r'`[^`]*`', '', re.sub(
        r'<pre>.*?</pre>', '', html, flags=re.DOTALL))


def test_installed_tools_train(installed, tmp_path):
    """... a config of a user's that inherits from one of the package's."""
    pytest.importorskip('mmpretrain')
    (tmp_path / 'my_digits.py').write_text(
        "_base_ = 'scalenet_mm::quickstart/scalenet_vit-nano_digits.py'\n"
        'train_cfg = dict(max_epochs=1, val_interval=1)\n'
        'small = dict(num_workers=0, persistent_workers=False, batch_size=8)\n'
        'train_dataloader = dict(**small)\n'
        'val_dataloader = dict(**small)\n'
        'test_dataloader = dict(**small)\n'
        'default_hooks = dict(checkpoint=dict(interval=1))\n')
    tools = installed / MIM / 'tools'
    made = run([tools / 'dataset_converters' / 'digit_scenes.py', '--tasks', 'cls',
                '--cls-num-train', 16, '--cls-num-val', 8], tmp_path, installed)
    assert 'cls: 16 training and 8 validation images' in made
    log = run([tools / 'train.py', 'my_digits.py', '--work-dir', 'out'], tmp_path, installed)
    assert 'Epoch(train) [1][2/2]' in log and 'accuracy/top1' in log
    assert (tmp_path / 'out' / 'epoch_1.pth').is_file()
    # the config that the training wrote holds all of the package's
    assert 'ScaleNetViT' in (tmp_path / 'out' / 'my_digits.py').read_text()
    assert str(ROOT) not in log


def test_installed_package_builds_a_model(installed, tmp_path):
    """... and is the one that is imported."""
    pytest.importorskip('mmdet')
    script = tmp_path / 'build.py'
    script.write_text(
        'from pathlib import Path\n'
        'import scalenet_mm\n'
        'from mmengine.config import Config\n'
        'from mmengine.registry import MODELS, init_default_scope\n'
        'from scalenet_mm.config_paths import configs_folder\n'
        'print(scalenet_mm.__file__, configs_folder())\n'
        "Path('my_scenes.py').write_text(\n"
        '    "_base_ = \'scalenet_mm::quickstart/maskrcnn_scalenet_swin-nano_digits.py\'")\n'
        "cfg = Config.fromfile('my_scenes.py')\n"
        'init_default_scope(cfg.default_scope)\n'
        'model = MODELS.build(cfg.model)\n'
        'print(type(model).__name__, sum(map(len, model.backbone.block_lists)))\n')
    first, second = run([script], tmp_path, installed).splitlines()[-2:]
    assert first == f'{installed}/scalenet_mm/__init__.py {installed}/scalenet_mm/.mim/configs'
    assert second == 'MaskRCNN 16'


def test_model_index(installed):
    """mim and mmengine's hub find every config by the index that the package carries."""
    from mmengine.config.utils import _get_cfg_metainfo
    folder = installed / MIM
    index = yaml.safe_load((folder / 'model-index.yml').read_text())
    models = [model for name in index['Import']
              for model in yaml.safe_load((folder / name).read_text())['Models']]
    assert len(models) > 100
    assert [model['Config'] for model in models
            if not (folder / model['Config']).is_file()] == []
    name = 'quickstart/scalenet_vit-nano_digits.py'
    found = _get_cfg_metainfo(str(installed / PACKAGE), name)
    assert found['Config'] == f'configs/{name}'


def test_installed_check_env(installed, tmp_path):
    """It looks at the installed package, though it stands in another place than in the clone."""
    tool = installed / MIM / 'tools' / 'check_env.py'
    env = dict(os.environ, PYTHONPATH=str(installed))
    done = subprocess.run([sys.executable, str(tool), '--no-imports'], cwd=tmp_path, env=env,
                          text=True, capture_output=True)
    assert done.returncode in (0, 1) and 'torch' in done.stdout, done.stderr


def test_editable_install_links_to_the_clone(tree, tmp_path):
    code = 'from setuptools import build_meta; build_meta.build_editable({!r})'
    for _ in range(2):  # again, over what is there
        run(['-c', code.format(str(tmp_path))], tree)
        folder = tree / MIM
        assert sorted(path.name for path in folder.iterdir()) == ['configs', 'model-index.yml',
                                                                  'tools']
        for path in folder.iterdir():
            assert path.resolve() == tree / path.name
            assert not os.path.isabs(os.readlink(path))
    # the links are in no package that is built afterwards
    run(['-m', 'build', '--no-isolation', '--sdist', '--outdir', tmp_path, tree], tmp_path)
    with tarfile.open(next(tmp_path.glob('*.tar.gz'))) as file:
        assert not [name for name in file.getnames() if '.mim' in name]
    shutil.rmtree(tree / MIM)


def test_without_links(tree, tmp_path, monkeypatch):
    """Where a file system has no links, an editable install has copies."""
    code = ('from pathlib import Path\n'
            'def refuse(self, target):\n'
            "    raise OSError('no links here')\n"
            'Path.symlink_to = refuse\n'
            'from setuptools import build_meta\n'
            'build_meta.build_editable({!r})\n')
    run(['-c', code.format(str(tmp_path))], tree)
    config = tree / MIM / 'configs' / 'quickstart' / 'scalenet_vit-nano_digits.py'
    assert config.is_file() and not config.parent.parent.is_symlink()
    shutil.rmtree(tree / MIM)


def test_what_is_missing_is_an_error(tree):
    """... and no package without configs."""
    kept = tree / 'model-index.yml'
    content = kept.read_bytes()
    kept.unlink()
    try:
        done = subprocess.run(
            [sys.executable, 'setup.py', '-q', 'build_py', '--build-lib', 'nowhere'], cwd=tree,
            text=True, capture_output=True)
    finally:
        kept.write_bytes(content)
        shutil.rmtree(tree / 'nowhere', ignore_errors=True)
    assert done.returncode != 0 and 'model-index.yml is missing' in done.stderr
