"""The hook in a Runner, on stock models and on ours, in one process."""
import copy
from pathlib import Path
from types import SimpleNamespace

import mmdet
import pytest
import torch
import torch.nn as nn
from hook_toys import Images, classifier
from mmdet.models import FCNMaskHead
from mmengine.config import Config
from mmengine.hooks import Hook
from mmengine.registry import MODELS, DefaultScope

from scalenet_mm import CheckpointError, ConfigError, GrowthError
from scalenet_mm.growth import growth_of
from scalenet_mm.hooks.class_check import check_classes

OURS = dict(
    type='ScaleNetViT',
    arch=dict(embed_dims=16, num_layers=3, num_heads=2, feedforward_channels=64),
    img_size=16,
    patch_size=4)


class Recorder(Hook):
    """Keep what the model was before the first iteration."""
    priority = 'LOWEST'

    def before_train(self, runner):
        self.before = copy.deepcopy(dict(runner.model.named_parameters()))


def train(runner):
    recorder = Recorder()
    runner.register_hook(recorder)
    runner.train()
    after = dict(runner.model.named_parameters())
    moved = {n for n, p in after.items() if not torch.equal(p, recorder.before[n])}
    return moved, after


class TestStockModel:

    def test_grows_freezes_and_trains_the_increments(self, make_runner):
        runner = make_runner(classifier())
        moved, after = train(runner)
        names = [name for name, _, _ in growth_of(runner.model)]
        assert names == ['backbone.layers']
        assert len(runner.model.backbone.layers) == 6
        trains = {n for n, p in after.items() if p.requires_grad}
        assert moved == trains
        assert all('adapter' in n or '.ln' in n or n.startswith('head.layers.head.')
                   for n in trains)
        assert any(n.endswith('2_r1.ffn.layers.1.adapter_up') for n in moved)

    def test_frozen_tensors_are_told_in_one_line(self, make_runner):
        optim_wrapper = dict(
            type='OptimWrapper', optimizer=dict(type='AdamW', lr=1e-2, weight_decay=0.05),
            paramwise_cfg=dict(norm_decay_mult=0.))
        runner = make_runner(classifier(optim_wrapper=optim_wrapper))
        runner.train()
        log = next(Path(runner.log_dir).glob('*.log')).read_text()
        frozen = sum(not p.requires_grad for p in runner.model.parameters())
        assert frozen and f'{frozen} frozen tensors are left out of the optimizer' in log
        assert 'is skipped since' not in log
        # other lines of the constructor stay
        assert 'paramwise_options -- ' in log
        assert not runner.logger.filters

    def test_optimizer_and_schedule_are_of_the_changed_model(self, make_runner):
        runner = make_runner(classifier())
        _, after = train(runner)
        optimized = {id(p) for g in runner.optim_wrapper.param_groups for p in g['params']}
        assert {id(p) for p in after.values() if p.requires_grad} <= optimized
        assert {id(p) for p in after.values()} >= optimized
        assert all(s.optimizer is runner.optim_wrapper for s in runner.param_schedulers)
        # stepped once, after the first epoch
        assert runner.optim_wrapper.get_lr()['lr'][0] == pytest.approx(1e-3)

    def test_out_indices_follow_the_growth(self, make_runner):
        runner = make_runner(classifier())
        train(runner)
        assert tuple(runner.model.backbone.out_indices) == (5, )

    def test_config_rebuilds_the_model_without_the_hook(self, make_runner, tmp_path):
        runner = make_runner(classifier(hook=dict(growth=dict(start='identity'))))
        train(runner)
        checkpoint = torch.load(tmp_path / 'work' / 'epoch_2.pth', weights_only=True)
        cfg = Config.fromstring(checkpoint['meta']['cfg'], '.py')
        assert cfg.model.backbone.type == 'GrownBackbone'
        with DefaultScope.overwrite_default_scope('mmpretrain'):
            model = MODELS.build(cfg.model)
        model.load_state_dict(checkpoint['state_dict'], strict=True)
        images = Images().images[:2]
        model.eval(), runner.model.eval()
        with torch.no_grad():
            assert torch.equal(model(images), runner.model(images))

    def test_saved_once_and_resumed(self, make_runner, tmp_path):
        runner = make_runner(classifier())
        _, after = train(runner)
        again = make_runner(
            classifier(train_cfg=dict(by_epoch=True, max_epochs=3)),
            resume=True,
            load_from=str(tmp_path / 'work' / 'epoch_2.pth'))
        recorder = Recorder()
        again.register_hook(recorder)
        again.train()
        assert again.epoch == 3
        assert set(recorder.before) == set(after)
        for name, value in recorder.before.items():
            assert torch.equal(value, after[name]), name

    def test_grown_already_is_left_alone(self, make_runner):
        cfg = classifier()
        cfg['model']['backbone'] = dict(type='GrownBackbone', base=cfg['model']['backbone'])
        runner = make_runner(cfg)
        train(runner)
        assert len(runner.model.backbone.layers) == 6

    def test_only_freezing(self, make_runner):
        runner = make_runner(classifier(hook=dict(growth=None, adjustment=None)))
        moved, _ = train(runner)
        assert not list(growth_of(runner.model))
        assert all('.ln' in n or n.startswith('head.') for n in moved)

    def test_ema_has_the_grown_model(self, make_runner):
        cfg = classifier()
        cfg['custom_hooks'].insert(0, dict(type='EMAHook', priority='ABOVE_NORMAL'))
        runner = make_runner(cfg)
        train(runner)
        ema = next(h for h in runner.hooks if type(h).__name__ == 'EMAHook').ema_model
        keys = {k.removeprefix('module.') for k in ema.state_dict()}
        assert keys - {'steps'} == set(runner.model.state_dict())
        # the copy shares within itself, and not with the model it was copied from
        twin, source = ema.module.backbone.layers[1], ema.module.backbone.layers[0]
        assert twin.attn.qkv.weight is source.attn.qkv.weight
        assert twin.attn.qkv.weight is not runner.model.backbone.layers[0].attn.qkv.weight

    def test_targets(self, make_runner):
        runner = make_runner(classifier(hook=dict(targets='no_such_list')))
        with pytest.raises(GrowthError, match='matches none of the lists'):
            runner.train()

    def test_activation_checkpointing_reaches_the_first_adapters(self, make_runner):
        cfg = classifier(activation_checkpointing=['backbone.layers.0'])
        # nothing in front of the first block trains, so its input needs no gradient
        cfg['custom_hooks'][0]['freeze'] = ['paper', dict(freeze=r'backbone\.(patch|pos|cls)')]
        runner = make_runner(cfg)
        moved, _ = train(runner)
        assert 'backbone.layers.0.ffn.layers.1.adapter_up' in moved
        assert runner.cfg.activation_checkpointing == ['backbone.layers.0']


