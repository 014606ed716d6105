"""Configs in checkpoints that, if anybody built from them, would make a folder."""
import sys

#: By what: the text of the config; ``trace`` is the folder.
KINDS = {
    'backbone': "model = dict(backbone=dict(type='os.mkdir', path={trace!r}))",
    'backbone, a program':
        "model = dict(backbone=dict(type='os.system', command={command!r}))",
    'argument': "default_scope = 'mmpretrain'\n"
        "model = dict(backbone=dict(type='VisionTransformer', arch='deit-tiny', layer_cfgs=dict("
        "act_cfg=dict(type='subprocess.call', args={command!r}, shell=True))))",
    'base': "model = dict(backbone=dict(type='GrownBackbone', growth=None, adjustment=None, "
        "base=dict(type='os.mkdir', path={trace!r})))",
    'argument of the base': "default_scope = 'mmpretrain'\n"
        "model = dict(backbone=dict(type='GrownBackbone', growth=None, adjustment=None, base=dict("
        "type='VisionTransformer', arch='deit-tiny', norm_cfg=dict(type='evil_package.x'))))",
    'student': "model = dict(type='DistilledClassifier', teacher=None, student=dict("
        "backbone=dict(type='os.mkdir', path={trace!r})))",
    'argument of ours': "model = dict(backbone=dict(type='ScaleNetViT', embed_dims=24, "
        "num_heads=2, act_cfg=dict(type='os.mkdir', path={trace!r})))",
    'conv_type': "default_scope = 'mmpretrain'\n"
        "model = dict(backbone=dict(type='VisionTransformer', arch='deit-tiny', "
        "patch_cfg=dict(conv_type='evil_package.x')))",
    'name without a dot': "model = dict(backbone=dict(type='evil_package'))",
    'scope of a type': "model = dict(backbone=dict(type='evil_package.VisionTransformer'))",
    'default_scope': "default_scope = 'evil_package'\n"
        "model = dict(backbone=dict(type='ScaleNetViT', arch='deit-tiny'))",
    '_scope_': "model = dict(backbone=dict(type='ScaleNetViT', arch='deit-tiny', "
        "_scope_='evil_package'))",
}


def text(kind, trace):
    """str: The text of such a config."""
    return KINDS[kind].format(trace=str(trace), command=f'mkdir -p {trace}')


def write_package(folder, trace):
    """Write a package that makes the folder when it is imported."""
    folder.mkdir()
    (folder / '__init__.py').write_text(f'import os\nos.makedirs({str(trace)!r}, exist_ok=True)\n')
    (folder / 'registry.py').write_text('')


def forget_package():
    """Forget the package if it was imported."""
    for name in [name for name in sys.modules if name.split('.')[0] == 'evil_package']:
        del sys.modules[name]
