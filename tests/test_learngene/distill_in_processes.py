"""Run by a launcher: a distillation in two processes; each saves what it ends with."""
import sys
from pathlib import Path

import torch
from distill_toys import runner_cfg, vit, with_batchnorm
from mmengine.config import Config
from mmengine.dist import get_rank

from scalenet_mm.engine.distributed import setup_distributed, shutdown_distributed
from scalenet_mm.engine.run import build_runner


def main(folder):
    """Train a student with a teacher that has BatchNorm, and a model that sees twice the batch."""
    model = dict(type='DistilledClassifier', student=vit(drop_path_rate=0.2),
                 teacher=with_batchnorm(), teacher_checkpoint=str(folder / 'teacher.pth'))
    cfg = Config(runner_cfg(folder / 'photos', model, folder / 'work', launcher='pytorch',
                            experiment_name=folder.name, sync_bn=None))
    cfg.custom_hooks = [dict(type='AdapterInjectionHook', freeze='paper', require_loaded=False)]
    setup_distributed(cfg)
    runner = build_runner(cfg)
    runner.train()
    model = runner.model.module
    losses = runner.message_hub.get_scalar('train/loss_distill').data[0]
    torch.save(
        dict(student=model.state_dict(), teacher=model.teacher.state_dict(),
             trains=[n for n, p in model.named_parameters() if p.requires_grad],
             wrapper=type(runner.model).__name__, losses=torch.as_tensor(losses)),
        folder / f'rank{get_rank()}.pth')
    shutdown_distributed()


if __name__ == '__main__':
    main(Path(sys.argv[1]))
