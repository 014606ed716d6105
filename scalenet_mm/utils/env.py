"""What is installed, and what of it is known not to work together.

This module has to run where nothing else does: at import it needs the standard library only. Other
packages are imported by a child process, since a wrong binary may take the process down.
"""
from __future__ import annotations

import json
import os
import platform
import re
import shlex
import shutil
import subprocess
import sys
from dataclasses import asdict, dataclass
from importlib import metadata
from typing import Any, Mapping, Optional, Sequence

# Distributions whose versions matter, in the order of the table.
PACKAGES = ('torch', 'torchvision', 'numpy', 'scipy', 'setuptools', 'mmengine', 'mmengine-lite',
            'mmcv', 'mmcv-lite', 'mmcv-full', 'mmdet', 'mmpretrain', 'mmsegmentation',
            'onedl-mmengine', 'onedl-mmcv', 'onedl-mmdetection', 'onedl-mmpretrain',
            'onedl-mmsegmentation', 'opencv-python', 'opencv-python-headless',
            'opencv-contrib-python', 'opencv-contrib-python-headless', 'pycocotools', 'ftfy',
            'regex', 'imaug', 'scikit-learn', 'transformers', 'scalenet_mm')

# Shown as missing in the table; the others are shown only where they are installed.
EXPECTED = ('torch', 'torchvision', 'numpy', 'scipy', 'setuptools', 'mmengine', 'mmcv', 'mmdet',
            'mmpretrain', 'mmsegmentation', 'opencv-python', 'ftfy', 'regex', 'scikit-learn',
            'scalenet_mm')

# Modules that are tried, each with the distributions it comes from. `mmdet.models` instead of
# `mmdet`: only there are the ops and the other toolboxes imported.
MODULES = {
    'torch': ('torch', ),
    'torchvision': ('torchvision', ),
    'pkg_resources': ('setuptools', ),
    'cv2': ('opencv-python', 'opencv-python-headless', 'opencv-contrib-python',
            'opencv-contrib-python-headless'),
    'pycocotools.mask': ('pycocotools', ),
    'mmengine.runner': ('mmengine', 'mmengine-lite', 'onedl-mmengine'),
    'mmcv': ('mmcv', 'mmcv-lite', 'mmcv-full', 'onedl-mmcv'),
    'mmcv.ops': ('mmcv', 'mmcv-lite', 'mmcv-full', 'onedl-mmcv'),
    'mmdet.models': ('mmdet', 'onedl-mmdetection'),
    'mmpretrain.models': ('mmpretrain', 'onedl-mmpretrain'),
    'mmseg.models': ('mmsegmentation', 'onedl-mmsegmentation'),
}

FORKS = {
    'mmengine': 'onedl-mmengine',
    'mmcv': 'onedl-mmcv',
    'mmdet': 'onedl-mmdetection',
    'mmpretrain': 'onedl-mmpretrain',
    'mmsegmentation': 'onedl-mmsegmentation',
}

#: The version of each that the tests run with.
TESTED = {
    'mmengine': '0.10.7', 'mmcv': '2.1.0', 'mmdet': '3.3.0', 'mmpretrain': '1.2.0',
    'mmsegmentation': '1.2.2', 'onedl-mmengine': '0.10.12', 'onedl-mmcv': '2.3.6',
    'onedl-mmdetection': '3.5.1', 'onedl-mmpretrain': '1.3.6', 'onedl-mmsegmentation': '1.4.2',
}

OPENCV = MODULES['cv2']

INSTALL_MMCV = ('pip install "setuptools<81" wheel ninja psutil && MMCV_WITH_OPS=1 pip install '
                '--no-build-isolation --no-deps --no-cache-dir --no-binary mmcv mmcv==2.1.0')
INSTALL_ONEDL_MMCV = INSTALL_MMCV.replace('mmcv==2.1.0', 'onedl-mmcv==2.3.6').replace(
    '--no-binary mmcv', '--no-binary onedl-mmcv')

