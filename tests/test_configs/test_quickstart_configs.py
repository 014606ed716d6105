"""The quickstart's configs of all three tasks: train a little, then test, through the Runner."""
from pathlib import Path

import pytest
from mmengine.config import Config
from mmengine.runner import Runner

from scalenet_mm.datasets import make_digit_scenes
from scalenet_mm.growth import growth_of

QUICKSTART = Path(__file__).resolve().parents[2] / 'configs' / 'quickstart'
TASKS = {
    'scalenet_vit-nano_digits': ('cls', 'accuracy/top1'),
    'upernet_scalenet_swin-nano_digits': ('seg', 'mIoU'),
    'maskrcnn_scalenet_swin-nano_digits': ('det', 'coco/segm_mAP'),
}


@pytest.fixture(scope='module')
def scenes(tmp_path_factory):
    root = tmp_path_factory.mktemp('scenes') / 'digits'
    make_digit_scenes(root=str(root), num_train=8, num_val=4, cls_num_train=20, cls_num_val=10)
    return root


def test_every_quickstart_model_is_here():
    grown = {p.stem for p in QUICKSTART.glob('*scalenet*.py')}
    assert grown == set(TASKS)


@pytest.mark.parametrize('name', sorted(TASKS))
def test_trains_and_tests(name, scenes, tmp_path):
    task, metric = TASKS[name]
    cfg = Config.fromfile(QUICKSTART / f'{name}.py')
    cfg.work_dir = str(tmp_path)
    for split in ('train', 'val', 'test'):
        loader = cfg[f'{split}_dataloader']
        loader.update(num_workers=0, persistent_workers=False, batch_size=4)
        # what the config says of the folder, with another root
        loader.dataset.data_root = loader.dataset.data_root.replace('data/digit_scenes',
                                                                    str(scenes))
    if task == 'det':
        for split in ('val', 'test'):
            cfg[f'{split}_evaluator'].ann_file = f'{scenes}/det/annotations/val.json'
        cfg.load_from = None
        cfg.custom_hooks[0].require_loaded = False
    cfg.train_cfg = dict(by_epoch=True, max_epochs=1, val_interval=1)
    if task == 'seg':
        cfg.train_cfg = dict(type='IterBasedTrainLoop', max_iters=2, val_interval=2)
    runner = Runner.from_cfg(cfg)
    runner.train()
    assert list(growth_of(runner.model.backbone))
    assert metric in runner.test()
