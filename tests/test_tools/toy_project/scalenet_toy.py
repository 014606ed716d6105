"""A tiny project for the tools' tests: a regression that needs mmengine alone."""
import json
import os.path as osp

import torch
from mmengine.dist import get_rank, get_world_size
from mmengine.evaluator import BaseMetric
from mmengine.hooks import Hook
from mmengine.model import BaseModel
from mmengine.registry import DATASETS, HOOKS, METRICS, MODELS
from torch import nn
from torch.utils.data import Dataset


@DATASETS.register_module()
class ToyDataset(Dataset):
    METAINFO = dict()

    def __init__(self, data_root: str, ann_file: str, data_prefix: dict, pipeline=()):
        with open(osp.join(data_root, ann_file)) as file:
            self.samples = json.load(file)
        self.metainfo = self.METAINFO

    def __len__(self):
        return len(self.samples)

    def __getitem__(self, index):
        sample = self.samples[index]
        return dict(inputs=torch.tensor(sample['x']), target=torch.tensor(sample['y']))


@MODELS.register_module()
class ToyRegressor(BaseModel):

    def __init__(self, width: int = 8, sync_bn: bool = False):
        super().__init__()
        self.hidden = nn.Linear(4, width)
        self.norm = nn.SyncBatchNorm(width) if sync_bn else nn.Identity()
        self.output = nn.Linear(width, 1)
        self.seen = []

    def forward(self, inputs, target, mode='tensor'):
        prediction = self.output(self.norm(self.hidden(inputs)).relu()).squeeze(1)
        if mode == 'loss':
            self.seen += inputs[:, 0].tolist()
            return dict(loss=nn.functional.mse_loss(prediction, target))
        return [dict(error=e) for e in (prediction - target).abs().tolist()]


@METRICS.register_module()
class ToyError(BaseMetric):

    def __init__(self, ann_file=None, **kwargs):
        super().__init__(**kwargs)

    def process(self, data_batch, data_samples):
        self.results += [sample['error'] for sample in data_samples]

    def compute_metrics(self, results):
        return dict(mean_error=sum(results) / len(results))


@HOOKS.register_module()
class ToyDumpHook(Hook):
    """Save what each process ended with."""
    priority = 'LOWEST'

    def after_train(self, runner):
        model = getattr(runner.model, 'module', runner.model)
        torch.save(
            dict(
                parameters=dict(model.named_parameters()),
                seen=model.seen,
                norm=type(model.norm).__name__,
                wrapper=type(runner.model).__name__,
                threads=torch.get_num_threads(),
                world_size=get_world_size()),
            osp.join(runner.work_dir, f'rank{get_rank()}.pth'))