# Reads module names from the command line and answers with one line of json for each.
PROBE = """
import importlib, json, sys
out = sys.stdout
sys.stdout = sys.stderr
for name in sys.argv[1:]:
    answer = {'module': name, 'error': None}
    try:
        module = importlib.import_module(name)
        if name == 'torch':
            cuda = module.cuda.is_available()
            answer['cuda'] = {
                'available': cuda,
                'torch': module.version.cuda,
                'devices': [module.cuda.get_device_name(i)
                            for i in range(module.cuda.device_count())] if cuda else [],
            }
        elif name == 'mmcv.ops':
            answer['ops_cuda'] = module.get_compiling_cuda_version()
    except BaseException as error:
        text = (str(error).strip().splitlines() or [''])[-1]
        answer['error'] = f'{type(error).__name__}: {text}'
    print(json.dumps(answer), file=out, flush=True)
"""


@dataclass(frozen=True)
class Finding:
    """Something that is missing or does not work together.

    Args:
        level (str): `error` if something a run needs will fail, else `warning`.
        code (str): Short name, stable across versions of this package.
        message (str): What was found and what comes of it.
        fix (str): The line that mends it.
    """
    level: str
    code: str
    message: str
    fix: str


def parse_version(text: str) -> tuple[int, ...]:
    """Read the release numbers of a version: `2.11.0+cu130` gives (2, 11, 0).

    A pre-release counts as its release.
    """
    match = re.match(r'\s*v?(\d+(?:\.\d+)*)', text or '')
    return tuple(int(part) for part in match.group(1).split('.')) if match else ()


def _below(version: Optional[str], bound: str) -> bool:
    """Whether a version that is known is below a bound."""
    have, limit = parse_version(version or ''), parse_version(bound)
    width = max(len(have), len(limit))
    return bool(have) and have + (0, ) * (width - len(have)) < limit + (0, ) * (width - len(limit))


def _from(version: Optional[str], bound: str) -> bool:
    """Whether a version that is known is a bound or above."""
    return bool(parse_version(version or '')) and not _below(version, bound)


def matching_torchvision(torch: str) -> Optional[str]:
    """The torchvision series of a torch 2.x: `0.26` for `2.11.0`, None if unknown."""
    parts = parse_version(torch)
    return f'0.{parts[1] + 15}' if len(parts) > 1 and parts[0] == 2 else None


def probe_imports(modules: Sequence[str], timeout: float = 300.0) -> dict[str, dict[str, Any]]:
    """Import modules in child processes and collect how it went.

    Args:
        modules (Sequence[str]): Names of the modules.
        timeout (float): Seconds that one child process may take. Defaults to 300.

    Returns:
        dict[str, dict]: For every module its `error` (None if it was imported), for `torch` also
        `cuda`, for `mmcv.ops` also `ops_cuda`.
    """
    answers: dict[str, dict[str, Any]] = {}
    left = list(modules)
    while left:
        # -c puts the working directory on the path; a folder named mmdet there would be found.
        command = [sys.executable, '-W', 'ignore', '-c', PROBE, *left]
        environ = dict(os.environ, PYTHONSAFEPATH='1')
        try:
            done = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE,
                                  stderr=subprocess.PIPE, text=True, errors='replace',
                                  timeout=timeout, env=environ)
            output, died = done.stdout, f'the import ends the process (status {done.returncode})'
        except subprocess.TimeoutExpired as error:
            raw = error.stdout or b''
            output = raw.decode(errors='replace') if isinstance(raw, bytes) else raw
            died = f'the import takes more than {timeout:.0f} s'
        for line in output.splitlines():
            try:
                answer = json.loads(line)
                name = answer.pop('module')
            except (ValueError, KeyError, AttributeError, TypeError):
                continue
            if name in left:
                answers[name] = answer
        remaining = [name for name in left if name not in answers]
        if remaining:
            # The first without an answer took the process with it; go on behind it.
            answers[remaining[0]] = {'error': died}
            remaining = remaining[1:]
        left = remaining
    return answers


def install_line(names: Sequence[str]) -> str:
    """The command that installs packages of OpenMMLab or OneDL in the tested versions."""
    special = {'mmcv': INSTALL_MMCV, 'onedl-mmcv': INSTALL_ONEDL_MMCV}
    plain = [f'{name}=={TESTED[name]}' for name in names if name not in special]
    lines = [f'pip install {" ".join(plain)}'] if plain else []
    return ' && '.join(lines + [special[name] for name in names if name in special])


