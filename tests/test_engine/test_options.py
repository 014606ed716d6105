"""From command lines to configs."""
import os
import sys

import pytest
import torch
from mmengine.config import Config

from scalenet_mm import DeltaCheckpointHook
from scalenet_mm.checkpoints import base_files
from scalenet_mm.engine import (
    build_test_cfg,
    build_train_cfg,
    load_config,
    parse_test_args,
    parse_train_args,
    wrap_test_cfg,
)
from scalenet_mm.errors import CheckpointError, ConfigError

SCOPES = ('mmpretrain', 'mmdet', 'mmseg')


def train_cfg(cfg, *options):
    return build_train_cfg(cfg, parse_train_args(['some/folder/my_config.py', *options]))


def test_cfg(cfg, *options):
    args = parse_test_args(['my_config.py', 'model.pth', *options])
    return wrap_test_cfg(build_test_cfg(cfg, args), args)


test_cfg.__test__ = False


@pytest.mark.parametrize('scope', SCOPES)
class TestEveryScope:

    def test_work_dir(self, make_cfg, scope):
        assert train_cfg(make_cfg(scope)).work_dir == './work_dirs/my_config'
        assert train_cfg(make_cfg(scope, work_dir='a')).work_dir == 'a'
        assert train_cfg(make_cfg(scope, work_dir='a'), '--work-dir', 'b').work_dir == 'b'
        cfg = train_cfg(make_cfg(scope), '--work-dir', 'b', '--cfg-options', 'work_dir=c')
        assert cfg.work_dir == 'c'

    def test_no_option_changes_no_training_setting(self, make_cfg, scope):
        cfg, before = train_cfg(make_cfg(scope)), make_cfg(scope)
        for key in ('model', 'optim_wrapper', 'train_cfg', 'val_evaluator', 'auto_scale_lr'):
            assert cfg.get(key) == before.get(key)
        assert cfg.get('load_from') is None and not cfg.get('resume')

    def test_amp(self, make_cfg, scope):
        cfg = train_cfg(make_cfg(scope), '--amp')
        assert cfg.optim_wrapper.type == 'AmpOptimWrapper'
        assert cfg.optim_wrapper.loss_scale == 'dynamic'
        cfg = make_cfg(scope, optim_wrapper=dict(optimizer=dict(type='SGD'), loss_scale=512.))
        cfg = train_cfg(cfg, '--amp')
        assert (cfg.optim_wrapper.type, cfg.optim_wrapper.loss_scale) == ('AmpOptimWrapper', 512.)

    def test_amp_with_another_wrapper(self, make_cfg, scope):
        cfg = make_cfg(scope, optim_wrapper=dict(type='ApexOptimWrapper'))
        with pytest.raises(ConfigError, match='--amp.*ApexOptimWrapper'):
            train_cfg(cfg, '--amp')

    def test_auto_scale_lr(self, make_cfg, scope):
        cfg = make_cfg(scope, auto_scale_lr=dict(base_batch_size=16))
        assert train_cfg(cfg, '--auto-scale-lr').auto_scale_lr == dict(
            base_batch_size=16, enable=True)
        with pytest.raises(ConfigError, match='auto_scale_lr.base_batch_size=16'):
            train_cfg(make_cfg(scope, auto_scale_lr=None), '--auto-scale-lr')
        cfg = train_cfg(
            make_cfg(scope, auto_scale_lr=None), '--auto-scale-lr', '--cfg-options',
            'auto_scale_lr.base_batch_size=64')
        assert cfg.auto_scale_lr == dict(base_batch_size=64, enable=True)

    def test_no_validate(self, make_cfg, scope):
        cfg = train_cfg(make_cfg(scope), '--no-validate')
        assert cfg.val_cfg is cfg.val_dataloader is cfg.val_evaluator is None

    def test_cfg_options_come_last(self, make_cfg, scope):
        cfg = train_cfg(
            make_cfg(scope), '--amp', '--no-pin-memory', '--cfg-options',
            'optim_wrapper.loss_scale=8.0', 'train_dataloader.pin_memory=True',
            'train_dataloader.batch_size=7')
        assert cfg.optim_wrapper.loss_scale == 8.0
        assert cfg.train_dataloader.pin_memory and cfg.train_dataloader.batch_size == 7
        assert not cfg.val_dataloader.pin_memory

    def test_no_workers(self, make_cfg, scope):
        # torch raises for persistent_workers=True with num_workers=0
        cfg = make_cfg(scope)
        cfg.train_dataloader.update(persistent_workers=True, prefetch_factor=4)
        cfg = train_cfg(cfg, '--cfg-options', 'train_dataloader.num_workers=0')
        assert not cfg.train_dataloader.persistent_workers
        assert 'prefetch_factor' not in cfg.train_dataloader

    def test_test_loads_the_checkpoint(self, make_cfg, scope):
        cfg = test_cfg(make_cfg(scope, load_from='pretrained.pth', resume=True))
        assert cfg.load_from == 'model.pth' and not cfg.resume

    def test_no_option_overrides_the_checkpoint(self, make_cfg, scope):
        # options copied from the training command, which started from another file
        cfg = test_cfg(make_cfg(scope), '--cfg-options', 'load_from=start.pth', 'resume=True')
        assert cfg.load_from == 'model.pth' and not cfg.resume

    def test_test_without_test_set(self, make_cfg, scope):
        with pytest.raises(ConfigError, match='no test_dataloader'):
            test_cfg(make_cfg(scope, test_dataloader=None))

    def test_launcher(self, make_cfg, scope):
        assert train_cfg(make_cfg(scope)).launcher == 'none'
        assert train_cfg(make_cfg(scope), '--launcher', 'pytorch').launcher == 'pytorch'

    def test_tta_model_keys_mean_the_config_s_model(self, make_cfg, scope):
        head = dict(mmpretrain='head', mmdet='bbox_head', mmseg='decode_head')[scope]
        cfg = test_cfg(make_cfg(scope), '--tta', '--cfg-options', f'model.{head}.num_classes=9')
        assert cfg.model.type.endswith('TTA') or cfg.model.type.endswith('TTAModel')
        assert cfg.model.module[head].num_classes == 9
        assert cfg.model.module.type == make_cfg(scope).model.type


