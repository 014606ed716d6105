"""Make a grown checkpoint an ordinary deeper model: ``unshare.py CONFIG CHECKPOINT OUT``.

Each repeat becomes a block of its own, numbered in the order of execution, under the names of the
stock model; LoRA and gains fold into the weights. Parallel adapters are not linear and stay: the
model is then a ScaleNet one that is not grown. OUT's config is written beside it (OUT's name with
the ending .py). Both models are run on a random image before anything is written.
"""
import argparse
import copy
import os.path as osp
import re
import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from mmengine import registry as registries  # noqa: E402
from mmengine.config import Config  # noqa: E402
from mmengine.registry import Registry  # noqa: E402

from scalenet_mm.analysis.inputs import RANDOM, ModelSource, load_model  # noqa: E402
from scalenet_mm.backbones.grown_backbone import made_for_size, tensors_in  # noqa: E402
from scalenet_mm.checkpoints import adapt_checkpoint, add_base, read_checkpoint  # noqa: E402
from scalenet_mm.checkpoints.containers import serialise  # noqa: E402
from scalenet_mm.checkpoints.files import write_whole  # noqa: E402
from scalenet_mm.checkpoints.publish import refuse_overwriting  # noqa: E402
from scalenet_mm.checkpoints.unshare import (  # noqa: E402
    deeper_backbones,
    fit_names,
    misplaced_shifts,
    unshare,
)
from scalenet_mm.engine import get_scope, load_config, run_cli  # noqa: E402
from scalenet_mm.engine.arguments import add_base_argument  # noqa: E402
from scalenet_mm.engine.scopes import type_name  # noqa: E402
from scalenet_mm.errors import CheckpointError, ConfigError  # noqa: E402
from scalenet_mm.utils.model_cfg import is_distilled, plain_cfg  # noqa: E402

#: By how much, as a part of the largest output, two ways of computing the same may differ.
TOLERANCE = 1e-4
#: Hooks that have nothing to do at a model that is not grown.
ONLY_GROWN = ('AdapterInjectionHook', 'DeltaCheckpointHook')


def main(argv=None):
    parser = argparse.ArgumentParser(
        prog='tools/model_converters/unshare.py', description=__doc__.replace('``', ''),
        formatter_class=argparse.RawDescriptionHelpFormatter,
        epilog='example:\n  python tools/model_converters/unshare.py \\\n'
        '      configs/scalenet_swin-t_100e_imagenet.py epoch_100.pth deeper.pth')
    parser.add_argument('config', help='the config of the grown model')
    parser.add_argument('checkpoint', help='a file of the grown model, also a delta')
    parser.add_argument('out', metavar='OUT', help='*.pth or *.safetensors')
    parser.add_argument(
        '--size', type=int, nargs='+', metavar='N',
        help='height and width, or both, of the image that both models are run on. Default: that '
        "of the backbone's pretraining")
    parser.add_argument(
        '--empty-blocks', action='store_true',
        help='put blocks without effect between others where a stock Swin would shift its windows '
        'otherwise')
    add_base_argument(parser)
    parser.add_argument('--force', action='store_true', help='write over files')
    args = parser.parse_args(argv)
    if args.size and (len(args.size) > 2 or min(args.size) < 1):
        parser.error('--size takes one or two positive numbers')
    config_out = osp.splitext(args.out)[0] + '.py'
    refuse_overwriting([args.out, config_out], args.force)
    if args.base:
        add_base(args.base)

    cfg = load_config(args.config)
    if is_distilled(cfg.get('model')):  # the deeper model is the student's
        student = plain_cfg(cfg.model)
        cfg.pop('model')  # else laid over what is there
        cfg.model = student
    model, checkpoint = load_grown(cfg, args.config, args.checkpoint)
    result = unshare(model, args.empty_blocks)
    size = tuple(args.size * 2)[:2] if args.size else made_for_size(model.backbone)
    hidden = check_shifts(model.backbone, size) if not args.empty_blocks else []
    deeper, text, told = build_deeper(cfg, args.config, model, result, size)

    meta = {k: v for k, v in (checkpoint.get('meta') or {}).items()
            if k in ('epoch', 'iter', 'dataset_meta')}
    meta.update(cfg=text, unshared_from=osp.basename(args.checkpoint))
    content = serialise({'meta': meta, 'state_dict': deeper.state_dict()}, args.out)
    write_whole(args.out, lambda file: file.write(content))
    write_whole(config_out, lambda file: file.write(text.encode()))
    print(f'{args.out} and {config_out}:')
    for line in [*told, *describe(model.backbone, deeper.backbone, result, hidden, size)]:
        print(f'  {line}')


def load_grown(cfg, path, checkpoint):
    """tuple[nn.Module, dict]: The grown model with a file's weights, and what the file holds."""
    source = ModelSource(osp.basename(path), cfg, path, checkpoint)
    source.check()
    source.checkpoint = RANDOM
    model = load_model(source)
    content = read_checkpoint(checkpoint)
    report = adapt_checkpoint(model, content, checkpoint)
    lacking = [key for keys in report.initialised.values() for key in keys] + report.resized
    if lacking:
        raise CheckpointError(f'{checkpoint} does not hold the whole model of {path}: '
                              f'{len(lacking)} tensors are missing or of another size, such as '
                              f'{lacking[0]}. Name a file that was saved by training that config')
    model.load_state_dict(content['state_dict'], strict=False)
    return model, content