def find_compiler() -> Optional[str]:
    """First line of what the C++ compiler says of itself, None if there is none."""
    command = shlex.split(os.environ.get('CXX') or 'c++')
    if not command or shutil.which(command[0]) is None:
        return None
    try:
        done = subprocess.run([*command, '--version'], stdin=subprocess.DEVNULL,
                              stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                              errors='replace', timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    lines = done.stdout.strip().splitlines()
    return lines[0] if done.returncode == 0 and lines else None


def collect(imports: bool = True) -> dict[str, Any]:
    """Look at the running Python's environment.

    Args:
        imports (bool): Whether to try the imports, which takes some seconds. Defaults to True.

    Returns:
        dict: What :func:`diagnose` reads:

        - `python` (str): version of Python.
        - `packages` (dict[str, str | None]): version of each of `PACKAGES`.
        - `imports` (dict[str, str | None]): error of each module tried, None if there was none.
        - `cuda` (dict): `available`, `torch` (CUDA version of torch), `devices`, and `ops` (CUDA
          version of mmcv's ops, None if they have none or do not load).
        - `nvidia_smi` (bool): whether the driver's tool is there.
        - `compiler` (str | None): the C++ compiler.
    """
    packages: dict[str, Optional[str]] = {}
    for name in PACKAGES:
        try:
            packages[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            packages[name] = None
    found: dict[str, Any] = {
        'python': platform.python_version(),
        'executable': sys.executable,
        'system': platform.platform(),
        'packages': packages,
        'imports': {},
        'cuda': {},
        'nvidia_smi': shutil.which('nvidia-smi') is not None,
        'compiler': find_compiler(),
    }
    if imports:
        wanted = [module for module, names in MODULES.items()
                  if any(packages[name] for name in names)]
        answers = probe_imports(wanted)
        found['imports'] = {name: answer['error'] for name, answer in answers.items()}
        found['cuda'] = dict(answers.get('torch', {}).get('cuda') or {})
        ops = answers.get('mmcv.ops', {}).get('ops_cuda')
        found['cuda']['ops'] = ops if parse_version(ops or '') else None
    return found


def diagnose(found: Mapping[str, Any]) -> list[Finding]:
    """Tell what is missing or known not to work together.

    Args:
        found (Mapping): What :func:`collect` returns; keys that are missing count as unknown.

    Returns:
        list[Finding]: Errors first.
    """
    python: str = found.get('python') or ''
    packages: Mapping[str, Optional[str]] = found.get('packages') or {}
    imports: Mapping[str, Optional[str]] = found.get('imports') or {}
    cuda: Mapping[str, Any] = found.get('cuda') or {}
    have = packages.get
    findings: list[Finding] = []
    # Modules whose failing import is explained by a finding, or follows from one.
    explained: set[str] = set()

    def error(code: str, message: str, fix: str) -> None:
        findings.append(Finding('error', code, message, fix))

    def warning(code: str, message: str, fix: str) -> None:
        findings.append(Finding('warning', code, message, fix))

    def fails(module: str) -> Optional[str]:
        return imports.get(module)

    originals = {name: have(name) for name in ('mmdet', 'mmpretrain', 'mmsegmentation')}
    toolboxes = [name for name in (*originals, *list(FORKS.values())[2:]) if have(name)]
    everything = {name for name in MODULES if name.startswith('mm')}

    # Python
    if _below(python, '3.10'):
        error('python-old', f'Python {python}: scalenet_mm needs 3.10 or newer.',
              'use Python 3.11')
    elif _from(python, '3.14') and have('mmengine'):
        error('python-new', f'Python {python}: mmengine and mmcv call pkgutil.find_loader, which '
              '3.14 removed.', 'use Python 3.11')
    elif _from(python, '3.13') and not packages.get('onedl-mmcv'):
        warning('python-new', f'Python {python}: mmcv 2.1.0 cannot be built from its sdist here, '
                'and nothing was tested with it.', 'use Python 3.11')

    # Two distributions that write the same files
    for original, fork in FORKS.items():
        if have(original) and have(fork):
            error('fork-beside-original', f'{original} {have(original)} and {fork} {have(fork)} '
                  'write the same files: the one installed last has overwritten the other.',
                  f'pip uninstall -y {original} {fork} && pip install {original}==<version>'
                  if original != 'mmcv' else f'pip uninstall -y mmcv {fork} && {INSTALL_MMCV}')
    # Two stacks in one environment: OneDL's mmcv stops the originals, and nobody tests the rest
    here = {name for name in (*FORKS, *FORKS.values()) if have(name)}
    twice = {name for pair in FORKS.items() if set(pair) <= here for name in pair}
    old = [name for name in FORKS if name in here - twice]
    new = [name for name in FORKS.values() if name in here - twice]
    mixed = bool(old and new)
    if mixed:
        back = {fork: original for original, fork in FORKS.items()}
        odd = new if len(new) <= len(old) else old
        listed = ', '.join(f'{name} {have(name)}' for name in (*old, *new))
        error('mixed-stacks', f'{listed}: packages of OpenMMLab and of OneDL do not go together in '
              'one environment. Take all of one kind.', f'pip uninstall -y {" ".join(odd)} && '
              + install_line([back.get(name) or FORKS[name] for name in odd]))
        explained |= everything
    for lite, full in (('mmcv-lite', 'mmcv'), ('mmengine-lite', 'mmengine')):
        if have(lite) and have(full):
            again = INSTALL_MMCV if full == 'mmcv' else f'pip install {full}=={have(full)}'
            error('lite-beside-full', f'{lite} and {full} write the same files: the one installed '
                  'last has overwritten the other.', f'pip uninstall -y {lite} {full} && {again}')
    several = [name for name in OPENCV if have(name)]
    if len(several) > 1:
        # The one to keep: mmengine asks for opencv-python by name.
        keep = 'opencv-python' if 'opencv-python' in several else several[0]
        warning('opencv-twice', f'{" and ".join(several)} write the same files (cv2/).',
                f'pip uninstall -y {" ".join(several)} && pip install "{keep}<5"')

    # torch, torchvision, numpy
    torch, torchvision = have('torch'), have('torchvision')
    if not torch:
        error('torch-missing', 'torch is not installed.',
              'pip install torch torchvision   # or as https://pytorch.org says for your GPU')
        explained |= everything | {'torchvision'}
    elif fails('torch'):
        error('torch-broken', f'torch {torch} does not load: {fails("torch")}.',
              f'pip install --force-reinstall torch=={torch.split("+")[0]}')
        explained |= everything | {'torch', 'torchvision'}
    elif _below(torch, '2.0'):
        error('torch-old', f'torch {torch}: 2.0 or newer is needed '
              '(scaled_dot_product_attention).', 'pip install -U torch torchvision')
    numpy = have('numpy')
    if _from(numpy, '2.0') and _below(torch, '2.3'):
        error('numpy-torch', f'torch {torch} was compiled for numpy 1 and cannot exchange arrays '
              f'with numpy {numpy}.', 'pip install "numpy<2"')
    if torch and not fails('torch'):
        series = matching_torchvision(torch)
        fix = (f'pip install "torchvision=={series}.*"   # from the index torch came from'
               if series else 'install the torchvision that belongs to your torch')
        fits = not series or parse_version(torchvision or '')[:2] == parse_version(series)
        if not torchvision:
            level = error if have('mmpretrain') or have('mmdet') else warning
            level('torchvision-missing', 'torchvision is not installed; mmpretrain and parts of '
                  'mmdet need it.', fix)
            explained |= {'mmpretrain.models', 'mmdet.models'}
        elif fails('torchvision') or (not fits and 'torchvision' not in imports):
            why = fails('torchvision') or f'torch {torch} goes with torchvision {series}'
            error('torchvision-broken', f'torchvision {torchvision} does not load with torch '
                  f'{torch}: {why}. mmpretrain fails with it, and so does mmengine\'s Runner.',
                  fix)
            explained |= {'torchvision', *everything}
        elif not fits:
            warning('torchvision-mismatch', f'torchvision {torchvision} was not built for torch '
                    f'{torch}.', fix)

    # setuptools
    setuptools = have('setuptools')
    if have('mmengine'):
        if not setuptools and _from(python, '3.12'):
            error('setuptools-missing', f'Python {python} has no distutils of its own, and '
                  'mmengine\'s Runner imports it.', 'pip install "setuptools<81"')
            explained.add('pkg_resources')
        elif not setuptools or _from(setuptools, '82') or fails('pkg_resources'):
            state = f'setuptools {setuptools}' if setuptools else 'setuptools is missing'
            error('setuptools-pkg-resources', f'{state}: mmengine takes pkg_resources from it, '
                  'which 82 removed. Bases such as `mmdet::...` fail.',
                  'pip install "setuptools<81"')
    # Nothing but mmengine's package look-up needs it, and that was dealt with.
    explained.add('pkg_resources')

    # OpenCV
    if not several:
        if have('mmengine') or have('mmcv'):
            error('opencv-missing', 'OpenCV is not installed; mmengine and mmcv import it.',
                  'pip install "opencv-python<5"')
            explained |= everything
    else:
        name = several[0]
        if fails('cv2'):
            library = 'cannot open shared object file' in (fails('cv2') or '')
            headless = ('pip uninstall -y ' + ' '.join(several)
                        + ' && pip install "opencv-python-headless<5"')
            error('opencv-broken', f'{name} {have(name)} does not load: {fails("cv2")}.',
                  f'sudo apt-get install libgl1 libglib2.0-0   # or: {headless}' if library else
                  f'pip install --force-reinstall "{name}<5"')
            explained |= everything | {'cv2'}
        if any(_from(have(item), '5') for item in several):
            warning('opencv-new', 'OpenCV 5 has not been tested with mmcv 2.1.',
                    f'pip install "{name}<5"')

    # mmengine
    mmengine = have('mmengine') or have('mmengine-lite') or have('onedl-mmengine')
    if not mmengine:
        error('mmengine-missing', 'mmengine is not installed.', 'pip install mmengine==0.10.7')
        explained |= everything
    elif _below(mmengine, '0.8.3') or _from(mmengine, '1.0'):
        error('mmengine-version', f'mmengine {mmengine}: the toolboxes take 0.8.3 up to, and not '
              'including, 1.0.', 'pip install mmengine==0.10.7')
        explained |= everything
    elif _below(mmengine, '0.10.6') and _from(torch, '2.5'):
        # Both torch >= 2.5 and transformers have an optimizer of this name.
        clash = bool(have('transformers'))
        level = error if clash else warning
        level('mmengine-adafactor', f'mmengine {mmengine} with torch {torch}: the name Adafactor '
              + ('is registered twice and the import fails.' if clash else
                 'is registered twice as soon as transformers is installed, and the import '
                 'fails.'), 'pip install mmengine==0.10.7')
        if clash:
            explained |= everything

    # mmcv
    mmcv = have('mmcv') or have('onedl-mmcv')
    own_mmcv = 'onedl-mmcv' if have('onedl-mmengine') or have('onedl-mmcv') else 'mmcv'
    install_mmcv = install_line([own_mmcv])
    need_ops = [name for name in toolboxes if 'det' in name or 'seg' in name]
    if have('mmcv-full') and not mmcv:
        error('mmcv-old', f'mmcv-full {have("mmcv-full")} belongs to the toolboxes of the 1.x '
              'generation.', f'pip uninstall -y mmcv-full && {INSTALL_MMCV}')
        explained |= everything
    elif not mmcv and not have('mmcv-lite'):
        hint = '' if found.get('compiler', True) else '   # and install a C++ compiler first'
        error('mmcv-missing', f'{own_mmcv} is not installed.', install_mmcv + hint)
        explained |= everything
    elif not mmcv:
        names = ' and '.join(need_ops)
        explained.add('mmcv.ops')
        if need_ops:
            error('mmcv-lite', f'mmcv-lite has no ops, and {names} cannot do without.',
                  f'pip uninstall -y mmcv-lite && {INSTALL_MMCV}')
            explained |= everything
        else:
            warning('mmcv-lite', 'mmcv-lite has no ops: enough for mmpretrain, not for mmdet and '
                    'mmseg.', f'pip uninstall -y mmcv-lite && {INSTALL_MMCV}')
    mmcv = mmcv or have('mmcv-lite')
    if mmcv:
        if _below(mmcv, '2.0'):
            error('mmcv-old', f'mmcv {mmcv}: the toolboxes need 2.0 or newer.', INSTALL_MMCV)
            explained |= everything
        for name, last, bound, module in (('mmdet', '3.3.0', '2.2.0', 'mmdet.models'),
                                          ('mmsegmentation', '1.2.2', '2.2.0', 'mmseg.models'),
                                          ('mmpretrain', '1.2.0', '2.4.0', 'mmpretrain.models')):
            version = originals[name]
            if version and not _below(last, version) and _from(mmcv, bound) and not mixed:
                error('mmcv-too-new', f'{name} {version} refuses mmcv {mmcv}: it has to be below '
                      f'{bound}.', INSTALL_MMCV)
                explained.add(module)
        if fails('mmcv') and 'mmcv' not in explained:
            error('mmcv-broken', f'mmcv {mmcv} does not load: {fails("mmcv")}.', install_mmcv)
            explained |= everything
        elif fails('mmcv.ops') and 'mmcv.ops' not in explained:
            level = error if need_ops else warning
            needed = f'{" and ".join(need_ops)} cannot do without' if need_ops else \
                'mmdet and mmseg need them'
            level('mmcv-no-ops', f'The ops of mmcv {mmcv} do not load ({fails("mmcv.ops")}); '
                  f'{needed}. They were not built, or built against another torch.',
                  f'pip uninstall -y {own_mmcv} && {install_mmcv}')
            explained |= {'mmcv.ops', 'mmdet.models', 'mmseg.models'}

    # The toolboxes
    if not toolboxes:
        warning('no-toolbox', 'None of mmdet, mmpretrain and mmsegmentation is installed; one of '
                'them is needed to train.', 'pip install mmdet==3.3.0   # or mmpretrain==1.2.0, '
                'or mmsegmentation==1.2.2 ftfy regex')
    if have('mmsegmentation') or have('onedl-mmsegmentation'):
        missing = [name for name in ('ftfy', 'regex') if not have(name)]
        if missing:
            error('mmseg-undeclared', f'mmsegmentation imports {" and ".join(missing)}, which '
                  f'{"are" if len(missing) > 1 else "is"} not installed.',
                  f'pip install {" ".join(missing)}')
            explained.add('mmseg.models')
    pycocotools = have('pycocotools')
    transformers, broken = have('transformers'), 'NoneType takes no arguments'
    if originals['mmpretrain'] and transformers and (
            any(broken in (fails(module) or '') for module in sorted(everything))
            or (_from(transformers, '4.57') and 'mmpretrain.models' not in imports)):
        # 4.48.3 loads, 4.57.6 and 5.23.0 do not; mmdet and mmseg import mmpretrain if it is there
        error('mmpretrain-transformers', f'mmpretrain {originals["mmpretrain"]} does not load with '
              f'transformers {transformers} ("{broken}"), nor do mmdet and mmseg beside it.',
              'pip install "transformers<4.49"   # or remove it, if nothing needs it')
        explained |= everything
    if have('onedl-mmdetection') and not have('mmdet') and not have('imaug'):
        error('imaug-missing', 'imaug is not installed; onedl-mmdetection imports its imgaug.',
              'pip install --no-deps imaug imagecorruptions-imaug && pip install scikit-image '
              'imageio   # by itself, imaug asks for two OpenCVs, both below 4.13')
        explained.add('mmdet.models')
    if (have('mmdet') or have('onedl-mmdetection')) and not pycocotools:
        error('pycocotools-missing', 'pycocotools is not installed; mmdet imports it.',
              'pip install pycocotools')
        explained.add('mmdet.models')
    elif _from(numpy, '2.0') and (fails('pycocotools.mask') or
                                  (_below(pycocotools, '2.0.8')
                                   and 'pycocotools.mask' not in imports)):
        why = fails('pycocotools.mask') or 'it was compiled for numpy 1'
        error('pycocotools-numpy', f'pycocotools {pycocotools} does not load with numpy {numpy}: '
              f'{why}.', 'pip install -U --force-reinstall --no-deps "pycocotools>=2.0.8"')
        explained |= {'pycocotools.mask', 'mmdet.models'}

    # CUDA
    if cuda.get('available') and need_ops and 'mmcv.ops' in imports and not fails('mmcv.ops'):
        ops, built = cuda.get('ops'), cuda.get('torch')
        if not ops:
            warning('mmcv-cpu-ops', 'There is a GPU, but the ops of mmcv were built for the CPU '
                    'only: on the GPU detectors stop at their first nms.',
                    f'pip uninstall -y {own_mmcv} && '
                    + install_mmcv.replace('MMCV_WITH_OPS', 'FORCE_CUDA=1 MMCV_WITH_OPS')
                    + '   # or run with CUDA_VISIBLE_DEVICES=')
        elif built and parse_version(ops)[:1] != parse_version(built)[:1]:
            warning('mmcv-cuda-version', f'The ops of mmcv were built with CUDA {ops}, torch with '
                    f'{built}.', f'build them with nvcc {built}: {install_mmcv}')
    elif cuda and not cuda.get('available') and found.get('nvidia_smi'):
        warning('cuda-unavailable', 'There is an NVIDIA driver, but torch sees no GPU: a CPU build '
                'of torch, a driver too old for it, or CUDA_VISIBLE_DEVICES is empty.',
                'compare nvidia-smi with `python -c "import torch; print(torch.version.cuda)"`')

    # The rest
    if not have('scikit-learn'):
        warning('sklearn-missing', 'scikit-learn is not installed; the digit scenes are made from '
                'its digits.', 'pip install scikit-learn')
    if 'scalenet_mm' in packages and not have('scalenet_mm'):
        warning('scalenet-not-installed', 'scalenet_mm itself is not installed; it is found only '
                'from the clone.', 'pip install -e . --no-deps')

    # What fails for a reason not known above
    for module, reason in imports.items():
        if reason and module not in explained:
            name = next((item for item in MODULES.get(module, ()) if have(item)), module)
            error('import-fails', f'`import {module}` fails ({name} {have(name) or ""}'.rstrip()
                  + f'): {reason}.', f'pip install --force-reinstall --no-deps '
                  f'"{name}=={have(name)}"' if have(name) else f'pip install {name}')
    return sorted(findings, key=lambda finding: finding.level != 'error')


def report(found: Mapping[str, Any], findings: Sequence[Finding]) -> str:
    """Write what was found as a table, the findings below it."""
    rows = [('python', f'{found["python"]}   {found["executable"]}')]
    imports = found.get('imports') or {}
    failed: dict = {}
    for module, names in MODULES.items():
        if imports.get(module):
            for name in names:
                failed.setdefault(name, []).append(module)
    stand_ins = {'opencv-python': OPENCV, **{name: (fork, ) for name, fork in FORKS.items()}}
    for name in PACKAGES:
        version = found['packages'].get(name)
        if version:
            modules = ', '.join(failed.get(name, ()))
            rows.append((name, version + (f'   (fails: import {modules})' if modules else '')))
        elif name in EXPECTED and not any(found['packages'].get(item)
                                          for item in stand_ins.get(name, ())):
            rows.append((name, 'not installed'))
    cuda = found.get('cuda') or {}
    if 'mmcv.ops' in imports:
        kind = f'with CUDA {cuda["ops"]}' if cuda.get('ops') else 'CPU only'
        rows.append(('mmcv ops', 'do not load' if imports['mmcv.ops'] else f'load, {kind}'))
    if 'available' in cuda:
        devices = ', '.join(cuda['devices']) if cuda['available'] else 'not available'
        built = f'torch built with {cuda["torch"]}' if cuda.get('torch') else 'CPU build of torch'
        rows.append(('CUDA', f'{devices} ({built})'))
    rows.append(('C++ compiler', found.get('compiler') or 'not found'))
    width = max(len(name) for name, _ in rows)
    lines = [f'{name:<{width}}  {value}' for name, value in rows]
    lines.append('')
    for finding in findings:
        lines.append(f'{finding.level.upper()} [{finding.code}] {finding.message}')
        lines.append(f'    {finding.fix}')
    errors = sum(finding.level == 'error' for finding in findings)
    if findings:
        lines.append('')
    lines.append('Nothing found that would not work.' if not findings else
                 f'{errors} error{"" if errors == 1 else "s"}, {len(findings) - errors} '
                 f'warning{"" if len(findings) - errors == 1 else "s"}.')
    return '\n'.join(lines)


def exit_code(findings: Sequence[Finding]) -> int:
    """1 if there is an error, else 0."""
    return int(any(finding.level == 'error' for finding in findings))


def as_json(found: Mapping[str, Any], findings: Sequence[Finding]) -> str:
    """Write what was found and the findings as json."""
    return json.dumps({'found': found, 'findings': [asdict(item) for item in findings]}, indent=2)