class TestOurBackbone:

    def test_only_freezes(self, make_runner):
        runner = make_runner(classifier(backbone=OURS))
        moved, after = train(runner)
        assert moved == {n for n, p in after.items() if p.requires_grad}
        assert all('adapter' in n or '.ln' in n or n.startswith('head.layers.head.')
                   for n in moved)
        assert runner.cfg.model.backbone.type == 'ScaleNetViT'

    @pytest.mark.parametrize('option', [
        dict(growth=dict(times=3)), dict(adjustment=None), dict(targets='layers')])
    def test_growth_belongs_to_the_backbone(self, make_runner, option):
        runner = make_runner(classifier(backbone=OURS, hook=option))
        with pytest.raises(ConfigError, match=f'{next(iter(option))} cannot be given'):
            runner.train()

    def test_identity_start_learns_through_closed_gains(self, make_runner):
        cfg = classifier(backbone=dict(OURS, growth=dict(start='identity')))
        cfg['param_scheduler'] = None
        runner = make_runner(cfg)
        moved, _ = train(runner)
        assert any(n.endswith('_r1.ffn.layers.1.gain') for n in moved)
        assert any(n.endswith('_r1.ffn.layers.1.adapter_up') for n in moved)

    def test_base_checkpoint_is_filled_in(self, make_runner, tmp_path):
        base = make_runner(classifier(backbone=dict(OURS, growth=None, adjustment=None),
                                      hook=dict(freeze='all')))
        train(base)
        path = tmp_path / 'base.pth'
        torch.save(dict(state_dict=base.model.state_dict()), path)
        runner = make_runner(
            classifier(backbone=OURS, hook=dict(require_loaded=True)), load_from=str(path))
        recorder = Recorder()
        runner.register_hook(recorder)
        runner.train()
        loaded = recorder.before
        for name, value in base.model.state_dict().items():
            if 'relative' not in name:
                assert torch.equal(loaded[name], value), name
        assert torch.equal(loaded['backbone.layers.1_r1.ln1.weight'],
                           loaded['backbone.layers.1.ln1.weight'])
        assert loaded['backbone.layers.1_r1.ffn.layers.1.adapter_up'].abs().sum() == 0


