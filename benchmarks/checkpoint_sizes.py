"""Sizes of the files of a grown classifier: whole, delta, resumable delta, safetensors, ONNX.

    python benchmarks/checkpoint_sizes.py configs/scalenet_deit-b_100e_imagenet.py \\
        configs/scalenet_swin-t_100e_imagenet.py [--onnx]

Weights are random, which changes no size. The base is a file of the ungrown model's weights; the
grown model starts from it and makes one step with AdamW on random gradients. There is a delta for a
classifier that is frozen (freeze='paper-strict') and for one that trains (freeze='paper').
"""
import argparse
import os
import sys
import tempfile
from pathlib import Path

import torch

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))


def parse_args(argv=None):
    """Parse the command line."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('configs', nargs='+', help='grown classifiers')
    parser.add_argument('--onnx', action='store_true', help='ONNX files and exported programs, too')
    return parser.parse_args(argv)


def build(cfg, grown=True):
    """nn.Module: The config's model with weights that are all drawn, grown or not."""
    from mmengine.registry import MODELS, init_default_scope

    from scalenet_mm.utils.model_cfg import plain_cfg
    init_default_scope(cfg.default_scope)
    model = plain_cfg(cfg.model)
    if not grown:
        model.backbone.update(growth=None, adjustment=None)
    model = MODELS.build(model)
    torch.manual_seed(0)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.normal_(std=0.02)
    return model.eval()


def measure_checkpoints(cfg, folder):
    """Yield ``(file, bytes)``, the base first."""
    from scalenet_mm.checkpoints import load_pretrained, make_delta
    from scalenet_mm.checkpoints.base_files import BaseFile
    from scalenet_mm.checkpoints.delta import write_checkpoint
    from scalenet_mm.checkpoints.files import save_file
    from scalenet_mm.growth import apply_freezing

    def size(name):
        return os.path.getsize(os.path.join(folder, name))

    path = os.path.join(folder, 'base.pth')
    ungrown = build(cfg, grown=False)
    save_file(dict(state_dict=ungrown.state_dict()), path)
    yield 'base', size('base.pth')

    model = build(cfg)
    load_pretrained(model.backbone, path)
    model.head.load_state_dict(ungrown.head.state_dict())
    save_file(dict(meta={}, state_dict=model.state_dict()), os.path.join(folder, 'whole.pth'))
    yield 'whole, without optimizer', size('whole.pth')

    for freeze, what in (('paper-strict', 'classifier frozen'), ('paper', 'classifier trains')):
        apply_freezing(model, freeze)
        trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
        optimizer = torch.optim.AdamW(trained.values())
        for parameter in trained.values():
            parameter.grad = torch.randn_like(parameter)
        optimizer.step()
        for ending, with_optimizer in (('pth', False), ('pth', True), ('safetensors', False)):
            checkpoint = dict(meta={}, state_dict=model.state_dict())
            if with_optimizer:
                checkpoint['optimizer'] = optimizer.state_dict()
            make_delta(checkpoint, BaseFile(path), trained)
            write_checkpoint(checkpoint, os.path.join(folder, f'delta.{ending}'))
            note = {'safetensors': ', safetensors'}.get(ending, ', with AdamW' * with_optimizer)
            yield f'delta, {what}{note}', size(f'delta.{ending}')


def measure_exports(cfg, folder):
    """Yield ``(file, bytes, of the ungrown file and the added weights)``."""
    from scalenet_mm.deploy import export_onnx, export_program
    ungrown, grown = build(cfg, grown=False), build(cfg)
    added = sum(p.nbytes for p in grown.parameters()) - sum(p.nbytes for p in ungrown.parameters())

    def onnx(model, path):
        export_onnx(model, path, 'classifier')

    def program(model, path):
        torch.export.save(export_program(model, 'classifier').program, path)

    for ending, export in (('onnx', onnx), ('pt2', program)):
        sizes = []
        for model in (ungrown, grown):
            path = os.path.join(folder, f'model.{ending}')
            export(model, path)
            sizes.append(os.path.getsize(path))
        yield f'ungrown .{ending}', sizes[0], None
        yield f'grown .{ending}', sizes[1], sizes[1] / (sizes[0] + added)


def main(argv=None):
    """Print a table for each config."""
    from scalenet_mm.engine import load_config
    args = parse_args(argv)
    for path in args.configs:
        cfg = load_config(path)
        print(f'\n{Path(path).stem}')
        with tempfile.TemporaryDirectory() as folder:
            base = None
            for what, size in measure_checkpoints(cfg, folder):
                base = base or size
                print(f'  {what:<42}{size:>13,}{size / base:>9.2%}', flush=True)
            for what, size, part in measure_exports(cfg, folder) if args.onnx else ():
                over = '' if part is None else \
                    f'{part - 1:>+9.2%} over the ungrown file and the added weights'
                print(f'  {what:<42}{size:>13,}{over}', flush=True)


if __name__ == '__main__':
    from scalenet_mm.engine import run_cli
    sys.exit(run_cli(main))