class TestResume:

    def test_path(self, make_cfg):
        cfg = train_cfg(make_cfg('mmdet'), '--resume', 'epoch_3.pth')
        assert cfg.resume and cfg.load_from == 'epoch_3.pth'

    def test_latest(self, make_cfg, tmp_path):
        latest = str(tmp_path / 'epoch_3.pth')
        torch.save(dict(meta={}, state_dict={}, message_hub={}), latest)
        (tmp_path / 'last_checkpoint').write_text(latest)
        cfg = train_cfg(
            make_cfg('mmdet'), '--work-dir', str(tmp_path), '--resume', '--cfg-options',
            'load_from=pretrained.pth')
        assert cfg.resume and cfg.load_from == latest

    @pytest.mark.parametrize('whole', (False, True))
    def test_what_starts_anew_is_said(self, make_cfg, tmp_path, capsys, whole):
        more = dict(optimizer={}, param_schedulers=[]) if whole else {}
        path = str(tmp_path / 'best.pth')
        torch.save(dict(meta={}, state_dict={}, message_hub={}, **more), path)
        cfg = train_cfg(make_cfg('mmdet'), '--resume', path)
        assert cfg.resume and cfg.load_from == path
        said = 'it holds no optimizer and no param_schedulers, which start anew'
        assert (said in capsys.readouterr().err) != whole

    def test_the_latest_is_gone(self, make_cfg, tmp_path):
        (tmp_path / 'last_checkpoint').write_text(str(tmp_path / 'epoch_3.pth'))
        with pytest.raises(CheckpointError, match='epoch_3.pth.*To start anew, remove'):
            train_cfg(make_cfg('mmdet'), '--work-dir', str(tmp_path), '--resume')

    def test_nothing_yet(self, make_cfg, tmp_path):
        """The first start of a job that always says --resume loads its pretrained weights."""
        cfg = make_cfg('mmdet', load_from='pretrained.pth')
        cfg = train_cfg(cfg, '--work-dir', str(tmp_path), '--resume')
        assert not cfg.resume and cfg.load_from == 'pretrained.pth'