class TestRefusals:

    def test_frozen_and_from_no_file(self, make_runner):
        cfg = classifier(backbone=OURS)
        cfg['custom_hooks'][0]['require_loaded'] = True
        runner = make_runner(cfg)
        with pytest.raises(CheckpointError, match=r'came from no checkpoint.*backbone.*load_from'):
            runner.train()

    def test_classes_of_the_data(self, make_runner):
        cfg = classifier()
        cfg['train_dataloader']['dataset']['classes'] = 5
        runner = make_runner(cfg)
        with pytest.raises(ConfigError, match=r'5 classes.*head\.num_classes=3'):
            runner.train()

    def test_empty_data(self, make_runner):
        cfg = classifier()
        cfg['train_dataloader']['dataset']['count'] = 0
        cfg['train_dataloader']['sampler'] = dict(type='InfiniteSampler')
        cfg['train_cfg'] = dict(type='IterBasedTrainLoop', max_iters=1)
        runner = make_runner(cfg)
        with pytest.raises(ConfigError, match='data set is empty'):
            runner.train()

    def test_rule_that_matches_nothing(self, make_runner):
        runner = make_runner(classifier(hook=dict(freeze=[dict(train='nothing_here')])))
        with pytest.raises(GrowthError, match="'train nothing_here' matches no parameter"):
            runner.train()

    def test_fsdp(self, make_runner):
        runner = make_runner(classifier())
        runner.model.__class__ = type('MMFullyShardedDataParallel', (type(runner.model), ), {})
        with pytest.raises(ConfigError, match='FSDP'):
            runner.train()

    def test_other_architecture(self, make_runner, tmp_path):
        wide = dict(OURS, arch=dict(OURS['arch'], embed_dims=32), growth=None, adjustment=None)
        with DefaultScope.overwrite_default_scope('mmpretrain'):
            other = MODELS.build(wide)
        path = tmp_path / 'other.pth'
        torch.save({f'backbone.{k}': v for k, v in other.state_dict().items()}, path)
        runner = make_runner(classifier(backbone=OURS), load_from=str(path))
        with pytest.raises(CheckpointError, match='other.pth does not fit'):
            runner.train()

    def test_frozen_stages_contradict_the_rules(self, make_runner):
        runner = make_runner(classifier(backbone=dict(OURS, frozen_stages=2)))
        with pytest.raises(ConfigError, match='frozen_stages=-1'):
            runner.train()

    def test_runner_with_a_strategy(self, make_runner):
        runner = make_runner(classifier())
        stub = type('FlexibleRunner', (), dict(model=runner.model))()
        hook = next(h for h in runner.hooks if type(h).__name__ == 'AdapterInjectionHook')
        with pytest.raises(ConfigError, match='FlexibleRunner leaves wrapping to a strategy'):
            hook.before_run(stub)

    def test_unknown_module_to_checkpoint(self, make_runner):
        runner = make_runner(classifier(activation_checkpointing='backbone.blocks'))
        with pytest.raises(ConfigError, match="the model has no 'backbone.blocks'"):
            runner.train()

    def test_other_growth_than_the_config_was_grown_by(self, make_runner):
        cfg = classifier(hook=dict(growth=dict(times=3)))
        cfg['model']['backbone'] = dict(
            type='GrownBackbone', base=cfg['model']['backbone'], growth=dict(times=2))
        runner = make_runner(cfg)
        with pytest.raises(ConfigError, match='which is not what the hook says'):
            runner.train()


