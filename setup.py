"""Packaging of scalenet_mm.

The bounds below are real ones: an environment with its own torch, mmcv and toolboxes is left as it
is. The exact set that was tested stands in `constraints.txt`.

A wheel carries configs, tools and `model-index.yml` in `scalenet_mm/.mim`, where mmengine
(`_base_ = 'scalenet_mm::...'`) and mim look for them. They are copied while the wheel is built: the
source tree is left alone. An editable install links to them instead.
"""
import os
import re
import shutil
from pathlib import Path

from setuptools import find_packages, setup
from setuptools.command.build_py import build_py

ROOT = Path(__file__).resolve().parent
MIM = Path('scalenet_mm', '.mim')
CARRIED = ('configs', 'tools', 'model-index.yml')
# Configs of a user's own, by the documents' way of naming them, are nobody else's.
PRIVATE = 'my_'
# `tools/dev` makes the clone's environment, documents and tables: of no use without the clone.
LEFT_OUT = ('tools/dev',)


def read_version() -> str:
    """Read `__version__` without importing the package (which needs torch and mmengine)."""
    text = (ROOT / 'scalenet_mm' / 'version.py').read_text(encoding='utf-8')
    match = re.search(r"^__version__ = '([^']+)'$", text, re.MULTILINE)
    if match is None:
        raise RuntimeError("scalenet_mm/version.py holds no line `__version__ = '...'`.")
    return match.group(1)


def read_readme() -> str:
    """Read the README without what leads nowhere outside the clone.

    A relative link keeps its words alone; pictures of the clone and comments are dropped.
    """
    readme = ROOT / 'README.md'
    text = readme.read_text(encoding='utf-8') if readme.is_file() else ''
    text = re.sub(r'<!--.*?-->\n?', '', text, flags=re.DOTALL)
    text = re.sub(r'!\[[^\]]*\]\((?!https?:)[^)]*\)\n?', '', text)
    text = re.sub(r'<img\b(?![^>]*src="https?:)[^>]*>\n?', '', text)
    return re.sub(r'\[([^\]]*)\]\((?!https?:)[^)]*\)', r'\1', text)


def carried_files() -> list:
    """Paths of all files that go into `.mim`, relative to the root.

    Hidden files, compiled ones and a user's own configs are no part of the package.

    Raises:
        RuntimeError: If one of the entries is missing: the package would be installed without it.
    """
    found = []
    for name in CARRIED:
        path = ROOT / name
        if not path.exists():
            raise RuntimeError(f'{path} is missing; it belongs into every package of scalenet_mm.')
        files = sorted(path.rglob('*')) if path.is_dir() else [path]
        for file in files:
            relative = file.relative_to(ROOT)
            hidden = any(part.startswith(('.', PRIVATE)) or part == '__pycache__'
                         for part in relative.parts)
            left_out = any(relative.as_posix().startswith(f'{start}/') for start in LEFT_OUT)
            if file.is_file() and file.suffix != '.pyc' and not hidden and not left_out:
                found.append(relative)
    return found


class BuildWithMim(build_py):
    """Builds the package together with its `.mim` folder."""

    def run(self):
        """Copy the files into the build, or link to them in an editable install."""
        super().run()
        if self.editable_mode:
            self.link_to_clone()
            return
        for target, source in self.mim_files().items():
            self.mkpath(os.path.dirname(target))
            self.copy_file(source, target, preserve_mode=True)

    def mim_files(self) -> dict:
        """Targets in the build, and the file each is copied from."""
        return {os.path.join(self.build_lib, MIM, file): str(file) for file in carried_files()}

    def link_to_clone(self):
        """Make `scalenet_mm/.mim` in the clone, with links to what the wheel has copies of."""
        folder = ROOT / MIM
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name in CARRIED:
            target = folder / name
            try:
                target.symlink_to(Path('..', '..', name))
            except OSError:  # no links on this file system, or no right to make them (Windows)
                copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copyfile
                copy(ROOT / name, target)

    def get_output_mapping(self) -> dict:
        """Add the files of `.mim`, which a strict editable install links to one by one."""
        return {**super().get_output_mapping(), **self.mim_files()}

    def get_outputs(self, include_bytecode=True) -> list:
        """Add the files of `.mim`, so that they are recorded and uninstalled."""
        own = super().get_outputs(include_bytecode)
        return [*own, *(path for path in self.mim_files() if path not in own)]


EXTRAS = {
    'det': ['mmdet>=3.0.0,<4.0.0'],
    # mmsegmentation imports ftfy and regex, but does not declare them
    'seg': ['mmsegmentation>=1.0.0,<2.0.0', 'ftfy', 'regex'],
    'pretrain': ['mmpretrain>=1.0.0,<2.0.0'],
    'digits': ['scikit-learn', 'pillow'],
    'onnx': ['onnx', 'onnxruntime', 'onnxscript'],
    'tensorboard': ['tensorboard'],
    'test': ['pytest', 'pytest-timeout', 'hypothesis', 'timm', 'safetensors', 'build', 'wheel'],
    'docs': ['sphinx', 'myst-nb', 'furo', 'sphinx-copybutton', 'sphinx-design', 'ipykernel',
             'nbclient', 'nbformat'],
    'lint': ['ruff', 'codespell', 'mypy'],
}
for name in ('onnx', 'tensorboard', 'docs', 'lint'):
    EXTRAS['test'] += EXTRAS[name]
EXTRAS['all'] = sorted({name for names in EXTRAS.values() for name in names})

setup(
    name='scalenet_mm',
    version=read_version(),
    description='ScaleNet for OpenMMLab: grow pretrained vision transformers with shared weights',
    long_description=read_readme(),
    long_description_content_type='text/markdown',
    author='scalenet_mm contributors',
    keywords=['vision transformer', 'Swin', 'DeiT', 'parameter-efficient', 'weight sharing',
              'adapter', 'learngene', 'OpenMMLab'],
    project_urls={
        'Paper (ScaleNet)': 'https://arxiv.org/abs/2510.18431',
        'Paper (SWS)': 'https://arxiv.org/abs/2404.16897',
    },
    license_expression='Apache-2.0',
    license_files=['LICENSE'],
    classifiers=[
        'Development Status :: 4 - Beta',
        'Intended Audience :: Developers',
        'Intended Audience :: Science/Research',
        'Operating System :: POSIX :: Linux',
        'Programming Language :: Python :: 3',
        'Programming Language :: Python :: 3 :: Only',
        'Programming Language :: Python :: 3.11',
        'Topic :: Scientific/Engineering :: Artificial Intelligence',
        'Topic :: Scientific/Engineering :: Image Recognition',
        'Typing :: Typed',
    ],
    packages=find_packages(include=['scalenet_mm', 'scalenet_mm.*']),
    package_data={'scalenet_mm': ['py.typed']},
    cmdclass={'build_py': BuildWithMim},
    python_requires='>=3.10',
    # Neither mmcv nor a toolbox stands here. pip cannot build mmcv's ops by itself (see
    # `tools/check_env.py` for the line that does), and one toolbox of the three is enough.
    # torch 2.0 brought scaled_dot_product_attention; mmengine 1.0 is refused by all toolboxes.
    install_requires=['torch>=2.0', 'numpy', 'mmengine>=0.8.3,<1.0.0'],
    extras_require=EXTRAS,
    zip_safe=False,
)