class TestDelta:

    def test_adds_the_hook_once(self, make_cfg):
        own = [dict(type='AdapterInjectionHook')]
        cfg = train_cfg(make_cfg('mmseg', custom_hooks=own), '--delta')
        assert cfg.custom_hooks == [*own, dict(type='DeltaCheckpointHook')]
        for kind in ('DeltaCheckpointHook', 'mmengine.DeltaCheckpointHook',
                     'scalenet_mm.DeltaCheckpointHook', DeltaCheckpointHook):
            mine = [dict(type=kind, base='a.pth')]
            assert train_cfg(make_cfg('mmseg', custom_hooks=mine), '--delta').custom_hooks == mine
        assert train_cfg(make_cfg('mmdet'), '--delta').custom_hooks == [
            dict(type='DeltaCheckpointHook')]
        assert train_cfg(make_cfg('mmseg', custom_hooks=own)).custom_hooks == own

    def test_base(self, make_cfg, tmp_path, monkeypatch):
        monkeypatch.setattr(base_files, '_places', places := [])
        monkeypatch.setenv('HOME', str(tmp_path))
        path, url = tmp_path / 'base.pth', 'https://example.org/base.pth'
        path.touch()
        for given, base in (('~/base.pth', path), (str(path), path), (url, url)):
            cfg = train_cfg(make_cfg('mmdet'), '--delta', '--base', given)
            assert cfg.custom_hooks == [dict(type='DeltaCheckpointHook', base=str(base))]
        # a folder is only looked into
        cfg = train_cfg(make_cfg('mmdet'), '--delta', '--base', str(tmp_path))
        assert cfg.custom_hooks == [dict(type='DeltaCheckpointHook')]
        assert places == [str(path), url, str(tmp_path)]
        mine = [dict(type='DeltaCheckpointHook', base='mine.pth')]
        cfg = train_cfg(make_cfg('mmdet', custom_hooks=mine), '--delta', '--base', url)
        assert cfg.custom_hooks == mine
        assert train_cfg(make_cfg('mmdet'), '--base', url).get('custom_hooks') is None


class TestDataloaderDefaults:

    def test_mmpretrain(self, make_cfg):
        cfg = make_cfg('mmpretrain')
        cfg.val_dataloader.update(collate_fn=dict(type='pseudo_collate'), pin_memory=False)
        cfg = train_cfg(cfg)
        for loader in (cfg.train_dataloader, cfg.test_dataloader):
            assert loader.collate_fn == dict(type='default_collate')
            assert loader.pin_memory and loader.persistent_workers
        assert cfg.val_dataloader.collate_fn == dict(type='pseudo_collate')
        assert not cfg.val_dataloader.pin_memory
        assert test_cfg(make_cfg('mmpretrain')).test_dataloader.collate_fn.type == 'default_collate'

    def test_switched_off(self, make_cfg):
        cfg = train_cfg(make_cfg('mmpretrain'), '--no-pin-memory', '--no-persistent-workers')
        assert not cfg.train_dataloader.pin_memory
        assert not cfg.train_dataloader.persistent_workers

    @pytest.mark.parametrize('scope', ('mmdet', 'mmseg'))
    def test_others_are_left_alone(self, make_cfg, scope):
        assert train_cfg(make_cfg(scope)).train_dataloader == make_cfg(scope).train_dataloader


