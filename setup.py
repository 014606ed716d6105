"""Packaging of scalenet_mm.

The bounds below are real ones: an environment with its own torch, mmcv and toolboxes is left as it
is. The exact set that was tested stands in `constraints.txt`.
"""
import re
from pathlib import Path

from setuptools import find_packages, setup

ROOT = Path(__file__).resolve().parent


def read_version() -> str:
    """Read `__version__` without importing the package (which needs torch and mmengine)."""
    text = (ROOT / 'scalenet_mm' / 'version.py').read_text(encoding='utf-8')
    match = re.search(r"^__version__ = '([^']+)'$", text, re.MULTILINE)
    if match is None:
        raise RuntimeError("scalenet_mm/version.py holds no line `__version__ = '...'`.")
    return match.group(1)


def read_readme() -> str:
    readme = ROOT / 'README.md'
    return readme.read_text(encoding='utf-8') if readme.is_file() else ''


EXTRAS = {
    'det': ['mmdet>=3.0.0,<4.0.0'],
    # mmsegmentation imports ftfy and regex, but does not declare them
    'seg': ['mmsegmentation>=1.0.0,<2.0.0', 'ftfy', 'regex'],
    'pretrain': ['mmpretrain>=1.0.0,<2.0.0'],
    'digits': ['scikit-learn', 'pillow'],
    'onnx': ['onnx', 'onnxruntime', 'onnxscript'],
    'test': ['pytest', 'pytest-timeout', 'hypothesis', 'timm'],
}
EXTRAS['test'] += EXTRAS['onnx']
EXTRAS['all'] = sorted({name for names in EXTRAS.values() for name in names})

setup(
    name='scalenet_mm',
    version=read_version(),
    description='ScaleNet for OpenMMLab: grow pretrained vision transformers with shared weights',
    long_description=read_readme(),
    long_description_content_type='text/markdown',
    packages=find_packages(include=['scalenet_mm', 'scalenet_mm.*']),
    python_requires='>=3.10',
    # Neither mmcv nor a toolbox stands here. pip cannot build mmcv's ops by itself (see
    # `tools/check_env.py` for the line that does), and one toolbox of the three is enough.
    # torch 2.0 brought scaled_dot_product_attention; mmengine 1.0 is refused by all toolboxes.
    install_requires=['torch>=2.0', 'numpy', 'mmengine>=0.8.3,<1.0.0'],
    extras_require=EXTRAS,
    zip_safe=False,
)
