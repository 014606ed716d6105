"""Small stock models and data for the hook's tests."""
import torch
from mmengine.dist import get_rank
from mmengine.hooks import Hook
from mmengine.registry import DATASETS, HOOKS


@DATASETS.register_module(name='HookToyImages')
class Images(torch.utils.data.Dataset):
    """Random images with labels, as mmpretrain's classifiers take them."""

    def __init__(self, classes=3, size=16, count=8):
        self.metainfo = dict(classes=[str(i) for i in range(classes)])
        generator = torch.Generator().manual_seed(0)
        self.images = torch.randn(count, 3, size, size, generator=generator)
        self.classes = classes

    def __len__(self):
        return len(self.images)

    def __getitem__(self, index):
        from mmpretrain.structures import DataSample
        sample = DataSample().set_gt_label(index % self.classes)
        return dict(inputs=self.images[index], data_samples=sample)


def classifier(backbone=None, hook=None, **top):
    """A Runner's config for a tiny stock ViT classifier with the hook."""
    stock = dict(
        type='VisionTransformer',
        arch=dict(embed_dims=16, num_layers=3, num_heads=2, feedforward_channels=64),
        img_size=16,
        patch_size=4)
    hook = {**dict(type='AdapterInjectionHook', require_loaded=False), **(hook or {})}
    cfg = dict(
        default_scope='mmpretrain',
        model=dict(
            type='ImageClassifier',
            backbone=backbone or stock,
            head=dict(type='VisionTransformerClsHead', num_classes=3, in_channels=16)),
        train_dataloader=dict(
            batch_size=4,
            num_workers=0,
            dataset=dict(type='HookToyImages'),
            collate_fn=dict(type='default_collate'),
            sampler=dict(type='DefaultSampler', shuffle=False)),
        train_cfg=dict(by_epoch=True, max_epochs=2),
        optim_wrapper=dict(type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-2)),
        param_scheduler=[dict(type='MultiStepLR', milestones=[1], gamma=0.1)],
        default_hooks=dict(logger=dict(type='LoggerHook', interval=100)),
        custom_hooks=[hook],
        randomness=dict(seed=0),
        log_level='INFO')
    cfg.update(top)
    return cfg


@HOOKS.register_module(name='HookToyDump')
class Dump(Hook):
    """Save what each process starts from and ends with."""
    priority = 'LOWEST'

    def before_train(self, runner):
        self.before = self._state(runner)

    def after_train(self, runner):
        model = getattr(runner.model, 'module', runner.model)
        torch.save(
            dict(
                before=self.before,
                after=self._state(runner),
                trains=[n for n, p in model.named_parameters() if p.requires_grad],
                wrapper=type(runner.model).__name__),
            f'{runner.work_dir}/rank{get_rank()}.pth')

    @staticmethod
    def _state(runner):
        model = getattr(runner.model, 'module', runner.model)
        return {k: v.detach().clone() for k, v in model.state_dict().items()}