class TestOtherRuns:

    def test_a_validation_before_training_leaves_out_no_check(self, make_runner):
        cfg = classifier(backbone=OURS)
        cfg['custom_hooks'][0]['require_loaded'] = True
        cfg['val_dataloader'] = copy.deepcopy(cfg['train_dataloader'])
        cfg.update(val_cfg=dict(), val_evaluator=dict(type='Accuracy', topk=1))
        runner = make_runner(cfg)
        runner.val()
        with pytest.raises(CheckpointError, match='came from no checkpoint'):
            runner.train()

    def test_what_validation_loaded_counts(self, make_runner, tmp_path):
        first = make_runner(classifier(backbone=OURS))
        train(first)
        cfg = classifier(backbone=OURS)
        cfg['custom_hooks'][0]['require_loaded'] = True
        cfg['val_dataloader'] = copy.deepcopy(cfg['train_dataloader'])
        cfg.update(val_cfg=dict(), val_evaluator=dict(type='Accuracy', topk=1))
        runner = make_runner(cfg, load_from=str(tmp_path / 'work' / 'epoch_2.pth'))
        runner.val()
        runner.train()

    @pytest.mark.parametrize('state', ['other classes', 'no head'])
    def test_a_head_that_the_file_lacks_is_not_tested(self, make_runner, tmp_path, state):
        first = make_runner(classifier(backbone=OURS))
        weights = first.model.state_dict()
        for name in [n for n in weights if n.startswith('head.')]:
            weights[name] = torch.cat([weights[name]] * 2)
            if state == 'no head':
                del weights[name]
        torch.save(dict(state_dict=weights), tmp_path / 'other.pth')
        cfg = classifier(backbone=OURS)
        cfg['test_dataloader'] = copy.deepcopy(cfg['train_dataloader'])
        cfg.update(test_cfg=dict(), test_evaluator=dict(type='Accuracy', topk=1))
        runner = make_runner(cfg, load_from=str(tmp_path / 'other.pth'))
        with pytest.raises(CheckpointError, match='does not hold the head that is to be tested'):
            runner.test()

    def test_a_test_grows_the_stock_model_and_loads_the_trained_one(self, make_runner, tmp_path):
        first = make_runner(classifier(hook=dict(growth=dict(start='identity'))))
        _, after = train(first)
        cfg = classifier(hook=dict(growth=dict(start='identity')))
        cfg['test_dataloader'] = copy.deepcopy(cfg['train_dataloader'])
        cfg.update(test_cfg=dict(), test_evaluator=dict(type='Accuracy', topk=1))
        runner = make_runner(cfg, load_from=str(tmp_path / 'work' / 'epoch_2.pth'))
        assert 'accuracy/top1' in runner.test()
        for name, value in runner.model.named_parameters():
            assert torch.equal(value, after[name]), name

    def test_classes_of_the_validation_set(self, make_runner):
        cfg = classifier(backbone=OURS)
        cfg['val_dataloader'] = copy.deepcopy(cfg['train_dataloader'])
        cfg['val_dataloader']['dataset']['classes'] = 4
        cfg.update(val_cfg=dict(), val_evaluator=dict(type='Accuracy', topk=1))
        runner = make_runner(cfg)
        with pytest.raises(ConfigError, match='4 classes'):
            runner.train()

    @pytest.mark.parametrize('paramwise', [None, dict(norm_decay_mult=0., bias_decay_mult=0.)])
    def test_gains_do_not_decay(self, make_runner, paramwise):
        cfg = classifier(hook=dict(growth=dict(start='identity')))
        cfg['optim_wrapper'].update(
            optimizer=dict(type='AdamW', lr=1e-2, weight_decay=0.5), paramwise_cfg=paramwise)
        runner = make_runner(cfg)
        train(runner)
        groups = runner.optim_wrapper.param_groups
        decay = {id(p): g['weight_decay'] for g in groups for p in g['params']}
        found = {n: decay[id(p)] for n, p in runner.model.named_parameters() if p.requires_grad}
        assert {v for n, v in found.items() if n.endswith('.gain')} == {0.}
        assert {v for n, v in found.items() if n.endswith('adapter_up')} == {0.5}
        # the schedule reaches the groups that were split off
        assert all(g['lr'] == pytest.approx(1e-3) for g in groups)


