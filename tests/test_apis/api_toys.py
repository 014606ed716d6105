"""The quickstart's configs with drawn weights, and digits to look at."""
import copy
from pathlib import Path

import torch
from mmengine.config import Config
from mmengine.registry import MODELS, DefaultScope

from scalenet_mm.checkpoints import extract_delta, write_checkpoint
from scalenet_mm.utils.model_cfg import plain_cfg

QUICKSTART = Path(__file__).resolve().parents[2] / 'configs' / 'quickstart'
#: task -> config, its toolbox, and what is changed
TASKS = {
    'classification': ('scalenet_vit-nano_digits.py', 'mmpretrain', """
test_dataloader = dict(batch_size=1, num_workers=0, persistent_workers=False, dataset=dict(
    data_root='{root}/cls/'))
"""),
    'detection': ('maskrcnn_scalenet_swin-nano_digits.py', 'mmdet', """
model = dict(test_cfg=dict(
    rpn=dict(nms_pre=60, max_per_img=20), rcnn=dict(max_per_img=6, score_thr=0.01)))
load_from = None
test_dataloader = dict(batch_size=1, num_workers=0, persistent_workers=False, dataset=dict(
    data_root='{root}/det/'))
test_evaluator = dict(ann_file='{root}/det/annotations/val.json')
"""),
    'segmentation': ('upernet_scalenet_swin-nano_digits.py', 'mmseg', """
test_dataloader = dict(batch_size=1, num_workers=0, persistent_workers=False, dataset=dict(
    data_root='{root}/seg/'))
"""),
}
FOLDERS = dict(classification='cls/val', detection='det/val', segmentation='seg/img_dir/val')
SCOPES = {task: scope for task, (_, scope, _) in TASKS.items()}


class Toy:
    """A config, checkpoints of its model, and images.

    Args:
        task (str): 'classification', 'detection' or 'segmentation'.
        folder (Path): Where the files go.
        root (Path): Digit scenes.
    """

    def __init__(self, task, folder, root):
        name, self.scope, change = TASKS[task]
        self.task = task
        self.config = str(folder / f'{task}.py')
        Path(self.config).write_text(
            f"_base_ = ['{QUICKSTART / name}']\n" + change.format(root=root))
        self.images = sorted(map(str, (root / FOLDERS[task]).rglob('*.png')))
        self.whole, self.delta, self.base = (
            str(folder / f'{task}_{kind}.pth') for kind in ('whole', 'delta', 'base'))
        cfg = Config.fromfile(self.config)
        meta = cfg.test_dataloader.dataset.metainfo.to_dict()
        torch.manual_seed(0)
        state = draw(build(cfg)).state_dict()
        torch.save(dict(meta=dict(cfg=cfg.pretty_text, dataset_meta=meta), state_dict=state),
                   self.whole)
        torch.save(dict(state_dict=ungrown(state)), self.base)
        write_checkpoint(extract_delta(self.whole, self.base), self.delta)

    def read(self):
        """Config: The config."""
        return Config.fromfile(self.config)


def build(cfg):
    """nn.Module: The config's model."""
    model = plain_cfg(copy.deepcopy(cfg.model))
    if cfg.get('data_preprocessor') is not None:
        model.setdefault('data_preprocessor', cfg.data_preprocessor)
    with DefaultScope.overwrite_default_scope(cfg.default_scope):
        return MODELS.build(model)


def draw(model, seed=0):
    """Make the weights such that classes differ from image to image, and adapters do something."""
    model.init_weights()
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for parameter in model.parameters():
            parameter += 0.05 * torch.randn(parameter.shape, generator=generator)
    return model


def ungrown(state):
    """dict: The tensors that an ungrown model has."""
    from scalenet_mm.checkpoints.report import what_growth_added
    added = {key for keys in what_growth_added(state).values() for key in keys}
    return {key: value for key, value in state.items() if key not in added}


def assert_same(one, other):
    """Compare the data samples of two ways to infer, to the bit."""
    kinds = [key for key in ('pred_score', 'pred_instances', 'pred_sem_seg') if key in one]
    assert kinds
    for kind in kinds:
        a, b = getattr(one, kind), getattr(other, kind)
        if kind == 'pred_score':
            assert torch.equal(a, b)
            continue
        assert set(a.keys()) == set(b.keys())
        for key in a.keys():
            assert torch.equal(getattr(a, key), getattr(b, key)), key
        assert kind == 'pred_sem_seg' or len(a)
