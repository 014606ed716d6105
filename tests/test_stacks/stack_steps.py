"""What is tried in an environment with one toolbox, or with none: `stack_steps.py TOOLBOX|bare`.

One process tries everything, since importing a toolbox takes seconds. Each step's outcome becomes a
line of `steps.json` in the working directory: None, or the traceback.
"""
import contextlib
import io
import json
import runpy
import sys
import traceback
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
CONFIGS = ROOT / 'configs'
QUICKSTART = dict(
    mmdet=CONFIGS / 'quickstart' / 'maskrcnn_scalenet_swin-nano_digits.py',
    mmpretrain=CONFIGS / 'quickstart' / 'scalenet_vit-nano_digits.py',
    mmseg=CONFIGS / 'quickstart' / 'upernet_scalenet_swin-nano_digits.py')
PACKAGES = dict(mmdet='mmdet', mmpretrain='mmpretrain', mmseg='mmsegmentation')
#: Some configs of each toolbox, of both backbones.
COUNTED = dict(
    mmdet=('maskrcnn_scalenet_swin-t_1x_coco.py', 'maskrcnn_scalenet_deit-t_in1k-pre_1x_coco.py'),
    mmpretrain=('scalenet_swin-t_100e_imagenet.py', 'scalenet_deit-t_100e_imagenet.py'),
    mmseg=('upernet_scalenet_swin-t_40k_ade20k.py',
           'upernet_scalenet_deit-t_in1k-pre_160k_ade20k.py'))
METRICS = dict(mmdet='coco/bbox_mAP', mmpretrain='accuracy/top1', mmseg='mIoU')

STEPS = {}


def step(function):
    STEPS[function.__name__] = function
    return function


def tool(name, *arguments):
    """Run one of the tools in this process; returns its exit status and what it printed."""
    printed = io.StringIO()
    before = sys.argv, list(sys.path)
    sys.argv = [name, *map(str, arguments)]
    status = 0
    try:
        with contextlib.redirect_stdout(printed), contextlib.redirect_stderr(printed):
            try:
                runpy.run_path(str(ROOT / name), run_name='__main__')
            except SystemExit as error:
                status = error.code
    finally:
        sys.argv, sys.path[:] = before
    return status or 0, printed.getvalue()


def small(toolbox):
    """Options that make a quickstart config train two iterations."""
    options = ['train_cfg.val_interval=1', 'default_hooks.checkpoint.interval=1']
    if toolbox == 'mmseg':
        options = ['train_cfg.max_iters=2', 'train_cfg.val_interval=2',
                   'default_hooks.checkpoint.interval=2']
    else:
        options += ['train_cfg.max_epochs=1']
    if toolbox == 'mmdet':
        options += ['load_from=None', 'custom_hooks.0.require_loaded=False']
    for split in ('train', 'val', 'test'):
        options += [f'{split}_dataloader.num_workers=0', f'{split}_dataloader.batch_size=2',
                    f'{split}_dataloader.persistent_workers=False']
    return options


@step
def import_alone(toolbox):
    """The package imports no toolbox, and the absent ones are absent."""
    import scalenet_mm
    assert scalenet_mm.__file__ == str(ROOT / 'scalenet_mm' / '__init__.py')
    loaded = set(PACKAGES) & set(sys.modules)
    assert not loaded, loaded
    for name in set(PACKAGES) - {toolbox}:
        try:
            __import__(name)
        except ModuleNotFoundError:
            continue
        raise AssertionError(f'{name} is there')


@step
def registries(toolbox):
    """All that configs name stands in the root registries, also from inside a toolbox's scope."""
    from mmengine.registry import (
        HOOKS,
        MODELS,
        OPTIM_WRAPPER_CONSTRUCTORS,
        DefaultScope,
    )
    names = {MODELS: ('ScaleNetSwin', 'ScaleNetViT', 'TLEGViT', 'SimpleFeaturePyramid',
                      'DistilledClassifier'),
             HOOKS: ('AdapterInjectionHook', 'DeltaCheckpointHook', 'SafeCheckpointHook'),
             OPTIM_WRAPPER_CONSTRUCTORS: ('LayerDecayOptimWrapperConstructor', )}
    for registry, classes in names.items():
        for name in classes:
            assert registry.get(name) is not None, name
    if toolbox != 'bare':
        with DefaultScope.overwrite_default_scope(toolbox):
            assert MODELS.get('ScaleNetSwin').__module__.startswith('scalenet_mm.')


def swin(seed=0, growth=None, adjustment=None):
    from mmengine.registry import MODELS
    return build(MODELS, seed, dict(
        type='ScaleNetSwin', embed_dims=16, depths=(2, 2), num_heads=(2, 4), window_size=4,
        out_indices=(1, ), growth=growth, adjustment=adjustment))


def vit(seed=0, growth=None, adjustment=None):
    from mmengine.registry import MODELS
    return build(MODELS, seed, dict(
        type='ScaleNetViT', img_size=32, patch_size=8, growth=growth, adjustment=adjustment,
        arch=dict(embed_dims=24, num_layers=3, num_heads=2, feedforward_channels=48)))


def build(registry, seed, cfg):
    import torch
    torch.manual_seed(seed)
    model = registry.build(cfg)
    model.init_weights()
    return model