class TestOut:

    @pytest.mark.parametrize('scope, metric', (('mmpretrain', 'DumpResults'),
                                               ('mmdet', 'mmdet.DumpDetResults')))
    def test_pickle(self, make_cfg, scope, metric):
        cfg = test_cfg(make_cfg(scope), '--out', 'a.pkl')
        assert cfg.test_evaluator == [
            make_cfg(scope).test_evaluator,
            dict(type=metric, out_file_path='a.pkl')
        ]
        with pytest.raises(ConfigError, match='--out a.json.*pkl'):
            test_cfg(make_cfg(scope), '--out', 'a.json')
        cfg = test_cfg(make_cfg(scope), '--out', 'a.json', '--out-item', 'metrics')
        assert cfg.test_evaluator == make_cfg(scope).test_evaluator

    def test_beside_several_metrics(self, make_cfg):
        first, second = dict(type='CocoMetric'), dict(type='VOCMetric')
        dump = dict(type='mmdet.DumpDetResults', out_file_path='a.pkl')
        cfg = test_cfg(make_cfg('mmdet', test_evaluator=[first, second]), '--out', 'a.pkl')
        assert cfg.test_evaluator == [first, second, dump]
        evaluator = dict(type='Evaluator', metrics=first)
        cfg = test_cfg(make_cfg('mmdet', test_evaluator=evaluator), '--out', 'a.pkl')
        assert cfg.test_evaluator.metrics == [first, dump]

    def test_with_an_option_for_the_metric(self, make_cfg):
        cfg = test_cfg(
            make_cfg('mmdet'), '--out', 'a.pkl', '--cfg-options', 'test_evaluator.ann_file=b.json')
        assert [m.get('ann_file') for m in cfg.test_evaluator] == ['b.json', None]

    def test_mmseg_folder(self, make_cfg):
        cfg = test_cfg(make_cfg('mmseg'), '--out', 'maps')
        assert cfg.test_evaluator.output_dir == 'maps' and cfg.test_evaluator.keep_results

    def test_out_item_alone(self, capsys):
        with pytest.raises(SystemExit):
            parse_test_args(['a.py', 'b.pth', '--out-item', 'pred'])
        assert '--out FILE' in capsys.readouterr().err


class TestShow:

    def test_mmpretrain(self, make_cfg):
        cfg = test_cfg(make_cfg('mmpretrain'), '--show-dir', 'd')
        assert cfg.default_hooks.visualization == dict(
            type='ClassifierPicturesHook', enable=True, show=False, wait_time=2, out_dir='d',
            interval=1)
        assert cfg.visualizer.type == 'UniversalVisualizer'

    def test_mmdet(self, make_cfg):
        cfg = test_cfg(make_cfg('mmdet'), '--show-dir', 'd')
        assert cfg.default_hooks.visualization == dict(
            type='DetVisualizationHook', draw=True, test_out_dir='d')
        assert cfg.visualizer.type == 'DetLocalVisualizer'

    def test_mmseg(self, make_cfg):
        cfg = test_cfg(
            make_cfg('mmseg'), '--show-dir', 'd', '--show', '--wait-time', '3', '--interval', '5')
        assert cfg.default_hooks.visualization == dict(
            type='SegVisualizationHook', draw=True, show=True, wait_time=3, interval=5)
        assert cfg.visualizer.save_dir == 'd'

    def test_mmseg_draws_every_image(self, make_cfg):
        # the hook's own default would be every 50th batch
        assert test_cfg(make_cfg('mmseg'), '--show').default_hooks.visualization.interval == 1
        hook = dict(type='SegVisualizationHook', interval=7)
        cfg = test_cfg(make_cfg('mmseg', default_hooks=dict(visualization=hook)), '--show')
        assert cfg.default_hooks.visualization.interval == 7

    def test_unknown_scope(self, make_cfg):
        with pytest.raises(ConfigError, match="'mmpose'"):
            test_cfg(make_cfg('mmdet', default_scope='mmpose'), '--show')