class TestClassCheck:

    @pytest.mark.parametrize('name', [
        'htc/htc_r50_fpn_1x_coco', 'panoptic_fpn/panoptic-fpn_r50_fpn_1x_coco',
        'mask_rcnn/mask-rcnn_r50_fpn_1x_coco', 'detr/detr_r50_8xb2-150e_coco'])
    def test_stock_detectors_with_their_own_classes(self, name):
        cfg = Config.fromfile(Path(mmdet.__file__).parent / '.mim' / 'configs' / f'{name}.py')
        cfg.model.backbone.init_cfg = None
        with DefaultScope.overwrite_default_scope('mmdet'), torch.device('meta'):
            model = MODELS.build(cfg.model)
        count = 133 if 'panoptic' in name else 80
        check_classes(model, SimpleNamespace(metainfo=dict(classes=list(range(count)))))
        if count == 80:
            with pytest.raises(ConfigError, match='num_classes=80'):
                check_classes(model, SimpleNamespace(metainfo=dict(classes=list(range(7)))))

    def test_heads_with_other_counts(self):
        model = nn.Module()
        model.roi_head, model.decode_head = nn.Module(), nn.Module()
        model.roi_head.mask_head = FCNMaskHead(num_convs=1, class_agnostic=True, num_classes=1)
        model.roi_head.bbox_head = FCNMaskHead(num_convs=1, num_classes=7)
        check_classes(model, SimpleNamespace(metainfo=dict(classes=list('abcdefg'))))
        model.roi_head.bbox_head.num_classes = 256  # tokens
        with pytest.raises(ConfigError, match='num_classes=256'):
            check_classes(model, SimpleNamespace(metainfo=dict(classes=list('abcdefg'))))
        model.language_model = nn.Module()
        check_classes(model, SimpleNamespace(metainfo=dict(classes=list('abcdefg'))))

    def test_classes_that_the_annotations_do_not_have(self):
        part = SimpleNamespace(metainfo=dict(classes=('A', 'b', 'c')), cat_ids=[2, 3],
                               ann_file='large.json')
        sound = SimpleNamespace(metainfo=dict(classes=('a', 'b', 'c')), cat_ids=[1, 2, 3])
        check_classes(nn.Module(), sound)
        both = SimpleNamespace(metainfo=part.metainfo, datasets=[sound, part])
        for dataset in (part, both, SimpleNamespace(metainfo=part.metainfo, dataset=part)):
            with pytest.raises(ConfigError, match='large.json has categories for 2 of them alone'):
                check_classes(nn.Module(), dataset)