@step
def build_and_grow(toolbox):
    """Both backbones grow from a file, keep what they compute, and train."""
    import torch

    from scalenet_mm import load_pretrained
    for make in (swin, vit):
        plain = make()
        image = torch.randn(2, 3, 32, 32)
        torch.save(plain.state_dict(), f'{make.__name__}.pth')
        grown = make(1, growth=dict(order='stack', times=2, start='identity'), adjustment='paper')
        load_pretrained(grown, f'{make.__name__}.pth')
        with torch.no_grad():
            torch.testing.assert_close(grown.eval()(image)[-1], plain.eval()(image)[-1])
        extra = len(grown.state_dict()) - len(plain.state_dict())
        assert extra > 10, extra
        grown.train()(image)[-1].sum().backward()
        assert any(p.grad is not None for name, p in grown.named_parameters() if 'adapter' in name)


@step
def delta_round_trip(toolbox):
    """A delta leaves the base out and comes back whole to the bit."""
    import torch
    sys.path.insert(0, str(ROOT / 'tests' / 'test_checkpoints'))
    from delta_toys import assert_same_tensors, grown_classifier, save_delta_of

    from scalenet_mm.checkpoints import is_delta, load_file, read_checkpoint
    torch.save(vit().state_dict(), 'base.pth')
    model = grown_classifier(vit, 'base.pth')
    saved = save_delta_of(model, 'base.pth', 'delta.pth')
    assert is_delta(load_file(saved))
    assert len(load_file(saved)['state_dict']) < len(model.state_dict())
    assert_same_tensors(read_checkpoint(saved)['state_dict'], model.state_dict())


@step
def command_line_help(toolbox):
    """Every tool says how it is used, whatever is installed."""
    tools = [path.relative_to(ROOT).as_posix() for path in sorted(ROOT.glob('tools/**/*.py'))
             if 'dev' not in path.parts]
    assert len(tools) > 10
    for name in tools:
        status, text = tool(name, '--help')
        assert status == 0 and 'usage:' in text, f'{name}: {status}\n{text}'


@step
def absent_toolboxes_are_named(toolbox):
    """A config of a toolbox that is not there ends in one line that says what to install."""
    for name in set(PACKAGES) - {toolbox}:
        for program, more in (('tools/train.py', ()), ('tools/test.py', ('base.pth', )),
                              ('tools/analysis_tools/count_parameters.py', ())):
            status, text = tool(program, QUICKSTART[name], *more)
            lines = [line for line in text.splitlines() if 'rror' in line]
            assert status == 2 and len(lines) == 1, f'{program}: {status}\n{text}'
            assert 'Traceback' not in text and f'pip install {PACKAGES[name]}' in lines[0], text


def needs_toolbox(function):
    def run(toolbox):
        return None if toolbox == 'bare' else function(toolbox)

    STEPS[function.__name__] = run
    return function


@needs_toolbox
def run_two_iterations(toolbox):
    """A Runner trains two iterations of the quickstart's config."""
    import torch
    from mmengine.config import Config, DictAction
    from mmengine.runner import Runner

    from scalenet_mm import make_digit_scenes
    make_digit_scenes('data/digit_scenes', num_train=4, num_val=2, cls_num_train=4, cls_num_val=2)
    cfg = Config.fromfile(QUICKSTART[toolbox])
    options = dict(option.split('=', 1) for option in small(toolbox))
    cfg.merge_from_dict({key: DictAction._parse_iterable(value) if value != 'None' else None
                         for key, value in options.items()})
    cfg.work_dir, cfg.experiment_name = 'runner', f'stack_{toolbox}'
    runner = Runner.from_cfg(cfg)
    before = {name: value.clone() for name, value in runner.model.state_dict().items()}
    runner.train()
    assert runner.iter == 2
    changed = [name for name, value in runner.model.state_dict().items()
               if not torch.equal(value, before[name])]
    assert any('adapter' in name for name in changed)


@needs_toolbox
def train_and_test_tools(toolbox):
    """tools/train.py and tools/test.py work on the quickstart's config."""
    status, text = tool('tools/train.py', QUICKSTART[toolbox], '--work-dir', 'trained',
                        '--cfg-options', *small(toolbox), f'experiment_name=train_{toolbox}')
    assert status == 0, text
    checkpoint, = Path('trained').glob('*_[12].pth')
    status, text = tool(
        'tools/test.py', QUICKSTART[toolbox], checkpoint, '--work-dir', 'tested', '--out',
        'metrics.json', '--out-item', 'metrics', '--cfg-options',
        *(option for option in small(toolbox) if option.startswith('test')),
        f'experiment_name=test_{toolbox}')
    assert status == 0, text
    assert METRICS[toolbox] in json.loads(Path('metrics.json').read_text())


@needs_toolbox
def count_parameters_of_configs(toolbox):
    """The toolbox's configs are read, their models built and counted."""
    configs = [CONFIGS / name for name in COUNTED[toolbox]]
    status, text = tool('tools/analysis_tools/count_parameters.py', *configs)
    assert status == 0, text
    for config in configs:
        line, = (line for line in text.splitlines() if line.startswith(config.stem + ' '))
        total, added, trainable = (int(word.replace(',', '')) for word in line.split()[1:])
        assert total > added > 0 and trainable > 0


def main():
    toolbox, = sys.argv[1:]
    sys.path.insert(0, str(ROOT))
    outcome = {}
    for name, function in STEPS.items():
        try:
            function(toolbox)
            outcome[name] = None
        except Exception:
            outcome[name] = traceback.format_exc()
        Path('steps.json').write_text(json.dumps(outcome))


if __name__ == '__main__':
    main()