class TestTTA:

    @pytest.mark.parametrize('scope, model, flips', (
        ('mmpretrain', 'mmpretrain.AverageClsScoreTTA', (1., 0.)),
        ('mmdet', 'scalenet_mm.engine.mask_tta.MaskTTAModel', (1., 0.)),
        # the label map comes from the first view, which therefore is the unflipped one
        ('mmseg', 'SegTTAModel', (0., 1.)),
    ))
    def test_defaults(self, make_cfg, scope, model, flips):
        cfg = test_cfg(make_cfg(scope), '--tta')
        assert cfg.model.type == model
        pipeline = cfg.test_dataloader.dataset.pipeline
        assert pipeline[:-1] == make_cfg(scope).test_dataloader.dataset.pipeline[:-1]
        assert pipeline[-1].type == 'TestTimeAug'
        assert [flip.prob for flip in pipeline[-1].transforms[0]] == list(flips)
        if scope == 'mmdet':
            assert 'flip_direction' in pipeline[-1].transforms[1][0].meta_keys

    def test_the_config_s_own(self, make_cfg):
        own = [dict(type='LoadImageFromFile'), dict(type='TestTimeAug', transforms=[])]
        cfg = make_cfg('mmseg', tta_model=dict(type='MyTTA', weight=2), tta_pipeline=own)
        cfg.test_dataloader.dataset = dict(type='ConcatDataset',
                                           datasets=[dict(cfg.test_dataloader.dataset)])
        cfg = test_cfg(cfg, '--tta')
        assert (cfg.model.type, cfg.model.weight) == ('MyTTA', 2)
        assert cfg.test_dataloader.dataset.datasets[0].pipeline == own

    def test_masks_are_merged_too(self, make_cfg):
        ours = 'scalenet_mm.engine.mask_tta.MaskTTAModel'
        for kind in ('DetTTAModel', 'mmdet.DetTTAModel'):  # which fails on masks
            cfg = test_cfg(make_cfg('mmdet', tta_model=dict(type=kind, tta_cfg=dict(a=1))), '--tta')
            assert (cfg.model.type, cfg.model.tta_cfg) == (ours, dict(a=1))
        cfg = make_cfg('mmdet', tta_model=dict(type='MyMaskTTA'))
        assert test_cfg(cfg, '--tta').model.type == 'MyMaskTTA'


class TestCfgOptions:

    @pytest.mark.parametrize('option, meant', (
        ('train_dataloder.batch_size=2', 'train_dataloader.batch_size'),
        ('modle.type=X', 'model.type'),
        ('custom_hook=[]', 'custom_hooks'),
        ('param_schedulers.0.gamma=1', 'param_scheduler.0.gamma'),
    ))
    def test_misspelt(self, make_cfg, option, meant):
        with pytest.raises(ConfigError, match=f'did you mean {meant}[?]'):
            train_cfg(make_cfg('mmdet'), '--cfg-options', option)

    def test_nothing_like_it(self, make_cfg):
        with pytest.raises(ConfigError, match='zzz.*no key of the Runner'):
            train_cfg(make_cfg('mmdet'), '--cfg-options', 'zzz=1')

    def test_keys_that_the_config_lacks_but_the_runner_has(self, make_cfg):
        cfg = train_cfg(
            make_cfg('mmdet'), '--cfg-options', 'find_unused_parameters=True',
            'randomness.seed=3')
        assert cfg.find_unused_parameters is True and cfg.randomness.seed == 3

    def test_below_a_number(self, make_cfg):
        with pytest.raises(ConfigError, match='num_classes.x: does not fit the config'):
            train_cfg(make_cfg('mmdet'), '--cfg-options', 'model.bbox_head.num_classes.x=1')

    def test_index_beyond_a_list(self, make_cfg):
        cfg = make_cfg('mmdet', custom_hooks=[dict(type='Y')])
        with pytest.raises(ConfigError, match='custom_hooks.3.type.*does not fit'):
            train_cfg(cfg, '--cfg-options', 'custom_hooks.3.type=X')

    def test_plain_variable(self, make_cfg, capsys):
        """A variable of the file has been used up when options are merged: it is said."""
        cfg = make_cfg('mmdet', data_root='data/det')
        train_cfg(cfg, '--cfg-options', 'data_root=/elsewhere')
        note = capsys.readouterr().err
        assert 'train_dataloader.dataset.data_root' in note and 'val_evaluator.ann_file' in note

    @pytest.mark.parametrize('word', ('lr', '=3', 'a..b=3', 'a.=3'))
    def test_no_pair(self, capsys, word):
        with pytest.raises(SystemExit) as error:
            parse_train_args(['a.py', '--cfg-options', word])
        assert error.value.code == 2
        assert 'KEY=VALUE' in capsys.readouterr().err


    @pytest.mark.parametrize('text, value', (
        ('a b/c d', 'a b/c d'), ('"a b"', 'a b'), ('3', 3), ('1e-3', 1e-3), ('None', None),
        ('true', True), ('1,2', [1, 2]), ('[a, b]', ['a', 'b']), ('[(1,2),3]', [(1, 2), 3]),
        ('a=b', 'a=b')))
    def test_values(self, text, value):
        args = parse_train_args(['a.py', '--cfg-options', f'key={text}'])
        assert args.cfg_options == dict(key=value)


