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


def test_the_classifier_learns(tmp_path):
    """A short run leaves chance (10 %, with a deviation of 2 %) far behind."""
    root = tmp_path / 'digits'
    make_digit_scenes(root=str(root), tasks='cls', cls_num_train=1000, cls_num_val=200)
    cfg = Config.fromfile(QUICKSTART / 'scalenet_vit-nano_digits.py')
    for split in ('train', 'val', 'test'):
        loader = cfg[f'{split}_dataloader']
        loader.update(num_workers=0, persistent_workers=False)
        loader.dataset.data_root = f'{root}/cls'
    cfg.merge_from_dict(dict(
        work_dir=str(tmp_path), experiment_name=tmp_path.name, randomness=dict(seed=0),
        train_cfg=dict(max_epochs=20, val_interval=20)))
    cfg.param_scheduler = [dict(type='LinearLR', start_factor=0.01, by_epoch=False, end=80)]
    cfg.default_hooks.checkpoint = None
    runner = Runner.from_cfg(cfg)
    assert runner.train() is not None
    assert runner.message_hub.get_scalar('val/accuracy/top1').current() > 25