def check_shifts(backbone, size):
    """list[int]: Stages whose shifts would differ, which images of that size do not show.

    Raises:
        ConfigError: If it matters.
    """
    matter, hidden = misplaced_shifts(backbone, size)
    if matter:
        stages = ' and '.join(str(stage + 1) for stage in matter)
        raise ConfigError(
            f'a stock Swin shifts the windows of every second block, and in stage {stages} of the '
            'grown one two that do, or do not, stand side by side: a repeat shifts as its source '
            'does. --empty-blocks puts blocks without effect between them, for equal outputs at '
            "some cost; growth.order='stack' over an even number of blocks alternates by itself")
    return hidden


def build_deeper(cfg, path, model, result, size):
    """tuple[nn.Module, str, list[str]]: The deeper model, its config's text, what is to be said.

    Raises:
        ConfigError: If no model can be built that computes the same.
    """
    scope = get_scope(cfg).name
    reasons = []
    for backbone in deeper_backbones(cfg.model.backbone, model.backbone, result, scope):
        text = write_config(cfg, backbone)
        fitted = copy.copy(result)
        try:
            deeper = load_model(ModelSource('', Config.fromstring(text, '.py'), path, RANDOM))
            fit_names(fitted, model, deeper)
            deeper.load_state_dict(fitted.state)
        except Exception as error:  # whatever a class raises of arguments that it does not take
            why = (str(error).splitlines() or [''])[0]
            reasons.append(f'{backbone["type"]} cannot be used: {type(error).__name__}: {why}')
            continue
        difference = largest_difference(model.backbone, deeper.backbone, size)
        exact = not result.folded and type_name(backbone) == type_name(cfg.model.backbone)
        if difference <= (0. if exact else TOLERANCE):
            return deeper, text, [*reasons, f'run on an image of {size[0]} x {size[1]}: outputs '
                                  f'differ by {difference:.1e} of the largest']
        reasons.append(f'{backbone["type"]} does not compute the same: its outputs differ by '
                       f'{difference:.1e} of the largest')
    raise ConfigError('no deeper model was found; nothing was written. ' + '. '.join(reasons))


def write_config(cfg, backbone):
    """str: The config with another backbone, and without what only a grown model needs."""
    cfg = copy.deepcopy(cfg)
    cfg.model.pop('backbone')  # a dict that is set is else laid over the one that is there
    cfg.model.backbone = backbone
    cfg.custom_hooks = [hook for hook in cfg.get('custom_hooks') or []
                        if type_name(hook).split('.')[-1] not in ONLY_GROWN]
    cfg.load_from, cfg.resume = None, False
    names = {name for registry in vars(registries).values() if isinstance(registry, Registry)
             for name, entry in registry.module_dict.items()
             if entry.__module__.startswith('scalenet_mm.')}
    imports = cfg.get('custom_imports', {})
    if not names & set(re.findall(r"'(?:scalenet_mm\.)?(\w+)'", cfg.pretty_text)) \
            and list(imports.get('imports', ())) == ['scalenet_mm']:
        cfg.pop('custom_imports')  # an ordinary model does not need this package
    return cfg.pretty_text


@torch.no_grad()
def largest_difference(backbone, other, size):
    """float: The largest difference of outputs for a random image, as a part of the largest."""
    channels = backbone.patch_embed.projection.in_channels
    image = torch.randn(2, channels, *size, generator=torch.Generator().manual_seed(0))
    outs = [list(tensors_in(m(image))) for m in (backbone, other)]
    if [a.shape for a in outs[0]] != [b.shape for b in outs[1]]:
        return float('inf')
    # torch's maximum, unlike Python's, does not lose what is no number
    largest = float(torch.stack([a.abs().max() for a in outs[0]]).max())
    difference = float(torch.stack([(a - b).abs().max() for a, b in zip(*outs)]).max())
    return difference / largest if largest else difference


def describe(backbone, deeper, result, hidden, size):
    """Yield lines that say what was made of the model."""
    depths = ', '.join(f'{name.removeprefix("backbone.")}: {depth} blocks'
                       for name, depth in result.depths.items())
    yield f'{type(deeper).__name__}, nothing shared; {depths}'
    if result.folded:
        yield f'LoRA or gains of {result.folded} layers are folded into their weights'
    if result.adapters:
        yield (f'{result.adapters} parallel adapters stay: they are not linear, so they cannot be '
               'merged')
    if result.idle_adapters:
        yield f'{result.idle_adapters} parallel adapters are left out: all still add zero'
    if result.empty:
        yield f'{result.empty} blocks without effect keep the window shifts apart'
    if hidden:
        stages = ' and '.join(str(stage + 1) for stage in hidden)
        yield (f'NOTE: in stage {stages} the window shifts are those of another order; it shows no '
               f'difference as long as its map is one window, as for images of {size[0]} x '
               f'{size[1]}, and does for larger ones (--empty-blocks makes them equal too)')
    if 'backbone.layers' in result.depths:
        yield f'out_indices are {list(deeper.out_indices)}'
    yield ("the training's settings in the config are as they were, without "
           f'{" and ".join(ONLY_GROWN)}')


if __name__ == '__main__':
    sys.exit(run_cli(main))