class TestLocalRank:

    @pytest.mark.parametrize('spelling', ('--local_rank', '--local-rank'))
    def test_option(self, spelling):
        parse_train_args(['a.py', spelling, '3'])
        assert os.environ['LOCAL_RANK'] == '3'

    def test_environment_wins(self):
        os.environ['LOCAL_RANK'] = '1'
        parse_test_args(['a.py', 'b.pth', '--local-rank', '3'])
        assert os.environ['LOCAL_RANK'] == '1'

    def test_slurm(self):
        os.environ['SLURM_LOCALID'] = '2'
        parse_train_args(['a.py', '--launcher', 'slurm'])
        assert os.environ['LOCAL_RANK'] == '2'


class TestLoadConfig:

    def test_missing(self, tmp_path):
        (tmp_path / 'maskrcnn_tiny.py').write_text('a = 1')
        with pytest.raises(ConfigError, match='no such file.*did you mean .*maskrcnn_tiny.py'):
            load_config(str(tmp_path / 'maskrcn_tiny.py'))

    def test_missing_base(self, tmp_path):
        path = tmp_path / 'a.py'
        path.write_text("_base_ = './b.py'")
        with pytest.raises(ConfigError, match='b.py'):
            load_config(str(path))

    def test_no_config(self, tmp_path):
        path = tmp_path / 'a.pth'
        path.write_text('')
        with pytest.raises(ConfigError, match='no .py, .json'):
            load_config(str(path))

    @pytest.mark.parametrize('text, reason', [
        ('from mmengine.model import NoSuchModel',
         r"cannot be imported: Failed to import \w+: cannot import name 'NoSuchModel' from"),
        ('import no_such_package', r"Failed to import \w+: No module named 'no_such_package'"),
        ('import mmdet', 'builds on mmdet, which is not installed: pip install'),
    ])
    def test_why_a_custom_module_fails(self, text, reason, tmp_path, monkeypatch):
        monkeypatch.setitem(sys.modules, 'mmdet', None)
        monkeypatch.syspath_prepend(tmp_path)
        module = tmp_path.name
        (tmp_path / f'{module}.py').write_text(text)
        path = tmp_path / 'a.py'
        path.write_text(f"custom_imports = dict(imports=['{module}'])")
        with pytest.raises(ConfigError, match=reason):
            load_config(str(path))

    def test_missing_import(self, tmp_path):
        path = tmp_path / 'a.py'
        path.write_text("custom_imports = dict(imports=['no_such_toolbox.models'])")
        with pytest.raises(ConfigError, match=r'a\.py.*no_such_toolbox.*Install it') as error:
            load_config(str(path))
        assert 'sys.path' not in str(error.value)

    def test_read(self, tmp_path):
        path = tmp_path / 'a.py'
        path.write_text('a = dict(b=1)')
        assert isinstance(load_config(str(path)), Config) and load_config(str(path)).a.b == 1
